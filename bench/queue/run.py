#!/usr/bin/env python3
"""Measures the queue beside its limit and its peers; see ../README.md. Standard library only."""

import argparse
import json
import os
import pathlib
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# The processes are the same as in the other benchmark.
sys.path.insert(0, str(HERE.parent / "register"))

import peers  # noqa: E402
import services  # noqa: E402
import tables  # noqa: E402
from services import Process, eventually, find, free_port  # noqa: E402

SCRATCH = ROOT / ".scratch" / "bench-queue"
RUN_PATIENCE_S = 180
# In a quick run the counts are divided by this.
QUICK = 20


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short repetition of everything, to see that it runs")
    parser.add_argument("--reps", type=int, help="repetitions (3)")
    parser.add_argument("--scale", type=float, help="times the number of messages (1.0)")
    parser.add_argument("--persistence", type=lambda text: text.split(","), default=["none", "aof"], metavar="none,aof")
    parser.add_argument("--part", type=lambda text: text.split(","), default=peers.PARTS, metavar=",".join(peers.PARTS))
    parser.add_argument("--peers", type=lambda text: text.split(","), metavar="limit,hokusai,…", help="only peers whose name contains one of these")
    parser.add_argument("--rate", type=int, default=1000, help="messages a second of the part pace (1000)")
    parser.add_argument("--seconds", type=int, help="length of the part pace (10)")
    parser.add_argument("--waiting", type=int, help="messages in main beyond those consumed, in the part flat (1,000,000)")
    parser.add_argument("--stranded", type=int, help="entries in processing, in the part flat (10,000)")
    parser.add_argument("--no-omniqueue", action="store_true", help="leave that peer out, and do not build it")
    parser.add_argument("--bin", type=pathlib.Path, help="executables that exist, instead of building")
    parser.add_argument("--dir", type=pathlib.Path, help="where Redis writes its append-only file (the system's temporary directory)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target" / "bench-queue", help="directory for results.json and report.md")
    chosen = parser.parse_args()
    full = {"reps": 3, "scale": 1.0, "seconds": 10, "waiting": 1_000_000, "stranded": 10_000}
    quick = {"reps": 1, "scale": 1 / QUICK, "seconds": 2, "waiting": 50_000, "stranded": 10_000}
    for name, value in (quick if chosen.quick else full).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    unknown = set(chosen.part) - set(peers.PARTS) | set(chosen.persistence) - {"none", "aof"}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return chosen


def wanted(chosen, case):
    named = not chosen.peers or any(name.lower() in case.peer.name.lower() for name in chosen.peers)
    return case.part in chosen.part and named and not (chosen.no_omniqueue and case.peer.name in peers.OPTIONAL)


