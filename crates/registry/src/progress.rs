//! How a registration goes on after it was registered, recorded in the transaction of whoever moves it on.

use hokusai_db::{Error, Tx};
use hokusai_event::{MessageType, ModelDeployed};
use jiff::Timestamp;
use serde_json::Value;

use crate::document::Status;

/// Records a step of the registration that `message_id` (of a `model_ready_to_deploy`) belongs to, and its status if that
/// changed. A deployed registration stays deployed. A step that was the last one recorded already, with the same detail, is
/// not recorded again: a message may be delivered many times. Answers whether the message is one of ours.
///
/// # Errors
///
/// As the database says.
pub async fn note_step(tx: &mut Tx, message_id: &str, status: Option<Status>, step: &str, detail: &Value) -> Result<bool, Error> {
    let Some(id) = registration_of(tx, message_id).await? else { return Ok(false) };
    let at_ms = Timestamp::now().as_millisecond();
    // The update also locks the row: the history's numbers are given one at a time.
    let status = status.map(Status::as_str);
    sqlx::query("UPDATE registrations SET status = CASE WHEN status = 'deployed' THEN status ELSE COALESCE($1, status) END WHERE id = $2")
        .bind(status)
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    if last_step(tx, &id).await? == Some((step.to_owned(), detail.to_string())) {
        return Ok(true);
    }
    append_history(tx, &id, at_ms, step, detail).await?;
    Ok(true)
}

/// Records that what stood on the chain, and counted as final, is there no more: a reorganisation went deeper than
/// finality. The registration is deploying again. Answers whether the message is one of ours.
///
/// # Errors
///
/// As the database says.
pub async fn note_undone(tx: &mut Tx, message_id: &str, detail: &Value) -> Result<bool, Error> {
    let Some(id) = registration_of(tx, message_id).await? else { return Ok(false) };
    sqlx::query(
        "UPDATE registrations SET status = 'deploying', deployment = NULL, token_address = NULL, transaction_hash = NULL WHERE id = $1",
    )
    .bind(id.as_str())
    .execute(&mut **tx)
    .await?;
    append_history(tx, &id, Timestamp::now().as_millisecond(), "undone", detail).await?;
    Ok(true)
}

/// Records that a model version is on the chain. Answers whether a registration of ours is concerned; doing it again changes
/// nothing. If it is recorded as deployed by another transaction or block, a reorganisation moved it, and what was found
/// final later holds.
///
/// The registration is the one that `deployed` names, or the one its message belongs to, or the one that holds the
/// model version; in any case token, model and version must be the same.
///
/// # Errors
///
/// As the database says.
pub async fn apply_deployed(tx: &mut Tx, deployed: &ModelDeployed, at: Timestamp) -> Result<bool, Error> {
    let Some(id) = deployed_registration(tx, deployed).await? else { return Ok(false) };
    if recorded(tx, &id).await?.is_some_and(|recorded| !supersedes(deployed, &recorded)) {
        return Ok(true);
    }
    let facts = serde_json::to_value(deployed).map_err(|error| Error::from(sqlx::Error::Encode(Box::new(error))))?;
    sqlx::query(
        "UPDATE registrations SET status = 'deployed', deployment = $1, token_address = $2, transaction_hash = $3, updated_ms = $4
         WHERE id = $5",
    )
    .bind(facts.to_string())
    .bind(deployed.token_address.checksummed())
    .bind(deployed.transaction_hash.clone())
    .bind(at.as_millisecond())
    .bind(id.as_str())
    .execute(&mut **tx)
    .await?;
    append_history(tx, &id, at.as_millisecond(), Status::Deployed.as_str(), &facts).await?;
    Ok(true)
}

/// What a deployed registration says of its deployment; `None` if it is not deployed. Locks the row.
async fn recorded(tx: &mut Tx, id: &str) -> Result<Option<ModelDeployed>, Error> {
    sqlx::query("UPDATE registrations SET status = status WHERE id = $1").bind(id).execute(&mut **tx).await?;
    let row: Option<(Option<String>,)> = sqlx::query_as("SELECT deployment FROM registrations WHERE id = $1 AND status = 'deployed'")
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.and_then(|(facts,)| serde_json::from_str(&facts?).ok()))
}

fn supersedes(later: &ModelDeployed, recorded: &ModelDeployed) -> bool {
    let elsewhere = later.transaction_hash != recorded.transaction_hash || later.block_number != recorded.block_number;
    elsewhere && later.deployed_at.at() > recorded.deployed_at.at()
}

async fn registration_of(tx: &mut Tx, message_id: &str) -> Result<Option<String>, Error> {
    let row: Option<(Option<String>,)> = sqlx::query_as("SELECT registration_id FROM outbox WHERE message_id = $1 AND message_type = $2")
        .bind(message_id)
        .bind(MessageType::ModelReadyToDeploy.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.and_then(|(id,)| id))
}

async fn deployed_registration(tx: &mut Tx, deployed: &ModelDeployed) -> Result<Option<String>, Error> {
    let named = match &deployed.registration_id {
        Some(id) => Some(id.clone()),
        None => registration_of(tx, &deployed.message_id).await?,
    };
    let version = deployed.version_key();
    // The named one first; one that was superseded last.
    let row: Option<(String,)> = sqlx::query_as(
        "SELECT id FROM registrations WHERE token_key = $1 AND model_name = $2 AND model_version = $3
         ORDER BY CASE WHEN id = $4 THEN 0 WHEN superseded_by IS NULL THEN 1 ELSE 2 END LIMIT 1",
    )
    .bind(version.token)
    .bind(version.model_name)
    .bind(version.model_version)
    .bind(named)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(id,)| id))
}

async fn last_step(tx: &mut Tx, id: &str) -> Result<Option<(String, String)>, Error> {
    let sql = "SELECT step, detail FROM registration_history WHERE registration_id = $1 ORDER BY number DESC LIMIT 1";
    Ok(sqlx::query_as(sql).bind(id).fetch_optional(&mut **tx).await?)
}

/// Appends to a history whose registration the transaction has locked by changing it.
pub(crate) async fn append_history(tx: &mut Tx, id: &str, at_ms: i64, step: &str, detail: &Value) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO registration_history (registration_id, number, at_ms, step, detail)
         SELECT $1, COALESCE(MAX(number), 0) + 1, $2, $3, $4 FROM registration_history WHERE registration_id = $1",
    )
    .bind(id)
    .bind(at_ms)
    .bind(step)
    .bind(detail.to_string())
    .execute(&mut **tx)
    .await?;
    sqlx::query("UPDATE registrations SET updated_ms = $1 WHERE id = $2").bind(at_ms).bind(id).execute(&mut **tx).await?;
    Ok(())
}
