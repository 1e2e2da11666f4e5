//! MLflow's webhooks: checking that a delivery is MLflow's and new, reading it, and having MLflow send them.
//!
//! A delivery is signed as MLflow signs it: `v1,` and the base64 of HMAC-SHA256 over `<delivery id>.<unix time>.<body>`. It is
//! refused if the signature is not ours, and if it is older or newer than [`WINDOW`]; deliveries inside the window are known
//! by their id.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac as _};
use hokusai_db::Database;
use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;

use super::client::{Call, MlflowClient, MlflowError};

/// How far a delivery's time may be from ours: MLflow's repetitions keep the time of the first.
pub const WINDOW: Duration = Duration::from_secs(300);
/// How long attended deliveries are remembered, in milliseconds: well beyond the window on both sides.
const REMEMBERED_MS: i64 = 24 * 3600 * 1000;
/// Deliveries' ids are UUIDs; nothing much longer is stored.
const ID_MAX_BYTES: usize = 200;
/// What MLflow is asked to send: whatever may complete a wish.
const EVENTS: [(&str, &str); 3] = [("MODEL_VERSION", "CREATED"), ("MODEL_VERSION_TAG", "SET"), ("MODEL_VERSION_ALIAS", "CREATED")];

/// The headers of a delivery, as far as they are there.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'h> {
    /// `X-MLflow-Signature`.
    pub signature: Option<&'h str>,
    /// `X-MLflow-Timestamp`.
    pub timestamp: Option<&'h str>,
    /// `X-MLflow-Delivery-Id`.
    pub delivery_id: Option<&'h str>,
}

/// Why a delivery is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Forged {
    /// A header is missing or cannot be read.
    #[error("the header {0} is missing or unreadable")]
    Header(&'static str),
    /// It is not signed with our secret.
    #[error("the signature is not that of HOKUSAI_MLFLOW_WEBHOOK_SECRET")]
    Signature,
    /// It is too old, or from the future.
    #[error("the delivery is {0} s away from this server's time; at most {window} s are accepted", window = WINDOW.as_secs())]
    Stale(u64),
}

/// Checks a delivery and answers its id.
///
/// # Errors
///
/// [`Forged`].
pub fn verify<'h>(secret: &str, headers: &Headers<'h>, body: &[u8], now: Timestamp) -> Result<&'h str, Forged> {
    let id = headers.delivery_id.filter(|id| !id.is_empty() && id.len() <= ID_MAX_BYTES);
    let id = id.ok_or(Forged::Header("X-MLflow-Delivery-Id"))?;
    let at = headers.timestamp.ok_or(Forged::Header("X-MLflow-Timestamp"))?;
    let at_s: i64 = at.parse().map_err(|_| Forged::Header("X-MLflow-Timestamp"))?;
    let given = headers.signature.ok_or(Forged::Header("X-MLflow-Signature"))?;
    let given = given.strip_prefix("v1,").and_then(|given| STANDARD.decode(given).ok()).ok_or(Forged::Signature)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|_| Forged::Signature)?;
    for part in [id.as_bytes(), b".", at.as_bytes(), b".", body] {
        mac.update(part);
    }
    // In constant time.
    mac.verify_slice(&given).map_err(|_| Forged::Signature)?;
    let apart_s = now.as_second().abs_diff(at_s);
    if apart_s > WINDOW.as_secs() { Err(Forged::Stale(apart_s)) } else { Ok(id) }
}

/// What MLflow says happened.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HookEvent {
    /// What it happened to: `model_version`, `model_version_tag`, `model_version_alias`, and others.
    pub entity: String,
    /// What happened: `created`, `set`, `deleted`.
    pub action: String,
    /// The particulars.
    #[serde(default)]
    pub data: HookData,
}

/// The particulars of a [`HookEvent`], as far as they are needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HookData {
    /// The registered model.
    pub name: String,
    /// The version.
    pub version: String,
    /// The tag that was set.
    pub key: String,
}

/// Whether a delivery was attended to before.
///
/// # Errors
///
/// As the database says.
pub async fn is_known(db: &Database, delivery_id: &str) -> Result<bool, hokusai_db::Error> {
    let sql = "SELECT at_ms FROM mlflow_deliveries WHERE id = $1";
    let row: Option<(i64,)> = sqlx::query_as(sql).bind(delivery_id).fetch_optional(db.reader()).await?;
    Ok(row.is_some())
}

