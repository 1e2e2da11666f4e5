//! Registering with a real MLflow server, one for the whole test.

use std::collections::BTreeMap;

use hokusai_registry::{
    Conflicting, Mlflow, MlflowClient, MlflowError, MlflowSettings, RegisterError, Registrar, Registrations, Status, Tagger, TaggerConfig,
    mlflow::TagError, note_step,
};
use hokusai_testbed::Proxy;
use serde_json::{Value, json};

use crate::home::{Home, request};

/// An MLflow server, and what tests do there.
struct Server {
    process: hokusai_testbed::Mlflow,
    http: reqwest::Client,
}

impl Server {
    async fn start() -> Self {
        Self { process: hokusai_testbed::Mlflow::start().await, http: reqwest::Client::new() }
    }

    async fn restart(&mut self) {
        self.process.restart().await;
    }

    fn url(&self) -> String {
        self.process.url()
    }

    fn client(&self) -> MlflowClient {
        MlflowClient::new(MlflowSettings::new(self.url().parse().unwrap())).unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.http.post(format!("{}/api/2.0/mlflow/{path}", self.url())).json(&body).send().await.unwrap();
        let (status, body) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn run(&self) -> String {
        let run = self.post("runs/create", json!({ "experiment_id": "0" })).await;
        run["run"]["info"]["run_id"].as_str().unwrap().to_owned()
    }

    /// A run that logged this metric.
    async fn measured_run(&self, metric: &str, value: impl serde::Serialize) -> String {
        let run = self.run().await;
        self.post("runs/log-metric", json!({ "run_id": run, "key": metric, "value": value, "timestamp": 1 })).await;
        run
    }

    /// The tags of a version that we made.
    async fn tags(&self, name: &str, version: &str) -> BTreeMap<String, String> {
        let tags = self.client().version(name, version).await.unwrap().tags;
        tags.into_iter().filter(|tag| tag.key.starts_with("hokusai.")).map(|tag| (tag.key, tag.value)).collect()
    }

    async fn versions(&self, run_id: &str) -> usize {
        self.client().versions_of_run(run_id).await.unwrap().len()
    }
}

async fn register(registrar: &Registrar, change: Value) -> Result<hokusai_registry::Receipt, RegisterError> {
    registrar.register(request(change), None, None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mlflow_resolves_and_numbers() {
    let mut server = Server::start().await;
    a_run_gets_one_version(&server).await;
    names_and_aliases_are_resolved(&server).await;
    logged_models_are_resolved(&server).await;
    what_mlflow_does_not_know_is_refused(&server).await;
    requests_at_once_make_one_version(&server).await;
    values_are_read_from_runs(&server).await;
    a_baseline_is_read_from_a_champion(&server).await;
    lost_replies_are_asked_for_again_where_that_is_harmless(&server).await;
    versions_are_tagged_until_it_is_done(&mut server).await;
    an_outage_and_a_lost_answer_converge(&mut server).await;
}

async fn a_run_gets_one_version(server: &Server) {
    let home = Home::sqlite().await;
    let (registrar, _running) = home.with_mlflow(Mlflow::new(server.client()));
    let run = server.run().await;
    let uri = format!("runs:/{run}/model");
    let first = register(&registrar, json!({ "model_uri": uri })).await.unwrap();
    assert_eq!((first.model_version.as_str(), first.mlflow_run_id.as_str()), ("1", run.as_str()));
    assert!(register(&registrar, json!({ "model_uri": uri })).await.unwrap().replayed);
    // Another token of the same model shares its version; another artifact has its own.
    assert_eq!(register(&registrar, json!({ "model_uri": uri, "token_id": "other" })).await.unwrap().model_version, "1");
    let second = register(&registrar, json!({ "model_uri": format!("runs:/{run}/second") })).await.unwrap();
    assert_eq!((second.model_version.as_str(), server.versions(&run).await), ("2", 2));
    let found = server.client().version("msg model", "1").await.unwrap();
    assert_eq!(found.source, format!("mlflow-artifacts:/0/{run}/artifacts/model"));

    // A registry that lost its tables finds the version that MLflow has.
    let other = Home::sqlite().await;
    let (registrar, _running) = other.with_mlflow(Mlflow::new(server.client()));
    assert_eq!(register(&registrar, json!({ "model_uri": uri })).await.unwrap().model_version, "1");
    assert_eq!(server.versions(&run).await, 2);
}

async fn names_and_aliases_are_resolved(server: &Server) {
    let home = Home::sqlite().await;
    let (registrar, _running) = home.with_mlflow(Mlflow::new(server.client()));
    let run = server.run().await;
    let named = async |uri: &str| register(&registrar, json!({ "model_name": "it's \"named\"", "model_uri": uri })).await;
    let first = named(&format!("runs:/{run}/model")).await.unwrap();
    // The same version by another name is the same registration.
    assert_eq!(named("models:/it's \"named\"/1").await.unwrap().registration_id, first.registration_id);
    server.post("registered-models/alias", json!({ "name": "it's \"named\"", "alias": "champion", "version": "1" })).await;
    assert!(named("models:/it's \"named\"@champion").await.unwrap().replayed);
    let changed = json!({ "model_name": "it's \"named\"", "model_uri": "models:/it's \"named\"@champion", "current_value": 0.99 });
    let conflict = register(&registrar, changed).await.unwrap_err();
    assert!(matches!(conflict, RegisterError::Conflict { what: Conflicting::Identity, .. }), "{conflict}");
    let wrong_run = json!({ "model_name": "it's \"named\"", "model_uri": "models:/it's \"named\"/1", "mlflow_run_id": "other" });
    let invalid = register(&registrar, wrong_run).await.unwrap_err();
    assert!(matches!(&invalid, RegisterError::Invalid(invalid) if invalid.field == "mlflow_run_id"), "{invalid}");
}

/// As MLflow 3 logs models: beside the run, not inside it.
async fn logged_models_are_resolved(server: &Server) {
    let home = Home::sqlite().await;
    let (registrar, _running) = home.with_mlflow(Mlflow::new(server.client()));
    let run = server.run().await;
    let logged = server.post("logged-models", json!({ "experiment_id": "0", "name": "model", "source_run_id": run })).await;
    let model_id = logged["model"]["info"]["model_id"].as_str().unwrap();
    server.post("runs/outputs", json!({ "run_id": run, "models": [{ "model_id": model_id, "step": 0 }] })).await;
    let named = async |uri: String| register(&registrar, json!({ "model_name": "logged", "model_uri": uri })).await.unwrap();
    let by_run = named(format!("runs:/{run}/model")).await;
    assert_eq!(server.client().version("logged", "1").await.unwrap().source, format!("models:/{model_id}"));
    let by_id = named(format!("models:/{model_id}")).await;
    assert_eq!((by_id.registration_id, by_id.mlflow_run_id), (by_run.registration_id, run.clone()));
    assert_eq!(server.versions(&run).await, 1);
}

async fn what_mlflow_does_not_know_is_refused(server: &Server) {
    let home = Home::sqlite().await;
    let (registrar, _running) = home.with_mlflow(Mlflow::new(server.client()));
    for uri in ["runs:/nothing/model", "runs:/no'thing/model", "models:/msg model/99", "models:/msg model@nobody", "models:/m-0123456789"] {
        let error = register(&registrar, json!({ "model_uri": uri })).await.unwrap_err();
        assert!(matches!(&error, RegisterError::Mlflow(error) if matches!(**error, MlflowError::NotFound { .. })), "{uri}: {error}");
    }
    assert_eq!(home.count("registrations").await, 0);
}

async fn requests_at_once_make_one_version(server: &Server) {
    let home = Home::sqlite().await;
    let (registrar, _running) = home.with_mlflow(Mlflow::new(server.client()));
    let run = server.run().await;
    let tasks = (0..8).map(|task| {
        let change = json!({ "model_name": "busy", "model_uri": format!("runs:/{run}/model"), "token_id": format!("t{}", task % 4) });
        let registrar = registrar.clone();
        tokio::spawn(async move { register(&registrar, change).await.unwrap().model_version })
    });
    let versions = futures_util::future::join_all(tasks).await;
    assert!(versions.iter().all(|version| version.as_ref().unwrap() == "1"));
    assert_eq!((server.versions(&run).await, home.count("registrations").await), (1, 4));
}

async fn values_are_read_from_runs(server: &Server) {
    let home = Home::sqlite().await;
    let (registrar, _running) = home.with_mlflow(Mlflow::new(server.client()));
    let run = server.measured_run("reply_rate", 0.823_456).await;
    let change = |change: Value| {
        let mut body = json!({ "model_name": "measured", "model_uri": format!("runs:/{run}/model"), "current_value": null });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    };
    let refused = async |body: Value| match register(&registrar, body).await.unwrap_err() {
        RegisterError::Invalid(invalid) => format!("{invalid}"),
        other => panic!("{other}"),
    };
    let unlike = refused(change(json!({ "current_value": 0.79 }))).await;
    assert_eq!(unlike, format!("current_value: is 0.79, but the run {run} logged 0.823456"));
    let unmeasured = refused(change(json!({ "metric_name": "accuracy" }))).await;
    assert_eq!(unmeasured, format!("current_value: is missing, and the run {run} logged no metric \"accuracy\"; it logged reply_rate"));
    let nan = server.measured_run("reply_rate", "NaN").await;
    assert!(refused(change(json!({ "model_uri": format!("runs:/{nan}/model") }))).await.contains("must be a finite number"));
    // Nothing of that made a version.
    assert_eq!(server.versions(&run).await, 0);

    let first = register(&registrar, change(json!({}))).await.unwrap();
    let stored = Registrations::new(home.db.clone()).get(&first.registration_id).await.unwrap().unwrap();
    assert_eq!((stored.document.current_value, stored.document.in_mlflow), (0.823_456, true));
    // What was read and what is stated are the same content; what MLflow logs later changes nothing.
    server.post("runs/log-metric", json!({ "run_id": run, "key": "reply_rate", "value": 0.9, "timestamp": 2 })).await;
    assert!(register(&registrar, change(json!({ "current_value": 0.823_456 }))).await.unwrap().replayed);
    assert!(register(&registrar, change(json!({}))).await.unwrap().replayed);
}

async fn a_baseline_is_read_from_a_champion(server: &Server) {
    let home = Home::sqlite().await;
    let (registrar, _running) = home.with_mlflow(Mlflow::new(server.client()));
    let weak = server.measured_run("reply_rate", 0.7).await;
    let better = server.measured_run("reply_rate", 0.8).await;
    let named = |run: &str, token: &str, baseline: &str| {
        json!({ "model_name": "contest", "token_id": token, "model_uri": format!("runs:/{run}/model"), "current_value": null,
            "baseline_value": null, "baseline": baseline })
    };
    let unknown = register(&registrar, named(&weak, "t", "models:/contest@champion")).await.unwrap_err();
    assert!(matches!(&unknown, RegisterError::Invalid(invalid) if invalid.field == "baseline"), "{unknown}");
    let first = register(&registrar, named(&weak, "t", &format!("runs:/{weak}"))).await.unwrap();
    assert_eq!(first.improvement_percentage, Some(0.0));
    let promote = async |version: &str| {
        server.post("registered-models/alias", json!({ "name": "contest", "alias": "champion", "version": version })).await
    };
    promote(&first.model_version).await;
    let second = register(&registrar, named(&better, "t", "models:/contest@champion")).await.unwrap();
    assert_eq!(second.improvement_percentage, Some(14.29));
    // The better one becomes the champion; asking again compares it with what it was compared with.
    promote(&second.model_version).await;
    assert_eq!(
        register(&registrar, named(&better, "t", "models:/contest@champion")).await.unwrap(),
        hokusai_registry::Receipt { replayed: true, ..second }
    );
    let below = register(&registrar, named(&weak, "u", "models:/contest@champion")).await.unwrap();
    assert_eq!((below.status, below.improvement_percentage), (Status::Rejected, Some(-12.5)));
}

async fn lost_replies_are_asked_for_again_where_that_is_harmless(server: &Server) {
    let port = server.url().rsplit(':').next().unwrap().parse().unwrap();
    let proxy = Proxy::to(port).await;
    let through = MlflowClient::new(MlflowSettings::new(format!("http://127.0.0.1:{}", proxy.port()).parse().unwrap())).unwrap();
    proxy.cut_next_reply();
    assert_eq!(through.version("msg model", "1").await.unwrap().version, "1");
    proxy.cut_next_reply();
    through.ensure_model("msg model").await.unwrap();
    // Another version would be made.
    let run = server.run().await;
    let source = format!("mlflow-artifacts:/0/{run}/artifacts/model");
    proxy.cut_next_reply();
    let lost = through.make_version("msg model", &source, &run, None).await;
    assert!(matches!(lost, Err(MlflowError::Unavailable { .. })), "{lost:?}");
    assert_eq!(server.versions(&run).await, 1);
}

async fn versions_are_tagged_until_it_is_done(server: &mut Server) {
    let home = Home::sqlite().await;
    home.accept("elsewhere").await;
    let (registrar, _running) = home.with_mlflow(Mlflow::new(server.client()));
    let run = server.run().await;
    let receipt = register(&registrar, json!({ "model_name": "shown", "model_uri": format!("runs:/{run}/model") })).await.unwrap();
    let tagger = || Tagger::new(home.db.clone(), server.client(), TaggerConfig::default());
    let mut first = tagger();
    assert_eq!((first.pass().await.unwrap(), first.pass().await.unwrap(), tagger().pass().await.unwrap()), (1, 0, 0));
    let shown = server.tags("shown", "1").await;
    let shown: Vec<&str> = ["registration", "token", "verdict", "status"].map(|key| shown[&format!("hokusai.{key}")].as_str()).to_vec();
    assert_eq!(shown, [receipt.registration_id.as_str(), "msg-ai", "accepted", "queued"]);

    // It moves on while MLflow is away; whoever tags then, does it when MLflow is back.
    server.process.kill();
    let message_id = receipt.message_id.unwrap();
    let mut tx = home.db.write().await.unwrap();
    note_step(&mut tx, &message_id, Some(Status::Deploying), "planned", &json!({})).await.unwrap();
    tx.commit().await.unwrap();
    assert!(matches!(first.pass().await, Err(TagError::Mlflow(MlflowError::Unavailable { .. }))));
    drop(first);
    server.restart().await;
    let mut second = Tagger::new(home.db.clone(), server.client(), TaggerConfig::default());
    assert_eq!(second.pass().await.unwrap(), 1);
    assert_eq!(server.tags("shown", "1").await["hokusai.status"], "deploying");
    // A version that MLflow has no more is given up, and nothing else waits for it.
    let delete = server.http.delete(format!("{}/api/2.0/mlflow/model-versions/delete", server.url()));
    assert!(delete.json(&json!({ "name": "shown", "version": "1" })).send().await.unwrap().status().is_success());
    let mut tx = home.db.write().await.unwrap();
    note_step(&mut tx, &message_id, Some(Status::Refused), "refused", &json!({})).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((second.pass().await.unwrap(), second.pass().await.unwrap()), (1, 0));
}

async fn an_outage_and_a_lost_answer_converge(server: &mut Server) {
    let home = Home::sqlite().await;
    let (registrar, _running) = home.with_mlflow(Mlflow::new(server.client()));
    let run = server.run().await;
    let change = json!({ "model_name": "late", "model_uri": format!("runs:/{run}/model") });
    server.process.kill();
    let error = register(&registrar, change.clone()).await.unwrap_err();
    assert!(matches!(&error, RegisterError::Mlflow(error) if matches!(**error, MlflowError::Unavailable { .. })), "{error}");
    assert_eq!((home.count("intents").await, home.count("registrations").await), (0, 0));
    server.restart().await;
    // A process that died after MLflow made the version and before anything was committed.
    server.client().ensure_model("late").await.unwrap();
    let source = format!("mlflow-artifacts:/0/{run}/artifacts/model");
    server.client().make_version("late", &source, &run, None).await.unwrap();
    assert_eq!(register(&registrar, change).await.unwrap().model_version, "1");
    assert_eq!((server.versions(&run).await, home.count("intents").await, home.count("registrations").await), (1, 1, 1));
}

#[test]
fn secrets_are_not_shown() {
    let settings = MlflowSettings {
        username: Some("user".into()),
        password: Some("hush-1".into()),
        token: Some("hush-2".into()),
        ..MlflowSettings::new("https://mlflow.example/base".parse().unwrap())
    };
    let client = MlflowClient::new(settings.clone()).unwrap();
    assert_eq!(client.address(), "https://mlflow.example/base");
    let with_password = MlflowSettings::new("https://someone:hush-3@mlflow.example/?key=hush-4".parse().unwrap());
    let refused = MlflowClient::new(with_password.clone()).unwrap_err();
    let shown = format!("{settings:?} {client:?} {:?} {with_password:?} {refused}", Mlflow::new(client.clone()));
    assert!(!shown.contains("hush"), "{shown}");
    let file = MlflowSettings::new("file:///srv/mlruns".parse().unwrap());
    assert!(matches!(MlflowClient::new(file), Err(MlflowError::Settings { .. })));
}
