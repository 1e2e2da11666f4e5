"""Consuming ``model_ready_to_deploy`` messages."""

from __future__ import annotations

import json
import logging
from typing import Any, Callable, Dict, Optional

from hokusai._consuming import consume, unwrap
from hokusai._native import Channel as _Channel
from hokusai._native import Stop
from hokusai._settings import overrides
from hokusai._stats import QueueStats
from hokusai.queue_reader.schemas import ModelReadyToDeployMessage

__all__ = ["QueueConsumer"]

logger = logging.getLogger(__name__)


class QueueConsumer:
    """Takes messages from a queue and has them handled; one that dies with its process comes back to another.

    Without ``redis_url`` and ``queue_name`` the environment says which queue (``MESSAGE_QUEUE_TYPE``, ``REDIS_URL``,
    ``MESSAGE_QUEUE_NAME``). Other consumers of the plain Redis lists may work on the same queue at the same time.
    """

    def __init__(
        self,
        redis_url: Optional[str] = None,
        queue_name: Optional[str] = None,
        processing_timeout: float = 300,
    ) -> None:
        self.redis_url = redis_url
        self.processing_timeout = processing_timeout
        self._overrides = overrides(
            REDIS_URL=redis_url, MESSAGE_QUEUE_NAME=queue_name, MESSAGE_QUEUE_TYPE="redis" if redis_url else None
        )
        self._channel = _Channel(self._overrides)
        self._stop: Optional[Stop] = None
        self._client: Any = None

    @property
    def queue_name(self) -> str:
        """The queue."""
        return self._channel.name

    @property
    def processing_queue(self) -> str:
        """The list of what is in consumers' hands."""
        return f"{self.queue_name}:processing"

    @property
    def dlq_name(self) -> str:
        """The list of what was given up."""
        return f"{self.queue_name}:dlq"

    @property
    def running(self) -> bool:
        """Whether it is consuming."""
        return self._stop is not None and not self._stop.is_set()

    @property
    def redis_client(self) -> Any:
        """A client of redis-py, made when it is first asked for (``pip install hokusai[redis]``)."""
        if self._client is None:
            import redis

            url = self.redis_url or _configured_url()
            self._client = redis.from_url(url)
        return self._client

    def consume(
        self,
        message_handler: Callable[[ModelReadyToDeployMessage], Any],
        batch_size: int = 1,
        poll_interval: float = 1,
        *,
        max_messages: Optional[int] = None,
        idle_timeout: Optional[float] = None,
    ) -> int:
        """Hands messages to ``message_handler`` until SIGTERM or SIGINT, and then finishes what is in hand.

        False or an exception is a failed attempt: tried again with growing pauses, and given up into the dead-letter queue
        in the end. What is no valid message goes there at once.

        Args:
            message_handler: Called with each message, ``batch_size`` of them at once, each in a thread of its own.
            batch_size: Messages handled at once.
            poll_interval: Seconds to wait for a first message before looking around; one that comes is taken at once.
            max_messages: Return after so many.
            idle_timeout: Return when none has come for so many seconds.

        Returns:
            How many messages were handled.
        """
        self._stop = Stop()

        def handle(envelope: Dict[str, Any]) -> Any:
            message = ModelReadyToDeployMessage(**{**unwrap(envelope), "message_id": envelope["message_id"]})
            if message.correlation_id is None:
                message.correlation_id = envelope.get("correlation_id")
            logger.info(
                "Processing message %s: Model %s ready for token %s", message.message_id, message.model_id, message.token_symbol
            )
            result = message_handler(message)
            if result is not False:
                logger.info("Successfully processed message %s", message.message_id)
            return result

        logger.info("Starting queue consumer for %s", self.queue_name)
        try:
            return consume(
                self._channel,
                handle,
                ready_only=True,
                concurrency=batch_size,
                wait=poll_interval,
                timeout=self.processing_timeout,
                limit=max_messages,
                idle=idle_timeout,
                stop=self._stop,
            )
        finally:
            self._stop = None
            logger.info("Queue consumer stopped")

    def stop(self) -> None:
        """Ends ``consume``, from any thread, after what is in hand."""
        if self._stop is not None:
            self._stop.set()

    def get_queue_stats(self) -> QueueStats:
        """``main_queue``, ``processing``, ``dead_letter``, and ``delayed`` for what is tried again later."""
        return QueueStats(self.queue_name, json.loads(self._channel.stats()))


def _configured_url() -> str:
    import os

    url = os.environ.get("REDIS_URL")
    if url:
        return url
    host, port = os.environ.get("REDIS_HOST", "localhost"), os.environ.get("REDIS_PORT", "6379")
    return f"redis://{host}:{port}/0"
