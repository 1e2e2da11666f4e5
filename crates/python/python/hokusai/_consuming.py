"""Consuming: a Python callable as a queue's handler, and signals that end it."""

from __future__ import annotations

import json
import logging
import signal
import threading
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

from hokusai._native import Channel as _Channel
from hokusai._native import Stop

logger = logging.getLogger("hokusai.queue_reader")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def unwrap(envelope: Dict[str, Any]) -> Dict[str, Any]:
    """An envelope's payload, with what older producers leave out."""
    payload = dict(envelope["payload"])
    payload.setdefault("timestamp", envelope.get("timestamp"))
    payload.setdefault("message_version", "1.0")
    if payload.get("current_value") is None:
        payload["current_value"] = (payload.get("performance_data") or {}).get(payload.get("metric_name"))
    return payload


def consume(
    channel: _Channel,
    handler: Callable[[Dict[str, Any]], Any],
    *,
    ready_only: bool,
    concurrency: int = 1,
    wait: Optional[float] = None,
    timeout: Optional[float] = None,
    limit: Optional[int] = None,
    idle: Optional[float] = None,
    stop: Optional[Stop] = None,
) -> int:
    """Hands envelopes to ``handler`` until a signal, ``stop``, a limit or idleness."""
    ended = stop or Stop()

    def answer(raw: bytes) -> Tuple[str, str]:
        try:
            result = handler(json.loads(raw))
        except Exception as error:
            logger.error("Error processing message: %s", error, exc_info=True)
            return "failed", f"{type(error).__name__}: {error}"
        except BaseException as error:  # SystemExit and KeyboardInterrupt of a handler end the consumer; the message is tried again.
            ended.set()
            return "failed", f"{type(error).__name__}: {error}"
        return ("failed", "Handler returned False") if result is False else ("done", "")

    with _until_signal(ended):
        return channel.consume(answer, ended, concurrency, wait, timeout, limit, idle, ready_only)


@contextmanager
def _until_signal(stop: Stop) -> Iterator[None]:
    """SIGTERM and SIGINT stop after what is in hand; a second SIGINT interrupts as usual. Elsewhere than in the main thread
    signals are not ours to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def received(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        logger.info("Received signal %s, shutting down...", number)
        stop.set()

    before = {number: signal.signal(number, received) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
