#!/usr/bin/env python3
"""Measures hokusai's register endpoint beside bare endpoints, in one run; see ../README.md.

    ./run.py                  build, measure, print a Markdown report
    ./run.py --quick          the same with little of everything, to see that it runs
    ./run.py --hokusai PATH   an executable that exists, instead of building
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

import report
from services import PATIENCE_S, Postgres, Process, Redis, eventually, free_port, get, machine_busy_s

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
QUEUE = "hokusai:model_ready_queue"
# name, database, program, mode of the bare endpoint or queue of hokusai
CASES = [
    ("bare, no store", None, "bare", "none"),
    ("bare, commit per request", "sqlite", "bare", "each"),
    ("bare, group commit", "sqlite", "bare", "group"),
    ("hokusai, queue on Redis", "sqlite", "hokusai", "redis"),
    ("hokusai, local queue", "sqlite", "hokusai", "local"),
    ("bare, commit per request", "postgres", "bare", "each"),
    ("bare, group commit", "postgres", "bare", "group"),
    ("hokusai, queue on Redis", "postgres", "hokusai", "redis"),
]
ARRIVALS = [
    ("bare, group commit, then LPUSH", "sqlite", "bare", "group"),
    ("hokusai", "sqlite", "hokusai", "redis"),
    ("bare, group commit, then LPUSH", "postgres", "bare", "group"),
    ("hokusai", "postgres", "hokusai", "redis"),
]


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short repetition at 1 and 64 connections")
    parser.add_argument("--hokusai", type=pathlib.Path, metavar="PATH", help="use this executable instead of building one")
    parser.add_argument("--bare-only", action="store_true", help="leave hokusai out")
    parser.add_argument("--bin", type=pathlib.Path, metavar="DIR", help="use the bench executables in DIR instead of building them")
    parser.add_argument("--only", choices=["sqlite", "postgres"], help="one database")
    parser.add_argument("--part", choices=["throughput", "arrive"], help="one part")
    parser.add_argument("--connections", type=lambda text: [int(n) for n in text.split(",")], metavar="N,N")
    parser.add_argument("--reps", type=int, help="repetitions (3)")
    parser.add_argument("--seconds", type=float, help="measured seconds for each number of connections (4)")
    parser.add_argument("--rate", type=int, default=1000, help="registrations per second of the arrival part (1000)")
    parser.add_argument("--arrive-seconds", type=float, help="measured seconds of the arrival part (10)")
    parser.add_argument("--dir", type=pathlib.Path, help="where databases are made: on the disk to be measured (the system's temporary directory)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target" / "bench", help="directory for results.json and report.md")
    chosen = parser.parse_args()
    full = {"connections": [1, 16, 64, 256], "reps": 3, "seconds": 4.0, "arrive_seconds": 10.0}
    quick = {"connections": [1, 64], "reps": 1, "seconds": 1.0, "arrive_seconds": 2.0}
    for name, value in (quick if chosen.quick else full).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    return chosen


def build(chosen):
    """The executables, built unless they were given."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    if not chosen.bin:
        bench_target = target / "bench"
        subprocess.run(["cargo", "build", "--release", "--locked"], cwd=HERE, check=True, env={**os.environ, "CARGO_TARGET_DIR": str(bench_target)})
        chosen.bin = bench_target / "release"
    if not chosen.hokusai and not chosen.bare_only:
        subprocess.run(["cargo", "build", "--release", "--locked", "-p", "hokusai"], cwd=ROOT, check=True)
        chosen.hokusai = target / "release" / "hokusai"
    for program in [chosen.bin / "bare", chosen.bin / "load", chosen.bin / "arrive"] + ([] if chosen.bare_only else [chosen.hokusai]):
        if not program.exists():
            raise SystemExit(f"there is no {program}")
    chosen.bin = chosen.bin.resolve()
    chosen.hokusai = chosen.hokusai and chosen.hokusai.resolve()


