"""Arguments as the environment variables they stand for."""

from __future__ import annotations

from typing import Dict, Optional, Union


def overrides(**given: Optional[Union[str, int, float]]) -> Dict[str, str]:
    """Those of the variables that were given."""
    return {name: str(value) for name, value in given.items() if value is not None}
