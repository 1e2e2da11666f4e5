"""A service that handles every model that is ready for its token: all it takes. REDIS_URL says where the queue is."""

import logging
import os

from hokusai import QueueConsumer

logging.basicConfig(level="INFO")


def handle(message):
    print(f"{message.model_id}: {message.metric_name} {message.baseline_value} -> {message.current_value}", flush=True)
    return True  # False or an exception: it is tried again, and ends in the dead-letter queue if that never helps


QueueConsumer(os.environ.get("REDIS_URL", "redis://localhost:6379/0")).consume(handle)
