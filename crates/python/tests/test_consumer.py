"""Consuming messages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import redis
from conftest import a_message, eventually

from hokusai.events.publishers.redis_publisher import RedisPublisher
from hokusai.queue_reader.consumer import QueueConsumer
from hokusai.queue_reader.schemas import ModelReadyToDeployMessage

QUEUE = "hokusai:model_ready_queue"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setenv("MESSAGE_RETRY_BASE_DELAY", "0.02")


def publish(redis_url, count=1):
    for version in range(count):
        assert RedisPublisher(redis_url).publish_model_ready(**a_message(model_version=str(version)))


def test_the_handler_gets_a_message_with_attributes(redis_url):
    publish(redis_url)
    seen = []
    consumer = QueueConsumer(redis_url)
    assert consumer.consume(message_handler=seen.append, max_messages=1, poll_interval=1) == 1
    (message,) = seen
    assert isinstance(message, ModelReadyToDeployMessage)
    assert (message.model_id, message.token_symbol, message.improvement_percentage) == ("model-123", "msg-ai", 6.25)
    assert message.timestamp.tzinfo is not None and message.message_version == "1.0" and message.message_id
    assert consumer.get_queue_stats() == {"main_queue": 0, "processing": 0, "delayed": 0, "dead_letter": 0}
    assert (consumer.queue_name, consumer.processing_queue, consumer.dlq_name) == (QUEUE, f"{QUEUE}:processing", f"{QUEUE}:dlq")
    assert consumer.redis_client.ping() is True


@pytest.mark.parametrize("outcome", ["false", "exception"])
def test_failures_are_tried_again_and_given_up_in_the_end(redis_url, outcome):
    publish(redis_url)
    attempts = []

    def handler(message):
        attempts.append(message)
        if outcome == "exception":
            raise RuntimeError("the chain is away")
        return False

    consumer = QueueConsumer(redis_url)
    consumer.consume(handler, idle_timeout=2)
    assert len(attempts) == 4
    entry = json.loads(consumer.redis_client.lindex(consumer.dlq_name, 0))
    expected = "RuntimeError: the chain is away" if outcome == "exception" else "Handler returned False"
    assert entry["error"] == expected and entry["queue"] == QUEUE
    assert json.loads(entry["original_message"])["payload"]["model_id"] == "model-123"


def test_what_is_no_message_is_given_up_at_once(redis_url):
    client = redis.from_url(redis_url)
    client.lpush(QUEUE, "not json", json.dumps({"message_id": "1", "message_type": "model_ready_to_deploy", "payload": {}}))
    called = []
    QueueConsumer(redis_url).consume(called.append, idle_timeout=0.3)
    assert (called, client.llen(f"{QUEUE}:dlq")) == ([], 2)


def test_messages_of_older_producers(redis_url):
    """Naive times, no message_version, the value only among the measurements."""
    payload = {**a_message(), "performance_data": {"accuracy": 0.85}}
    del payload["current_value"]
    envelope = {"message_id": "m-1", "message_type": "model_ready_to_deploy", "timestamp": "2025-01-27T15:30:00.5", "payload": payload}
    redis.from_url(redis_url).lpush(QUEUE, json.dumps(envelope))
    seen = []
    QueueConsumer(redis_url).consume(seen.append, max_messages=1)
    assert (seen[0].current_value, seen[0].timestamp.isoformat()) == (0.85, "2025-01-27T15:30:00.500000+00:00")


def test_batch_size_handlers_run_at_once(redis_url):
    publish(redis_url, 4)
    together = threading.Barrier(4, timeout=30)
    handled = QueueConsumer(redis_url).consume(lambda message: together.wait() >= 0, batch_size=4, max_messages=4)
    assert handled == 4


def test_stop_from_another_thread_finishes_what_is_in_hand(redis_url):
    publish(redis_url, 3)
    consumer = QueueConsumer(redis_url)
    began, go_on = threading.Event(), threading.Event()

    def handler(message):
        began.set()
        go_on.wait(30)

    handled = []
    worker = threading.Thread(target=lambda: handled.append(consumer.consume(handler)))
    worker.start()
    assert began.wait(30)
    consumer.stop()
    go_on.set()
    worker.join(30)
    assert handled == [1]
    assert consumer.get_queue_stats() == {"main_queue": 2, "processing": 0, "delayed": 0, "dead_letter": 0}


SERVICE = """
    import sys, time
    from hokusai.queue_reader.consumer import QueueConsumer

    def handler(message):
        print("began", flush=True)
        time.sleep(1)
        print("done", flush=True)
        return True

    QueueConsumer(redis_url=sys.argv[1]).consume(message_handler=handler)
    print("returned", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_returns_after_what_is_in_hand(redis_url, number):
    publish(redis_url, 3)
    service = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SERVICE), redis_url], stdout=subprocess.PIPE, text=True)
    assert service.stdout.readline() == "began\n"
    service.send_signal(number)
    assert service.stdout.read() == "done\nreturned\n"
    assert service.wait(30) == 0
    client = redis.from_url(redis_url)
    assert (client.llen(QUEUE), client.llen(f"{QUEUE}:processing")) == (2, 0)


def test_an_outage_is_waited_out(redis_server, tmp_path):
    consumer = QueueConsumer(redis_server.url)
    seen = []
    worker = threading.Thread(target=lambda: consumer.consume(seen.append, max_messages=1))
    worker.start()
    redis_server.stop()
    redis_server.start()
    eventually("published", lambda: RedisPublisher(redis_server.url).publish_model_ready(**a_message()))
    worker.join(30)
    assert len(seen) == 1