class Case:
    """One server with a database, and a Redis if it needs one, all fresh."""

    def __init__(self, chosen, scratch, postgres, case, arrival=False):
        self.name, self.database, self.program, self.mode = case
        self.chosen, self.postgres, self.arrival = chosen, postgres, arrival
        self.scratch, self.accepted, self.redis = scratch, 0, None

    @contextlib.contextmanager
    def running(self):
        with contextlib.ExitStack() as stack:
            directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self.scratch)))
            url = None
            if self.database == "sqlite":
                self.file = directory / "bench.db"
                url = f"sqlite:{self.file}"
            elif self.database == "postgres":
                self.file, url = stack.enter_context(self.postgres.database())
            if self.arrival or self.mode == "redis":
                self.redis = stack.enter_context(Redis(directory))
            self.port = free_port()
            start = self.bare if self.program == "bare" else self.hokusai
            self.server = stack.enter_context(start(directory, url))
            eventually(f"{self.name} is live", lambda: self.server.check() or get(self.port, "/live")[0] == 200)
            yield self

    def bare(self, directory, url):
        command = [self.chosen.bin / "bare", "--listen", f"127.0.0.1:{self.port}", "--mode", self.mode]
        command += ["--database", url] if url else []
        command += ["--redis", self.redis.address] if self.redis else []
        return Process(self.name, command, directory / "server.log")

    def hokusai(self, directory, url):
        # Nothing of the caller's environment that could configure it.
        env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "RUST_BACKTRACE")}
        env |= {"DATABASE_URL": url, "HOKUSAI_LISTEN": f"127.0.0.1:{self.port}", "HOKUSAI_DATA_DIR": str(directory), "LOG_LEVEL": "WARNING"}
        env |= {"REDIS_URL": f"redis://{self.redis.address}"} if self.redis else {"MESSAGE_QUEUE_TYPE": "local"}
        return Process(self.name, [self.chosen.hokusai, "serve"], directory / "server.log", env=env)

    def measured(self, command):
        """Runs a load and adds what it cost to what it printed."""
        others = {"server": self.server, "redis": self.redis, "postgres": self.database == "postgres" and self.postgres}
        processes = {name: process for name, process in others.items() if process}
        before = {name: process.cpu_s() for name, process in processes.items()}
        started, busy, load = time.monotonic(), machine_busy_s(), own_cpu_s()
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
        elapsed, busy, load = time.monotonic() - started, machine_busy_s() - busy, own_cpu_s() - load
        self.server.check()
        try:
            result = json.loads(done.stdout)
        except ValueError:
            raise SystemExit(f"{command[0]} failed on {self.name}:\n{done.stdout}{done.stderr}\n{self.server.log.read_text(errors='replace')[-2000:]}")
        spent = {name: process.cpu_s() - before[name] for name, process in processes.items()}
        for name, cpu_s in spent.items():
            result[f"{name}_cpu_s_per_10k"] = cpu_s / max(result["accepted"], 1) * 1e4
        result["load_cpu_s_per_10k"] = load / max(result["accepted"], 1) * 1e4
        result["others_cores"] = max(0.0, (busy - load - sum(spent.values())) / elapsed)
        result["server_rss_mib"], result["server_peak_rss_mib"] = self.server.memory_mib()
        self.accepted += result["accepted"]
        result |= {"name": self.name, "database": self.database, "program": self.program, "case_mode": self.mode}
        return result

    def settled(self):
        """Waits until every accepted registration has its row, or its message in the queue; says how long that took and what is wrong."""
        started, found = time.monotonic(), self.accepted
        count = self.counter()
        while count:
            self.server.check()
            found = count()
            if found >= self.accepted or time.monotonic() > started + PATIENCE_S:
                break
            time.sleep(0.05)
        return {"settled_s": time.monotonic() - started, "undelivered": max(0, self.accepted - found), "surplus": max(0, found - self.accepted)}

    def counter(self):
        if self.program == "hokusai":
            return (lambda: self.redis.length(QUEUE)) if self.redis else self.local_length
        if self.database == "sqlite":
            return lambda: sqlite_count(self.file)
        return (lambda: int(self.postgres.sql("SELECT count(*) FROM registration", self.file) or 0)) if self.database else None

    def local_length(self):
        status, body = get(self.port, "/api/v1/queues")
        queues = json.loads(body)["queues"] if status == 200 else []
        depths = next((queue["depths"] for queue in queues if queue["name"] == QUEUE), None) or {}
        return depths.get("main", 0)


def own_cpu_s():
    """CPU seconds of this script and of the loads it waited for."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def sqlite_count(file):
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT count(*) FROM registration").fetchone()[0]


def throughput(case, rep):
    with case.running():
        for connections in case.chosen.connections:
            result = case.measured([case.chosen.bin / "load", "--address", f"127.0.0.1:{case.port}",
                                    "--connections", connections, "--seconds", case.chosen.seconds])
            yield result | {"part": "throughput", "rep": rep} | case.settled()


def arrive(case, rep):
    with case.running():
        yield case.measured([case.chosen.bin / "arrive", "--address", f"127.0.0.1:{case.port}", "--redis", case.redis.address,
                             "--rate", case.chosen.rate, "--seconds", case.chosen.arrive_seconds]) | {"part": "arrive", "rep": rep}


def runs(chosen, scratch, postgres):
    """Every case once, then every case again: what changes on the machine meets all of them."""
    def wanted(case):
        return (not chosen.only or case[1] in (None, chosen.only)) and not (chosen.bare_only and case[2] == "hokusai")

    for rep in range(chosen.reps):
        for part, cases in ((throughput, CASES), (arrive, ARRIVALS)):
            for case in filter(wanted, cases):
                if chosen.part in (None, part.__name__):
                    yield from part(Case(chosen, scratch, postgres, case, arrival=part is arrive), rep)


def fdatasync_per_s(directory, seconds=1.0):
    """Appends of 4 KiB that this disk makes durable in a second: what bounds a commit per request."""
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            file.write(b"\0" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
            count += 1
    return count / seconds


def machine(chosen, scratch):
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(scratch)], capture_output=True, text=True).stdout.strip()
    if kind in ("tmpfs", "ramfs"):
        print(f"{scratch} is in memory, where a commit costs nothing: name a disk by --dir", file=sys.stderr)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "filesystem": kind, "commit": commit,
            "fdatasync_per_s": fdatasync_per_s(scratch), "load_before": os.getloadavg()[0], "options": {k: str(v) for k, v in vars(chosen).items()}}


def main():
    chosen = options()
    # An interrupted run ends its processes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    build(chosen)
    results = []
    with tempfile.TemporaryDirectory(prefix="hokusai-bench-", dir=chosen.dir) as scratch, contextlib.ExitStack() as stack:
        about = machine(chosen, scratch)
        postgres = stack.enter_context(Postgres(scratch)) if chosen.only != "sqlite" else None
        try:
            for result in runs(chosen, scratch, postgres):
                print(report.line(result), file=sys.stderr, flush=True)
                results.append(result)
        finally:
            # A run that was cut short still tells what it measured.
            about["fdatasync_per_s_after"] = fdatasync_per_s(scratch)
            write(chosen.out, about, results)
    return 1 if any(report.failures(result) for result in results) else 0


def write(out, about, results):
    out.mkdir(parents=True, exist_ok=True)
    text = report.markdown(about, results)
    (out / "results.json").write_text(json.dumps({"machine": about, "targets": report.targets(results), "runs": results}, indent=1) + "\n")
    (out / "report.md").write_text(text)
    print(text)
    print(f"written to {out}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
