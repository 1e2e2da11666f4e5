"""How many messages are where."""

from __future__ import annotations

from html import escape
from typing import Dict, Union

from hokusai import _html


class QueueStats(Dict[str, Union[int, float]]):
    """A dictionary of ``main_queue``, ``processing``, ``delayed`` and ``dead_letter``, shown as a table in notebooks."""

    def __init__(self, queue_name: str, stats: Dict[str, Union[int, float]]) -> None:
        super().__init__({key: value for key, value in stats.items() if key != "latency_ms"})
        self.queue_name = queue_name

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (QueueStats, (self.queue_name, dict(self)))

    def _repr_html_(self) -> str:
        return _html.table(f"<b>{escape(self.queue_name)}</b>", self.items())
