"""The message as pydantic models, and what every Python handler does with it; the same 600 bytes as in src/message.rs."""

import json
import os
import sys
import time

from pydantic import BaseModel

QUEUE = "hokusai:model_ready_queue"
PROCESSING = QUEUE + ":processing"


class Payload(BaseModel):
    model_id: str
    token_symbol: str
    metric_name: str
    baseline_value: float
    current_value: float
    improvement_percentage: float
    model_name: str
    model_version: str
    mlflow_run_id: str
    contributor_address: str
    tags: dict[str, str]


class Envelope(BaseModel):
    message_id: str
    message_type: str
    timestamp: str
    payload: Payload
    retry_count: int
    max_retries: int


def build(number, published_ns=0):
    scattered = ((number + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    return {
        "message_id": f"{scattered >> 32:08x}-0000-4000-a000-{number:012x}",
        "message_type": "model_ready_to_deploy",
        "timestamp": "2026-11-20T10:00:00.123456+00:00",
        "payload": {
            "model_id": f"msg-clf-{number:09}", "token_symbol": "MSGAI", "metric_name": "reply_rate",
            "baseline_value": 0.134, "current_value": 0.1523, "improvement_percentage": 13.66,
            "model_name": "msg-clf-v3", "model_version": "12", "mlflow_run_id": f"{scattered:016x}{number:016x}",
            "contributor_address": "0x742d35cc6634c0532925a3b844bc9e7595f62341",
            "tags": {"dataset": "s4-contrib-v3", "environment": "bench", "note": "x", "t": f"{published_ns:019}"},
        },
        "retry_count": 0,
        "max_retries": 3,
    }


def encoded(number, published_ns=0):
    return Envelope(**build(number, published_ns)).model_dump_json()


def spread(latencies_ns):
    if not latencies_ns:
        return None
    ordered = sorted(latencies_ns)
    at = lambda hundredths: ordered[max(-(-len(ordered) * hundredths // 100), 1) - 1] / 1e3
    return {"p50_us": at(50), "p99_us": at(99), "max_us": at(100)}


def peak_rss_mib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


class Stretch:
    """A stretch of time, and the CPU time of this process in it."""

    def __init__(self):
        self.began, self.cpu = time.monotonic(), time.process_time()

    def report(self, count, latencies_ns=(), **more):
        secs = time.monotonic() - self.began
        return {"count": count, "secs": secs, "per_s": count / secs, "cpu_s": time.process_time() - self.cpu, "missing": 0, "repeated": 0,
                "latency": spread(latencies_ns), "peak_rss_mib": peak_rss_mib()} | more


class Tally:
    """Which messages were handled."""

    def __init__(self, count):
        self.count, self.handled, self.seen, self.latencies, self.stretch = count, 0, set(), [], None

    def note(self, message):
        if self.stretch is None:
            self.stretch = Stretch()
        envelope = Envelope.model_validate(message)
        assert envelope.message_type == "model_ready_to_deploy"
        published_ns = int(envelope.payload.tags["t"])
        if published_ns:
            self.latencies.append(time.monotonic_ns() - published_ns)
        self.seen.add(int(envelope.message_id[24:], 16))
        self.handled += 1

    def report(self):
        expected = sum(number < self.count for number in self.seen)
        return self.stretch.report(self.handled, self.latencies, missing=self.count - expected, repeated=self.handled - expected)


def send(publish, rate, seconds):
    """One message at each of `rate` moments a second."""
    stretch, latencies, began = Stretch(), [], time.monotonic_ns()
    for number in range(rate * seconds):
        due = began + number * 1_000_000_000 // rate
        wait = due - time.monotonic_ns()
        if wait > 0:
            time.sleep(wait / 1e9)
        published_ns = time.monotonic_ns()
        publish(number, published_ns)
        latencies.append(time.monotonic_ns() - published_ns)
    return stretch.report(rate * seconds, latencies)


def publish_all(publish, count):
    stretch = Stretch()
    for number in range(count):
        publish(number, 0)
    return stretch.report(count)


def words():
    """PORT VERB NUMBER [NUMBER]"""
    return int(sys.argv[1]), sys.argv[2], [int(word) for word in sys.argv[3:]]


def write(report, path=None):
    if path is None:
        return print(json.dumps(report), flush=True)
    with open(path + ".part", "w") as file:
        json.dump(report, file)
    os.rename(path + ".part", path)


if __name__ == "__main__":
    assert len(encoded(1_234_567, 1_234_567_890_123)) == 600
