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

/// Records that a model version is on the chain. Answers whether a registration of ours is concerned; doing it again changes nothing.
///
/// The registration is the one that `deployed` names, or the one its message belongs to, or the one that holds the
/// model version; in any case token, model and version must be the same.
///
/// # Errors
///
/// As the database says.
pub async fn apply_deployed(tx: &mut Tx, deployed: &ModelDeployed, at: Timestamp) -> Result<bool, Error> {
    let Some(id) = deployed_registration(tx, deployed).await? else { return Ok(false) };
    let facts = serde_json::to_value(deployed).map_err(|error| Error::from(sqlx::Error::Encode(Box::new(error))))?;
    let changed = sqlx::query(
        "UPDATE registrations SET status = 'deployed', deployment = $1, token_address = $2, transaction_hash = $3, updated_ms = $4
         WHERE id = $5 AND status <> 'deployed'",
    )
    .bind(facts.to_string())
    .bind(deployed.token_address.checksummed())
    .bind(deployed.transaction_hash.clone())
    .bind(at.as_millisecond())
    .bind(id.as_str())
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if changed > 0 {
        append_history(tx, &id, at.as_millisecond(), Status::Deployed.as_str(), &facts).await?;
    }
    Ok(true)
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
