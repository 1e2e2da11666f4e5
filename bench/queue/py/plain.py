"""The plain pattern with redis-py, one worker: BRPOPLPUSH, json.loads, pydantic, LREM.

plain.py PORT publish COUNT [BATCH] | consume COUNT | send RATE SECONDS"""

import json

import redis
from message import PROCESSING, QUEUE, Stretch, Tally, encoded, publish_all, send, words, write

port, verb, numbers = words()
client = redis.Redis(port=port, socket_timeout=20)


def push(number, published_ns):
    client.lpush(QUEUE, encoded(number, published_ns))


def publish_batches(count, batch):
    stretch = Stretch()
    for start in range(0, count, batch):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, min(start + batch, count)):
            pipeline.lpush(QUEUE, encoded(number))
        pipeline.execute()
    return stretch.report(count)


def consume(count):
    tally, empty = Tally(count), 0
    while tally.handled < count:
        entry = client.brpoplpush(QUEUE, PROCESSING, timeout=1)
        empty = empty + 1 if entry is None else 0
        if empty == 20:
            raise SystemExit(f"{tally.handled} of {count} messages came")
        if entry is not None:
            tally.note(json.loads(entry))
            client.lrem(PROCESSING, 1, entry)
    return tally.report()


if verb == "publish":
    write(publish_batches(*numbers) if len(numbers) > 1 else publish_all(push, *numbers))
elif verb == "send":
    write(send(push, *numbers))
else:
    write(consume(*numbers))
