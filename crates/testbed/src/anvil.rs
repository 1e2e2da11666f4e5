//! anvil, the development chain of Foundry, from npm.

use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    eventually, free_port,
    process::{Process, find},
};

const INSTALL: &str = "run scripts/setup (npm ci --prefix tools)";

/// The private keys of anvil's first accounts: public, and worthless on any other chain.
pub const ANVIL_KEYS: [&str; 3] = [
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
];

/// An anvil of its own.
#[derive(Debug)]
pub struct Anvil {
    port: u16,
    args: Vec<String>,
    dir: TempDir,
    process: Option<Process>,
}

impl Anvil {
    /// Starts one with further arguments, such as `["--block-time", "1"]`.
    pub async fn start(args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("hokusai-anvil").tempdir().expect("a temporary directory can be made");
        let mut anvil = Self { port: free_port(), args: args.iter().map(ToString::to_string).collect(), dir, process: None };
        anvil.restart().await;
        anvil
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.process = None;
    }

    /// Its process, to stop or continue it.
    ///
    /// # Panics
    ///
    /// If it was killed and not restarted.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("anvil is running")
    }

    /// Kills it if it runs, and starts it again on the same port: from an empty chain, unless `--state` is among the arguments.
    pub async fn restart(&mut self) {
        self.process = None;
        let program = find(&[&native(), "anvil"], INSTALL);
        let mut args = vec!["--port".into(), self.port.to_string(), "--host".into(), "127.0.0.1".into()];
        args.extend(self.args.iter().cloned());
        self.process = Some(Process::start(&program, &args, None, &self.dir.path().join("anvil.log"), INSTALL));
        let port = self.port;
        eventually("anvil listens", Duration::from_secs(30), async || TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
    }
}

/// The program itself. npm's `.bin/anvil` is a script that starts it: a signal to the script would not reach the chain, and
/// the chain would outlive it.
fn native() -> String {
    let os = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    format!("{}/../../tools/node_modules/@foundry-rs/anvil-{os}-{machine}/bin/anvil", env!("CARGO_MANIFEST_DIR"))
}
