"""Publishing by hand."""

from __future__ import annotations

import json

import pytest
import redis
from conftest import a_message

import hokusai
from hokusai.events.publishers.factory import get_publisher
from hokusai.events.publishers.redis_publisher import RedisPublisher

QUEUE = "hokusai:model_ready_queue"


def test_a_message_is_what_the_guides_say(redis_url, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    assert get_publisher().publish_model_ready(**a_message(tags={"team": "a"})) is True
    raw = redis.from_url(redis_url).lindex(QUEUE, 0)
    envelope = json.loads(raw)
    assert (envelope["message_type"], envelope["retry_count"], envelope["max_retries"]) == ("model_ready_to_deploy", 0, 3)
    payload = envelope["payload"]
    assert {key: payload[key] for key in a_message()} == a_message()
    assert (payload["tags"], payload["improvement_percentage"]) == ({"team": "a"}, 6.25)


def test_wrong_fields_are_named_and_nothing_is_published(redis_url):
    publisher = RedisPublisher(redis_url)
    with pytest.raises(ValueError, match="payload.token_symbol"):
        publisher.publish_model_ready(**a_message(token_symbol="no spaces"))
    with pytest.raises(ValueError):
        publisher.publish_model_ready(**a_message(current_value=float("inf")))
    assert publisher.get_queue_depth() == 0


def test_health_and_depths(redis_server):
    publisher = RedisPublisher(redis_server.url, queue_name="model_events")
    publisher.publish_model_ready(**a_message())
    health = publisher.health_check()
    assert (health["status"], health["queue_depths"]) == ("healthy", {"main": 1, "processing": 0, "dlq": 0})
    assert health["latency_ms"] >= 0
    assert (publisher.get_queue_depth(), publisher.get_queue_depth("model_events:dlq")) == (1, 0)
    assert "model_events" in publisher.get_queue_stats()._repr_html_()
    redis_server.stop()
    assert publisher.health_check()["status"] == "unhealthy"
    assert publisher.publish_model_ready(**a_message()) is False


def test_payloads_are_consumed(redis_url):
    publisher = RedisPublisher(redis_url)
    for version in range(3):
        publisher.publish_model_ready(**a_message(model_version=str(version)))
    seen = []
    assert publisher.consume_messages(process_callback=lambda payload: seen.append(payload["model_version"]), timeout=0.5) == 3
    assert seen == ["0", "1", "2"]
    assert publisher.get_queue_stats() == {"main_queue": 0, "processing": 0, "delayed": 0, "dead_letter": 0}


def test_without_redis_the_queue_is_in_the_database():
    publisher = get_publisher()
    assert publisher.publish_model_ready(**a_message())
    assert publisher.consume_messages(lambda payload: payload["token_symbol"] == "msg-ai", max_messages=1) == 1
    with pytest.raises(hokusai.ConfigurationError, match="REDIS_URL"):
        get_publisher("redis").get_queue_depth()