/// Remembers that a delivery was attended to, and forgets those of yesterday.
///
/// # Errors
///
/// As the database says.
pub async fn remember(db: &Database, delivery_id: &str, now: Timestamp) -> Result<(), hokusai_db::Error> {
    let now_ms = now.as_millisecond();
    let mut tx = db.write().await?;
    sqlx::query("INSERT INTO mlflow_deliveries (id, at_ms) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
        .bind(delivery_id)
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM mlflow_deliveries WHERE at_ms < $1").bind(now_ms - REMEMBERED_MS).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

/// A webhook in MLflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Its id there.
    pub webhook_id: String,
    /// Whether it was made now; otherwise it was there and was changed.
    pub created: bool,
}

impl MlflowClient {
    /// Has MLflow send its registry's events to `url`, signed with `secret`: makes the webhook called `name`, or changes it.
    ///
    /// # Errors
    ///
    /// As MLflow says: versions before 3.3 have no webhooks, and by default it sends to public `https://` addresses only.
    pub async fn connect(&self, name: &str, url: &str, secret: &str) -> Result<Connected, MlflowError> {
        let events: Vec<Value> = EVENTS.iter().map(|(entity, action)| json!({ "entity": entity, "action": action })).collect();
        let mut body = json!({ "name": name, "url": url, "events": events, "secret": secret, "status": "ACTIVE" });
        body["description"] = "Tells hokusai of model versions that ask for a token.".into();
        let doing = format!("connect the webhook {name:?}");
        let known = self.webhook_named(name).await?;
        let (method, path) = match &known {
            Some(id) => (Method::PATCH, format!("webhooks/{id}")),
            None => (Method::POST, "webhooks".to_owned()),
        };
        let call = Call { method, repeatable: known.is_some(), ..Call::repeatable(&path, body, doing.clone()) };
        let answer: Value = self.call(call).await?;
        let id = answer.pointer("/webhook/webhook_id").and_then(Value::as_str);
        let id = id.ok_or_else(|| self.unexpected(doing, format!("it answered {answer}")))?;
        Ok(Connected { webhook_id: id.to_owned(), created: known.is_none() })
    }

    /// Has MLflow send an example; answers what it got for it.
    ///
    /// # Errors
    ///
    /// As MLflow says.
    pub async fn try_webhook(&self, webhook_id: &str) -> Result<Result<u64, String>, MlflowError> {
        let path = format!("webhooks/{webhook_id}/test");
        let answer: Value = self.call(Call::repeatable(&path, json!({}), "try the webhook".into())).await?;
        let result = answer.get("result").cloned().unwrap_or_default();
        let status = result.get("response_status").and_then(Value::as_u64);
        match (result.get("success").and_then(Value::as_bool), status) {
            (Some(true), Some(status)) => Ok(Ok(status)),
            _ => {
                let text = |key: &str| result.get(key).and_then(Value::as_str).map(str::to_owned);
                let problem = text("error_message").or_else(|| text("response_body")).unwrap_or_else(|| result.to_string());
                Ok(Err(status.map(|status| format!("{status} {problem}")).unwrap_or(problem)))
            }
        }
    }

    async fn webhook_named(&self, name: &str) -> Result<Option<String>, MlflowError> {
        let mut token = String::new();
        loop {
            let query = [("max_results", "100"), ("page_token", token.as_str())];
            let query = if token.is_empty() { &query[..1] } else { &query[..] };
            let answer: Value = self.get("webhooks", query, "list its webhooks".into()).await?;
            let webhooks = answer.get("webhooks").and_then(Value::as_array);
            let found = webhooks.into_iter().flatten().find(|webhook| webhook["name"] == name);
            if let Some(id) = found.and_then(|webhook| webhook["webhook_id"].as_str()) {
                return Ok(Some(id.to_owned()));
            }
            match answer.get("next_page_token").and_then(Value::as_str).filter(|token| !token.is_empty()) {
                Some(next) => token = next.to_owned(),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"entity": "model_version"}"#;
    /// Made with MLflow's own `_generate_hmac_signature("hush", "d-1", "1700000000", …)`.
    const SIGNATURE: &str = "v1,Zf/BZPU0npKxI5PC7z4M/ID6ihZXrjl7Wkfl0INTb18=";

    fn check(change: impl FnOnce(&mut Headers<'static>), secret: &str, at_s: i64, expected: Result<&str, Forged>) {
        let mut headers = Headers { signature: Some(SIGNATURE), timestamp: Some("1700000000"), delivery_id: Some("d-1") };
        change(&mut headers);
        assert_eq!(verify(secret, &headers, BODY, Timestamp::from_second(at_s).unwrap()), expected);
    }

    #[test]
    fn mlflows_own_signature_is_believed_within_the_window() {
        check(|_| {}, "hush", 1_700_000_000, Ok("d-1"));
        check(|_| {}, "hush", 1_700_000_300, Ok("d-1"));
        check(|_| {}, "hush", 1_700_000_301, Err(Forged::Stale(301)));
        check(|_| {}, "hush", 1_699_999_699, Err(Forged::Stale(301)));
        check(|_| {}, "other", 1_700_000_000, Err(Forged::Signature));
        check(|headers| headers.delivery_id = Some("d-2"), "hush", 1_700_000_000, Err(Forged::Signature));
        check(|headers| headers.timestamp = Some("1700000001"), "hush", 1_700_000_000, Err(Forged::Signature));
        check(|headers| headers.signature = Some("v1,!"), "hush", 1_700_000_000, Err(Forged::Signature));
        check(|headers| headers.signature = None, "hush", 1_700_000_000, Err(Forged::Header("X-MLflow-Signature")));
        check(|headers| headers.delivery_id = None, "hush", 1_700_000_000, Err(Forged::Header("X-MLflow-Delivery-Id")));
    }
}
