"""The processes of a run: redis-server, PostgreSQL, and the servers under test. Each ends with its `with` block."""

import contextlib
import http.client
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time

PATIENCE_S = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def eventually(what, probe, within_s=PATIENCE_S):
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        answer = probe()
        if answer:
            return answer
        time.sleep(0.05)
    raise SystemExit(f"not within {within_s} s: {what}")


def find(program, install):
    path = shutil.which(program)
    if not path:
        raise SystemExit(f"{program} is not installed: {install}")
    return path


def dies_with_us(user=None):
    """A prefix under which the kernel ends a child whose parent was killed."""
    words = [find("setpriv", "it is in Debian's util-linux"), "--pdeathsig", "KILL"]
    if user:
        words += ["--reuid", user, "--regid", user, "--init-groups"]
    return words + ["--"]


class Process:
    """A child, its log, and what it has used."""

    def __init__(self, name, command, log, env=None, user=None, stop=signal.SIGTERM, cwd=None):
        self.name, self.log, self.stop = name, pathlib.Path(log), stop
        with open(log, "wb") as out:
            self.child = subprocess.Popen(
                dies_with_us(user) + [str(word) for word in command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=cwd)
        self.pid = self.child.pid

    def check(self):
        if self.child.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise SystemExit(f"{self.name} ended with {self.child.returncode}:\n{tail}")

    def cpu_s(self):
        """CPU seconds of the process and of all its children, those that ended included."""
        return sum(cpu_ticks(pid) for pid in tree(self.pid)) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self):
        """(resident now, most ever resident), in MiB."""
        try:
            status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return None, None
        field = {line.split(":")[0]: line for line in status.splitlines()}
        return tuple(int(field[name].split()[1]) / 1024 for name in ("VmRSS", "VmHWM"))

    def end(self):
        if self.child.poll() is None:
            self.child.send_signal(self.stop)
            try:
                self.child.wait(15)
            except subprocess.TimeoutExpired:
                print(f"{self.name} did not end within 15 s of {self.stop.name}; killed", file=sys.stderr)
                self.child.kill()
                self.child.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def stat(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None


def cpu_ticks(pid):
    # utime, stime, and both of the children that were waited for.
    fields = stat(pid)
    return sum(map(int, fields[11:15])) if fields else 0


def tree(root):
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := stat(entry.name)):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def machine_busy_s():
    """CPU seconds the whole machine has been busy; waiting for disks is not busy."""
    fields = list(map(int, pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Redis(Process):
    """Without persistence: what is measured is the way to Redis, not Redis's disk."""

    def __init__(self, directory):
        self.port = free_port()
        command = [find("redis-server", "install Debian's redis-server"), "--port", self.port, "--bind", "127.0.0.1",
                   "--save", "", "--appendonly", "no", "--dir", directory]
        super().__init__("redis-server", command, f"{directory}/redis.log")
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self):
        eventually("redis-server answers", lambda: self.check() or self.ask("PING"))
        return self

    def ask(self, *words):
        """A command whose reply is one line: a status or a number."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall((" ".join(words) + "\r\n").encode())
                return connection.makefile().readline()[1:].strip()
        except OSError:
            return None

    def length(self, queue):
        return int(self.ask("LLEN", queue) or 0)


class Postgres(Process):
    """With the durability of a production server: fsync and synchronous_commit stay on."""

    SETTINGS = {"listen_addresses": "127.0.0.1", "max_connections": "300", "shared_buffers": "256MB"}

    def __init__(self, directory):
        self.bin = self.programs()
        self.user = "postgres" if os.geteuid() == 0 else None
        self.directory = pathlib.Path(directory) / "postgres"
        self.directory.mkdir(mode=0o700)
        if self.user:
            account = pwd.getpwnam(self.user)
            # The server, which is not root, must reach its own directory.
            os.chmod(directory, 0o711)
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        data = self.directory / "data"
        prefix = dies_with_us(self.user)
        subprocess.run([*prefix, self.bin / "initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", "postgres", "-D", data],
                       check=True, stdout=subprocess.DEVNULL, cwd="/")
        self.port, self.databases = free_port(), 0
        command = [self.bin / "postgres", "-D", data, "-p", self.port, "-k", self.directory]
        for name, value in self.SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        super().__init__("postgres", command, f"{directory}/postgres.log", user=self.user, stop=signal.SIGINT, cwd="/")

    @staticmethod
    def programs():
        """Debian keeps them out of PATH, a directory for each version; the newest is taken."""
        versions = [path for path in pathlib.Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
        if versions:
            return max(versions, key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0)
        return pathlib.Path(find("initdb", "install Debian's postgresql")).parent

    def __enter__(self):
        eventually("PostgreSQL answers", lambda: self.check() or self.sql("SELECT 1") == "1")
        return self

    def sql(self, statement, database="postgres"):
        words = [self.bin / "psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database, "-Atc", statement]
        done = subprocess.run(words, capture_output=True, text=True, cwd="/")
        return done.stdout.strip() if done.returncode == 0 else None

    @contextlib.contextmanager
    def database(self):
        """A fresh database, dropped in the end; yields its name and URL."""
        self.databases += 1
        name = f"bench{self.databases}"
        if self.sql(f"CREATE DATABASE {name}") is None:
            raise SystemExit(f"the database {name} cannot be created")
        try:
            yield name, f"postgres://postgres@127.0.0.1:{self.port}/{name}"
        finally:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")
            # So that the next case does not pay for this one's dirty pages.
            self.sql("CHECKPOINT")


def get(port, path):
    """(status, body) of a GET, or (None, b"") if nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return None, b""
    finally:
        connection.close()
