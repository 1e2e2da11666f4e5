"""Publishing messages by hand, and consuming them by their payloads."""

from __future__ import annotations

import json
import logging
from typing import Any, Callable, Dict, Optional

from hokusai._consuming import consume, unwrap
from hokusai._native import Channel as _Channel
from hokusai._settings import overrides
from hokusai._stats import QueueStats
from hokusai._values import json_text
from hokusai.errors import HokusaiError, InvalidRequest, Unavailable

__all__ = ["RedisPublisher"]

logger = logging.getLogger(__name__)


class RedisPublisher:
    """Publishes to the queue that the environment names, or to that of ``redis_url`` and ``queue_name``.

    Publishing by hand is at least once: after a lost reply a message may be there twice, with the same ``message_id``.
    Models that are registered need none of it; see ``EnhancedModelRegistry``.
    """

    def __init__(
        self,
        redis_url: Optional[str] = None,
        queue_name: Optional[str] = None,
        *,
        publisher_type: Optional[str] = None,
    ) -> None:
        queue_type = publisher_type or ("redis" if redis_url else None)
        self._overrides = overrides(REDIS_URL=redis_url, MESSAGE_QUEUE_NAME=queue_name, MESSAGE_QUEUE_TYPE=queue_type)
        self._channel = _Channel(self._overrides)

    def __getstate__(self) -> Dict[str, Any]:
        return {"_overrides": self._overrides}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self._overrides = state["_overrides"]
        self._channel = _Channel(self._overrides)

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

    def publish_model_ready(
        self,
        model_id: str,
        token_symbol: str,
        metric_name: str,
        baseline_value: float,
        current_value: float,
        model_name: str,
        model_version: str,
        mlflow_run_id: str,
        **optional: Any,
    ) -> bool:
        """Publishes a ``model_ready_to_deploy`` message.

        Optional fields: ``improvement_percentage``, ``contributor_address``, ``experiment_name``, ``tags``,
        ``performance_data``, ``metric_direction``.

        Returns:
            Whether it is in the queue. False is logged with the reason: the queue does not answer.

        Raises:
            InvalidRequest: a field is wrong (a ``ValueError``).
        """
        payload = {
            "model_id": model_id,
            "token_symbol": token_symbol,
            "metric_name": metric_name,
            "baseline_value": baseline_value,
            "current_value": current_value,
            "model_name": model_name,
            "model_version": model_version,
            "mlflow_run_id": mlflow_run_id,
            **{key: value for key, value in optional.items() if value is not None},
        }
        return self.publish(payload)

    def publish(self, message: Dict[str, Any]) -> bool:
        """Publishes a payload of ``model_ready_to_deploy``, or a whole envelope of any type, which keeps its ids."""
        try:
            self._channel.publish(json_text(message))
        except InvalidRequest:
            raise
        except HokusaiError as error:
            logger.error("Failed to publish message: %s", error)
            return False
        return True

    def consume_messages(
        self,
        process_callback: Callable[[Dict[str, Any]], Any],
        timeout: Optional[float] = None,
        *,
        max_messages: Optional[int] = None,
    ) -> int:
        """Hands payloads to ``process_callback``, one at a time, until none has come for ``timeout`` seconds (for ever without).

        What it returns counts as success unless it is False; False or an exception is a failed attempt, tried again with
        growing pauses and given up into the dead-letter queue in the end. SIGTERM and SIGINT return after what is in hand.

        Returns:
            How many messages were handled.
        """
        return consume(
            self._channel,
            lambda envelope: process_callback(unwrap(envelope)),
            ready_only=False,
            idle=timeout if timeout else None,
            limit=max_messages,
        )

    def health_check(self) -> Dict[str, Any]:
        """``status`` (``healthy`` or ``unhealthy``), ``latency_ms``, ``queue_depths``; ``error`` if there is one."""
        try:
            stats = json.loads(self._channel.stats())
        except Unavailable as error:
            return {"status": "unhealthy", "error": str(error)}
        depths = {"main": stats["main_queue"], "processing": stats["processing"], "dlq": stats["dead_letter"]}
        return {"status": "healthy", "latency_ms": stats["latency_ms"], "queue_depths": depths}

    def get_queue_stats(self) -> QueueStats:
        """How many messages are where."""
        return QueueStats(self.queue_name, json.loads(self._channel.stats()))

    def get_queue_depth(self, queue_name: Optional[str] = None) -> int:
        """How many messages wait: in the queue, or in another of its lists by name."""
        stats = self.get_queue_stats()
        lists = {
            self.queue_name: "main_queue",
            self.processing_queue: "processing",
            self.dlq_name: "dead_letter",
            f"{self.queue_name}:delayed": "delayed",
        }
        wanted = queue_name or self.queue_name
        if wanted not in lists:
            raise InvalidRequest(f"queue_name: must be one of {', '.join(lists)}, is {wanted!r}")
        return int(stats[lists[wanted]])

    def close(self) -> None:
        """Lets go of the connections; the next call makes new ones."""
        self._channel = _Channel(self._overrides)
