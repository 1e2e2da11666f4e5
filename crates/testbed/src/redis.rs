//! redis-server.

use std::{path::PathBuf, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    eventually, free_port,
    process::{Process, find},
};

const INSTALL: &str = "run scripts/setup, or install Debian's redis-server";

/// A redis-server of its own, in its own directory.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    args: Vec<String>,
    dir: TempDir,
    process: Option<Process>,
}

impl Redis {
    /// Starts one without persistence.
    pub async fn start() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "no"]).await
    }

    /// Starts one with arguments of your own, such as `--appendonly yes`.
    pub async fn start_with(args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("hokusai-redis").tempdir().expect("a temporary directory can be made");
        let args = args.iter().map(ToString::to_string).collect();
        let mut redis = Self { port: free_port(), args, dir, process: None };
        redis.restart().await;
        redis
    }

    /// `redis://127.0.0.1:PORT/0`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// The port it listens on, the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its working directory, which holds its files and its log.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Its process, to stop or continue it.
    ///
    /// # Panics
    ///
    /// If it was killed and not restarted.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("redis-server is running")
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.process = None;
    }

    /// Kills it if it runs, and starts it again on the same port and directory.
    pub async fn restart(&mut self) {
        self.process = None;
        let mut args = vec!["--port".into(), self.port.to_string(), "--bind".into(), "127.0.0.1".into()];
        args.extend(["--dir".into(), self.dir.path().display().to_string(), "--daemonize".into(), "no".into()]);
        args.extend(self.args.iter().cloned());
        let program: PathBuf = find(&["redis-server", "/usr/bin/redis-server"], INSTALL);
        let log = self.dir.path().join("redis.log");
        self.process = Some(Process::start(&program, &args, None, &log, INSTALL));
        let port = self.port;
        eventually("redis-server answers PING", Duration::from_secs(20), async || ping(port).await).await;
    }
}

/// Answers once the server talks at all: an error such as NOAUTH is an answer too; LOADING is not.
async fn ping(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(b"PING\r\n").await.ok()?;
    let mut answer = [0; 64];
    let length = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut answer)).await.ok()?.ok()?;
    (length > 0 && !answer.starts_with(b"-LOADING")).then_some(())
}
