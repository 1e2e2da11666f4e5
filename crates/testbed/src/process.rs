//! A child process that cannot outlive its test.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

/// A running child. Dropping it kills and reaps the child.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    stop: Option<mpsc::Sender<()>>,
    keeper: Option<thread::JoinHandle<()>>,
}

impl Process {
    /// Starts `program` with `args`, its output going to `log`.
    ///
    /// The child runs under `setpriv --pdeathsig KILL`, so that the kernel ends it if the test process is killed. The
    /// signal is tied to the thread that started the child, hence a thread of its own that lives as long.
    ///
    /// # Panics
    ///
    /// If the program cannot be started; `install` says how to get it.
    pub fn start(program: &Path, args: &[String], user: Option<&str>, log: &Path, install: &str) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = user {
            command.args(["--reuid", user, "--regid", user, "--init-groups"]);
        }
        let output = std::fs::File::create(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let errors = output.try_clone().expect("a file handle can be cloned");
        command.arg("--").arg(program).args(args).stdin(Stdio::null()).stdout(output).stderr(errors);
        let (stop, stopped) = mpsc::channel::<()>();
        let (started, pid) = mpsc::channel();
        let keeper = thread::spawn(move || {
            let child = command.spawn();
            let Ok(mut child) = child else {
                drop(started);
                return;
            };
            let _ = started.send(child.id());
            let _ = stopped.recv();
            let _ = child.kill();
            let _ = child.wait();
        });
        let pid = pid.recv().unwrap_or_else(|_| panic!("{} cannot be started: {install}", program.display()));
        Self { pid, stop: Some(stop), keeper: Some(keeper) }
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends the child a signal by name (`STOP`, `CONT`, `TERM`).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid.to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "signal {name} to process {}", self.pid);
    }

    /// SIGKILL, and waits until the child is gone.
    pub fn kill(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The first of `candidates` that exists: absolute paths, or names to look up in `PATH`.
pub(crate) fn find(candidates: &[&str], install: &str) -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for candidate in candidates {
        let direct = Path::new(candidate);
        if direct.is_absolute() && direct.exists() {
            return direct.into();
        }
        if let Some(found) = std::env::split_paths(&path).map(|dir| dir.join(candidate)).find(|file| file.is_file()) {
            return found;
        }
    }
    panic!("{} is not installed: {install}", candidates[0]);
}
