"""Real services, each on a free port of the loopback interface, gone when the tests are."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

import hokusai
from hokusai import testing

# Whoever starts the tests in the background may have switched Ctrl-C off for them and for the processes they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[3]
#: anvil's first keys, known to everybody.
KEYS = [
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
]
OWNER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
CONTROLLER = "0x90F79bf6EB2c4f870365E785982E1f101E93b906"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(what: str, probe: Callable[[], Any], within: float = 60.0) -> Any:
    """Asks again and again until the answer is true."""
    deadline = time.monotonic() + within
    while True:
        answer = probe()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.02)


def program(*candidates: str) -> str:
    for candidate in candidates:
        found = shutil.which(candidate)
        if found:
            return found
    pytest.fail(f"{candidates[0]} is not installed: run scripts/setup")


class Service:
    """A child process that the kernel ends with this one."""

    def __init__(self, command: List[str], log: Path, **environment: str) -> None:
        self.command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        self.environment = {**os.environ, **environment}
        self.log = log
        self.start()

    def start(self) -> None:
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.environment, cwd=self.log.parent
            )

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def answers_http(url: str, body: bytes = b"") -> bool:
    try:
        request = urllib.request.Request(url, data=body or None, headers={"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(autouse=True)
def nothing_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of whoever runs the tests counts; the database is the test's own."""
    for name in list(os.environ):
        if name.startswith(testing._SCRUBBED):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOKUSAI_DATA_DIR", str(tmp_path / "data"))


class Redis(Service):
    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        super().__init__([program("redis-server"), *arguments], directory / "redis.log")
        eventually("redis-server answers", self._answers)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as stream:
                stream.sendall(b"PING\r\n")
                return stream.recv(7) == b"+PONG\r\n"
        except OSError:
            return False


@pytest.fixture()
def redis_server(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.stop()


@pytest.fixture()
def redis_url(redis_server: Redis) -> str:
    return redis_server.url


@pytest.fixture(scope="session")
def dev() -> Iterator[testing.Embedded]:
    with testing.embedded() as running:
        yield running


class Anvil(Service):
    def __init__(self, directory: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        # The program itself: what npm puts beside it is a script that, when killed, leaves its child behind.
        native = [str(path) for path in ROOT.glob("tools/node_modules/@foundry-rs/anvil-*/bin/anvil")]
        binary = program(*native, "anvil")
        super().__init__([binary, "--port", str(port), "--block-time", "1", "--slots-in-an-epoch", "1"], directory / "anvil.log")
        ask = b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}'
        eventually("anvil answers", lambda: answers_http(self.url, ask))


@pytest.fixture()
def anvil(tmp_path: Path) -> Iterator[Anvil]:
    server = Anvil(tmp_path)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What ``mlflow server`` starts, without its supervisor."""
    directory = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    server = Service(
        [sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app", f"--port={port}", "--workers=1"],
        directory / "mlflow.log",
        _MLFLOW_SERVER_FILE_STORE=f"sqlite:///{directory}/mlflow.db",
        _MLFLOW_SERVER_ARTIFACT_ROOT="mlflow-artifacts:/",
        _MLFLOW_SERVER_SERVE_ARTIFACTS="true",
        _MLFLOW_SERVER_ARTIFACT_DESTINATION=f"{directory}/artifacts",
        _MLFLOW_SGI_NAME="uvicorn",
    )
    eventually("MLflow answers", lambda: answers_http(f"http://127.0.0.1:{port}/health"), within=90)
    yield f"http://127.0.0.1:{port}"
    server.stop()


def a_model(**change: Any) -> Dict[str, Any]:
    """The brief's registration, with fields changed."""
    return {
        "model_uri": "runs:/abc123/model",
        "model_name": "my-model",
        "token_id": "msg-ai",
        "metric_name": "reply_rate",
        "baseline_value": 0.75,
        "current_value": 0.82,
        **change,
    }


def a_message(**change: Any) -> Dict[str, Any]:
    """The brief's message, with fields changed."""
    return {
        "model_id": "model-123",
        "token_symbol": "msg-ai",
        "metric_name": "accuracy",
        "baseline_value": 0.8,
        "current_value": 0.85,
        "model_name": "test_model",
        "model_version": "1",
        "mlflow_run_id": "run123",
        **change,
    }


def run_hokusai(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command that the package carries."""
    command = [sys.executable, "-m", "hokusai", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


__all__ = ["CONTROLLER", "KEYS", "OWNER", "a_message", "a_model", "eventually", "hokusai", "run_hokusai"]
