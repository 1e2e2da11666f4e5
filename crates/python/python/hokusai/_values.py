"""Python's values as JSON has them."""

from __future__ import annotations

import json
import math
from typing import Any, Optional

from hokusai.errors import InvalidRequest


def number(name: str, value: Any) -> Optional[float]:
    """A finite number, NumPy's too."""
    if value is None:
        return None
    try:
        read = float(value)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{name}: must be a number, is {value!r}") from error
    if isinstance(value, str) or not math.isfinite(read):
        raise InvalidRequest(f"{name}: must be a finite number, is {value!r}")
    return read


def json_text(value: Any) -> str:
    """JSON, in which nothing is lost."""
    try:
        return json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"cannot be written as JSON: {error}") from error


def _plain(value: Any) -> Any:
    """What has a Python value, such as NumPy's scalars."""
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    raise TypeError(f"{type(value).__name__} is no JSON value")
