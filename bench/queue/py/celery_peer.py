"""Celery on Redis with late acknowledgement, so that nothing is lost with a worker. As a module the worker's app, as a program the producer.

celery_peer.py PORT publish COUNT | send RATE SECONDS
The worker reads BENCH_PORT and BENCH_COUNT, and writes its report to BENCH_REPORT when it has handled so many."""

import os
import threading

from celery import Celery
from message import Tally, build, publish_all, send, words, write

app = Celery("celery_peer", broker=f"redis://127.0.0.1:{os.environ['BENCH_PORT']}/0")
app.conf.update(task_acks_late=True, task_ignore_result=True, task_serializer="json", worker_prefetch_multiplier=4, worker_send_task_events=False,
                broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
tally, lock = Tally(int(os.environ.get("BENCH_COUNT", "1"))), threading.Lock()


@app.task(name="handle")
def handle(message):
    with lock:
        tally.note(message)
        if tally.handled == tally.count:
            write(tally.report(), os.environ["BENCH_REPORT"])


def push(number, published_ns):
    handle.apply_async((build(number, published_ns),))


if __name__ == "__main__":
    _, verb, numbers = words()
    write(publish_all(push, *numbers) if verb == "publish" else send(push, *numbers))
