"""For tests: a whole hokusai of its own, database, queue and chain included, gone when the test is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator

from hokusai.errors import HokusaiError
from hokusai.services.enhanced_model_registry import EnhancedModelRegistry

__all__ = ["Embedded", "embedded"]

_START_S = 60.0
_STOP_S = 20.0
#: What would lead it elsewhere.
_SCRUBBED = ("HOKUSAI_", "REDIS_", "MESSAGE_", "QUEUE_", "DATABASE_URL", "MLFLOW_", "WEB3_", "DEPLOYER_", "PROCESSING_")


class Embedded:
    """A running ``hokusai dev``: server, worker, queue and an EVM chain in one process."""

    def __init__(self, api_url: str, rpc_url: str, directory: Path) -> None:
        #: The API, for ``HOKUSAI_API_URL``.
        self.api_url = api_url
        #: The chain's JSON-RPC.
        self.rpc_url = rpc_url
        #: Where everything is kept meanwhile.
        self.directory = directory

    def registry(self) -> EnhancedModelRegistry:
        """A registry that works through it."""
        return EnhancedModelRegistry(api_url=self.api_url)

    @property
    def environment(self) -> Dict[str, str]:
        """The variables by which other code finds it."""
        return {"HOKUSAI_API_URL": self.api_url}


@contextmanager
def embedded(**variables: str) -> Iterator[Embedded]:
    """Starts one on free ports in a temporary directory; ``variables`` are set in its environment.

    ::

        with hokusai.testing.embedded() as hokusai:
            registration = hokusai.registry().register_tokenized_model_with_events(...)
            assert registration.wait().token_address
    """
    with tempfile.TemporaryDirectory(prefix="hokusai-test-", ignore_cleanup_errors=True) if sys.version_info >= (
        3,
        10,
    ) else tempfile.TemporaryDirectory(prefix="hokusai-test-") as directory:
        api, rpc = _free_port(), _free_port()
        log = Path(directory) / "hokusai.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_SCRUBBED)}
        environment.update(
            HOKUSAI_DATA_DIR=directory,
            HOKUSAI_LISTEN=f"127.0.0.1:{api}",
            HOKUSAI_RPC_LISTEN=f"127.0.0.1:{rpc}",
            **variables,
        )
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "hokusai", "dev"], env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
        running = Embedded(f"http://127.0.0.1:{api}", f"http://127.0.0.1:{rpc}", Path(directory))
        try:
            _wait(process, f"{running.api_url}/live", log)
            yield running
        finally:
            _stop(process)


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, OSError):
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise HokusaiError(f"hokusai dev did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.05)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
