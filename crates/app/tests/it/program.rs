//! The program under test, as a process.
//!
//! Invariant of every test: nothing the program ever prints holds a deployer's key. It is checked here, wherever output is
//! read, so that no test has to think of it.

use std::{
    fs::File,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use hokusai_testbed::{ANVIL_KEYS, eventually};
use serde_json::Value;

/// Longer than anything takes on a busy machine; only a failing test waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// What a role may take to stop: its own grace and a little.
const GRACE: Duration = Duration::from_secs(35);

/// A directory and environment in which the program runs; nothing of the test's own environment gets in.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
    started: AtomicU32,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("hokusai-test").tempdir().unwrap();
        let data = dir.path().join("data").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        Self { dir, env: vec![("PATH".into(), path), ("HOKUSAI_DATA_DIR".into(), data)], started: AtomicU32::new(0) }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.unset(name);
        self.env.push((name.into(), value.into()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.unset(name);
        self
    }

    fn unset(&mut self, name: &str) {
        self.env.retain(|(known, _)| known != name);
    }

    /// Its directory, where commands run.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The program with `args`, to be run here.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.at_home(Path::new(env!("CARGO_BIN_EXE_hokusai")), args)
    }

    fn at_home(&self, program: &Path, args: &[&str]) -> Command {
        // The kernel ends it if the test is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
        command.env_clear().envs(self.env.iter().cloned()).current_dir(self.dir.path());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args).stdin(Stdio::null()).output().unwrap(), args)
    }

    /// Runs a command with `input` on its standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: impl AsRef<[u8]>) -> Run {
        use std::io::Write as _;
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.as_ref().to_vec();
        let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        feed.join().unwrap();
        Run::of(output, args)
    }

    /// Runs a shell command line as a person would paste it.
    pub(crate) fn shell(&self, line: &str) -> Run {
        let output = self.at_home(Path::new("/bin/sh"), &["-c", line]).stdin(Stdio::null()).output().unwrap();
        Run::of(output, &[line])
    }

    /// Starts a long-running role, its output going to a file.
    pub(crate) fn start(&self, args: &[&str]) -> Role {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let log = self.dir.path().join(format!("{}-{number}.log", args[0]));
        let output = File::create(&log).unwrap();
        let errors = output.try_clone().unwrap();
        let child = self.command(args).stdin(Stdio::null()).stdout(output).stderr(errors).spawn().unwrap();
        Role { child, log, name: args.join(" ") }
    }
}

/// A failed test leaves its directory, with logs and databases, for whoever looks into it.
impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("left as it was: {}", self.dir.path().display());
        }
    }
}

#[track_caller]
fn assert_no_secret(text: &str, whose: &str) {
    for key in ANVIL_KEYS {
        let key = key.trim_start_matches("0x");
        assert!(!text.to_ascii_lowercase().contains(key), "hokusai {whose} printed a private key");
    }
}

/// The lines of a log that a person looks at first: what is no information, and the last ones.
fn telling(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    let last = lines.len().saturating_sub(20);
    let told = lines.iter().enumerate().filter(|(number, line)| *number >= last || !line.contains("\"INFO\""));
    told.map(|(_, line)| *line).collect::<Vec<_>>().join("\n")
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
    #[track_caller]
    fn of(output: Output, args: &[&str]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let run = Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr), args: args.join(" ") };
        assert_no_secret(&run.stdout, &run.args);
        assert_no_secret(&run.stderr, &run.args);
        run
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
        assert!(!self.stderr.trim().is_empty(), "hokusai {} failed without a word", self.args);
        self.stderr
    }
}

/// A running role. Killed when dropped.
pub(crate) struct Role {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Role {
    /// What it has printed so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until `probe`, given the log so far, answers; panics with the role's own words if that takes too long or the
    /// role ends before.
    pub(crate) async fn until<T>(&mut self, what: &str, mut probe: impl AsyncFnMut(&str) -> Option<T>) -> T {
        self.until_or(what, async |log| probe(log).await.ok_or_else(String::new)).await
    }

    /// As [`Self::until`]; the panic also says what the last probe saw instead.
    pub(crate) async fn until_or<T>(&mut self, what: &str, mut probe: impl AsyncFnMut(&str) -> Result<T, String>) -> T {
        let Self { child, log, name } = self;
        let mut instead = String::new();
        let read = || String::from_utf8_lossy(&std::fs::read(&*log).unwrap_or_default()).into_owned();
        let seen = async || {
            match probe(&read()).await {
                Ok(found) => return Some(Ok(found)),
                Err(other) => instead = other,
            }
            child.try_wait().unwrap().map(Err)
        };
        match tokio::time::timeout(PATIENCE, eventually(what, PATIENCE * 2, seen)).await {
            Ok(Ok(found)) => found,
            Ok(Err(status)) => panic!("hokusai {name} ended ({status}) before it {what}; {instead}\n{}", telling(&read())),
            Err(_) => panic!("hokusai {name} never {what}; {instead}\n{}", telling(&read())),
        }
    }

    /// Waits until its output holds `text`.
    pub(crate) async fn prints(&mut self, text: &str) {
        self.until(&format!("printed {text:?}"), async |log| log.contains(text).then_some(())).await;
    }

    /// Waits until it answers HTTP.
    pub(crate) async fn answers(&mut self, url: &str) {
        let live = format!("{url}/live");
        let answers = async |_: &str| reqwest::get(&live).await.ok().filter(|answer| answer.status().is_success()).map(drop);
        self.until(&format!("answered at {url}"), answers).await;
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "signal {name} to hokusai {}", self.name);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL; gone when this returns.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.log()
    }

    /// Waits until it ends by itself. A role that hangs is killed, and its last words are in the panic.
    pub(crate) async fn ends(mut self) -> (ExitStatus, String) {
        let child = &mut self.child;
        let ended = eventually("exit", GRACE * 2, async || child.try_wait().unwrap());
        let Ok(status) = tokio::time::timeout(GRACE, ended).await else {
            panic!("hokusai {} did not end:\n{}", self.name, telling(&self.log()));
        };
        (status, self.log())
    }

    /// Sends a signal and expects a clean end.
    pub(crate) async fn stop(self, signal: &str) -> String {
        self.signal(signal);
        let name = self.name.clone();
        let (status, log) = self.ends().await;
        assert_eq!((status.code(), status.signal()), (Some(0), None), "hokusai {name} after SIG{signal}:\n{}", telling(&log));
        log
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            assert_no_secret(&self.log(), &self.name);
        }
    }
}
