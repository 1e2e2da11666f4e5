"""The publisher that the environment names."""

from __future__ import annotations

from typing import Optional

from hokusai.events.publishers.redis_publisher import RedisPublisher

__all__ = ["get_publisher"]


def get_publisher(publisher_type: Optional[str] = None) -> RedisPublisher:
    """A publisher for the queue of ``MESSAGE_QUEUE_NAME``, of the type of ``MESSAGE_QUEUE_TYPE`` unless one is named."""
    return RedisPublisher(publisher_type=publisher_type)
