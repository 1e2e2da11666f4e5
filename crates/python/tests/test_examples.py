"""The examples, as their readers run them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest
import redis
from conftest import ROOT, a_message, eventually

from hokusai import RedisPublisher

EXAMPLES = ROOT / "examples"


def example(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=300)


@pytest.mark.mlflow
def test_from_training_to_a_token_that_mlflow_shows():
    run = example("mlflow_to_token.py")
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert re.fullmatch(r"0x[0-9a-fA-F]{40}", lines[-1]), run.stdout
    assert any("hokusai.status = deployed" in line for line in lines) and any(line.startswith("rejected") for line in lines)


def test_fifteen_lines_are_enough(redis_url, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    source = EXAMPLES / "consumer_in_15_lines.py"
    assert len([line for line in source.read_text().splitlines() if line.strip() and not line.startswith('"""')]) <= 15
    RedisPublisher(redis_url).publish_model_ready(**a_message())
    service = subprocess.Popen([sys.executable, str(source)], stdout=subprocess.PIPE, text=True)
    assert service.stdout.readline() == "model-123: accuracy 0.8 -> 0.85\n"
    service.send_signal(signal.SIGTERM)
    assert service.wait(30) == 0


def test_the_complete_consumer(redis_url, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    client = redis.from_url(redis_url)
    for version in range(3):
        RedisPublisher(redis_url).publish_model_ready(**a_message(model_version=str(version)))
    assert json.loads(example("external_queue_consumer.py", "--stats").stdout)["main_queue"] == 3
    run = example("external_queue_consumer.py", "--idle-timeout", "0.5")
    assert run.returncode == 0 and run.stderr.count("listing model-123 as msg-ai") == 3, run.stderr
    # What was given up gets another chance.
    original = json.dumps({"message_id": "1", "message_type": "model_ready_to_deploy", "timestamp": "2025-01-27T15:30:00Z", "payload": a_message()})
    entry = {"original_message": original, "error": "Handler returned False", "failed_at": "2025-01-27T15:30:00", "queue": "hokusai:model_ready_queue"}
    client.lpush("hokusai:model_ready_queue:dlq", json.dumps(entry))
    assert "1 messages are in the queue again" in example("external_queue_consumer.py", "--redrive").stderr
    assert "listing model-123" in example("external_queue_consumer.py", "--idle-timeout", "0.5").stderr
    eventually("nothing is left", lambda: client.dbsize() == 0 or client.llen("hokusai:model_ready_queue") == 0)
