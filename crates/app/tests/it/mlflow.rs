//! MLflow's users who never call us: tags, webhooks, and the sweep, on a real MLflow server.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use base64::Engine as _;
use hmac::{Hmac, Mac as _};
use hokusai_testbed::{Mlflow, eventually, free_port};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::program::{PATIENCE, Place};

const SECRET: &str = "0123456789abcdef-hush";

struct World {
    mlflow: Mlflow,
    http: reqwest::Client,
}

impl World {
    async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.http.post(format!("{}/api/2.0/mlflow/{path}", self.mlflow.url())).json(&body).send().await.unwrap();
        let (status, body) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// A run that logged this metric, and a version of the model made of it.
    async fn version(&self, model: &str, metric: f64, tags: &[(&str, &str)]) -> String {
        let run = self.post("runs/create", json!({ "experiment_id": "0" })).await["run"]["info"].clone();
        let run_id = run["run_id"].as_str().unwrap();
        self.post("runs/log-metric", json!({ "run_id": run_id, "key": "accuracy", "value": metric, "timestamp": 1 })).await;
        let source = format!("{}/model", run["artifact_uri"].as_str().unwrap());
        let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({ "key": format!("hokusai.{key}"), "value": value })).collect();
        let made = self.post("model-versions/create", json!({ "name": model, "source": source, "run_id": run_id, "tags": tags })).await;
        made["model_version"]["version"].as_str().unwrap().to_owned()
    }

    async fn tags(&self, model: &str, version: &str) -> BTreeMap<String, String> {
        let url = format!("{}/api/2.0/mlflow/model-versions/get", self.mlflow.url());
        let answer: Value = self.http.get(url).query(&[("name", model), ("version", version)]).send().await.unwrap().json().await.unwrap();
        let tags = answer["model_version"]["tags"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        tags.iter().map(|tag| (text(&tag["key"]), text(&tag["value"]))).collect()
    }

    /// Waits until a version has this tag.
    async fn tagged(&self, model: &str, version: &str, key: &str) -> String {
        let what = format!("{key} on {model} {version}");
        eventually(&what, PATIENCE, async || {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.tags(model, version).await.remove(key)
        })
        .await
    }

    async fn set_tag(&self, model: &str, version: &str, key: &str, value: &str) {
        let body = json!({ "name": model, "version": version, "key": format!("hokusai.{key}"), "value": value });
        self.post("model-versions/set-tag", body).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tagged_versions_register_themselves() {
    let world = World { mlflow: Mlflow::start().await, http: reqwest::Client::new() };
    let port = free_port();
    let place = Place::new()
        .with("HOKUSAI_LISTEN", format!("127.0.0.1:{port}"))
        .with("MLFLOW_TRACKING_URI", world.mlflow.url())
        .with("HOKUSAI_MLFLOW_SWEEP", "0")
        .with("HOKUSAI_MLFLOW_WEBHOOK_SECRET", SECRET);
    let server = place.start(&["serve"]);
    let hook = format!("http://127.0.0.1:{port}/integrations/mlflow");
    eventually("the server answers", PATIENCE, async || world.http.get(&hook).send().await.ok().map(drop)).await;

    // Connecting twice leaves one webhook; MLflow itself says that it reaches the server.
    for created in [true, false] {
        let answer = place.run(&["mlflow", "connect", "--url", &hook, "--json"]).json();
        assert_eq!((answer["created"].as_bool(), answer["works"].as_bool()), (Some(created), Some(true)), "{answer}");
    }
    registered_by_tags(&world).await;
    registered_by_an_alias(&world).await;
    mistakes_are_told_in_mlflow(&world).await;
    deliveries_are_checked(&world, &hook).await;
    server.stop("TERM").await;
    a_killed_registration_converges(&world).await;

    // A version whose webhook nobody received is found by the sweep.
    let tags = [("token_id", "swept"), ("metric_name", "accuracy"), ("baseline_value", "0.5")];
    let version = world.version("quiet", 0.75, &tags).await;
    let place = place.with("HOKUSAI_MLFLOW_SWEEP", "0.2");
    let server = place.start(&["serve"]);
    assert_eq!(world.tagged("quiet", &version, "hokusai.status").await, "queued");
    let listed = place.run(&["registration", "list", "--json"]).json();
    assert_eq!(listed["registrations"].as_array().unwrap().len(), 4, "{listed}");
    server.stop("TERM").await;
}

async fn registered_by_tags(world: &World) {
    world.post("registered-models/create", json!({ "name": "quiet" })).await;
    let tags = [("metric_name", "accuracy"), ("baseline_value", "0.5")];
    let version = world.version("quiet", 0.6, &tags).await;
    world.set_tag("quiet", &version, "token_id", "quiet-token").await;
    assert_eq!(world.tagged("quiet", &version, "hokusai.status").await, "queued");
    assert_eq!(world.tags("quiet", &version).await["hokusai.token"], "quiet-token");
    // Below the baseline is an answer too.
    let tags = [("metric_name", "accuracy"), ("baseline", "models:/quiet/1"), ("token_id", "quiet-token")];
    let weaker = world.version("quiet", 0.55, &tags).await;
    assert_eq!(world.tagged("quiet", &weaker, "hokusai.verdict").await, "rejected");
}

async fn registered_by_an_alias(world: &World) {
    let tag = |key: &str, value: &str| json!({ "key": format!("hokusai.{key}"), "value": value });
    let tags = [tag("token_id", "by-alias"), tag("metric_name", "accuracy"), tag("baseline_value", "0.5"), tag("alias", "candidate")];
    world.post("registered-models/create", json!({ "name": "with alias", "tags": tags })).await;
    let first = world.version("with alias", 0.6, &[]).await;
    let second = world.version("with alias", 0.7, &[]).await;
    world.post("registered-models/alias", json!({ "name": "with alias", "alias": "candidate", "version": second })).await;
    assert_eq!(world.tagged("with alias", &second, "hokusai.status").await, "queued");
    assert_eq!(world.tags("with alias", &first).await, BTreeMap::new());
}

async fn mistakes_are_told_in_mlflow(world: &World) {
    world.post("registered-models/create", json!({ "name": "mistaken" })).await;
    let tags = [("metric_name", "f1"), ("baseline_value", "0.5"), ("token_id", "mistaken")];
    let version = world.version("mistaken", 0.6, &tags).await;
    let error = world.tagged("mistaken", &version, "hokusai.error").await;
    assert!(error.contains("logged no metric \"f1\"; it logged accuracy"), "{error}");
}

/// `hokusai register` is killed at any moment, again and again, and then let through: one version, one event.
async fn a_killed_registration_converges(world: &World) {
    let place = Place::new().with("MLFLOW_TRACKING_URI", world.mlflow.url());
    let run = world.post("runs/create", json!({ "experiment_id": "0" })).await["run"]["info"]["run_id"].as_str().unwrap().to_owned();
    world.post("runs/log-metric", json!({ "run_id": run, "key": "accuracy", "value": 0.6, "timestamp": 1 })).await;
    let uri = format!("runs:/{run}/model");
    let args = ["register", "--model-uri", &uri, "--model-name", "killed", "--token-id", "killed", "--metric-name", "accuracy"];
    let args = [&args[..], &["--baseline-value", "0.5", "--json"]].concat();
    for round in 0..12 {
        let mut child = place.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // A different moment each time, from before its first call to after its commit; the waiting is the point here.
        tokio::time::sleep(Duration::from_millis(15 * round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let registered = place.run(&args).json();
    assert_eq!(place.run(&args).json(), registered);
    let url = format!("{}/api/2.0/mlflow/model-versions/search", world.mlflow.url());
    let answer: Value = world.http.get(url).query(&[("filter", format!("run_id='{run}'"))]).send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["model_versions"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(place.run(&["queue", "stats", "--json"]).json()["main"], 1);
}

/// Signed as MLflow signs, by its own test; here what is not.
async fn deliveries_are_checked(world: &World, hook: &str) {
    let send = async |headers: &[(&str, &str)], body: &'static str| {
        let request = world.http.post(hook).header("content-type", "application/json").body(body);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, problem) = send(&[], "{}").await;
    assert_eq!((status, problem["type"].as_str()), (401, Some("urn:hokusai:problem:forged")), "{problem}");
    let now = jiff::Timestamp::now().as_second().to_string();
    let headers = [("x-mlflow-delivery-id", "1"), ("x-mlflow-timestamp", now.as_str()), ("x-mlflow-signature", "v1,aGVsbG8=")];
    assert_eq!(send(&headers, "{}").await.0, 401);
    // The same delivery twice, as MLflow repeats it when it did not hear the answer.
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    let body = r#"{"entity": "registered_model", "action": "created", "data": {"name": "quiet"}}"#;
    mac.update(format!("d-1.{now}.{body}").as_bytes());
    let signature = format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes()));
    let headers = [("x-mlflow-delivery-id", "d-1"), ("x-mlflow-timestamp", now.as_str()), ("x-mlflow-signature", signature.as_str())];
    for outcome in ["not_asked", "duplicate"] {
        let (status, answer) = send(&headers, body).await;
        assert_eq!((status, answer["outcome"].as_str()), (200, Some(outcome)), "{answer}");
    }
}
