//! The program under test, as a process.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use hokusai_testbed::{Process, eventually, free_port};
use serde_json::Value;

/// A directory and environment in which the program runs; nothing of the test's own environment gets in.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("hokusai-test").tempdir().unwrap();
        let data = dir.path().join("data").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        Self { dir, env: vec![("PATH".into(), path), ("HOKUSAI_DATA_DIR".into(), data)] }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hokusai"));
        command.args(args).env_clear().envs(self.env.iter().cloned()).current_dir(self.dir.path());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args).stdin(Stdio::null()).output().unwrap(), args)
    }

    /// Runs a command with `input` on its standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Run {
        use std::io::Write as _;
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        feed.join().unwrap();
        Run::of(output, args)
    }

    /// Starts a long-running role.
    pub(crate) fn start(&self, role: &str) -> Role {
        let log = self.dir.path().join(format!("{role}-{}.log", free_port()));
        let mut args: Vec<String> = vec!["-i".into()];
        args.extend(self.env.iter().map(|(name, value)| format!("{name}={value}")));
        args.extend([env!("CARGO_BIN_EXE_hokusai").to_owned(), role.to_owned()]);
        let process = Process::start(Path::new("/usr/bin/env"), &args, None, &log, "coreutils");
        Role { process, log }
    }
}

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    args: String,
}

impl Run {
    fn of(output: Output, args: &[&str]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr), args: args.join(" ") }
    }

    /// Its standard output, if it succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "hokusai {}\n{}{}", self.args, self.stdout, self.stderr);
        self.stdout
    }

    /// Its standard output as JSON, if it succeeded.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let args = self.args.clone();
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("hokusai {args}: {error}\n{text}"))
    }

    /// Its standard error, if it failed with this exit code.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "hokusai {}\n{}{}", self.args, self.stdout, self.stderr);
        self.stderr
    }
}

/// A running role. Killed when dropped.
pub(crate) struct Role {
    pub(crate) process: Process,
    log: PathBuf,
}

impl Role {
    /// What it has printed so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its output holds `text`.
    pub(crate) async fn prints(&self, text: &str) {
        let seen = async || self.log().contains(text).then_some(());
        if tokio::time::timeout(Duration::from_secs(60), eventually(text, Duration::from_secs(70), seen)).await.is_err() {
            panic!("never printed {text:?}:\n{}", self.log());
        }
    }

    /// Waits until it answers HTTP.
    pub(crate) async fn answers(&self, url: &str) {
        let seen = async || match reqwest::get(format!("{url}/live")).await {
            Ok(answer) if answer.status().is_success() => Some(()),
            _ => None,
        };
        if tokio::time::timeout(Duration::from_secs(60), eventually(url, Duration::from_secs(70), seen)).await.is_err() {
            panic!("{url} never answered:\n{}", self.log());
        }
    }

    /// SIGTERM, and waits until it is gone.
    pub(crate) async fn terminate(self) -> String {
        let pid = self.process.pid();
        self.process.signal("TERM");
        let gone = async || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        };
        if tokio::time::timeout(Duration::from_secs(40), eventually("exit", Duration::from_secs(50), gone)).await.is_err() {
            panic!("SIGTERM did not end it:\n{}", self.log());
        }
        self.log()
    }
}
