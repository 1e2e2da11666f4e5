//! The two calls of AWS KMS by which a key signs, with a real key of secp256k1, over the real protocol.
//!
//! AWS lends nobody its KMS to run on a loopback port: this is the one service here that is not itself. It does what KMS is
//! documented to do: it checks nothing about the caller, signs digests, gives every other signature in its high form, and
//! throttles, stalls or refuses when a test tells it to.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, http::HeaderMap, http::StatusCode, response::IntoResponse, response::Response, routing::post};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use k256::{
    PublicKey,
    ecdsa::{Signature, SigningKey, signature::hazmat::PrehashSigner as _},
    pkcs8::EncodePublicKey as _,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// How it answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mood {
    /// As asked.
    #[default]
    Well,
    /// Too many requests, for so many times; then well.
    Throttling(usize),
    /// After this long.
    Slow(Duration),
    /// The key is disabled.
    Disabled,
}

/// A KMS with one key. Dropping it ends it.
#[derive(Debug)]
pub struct Kms {
    port: u16,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    key: Mutex<SigningKey>,
    mood: Mutex<Mood>,
    /// Signatures given in the low and in the high form.
    given: Mutex<[usize; 2]>,
}

impl Kms {
    /// The id of its key.
    pub const KEY_ID: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

    /// Starts one with this private key, in hex.
    pub async fn start(key: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port can be bound");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let shared = Arc::new(Shared { key: Mutex::new(parse(key)), mood: Mutex::default(), given: Mutex::default() });
        let router = Router::new().route("/", post(answer)).with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Self { port, shared, serving }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on it answers so.
    pub fn be(&self, mood: Mood) {
        *self.shared.mood.lock() = mood;
    }

    /// Puts another key in the place of the one it has.
    pub fn change_key(&self, key: &str) {
        *self.shared.key.lock() = parse(key);
    }

    /// How many signatures it gave in the low and in the high form.
    pub fn given(&self) -> [usize; 2] {
        *self.shared.given.lock()
    }
}

impl Drop for Kms {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn parse(key: &str) -> SigningKey {
    let digits = key.trim_start_matches("0x");
    let bytes: Vec<u8> =
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("a key is hexadecimal")).collect();
    SigningKey::from_slice(&bytes).expect("a key of the curve")
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: String) -> Response {
    let mood = shared.mood.lock().clone();
    match mood {
        Mood::Well => {}
        Mood::Throttling(0) => *shared.mood.lock() = Mood::Well,
        Mood::Throttling(times) => {
            *shared.mood.lock() = Mood::Throttling(times - 1);
            return fault("ThrottlingException", "You have exceeded the rate at which you may call KMS.");
        }
        Mood::Slow(pause) => tokio::time::sleep(pause).await,
        Mood::Disabled => return fault("DisabledException", "the key is disabled"),
    }
    let asked: Value = serde_json::from_str(&body).unwrap_or_default();
    if !headers.contains_key("authorization") {
        return fault("MissingAuthenticationTokenException", "the request is not signed");
    }
    if asked["KeyId"] != Kms::KEY_ID {
        return fault("NotFoundException", "there is no such key");
    }
    match headers.get("x-amz-target").and_then(|target| target.to_str().ok()) {
        Some("TrentService.GetPublicKey") => public_key(&shared),
        Some("TrentService.Sign") => sign(&shared, &asked),
        _ => fault("UnknownOperationException", "only GetPublicKey and Sign are served"),
    }
}

fn public_key(shared: &Shared) -> Response {
    let der = PublicKey::from(shared.key.lock().verifying_key()).to_public_key_der().expect("a public key has a DER form");
    said(&json!({
        "KeyId": Kms::KEY_ID, "KeySpec": "ECC_SECG_P256K1", "CustomerMasterKeySpec": "ECC_SECG_P256K1", "KeyUsage": "SIGN_VERIFY",
        "PublicKey": STANDARD.encode(der.as_bytes()), "SigningAlgorithms": ["ECDSA_SHA_256"],
    }))
}

fn sign(shared: &Shared, asked: &Value) -> Response {
    let digest = asked["Message"].as_str().and_then(|text| STANDARD.decode(text).ok()).filter(|digest| digest.len() == 32);
    let Some(digest) = digest.filter(|_| asked["MessageType"] == "DIGEST" && asked["SigningAlgorithm"] == "ECDSA_SHA_256") else {
        return fault("ValidationException", "a digest of 32 bytes is signed with ECDSA_SHA_256");
    };
    let low: Signature = shared.key.lock().sign_prehash(&digest).expect("a digest can be signed");
    let low = low.normalize_s().unwrap_or(low);
    let mut given = shared.given.lock();
    let is_high = (given[0] + given[1]) % 2 == 1;
    given[usize::from(is_high)] += 1;
    let form = if is_high { Signature::from_scalars(low.r(), -low.s()).expect("the other form is one too") } else { low };
    said(&json!({ "KeyId": Kms::KEY_ID, "Signature": STANDARD.encode(form.to_der()), "SigningAlgorithm": "ECDSA_SHA_256" }))
}

fn said(answer: &Value) -> Response {
    ([("content-type", "application/x-amz-json-1.1")], answer.to_string()).into_response()
}

fn fault(kind: &str, message: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "__type": kind, "message": message }))).into_response()
}
