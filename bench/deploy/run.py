#!/usr/bin/env python3
"""Measures how fast waiting messages become tokens, beside the simple way, in one run; see ../README.md.

    ./run.py                  build, measure, print a Markdown report
    ./run.py --quick          the same with little of everything, to see that it runs
    ./run.py --hokusai PATH   an executable that exists, instead of building
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "register"))
sys.path.insert(0, str(HERE))

import report  # noqa: E402
import simple  # noqa: E402
from ours import Worker  # noqa: E402
from chain import Chain  # noqa: E402
from services import Postgres, Redis, machine_busy_s  # noqa: E402


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 and 200 waiting messages, once")
    parser.add_argument("--hokusai", type=pathlib.Path, metavar="PATH", help="use this executable instead of building one")
    parser.add_argument("--waiting", type=lambda text: [int(n) for n in text.split(",")], metavar="N,N")
    parser.add_argument("--reps", type=int, help="repetitions (3)")
    parser.add_argument("--chains", default="automine,1 s blocks", help="which of automine, 1 s blocks")
    parser.add_argument("--databases", default="sqlite,postgres", help="which of sqlite, postgres hold the ledger")
    parser.add_argument("--block-gas", type=int, default=30_000_000, help="gas limit of a block (30,000,000)")
    parser.add_argument("--simple-seconds", type=float, help="the simple way is stopped after so long, and its pace taken (20)")
    parser.add_argument("--dir", type=pathlib.Path, help="where databases are made: on the disk to be measured (the system's temporary directory)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target" / "bench-deploy", help="directory for results.json and report.md")
    chosen = parser.parse_args()
    full = {"waiting": [1, 100, 1000], "reps": 3, "simple_seconds": 20.0}
    quick = {"waiting": [1, 200], "reps": 1, "simple_seconds": 5.0}
    for name, value in (quick if chosen.quick else full).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    return chosen


def build(chosen):
    """The executable, built unless it was given."""
    if not chosen.hokusai:
        subprocess.run(["cargo", "build", "--release", "--locked", "-p", "hokusai"], cwd=ROOT, check=True)
        chosen.hokusai = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "hokusai"
    chosen.hokusai = chosen.hokusai.resolve()
    if not chosen.hokusai.exists():
        raise SystemExit(f"there is no {chosen.hokusai}")


def measured(work):
    """What `work` answers, with what others used of the machine meanwhile."""
    began, busy = time.monotonic(), machine_busy_s()
    result = work()
    took = time.monotonic() - began
    result["machine_cores"] = (machine_busy_s() - busy) / took
    return result


def run_one(chosen, way, chain_name, database, waiting, scratch, postgres):
    """One way, one chain, one number of waiting messages; everything fresh."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory, Redis(directory) as redis, \
            Chain(directory, chain_name, chosen.block_gas) as chain:
        if way == "simple":
            result = measured(lambda: simple.run(chain, redis, waiting, chosen.simple_seconds))
        elif database == "postgres":
            with postgres.database() as (name, url):
                with Worker(chosen.hokusai, directory, chain, redis, url, lambda sql: postgres.sql(sql, name)) as worker:
                    result = measured(lambda: worker.run(waiting))
        else:
            with Worker(chosen.hokusai, directory, chain, redis) as worker:
                result = measured(lambda: worker.run(waiting))
    return {"way": way, "chain": chain_name, "database": database, "waiting": waiting, "block_gas": chosen.block_gas, **result}


def main():
    chosen = options()
    build(chosen)
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = []
    with tempfile.TemporaryDirectory(dir=chosen.dir) as scratch:
        os.chmod(scratch, 0o711)
        databases = chosen.databases.split(",")
        with Postgres(scratch) if "postgres" in databases else open(os.devnull) as postgres:
            for repetition in range(chosen.reps):
                for chain_name in chosen.chains.split(","):
                    for way, database in [("simple", None)] + [("hokusai", database) for database in databases]:
                        for waiting in chosen.waiting:
                            result = run_one(chosen, way, chain_name, database, waiting, scratch, postgres)
                            results.append({"repetition": repetition, **result})
                            print(report.line(results[-1]), file=sys.stderr)
    (chosen.out / "results.json").write_text(json.dumps(results, indent=1))
    text = report.document(results, {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), **vars(chosen)})
    (chosen.out / "report.md").write_text(text)
    print(text)
    return 1 if any(report.failures(result) for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
