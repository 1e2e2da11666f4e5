"""A real worker on a real queue: what waits there when it may begin, and when each became final, by its ledger."""

import json
import os
import pathlib
import socket
import sqlite3
import subprocess
import time

from chain import CONTROLLER, DEPLOYER_KEY, OWNER, now_ms
from services import PATIENCE_S, Process, eventually

QUEUE = "hokusai:model_ready_queue"


def message(number):
    """As the gas table's: 740 bytes of calldata for a token and its first version."""
    symbol = f"TOKEN-{number}"
    payload = {
        "model_id": f"sentiment-classifier/1/{symbol}", "token_symbol": symbol, "metric_name": "accuracy", "baseline_value": 0.82,
        "current_value": 0.875, "model_name": "sentiment-classifier", "model_version": "1",
        "mlflow_run_id": f"{number:032x}", "contributor_address": "0x" + "42" * 20,
    }
    return json.dumps({"message_id": f"message-{number}", "message_type": "model_ready_to_deploy",
                       "timestamp": "2026-01-01T00:00:00Z", "payload": payload, "retry_count": 0, "max_retries": 3})


def push(redis, queue, messages):
    """All of them with one LPUSH, so that they wait together."""
    words = [b"LPUSH", queue.encode(), *(text.encode() for text in messages)]
    command = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    with socket.create_connection(("127.0.0.1", redis.port), timeout=30) as connection:
        connection.sendall(command)
        connection.makefile().readline()


class Worker:
    def __init__(self, program, directory, chain, redis, url=None, sql=None):
        self.chain, self.redis, self.directory = chain, redis, pathlib.Path(directory)
        self.file = self.directory / "ledger.db"
        self.sql = sql or self.sqlite
        self.env = {
            "PATH": os.environ["PATH"], "HOME": str(directory), "REDIS_URL": f"redis://{redis.address}/0", "LOG_LEVEL": "WARNING",
            "DATABASE_URL": url or f"sqlite:{self.file}", "WEB3_PROVIDER_URL": f"http://127.0.0.1:{chain.port}",
            "DEPLOYER_PRIVATE_KEY": DEPLOYER_KEY,
        }
        self.program = program

    def sqlite(self, statement):
        with sqlite3.connect(f"file:{self.file}?mode=ro", uri=True, timeout=30) as database:
            return "\n".join("|".join(map(str, row)) for row in database.execute(statement))

    def __enter__(self):
        deploy = [self.program, "contracts", "deploy", "--owner", OWNER, "--controller", CONTROLLER, "--json"]
        self.registry = json.loads(subprocess.run(deploy, env=self.env, check=True, capture_output=True).stdout)["address"]
        self.env["HOKUSAI_REGISTRY_ADDRESS"] = self.registry
        subprocess.run([self.program, "migrate"], env=self.env, check=True, capture_output=True)
        self.process = Process("hokusai worker", [self.program, "worker"], self.directory / "worker.log", env=self.env)
        leased = "SELECT COUNT(*) FROM deploy_leases WHERE expires_at > 0"
        eventually("the worker holds the account", lambda: self.process.check() or self.sql(leased) == "1")
        return self

    def __exit__(self, *_):
        self.process.end()

    def run(self, waiting):
        messages = [message(number) for number in range(waiting)]
        self.chain.begin()
        time.sleep(1.2)
        calls, cpu = self.chain.calls(), self.process.cpu_s()
        began = now_ms()
        push(self.redis, QUEUE, messages)
        length = lambda queue: self.redis.length(queue)  # noqa: E731
        drained = lambda: self.process.check() or length(QUEUE) + length(f"{QUEUE}:processing") == 0  # noqa: E731
        # As seldom as it matters little to the machine.
        eventually("every message is acknowledged", drained, within_s=PATIENCE_S + waiting)
        calls, cpu = self.chain.calls() - calls, self.process.cpu_s() - cpu
        rows = self.sql("SELECT state, settled_at FROM deploy_deployments").splitlines()
        ends = sorted(int(row.split("|")[1]) for row in rows if row.startswith("final|"))
        # TokenCreated names the token first, then the version.
        created = [log["topics"][1] for log in self.chain.logs(self.registry) if len(log["topics"]) == 3]
        dead = self.redis.length(f"{QUEUE}:dlq")
        return {
            "tokens": len(ends), "seconds": (ends[-1] - began) / 1e3, "latency_ms": [end - began for end in ends], "calls": calls,
            "cpu_s": cpu, "missing": waiting - len(set(created)) + dead, "repeated": len(created) - len(set(created)), **self.chain.used(),
        }
