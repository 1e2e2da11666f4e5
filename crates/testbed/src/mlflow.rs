//! A private MLflow server.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{Process, eventually, free_port};

const INSTALL: &str =
    "MLflow is not installed: run scripts/setup, or set HOKUSAI_TEST_MLFLOW to a virtual environment that has mlflow 3.17.2";

/// An MLflow server with a registry in SQLite, which can be killed and started again on the same data. It sends webhooks to
/// this machine, and looks for new ones every second.
#[derive(Debug)]
pub struct Mlflow {
    process: Process,
    port: u16,
    dir: tempfile::TempDir,
}

impl Mlflow {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let port = free_port();
        let process = launch(dir.path(), port);
        let server = Self { process, port, dir };
        server.ready().await;
        server
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port and data.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = launch(self.dir.path(), self.port);
        self.ready().await;
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn ready(&self) {
        eventually("MLflow answers", Duration::from_secs(90), async || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            stream.write_all(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").await.ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok()?;
            answer.starts_with(b"HTTP/1.1 200").then_some(())
        })
        .await;
    }
}

/// The virtual environment that has MLflow.
fn environment() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let given = std::env::var_os("HOKUSAI_TEST_MLFLOW").map(PathBuf::from);
    let environment = given.unwrap_or_else(|| root.join(".scratch/mlflow/venv"));
    assert!(environment.join("bin/mlflow").exists(), "{}: {INSTALL}", environment.display());
    environment
}

/// What `mlflow server` starts, without its supervisor, so that killing the process kills the server.
fn launch(dir: &Path, port: u16) -> Process {
    let here = dir.display();
    let args = [
        format!("_MLFLOW_SERVER_FILE_STORE=sqlite:///{here}/mlflow.db"),
        "_MLFLOW_SERVER_ARTIFACT_ROOT=mlflow-artifacts:/".into(),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS=true".into(),
        format!("_MLFLOW_SERVER_ARTIFACT_DESTINATION={here}/artifacts"),
        "_MLFLOW_SGI_NAME=uvicorn".into(),
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https".into(),
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true".into(),
        "MLFLOW_WEBHOOK_CACHE_TTL=1".into(),
        environment().join("bin/python").display().to_string(),
        "-m".into(),
        "uvicorn".into(),
        "mlflow.server.fastapi_app:app".into(),
        format!("--port={port}"),
        "--workers=1".into(),
    ];
    Process::start(Path::new("/usr/bin/env"), &args, None, &dir.join("mlflow.log"), INSTALL)
}
