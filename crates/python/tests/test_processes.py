"""Threads, forks, signals, logs."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import a_message, a_model

from hokusai import EnhancedModelRegistry, QueueConsumer, RedisPublisher

REGISTRY = None


def register(number: int) -> str:
    """Uses what the parent opened, if this process was forked."""
    registry = REGISTRY or EnhancedModelRegistry()
    return registry.register_tokenized_model_with_events(**a_model(token_id=f"t{number}")).registration_id


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method):
    global REGISTRY
    REGISTRY = EnhancedModelRegistry()
    first = register(0)
    with multiprocessing.get_context(method).Pool(2) as pool:
        ids = pool.map(register, [0, 1, 2, 3])
    assert ids[0] == first and len(set(ids)) == 4
    assert len(REGISTRY.list()) == 4
    REGISTRY = None


def test_threads():
    registry = EnhancedModelRegistry()
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda number: registry.register_tokenized_model_with_events(**a_model(token_id=f"t{number % 4}")).registration_id, range(16)))
    assert len(set(ids)) == 4


def test_the_interpreter_is_free_while_waiting(redis_url):
    """A second thread goes on counting while the first waits for messages that never come."""
    counted, done = [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1
            time.sleep(0.001)

    counter = threading.Thread(target=count)
    counter.start()
    QueueConsumer(redis_url).consume(lambda message: True, idle_timeout=1)
    done.set()
    counter.join()
    assert counted[0] > 100


def test_ctrl_c_interrupts_a_call_that_waits():
    code = """
        import socket, sys, threading, os, signal, time
        from hokusai import EnhancedModelRegistry
        silent = socket.create_server(("127.0.0.1", 0))
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        try:
            EnhancedModelRegistry(api_url="http://127.0.0.1:%d" % silent.getsockname()[1]).list()
        except KeyboardInterrupt:
            print("interrupted" if time.monotonic() - began < 10 else "late")
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.returncode) == ("interrupted\n", 0), run.stderr


def test_logs_go_through_logging(redis_url, caplog):
    with caplog.at_level(logging.INFO):
        RedisPublisher(redis_url).publish_model_ready(**a_message())
    (record,) = [record for record in caplog.records if record.getMessage().startswith("Published message")]
    assert record.name.startswith("hokusai.") and "queue=" in record.getMessage() and record.levelno == logging.INFO


def test_nothing_secret_is_logged_or_shown(caplog, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://:hush-1@127.0.0.1:9/0")
    with caplog.at_level(logging.DEBUG):
        health = RedisPublisher().health_check()
    assert health["status"] == "unhealthy"
    assert "hush" not in caplog.text + str(health)


def test_the_parent_works_on_after_a_child_ended():
    registry = EnhancedModelRegistry()
    registry.list()
    child = os.fork()
    if child == 0:
        os._exit(0 if registry.list() == [] else 1)
    _, status = os.waitpid(child, 0)
    assert (status, registry.list()) == (0, [])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
