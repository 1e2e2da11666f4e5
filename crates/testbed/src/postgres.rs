//! PostgreSQL: one server for a test process, a fresh database for each test.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{
    eventually, free_port,
    process::{Process, find},
};

const INSTALL: &str = "run scripts/setup, or install Debian's postgresql";
/// PostgreSQL refuses to run as root; its package makes this user.
const USER: &str = "postgres";

static SERVER: OnceCell<Server> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The test process's PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    server: &'static Server,
}

impl Postgres {
    /// Starts the server, or joins the one that this test process has already.
    pub async fn start() -> Self {
        Self { server: SERVER.get_or_init(Server::start).await }
    }

    /// Makes an empty database and returns its URL.
    pub async fn database(&self) -> String {
        let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        self.server.run("createdb", &[&name]);
        format!("postgres://{USER}@127.0.0.1:{}/{name}", self.server.port)
    }

    /// Ends every connection to the database of `url`, as a failing network or a restart would.
    pub fn disconnect_all(&self, url: &str) {
        let name = url.rsplit('/').next().expect("a database URL ends with its name");
        let sql = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()");
        self.server.run("psql", &["-d", "postgres", "-Atc", &sql]);
    }
}

#[derive(Debug)]
struct Server {
    port: u16,
    bin: PathBuf,
    _dir: TempDir,
    _process: Process,
}

impl Server {
    async fn start() -> Self {
        let bin = bin_dir();
        let user = (owner_of_new_files() == 0).then_some(USER);
        let dir = tempfile::Builder::new().prefix("hokusai-postgres").tempdir().expect("a temporary directory can be made");
        give_to(dir.path(), user);
        let data = dir.path().join("data");
        run_as(
            user,
            &bin.join("initdb"),
            &["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", USER, "-D", &data.display().to_string()],
        );
        let port = free_port();
        let settings = ["fsync=off", "max_connections=300", "listen_addresses=127.0.0.1"];
        let mut args: Vec<String> = vec!["-D".into(), data.display().to_string(), "-p".into(), port.to_string()];
        args.extend(["-k".into(), dir.path().display().to_string()]);
        args.extend(settings.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]));
        let log = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let process = Process::start(&bin.join("postgres"), &args, user, log.path(), INSTALL);
        let server = Self { port, bin, _dir: dir, _process: process };
        eventually("PostgreSQL accepts connections", Duration::from_secs(60), async || {
            server.try_run("psql", &["-d", "postgres", "-Atc", "SELECT 1"]).then_some(())
        })
        .await;
        server
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER]).args(args);
        command
    }

    fn try_run(&self, program: &str, args: &[&str]) -> bool {
        self.command(program, args).output().is_ok_and(|output| output.status.success())
    }

    fn run(&self, program: &str, args: &[&str]) {
        let output = self.command(program, args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Debian keeps the server's programs out of `PATH`, in a directory for each version; the newest is taken.
fn bin_dir() -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    versions.sort();
    versions.pop().unwrap_or_else(|| find(&["initdb"], INSTALL).parent().expect("a program has a directory").into())
}

fn owner_of_new_files() -> u32 {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    file.as_file().metadata().expect("an open file has metadata").uid()
}

fn give_to(dir: &Path, user: Option<&str>) {
    let Some(user) = user else { return };
    let id = |flag: &str| -> u32 {
        let output = Command::new("id").args([flag, user]).output().expect("`id` runs");
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_else(|_| panic!("there is no user {user}: {INSTALL}"))
    };
    chown(dir, Some(id("-u")), Some(id("-g"))).expect("root can give a directory away");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).expect("root can change permissions");
}

fn run_as(user: Option<&str>, program: &Path, args: &[&str]) {
    let mut command = match user {
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--init-groups", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    let output = command.args(args).current_dir("/").output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
}