class Tools:
    """The peers' programs, installed and built if they are not yet."""

    def __init__(self, chosen, cases):
        names = {case.peer.name for case in cases}
        self.python = SCRATCH / "venv" / "bin" / "python"
        if names & {"redis-py", "Celery"}:
            self.install_python()
        if "BullMQ" in names:
            self.install_node()
        self.bin = chosen.bin.resolve() if chosen.bin else self.build(names & peers.OPTIONAL)

    @staticmethod
    def build(omniqueue):
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target" / "bench-queue-build"))
        features = ["--features", "omniqueue"] if omniqueue else []
        env = {**os.environ, "CARGO_TARGET_DIR": str(target)}
        subprocess.run(["cargo", "build", "--release", "--locked", "--bins", *features], cwd=HERE, check=True, env=env)
        return target / "release"

    def install_python(self):
        needed, stamp = (HERE / "py" / "requirements.txt").read_text(), SCRATCH / "venv" / ".installed"
        if not (stamp.exists() and stamp.read_text() == needed):
            subprocess.run([sys.executable, "-m", "venv", "--clear", SCRATCH / "venv"], check=True)
            subprocess.run([self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", HERE / "py" / "requirements.txt"], check=True)
            stamp.write_text(needed)
        subprocess.run([self.python, HERE / "py" / "message.py"], check=True)

    @staticmethod
    def install_node():
        find("node", "install Node.js 20 or later")
        needed, node = (HERE / "node" / "package-lock.json").read_text(), SCRATCH / "node"
        stamp = node / ".installed"
        if not (stamp.exists() and stamp.read_text() == needed):
            node.mkdir(parents=True, exist_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / "node" / name, node)
            subprocess.run(["npm", "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=node, check=True)
            stamp.write_text(needed)


class Redis(Process):
    """A server of its own for each case. `aof`: appendonly, fsync every second; its automatic rewrite would fall into some runs and not into others."""

    def __init__(self, directory, persistence):
        self.port, self.persistence = free_port(), persistence
        command = [find("redis-server", "install Debian's redis-server"), "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--dir", directory,
                   "--appendonly", "yes" if persistence == "aof" else "no", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"]
        super().__init__("redis-server", command, f"{directory}/redis.log", stop=signal.SIGKILL)

    def __enter__(self):
        eventually("redis-server answers", lambda: self.check() or self.ask("PING") == "PONG")
        return self

    # The other benchmark's server speaks the same protocol.
    ask = services.Redis.ask

    def count(self, command, key):
        return int(self.ask(command, key) or 0)

    def field(self, section, name):
        """One field of INFO."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(f"INFO {section}\r\n".encode())
            reader = connection.makefile("rb")
            text = reader.read(int(reader.readline()[1:])).decode()
        return next((line.split(":", 1)[1] for line in text.split("\r\n") if line.startswith(name + ":")), None)

    def settle(self):
        """What was written before must not be synced during the measurement."""
        if self.persistence == "aof":
            time.sleep(1.5)
            eventually("the append-only file is synced", lambda: self.field("persistence", "aof_pending_bio_fsync") == "0")


def own_cpu_s():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Measurement:
    """What the server and the rest of the machine used meanwhile."""

    def __init__(self, redis):
        self.redis = redis

    def __enter__(self):
        self.began, self.busy, self.own, self.served = time.monotonic(), services.machine_busy_s(), own_cpu_s(), self.redis.cpu_s()
        self.children = self.children_s()
        return self

    @staticmethod
    def children_s():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def __exit__(self, *_):
        elapsed, self.served = time.monotonic() - self.began, self.redis.cpu_s() - self.served
        ours = self.served + own_cpu_s() - self.own + self.children_s() - self.children
        self.others = max(0.0, (services.machine_busy_s() - self.busy - ours) / elapsed)


class Run:
    """One case, once."""

    def __init__(self, chosen, tools, case, persistence, directory):
        self.chosen, self.tools, self.case, self.directory, self.started = chosen, tools, case, directory, 0
        self.persistence = persistence
        scaled = chosen.rate * chosen.seconds if case.part == "pace" else max(int(case.count * chosen.scale), 200)
        self.count = scaled
        self.stranded = chosen.stranded if case.stranded else 0
        self.waiting = chosen.waiting if case.waiting else 0
        self.flags = dict(case.flags)

    def start(self, peer, verb, *numbers, flags=None):
        self.started += 1
        log = self.directory / f"{verb}-{self.started}.log"
        self.report_file = self.directory / f"{verb}-{self.started}.json"
        env = {**os.environ, "BENCH_PORT": str(self.redis.port), "BENCH_COUNT": str(self.count), "BENCH_REPORT": str(self.report_file),
               "PYTHONPATH": str(HERE / "py"), "PYTHONDONTWRITEBYTECODE": "1", "RUST_BACKTRACE": "0", "NODE_PATH": str(SCRATCH / "node" / "node_modules")}
        words = peer.words(self.tools, self.redis.port, verb, numbers, self.flags if flags is None else flags)
        return Process(f"{peer.name} {verb}", words, log, env=env, cwd=HERE / "py")

    def finish(self, process):
        """Waits for its end; its report."""
        with process:
            if process.child.args[-1] == "CRITICAL":
                eventually("Celery's worker has handled everything", lambda: process.check() or self.report_file.exists(), RUN_PATIENCE_S)
                eventually("Celery's worker has acknowledged everything", lambda: not self.depth(), 30)
                return json.loads(self.report_file.read_text())
            process.child.wait(RUN_PATIENCE_S)
            lines = [line for line in process.log.read_text(errors="replace").splitlines() if line.startswith("{")]
            if process.child.returncode or not lines:
                raise RuntimeError(f"{process.name} ended with {process.child.returncode}: {process.log.read_text(errors='replace')[-1500:]}")
            return json.loads(lines[-1])

    def depth(self):
        return sum(self.redis.count(*place) for place in self.case.peer.depths)

    def measured(self):
        """What was measured, or why it could not be."""
        case = self.case
        about = {"part": case.part, "peer": case.peer.name, "name": case.name, "persistence": self.persistence, "messages": self.count}
        with Redis(self.directory, self.persistence) as self.redis:
            try:
                return about | getattr(self, case.part)()
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                return about | {"error": str(error)}
            except SystemExit as error:
                # A number is the code of an interrupted run; a text is what did not happen in time.
                if isinstance(error.code, int):
                    raise
                return about | {"error": str(error)}

    def result(self, report, measurement, **more):
        per_10k = 1e4 / max(self.count, 1)
        return report | {"client_cpu_s_per_10k": report["cpu_s"] * per_10k, "redis_cpu_s_per_10k": measurement.served * per_10k,
                         "others_cores": measurement.others} | more

    def publish(self):
        with Measurement(self.redis) as measurement:
            report = self.finish(self.start(self.case.peer, "publish", self.count, *self.case.publish, flags={}))
        result = self.result(report, measurement)
        if self.case.peer.ours_to_read:
            found = self.finish(self.start(peers.LIMIT, "check", self.count, flags={}))
            return result | {"missing": found["missing"], "repeated": found["repeated"]}
        return result | {"left": self.depth() - self.count}

    def fill(self):
        peer = self.case.peer
        if peer.ours_to_read:
            peer, callers = peers.LIMIT, (2, 256)
        else:
            callers = {"Celery": (), "BullMQ": (1, 100)}.get(peer.name, (16, 1))
        self.finish(self.start(peer, "publish", self.count + self.waiting, *callers, flags={}))
        if self.stranded:
            self.finish(self.start(peers.LIMIT, "strand", self.stranded, flags={}))
        self.redis.settle()

    def handle(self):
        self.fill()
        with Measurement(self.redis) as measurement:
            report = self.finish(self.start(self.case.peer, "consume", self.count))
        return self.result(report, measurement, left=self.depth() - self.stranded - self.waiting)

    flat = handle

    def side_by_side(self, consumer, producer):
        """(the producer's report, the consumer's): the consumer waits before the producer starts."""
        with self.start(self.case.peer, *consumer) as receiver:
            report_file = self.report_file
            eventually(f"{receiver.name} waits for messages", lambda: receiver.check() or int(self.redis.field("clients", "blocked_clients")) > 0)
            sent = self.finish(self.start(self.case.peer, *producer, flags={}))
            self.report_file = report_file
            return sent, self.finish(receiver)

    def both(self):
        with Measurement(self.redis) as measurement:
            sent, received = self.side_by_side(("consume", self.count), ("publish", self.count, *self.case.publish))
        secs = max(sent["secs"], received["secs"])
        report = received | {"secs": secs, "per_s": self.count / secs, "cpu_s": sent["cpu_s"] + received["cpu_s"]}
        return self.result(report, measurement, left=self.depth())

    def pace(self):
        with Measurement(self.redis) as measurement:
            sent, received = self.side_by_side(("receive", self.count), ("send", self.chosen.rate, self.chosen.seconds))
        report = received | {"cpu_s": sent["cpu_s"] + received["cpu_s"], "publish_latency": sent["latency"], "sent_per_s": sent["per_s"]}
        return self.result(report, measurement, left=self.depth())


def runs(chosen, tools, cases, scratch):
    """Every case once, then every case again: what changes on the machine meets all of them."""
    for rep in range(chosen.reps):
        for persistence in chosen.persistence:
            for case in cases:
                if case.part == "flat" and persistence != chosen.persistence[0]:
                    continue
                with tempfile.TemporaryDirectory(dir=scratch) as directory:
                    yield Run(chosen, tools, case, persistence, pathlib.Path(directory)).measured() | {"rep": rep}


def machine(chosen, scratch):
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    redis = subprocess.run([find("redis-server", "install Debian's redis-server"), "--version"], capture_output=True, text=True).stdout.split()
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(scratch)], capture_output=True, text=True).stdout.strip()
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "filesystem": kind, "commit": commit, "redis": redis[2] if len(redis) > 2 else "",
            "load_before": os.getloadavg()[0], "options": {k: str(v) for k, v in vars(chosen).items()}}


def main():
    chosen = options()
    # An interrupted run ends its processes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cases = [case for case in peers.CASES if wanted(chosen, case)]
    tools = Tools(chosen, cases)
    results = []
    with tempfile.TemporaryDirectory(prefix="hokusai-bench-", dir=chosen.dir) as scratch:
        about = machine(chosen, scratch)
        try:
            for result in runs(chosen, tools, cases, scratch):
                print(tables.line(result), file=sys.stderr, flush=True)
                results.append(result)
        finally:
            # A run that was cut short still tells what it measured.
            write(chosen.out, about, results)
    return 1 if any(tables.failures(result) for result in results) else 0


def write(out, about, results):
    out.mkdir(parents=True, exist_ok=True)
    text = tables.markdown(about, results)
    (out / "results.json").write_text(json.dumps({"machine": about, "targets": tables.targets(results), "runs": results}, indent=1) + "\n")
    (out / "report.md").write_text(text)
    print(text)
    print(f"written to {out}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
