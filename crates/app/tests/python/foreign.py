"""A producer and a consumer of the queue that know nothing of hokusai: redis-py and pydantic, as the integration guide says.

    foreign.py produce URL LEDGER FIRST COUNT   LPUSH of the guide's example messages, one by one
    foreign.py consume URL LEDGER               BRPOPLPUSH, handle, LREM; own retries and dead letters, in two commands each
    foreign.py redrive URL LEDGER COUNT         the guide's loop over the dead-letter queue

Each appends to a ledger of its own what it is about to do and what it has done, and syncs it before it goes on, so that
whoever kills it knows where it was.
"""

import json
import os
import sys
import time
from datetime import datetime, timezone
from typing import Any, Dict, Optional

import redis
from pydantic import BaseModel

QUEUE = "hokusai:model_ready_queue"
PROCESSING = f"{QUEUE}:processing"
DLQ = f"{QUEUE}:dlq"
MAX_RETRIES = 3
# Between removing and pushing, so that a kill can meet it.
GAP_SECONDS = 0.02
# Between two messages of a producer.
PACE_SECONDS = 0.045


class Message(BaseModel):
    """The payload as the guide has it: a timestamp is required, and what the quick start pushes has none."""

    model_id: str
    token_symbol: str
    metric_name: str
    baseline_value: float
    current_value: float
    model_name: str
    model_version: str
    mlflow_run_id: str
    improvement_percentage: Optional[float] = None
    contributor_address: Optional[str] = None
    experiment_name: Optional[str] = None
    tags: Optional[Dict[str, str]] = None
    timestamp: datetime
    message_version: str = "1.0"


class Envelope(BaseModel):
    message_id: str
    message_type: str
    payload: Dict[str, Any]
    timestamp: datetime
    retry_count: int = 0
    max_retries: int = MAX_RETRIES


class Ledger:
    def __init__(self, path: str):
        self.file = open(path, "a", encoding="utf-8")

    def note(self, event: str, message_id: str) -> None:
        self.file.write(json.dumps({"event": event, "id": message_id}) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())


class Consumer:
    def __init__(self, client: redis.Redis, ledger: Ledger):
        self.client = client
        self.ledger = ledger

    def run(self) -> None:
        while True:
            try:
                raw = self.client.brpoplpush(QUEUE, PROCESSING, timeout=1)
            except redis.RedisError:
                continue
            if raw:
                self.process(raw)

    def process(self, raw: bytes) -> None:
        try:
            envelope = Envelope(**json.loads(raw))
        except Exception as error:
            return self.give_up("?", raw, f"unreadable: {error}")
        self.ledger.note("took", envelope.message_id)
        try:
            message = Message(**envelope.payload)
            succeeded = handle(envelope, message)
        except Exception as error:
            return self.failed(envelope, raw, str(error))
        if not succeeded:
            return self.failed(envelope, raw, "Handler returned False")
        self.ledger.note("handled", envelope.message_id)
        if self.client.lrem(PROCESSING, 1, raw):
            self.ledger.note("acknowledged", envelope.message_id)

    def failed(self, envelope: Envelope, raw: bytes, error: str) -> None:
        if envelope.retry_count >= envelope.max_retries:
            return self.give_up(envelope.message_id, raw, error)
        envelope.retry_count += 1
        self.replace(envelope.message_id, raw, QUEUE, envelope.model_dump_json())

    def give_up(self, message_id: str, raw: bytes, error: str) -> None:
        letter = {
            "original_message": raw.decode("utf-8"),
            "error": error,
            "failed_at": datetime.now(timezone.utc).replace(tzinfo=None).isoformat(),
            "queue": QUEUE,
        }
        self.replace(message_id, raw, DLQ, json.dumps(letter))

    def replace(self, message_id: str, raw: bytes, target: str, entry: str) -> None:
        """The gap of the guide: removed first, then pushed."""
        self.ledger.note("removing", message_id)
        self.client.lrem(PROCESSING, 1, raw)
        time.sleep(GAP_SECONDS)
        self.client.lpush(target, entry)
        self.ledger.note("pushed", message_id)


def handle(envelope: Envelope, message: Message) -> bool:
    if message.token_symbol.startswith("REJECT"):
        return False
    return not (message.token_symbol.startswith("FAIL") and envelope.retry_count == 0)


def produce(client: redis.Redis, ledger: Ledger, first: int, count: int) -> None:
    for number in range(first, first + count):
        kind = {3: "FAIL", 7: "REJECT"}.get(number % 10, "OK")
        message = {
            "message_id": f"foreign-{number}",
            "message_type": "model_ready_to_deploy",
            "timestamp": datetime.now(timezone.utc).replace(tzinfo=None).isoformat(),
            "payload": {
                "model_id": "test-model/1/test-token",
                "token_symbol": f"{kind}-F{number}",
                "metric_name": "accuracy",
                "baseline_value": 0.80,
                "current_value": 0.85,
                "improvement_percentage": 6.25,
                "model_name": "test-model",
                "model_version": "1",
                "mlflow_run_id": "test-run-123",
            },
        }
        ledger.note("pushing", message["message_id"])
        client.lpush(QUEUE, json.dumps(message))
        ledger.note("pushed", message["message_id"])
        time.sleep(PACE_SECONDS)


def redrive(client: redis.Redis, count: int) -> None:
    for _ in range(count):
        entry = client.rpop(DLQ)
        if not entry:
            break
        client.lpush(QUEUE, json.loads(entry)["original_message"])


def main() -> None:
    role, url, path, *numbers = sys.argv[1:]
    client, ledger = redis.from_url(url), Ledger(path)
    ledger.note("started", role)
    if role == "produce":
        produce(client, ledger, *map(int, numbers))
    elif role == "consume":
        Consumer(client, ledger).run()
    else:
        redrive(client, *map(int, numbers))


main()
