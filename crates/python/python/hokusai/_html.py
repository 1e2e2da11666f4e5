"""Tables for notebooks."""

from __future__ import annotations

from html import escape
from typing import Any, Iterable, Tuple

_COLOURS = {
    "deployed": "#1a7f37",
    "queued": "#9a6700",
    "deploying": "#0969da",
    "rejected": "#cf222e",
    "refused": "#cf222e",
    "dead_lettered": "#cf222e",
}


def badge(status: str) -> str:
    colour = _COLOURS.get(status, "#57606a")
    return f'<span style="color:{colour};font-weight:600">{escape(status)}</span>'


def table(title: str, rows: Iterable[Tuple[str, Any]]) -> str:
    """Two columns under a title, which is HTML; the cells are text."""
    cells = "".join(
        f'<tr><td style="text-align:left">{escape(name)}</td><td style="text-align:left"><code>{escape(str(value))}</code></td></tr>'
        for name, value in rows
        if value is not None
    )
    return f"<div><div>{title}</div><table>{cells}</table></div>"
