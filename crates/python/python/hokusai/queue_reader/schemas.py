"""Messages as objects.

Plain data classes; with ``pip install hokusai[pydantic]`` the same as pydantic models is in ``hokusai.queue_reader.models``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from typing import Any, Dict, Mapping, Optional, Union

__all__ = ["MessageEnvelope", "ModelReadyToDeployMessage"]


def _time(value: Union[str, datetime, None]) -> datetime:
    """RFC 3339, or ISO 8601 without a zone, which means UTC."""
    if value is None:
        return datetime.now(timezone.utc)
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=timezone.utc)
    text = value[:-1] + "+00:00" if value.endswith(("Z", "z")) else value
    # Python 3.9 reads three or six digits of a second's fraction and no others.
    if "." in text:
        head, _, tail = text.partition(".")
        digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
        text = f"{head}.{digits[:6].ljust(6, '0')}{tail[len(digits):]}"
    read = datetime.fromisoformat(text)
    return read if read.tzinfo else read.replace(tzinfo=timezone.utc)


@dataclass
class ModelReadyToDeployMessage:
    """A model that beat its baseline and is to get its token."""

    model_id: str
    token_symbol: str
    metric_name: str
    baseline_value: float
    current_value: float
    model_name: str
    model_version: str
    mlflow_run_id: str
    timestamp: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    message_version: str = "1.0"
    improvement_percentage: Optional[float] = None
    contributor_address: Optional[str] = None
    experiment_name: Optional[str] = None
    tags: Optional[Dict[str, str]] = None
    performance_data: Optional[Dict[str, Any]] = None
    metric_direction: str = "higher_is_better"
    #: The registration it belongs to, if it was registered here.
    registration_id: Optional[str] = None
    #: Ties together everything that comes of one request.
    correlation_id: Optional[str] = None
    #: Of the envelope it came in.
    message_id: Optional[str] = None
    #: Keys of the payload that this version does not know.
    extra: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.timestamp = _time(self.timestamp)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any], message_id: Optional[str] = None) -> "ModelReadyToDeployMessage":
        """Reads a payload; what it leaves out (null included) gets its default."""
        known = {item.name for item in fields(cls)} - {"extra", "message_id"}
        given = {key: value for key, value in payload.items() if key in known and value is not None}
        extra = {key: value for key, value in payload.items() if key not in known}
        return cls(**given, message_id=message_id, extra=extra)

    def to_payload(self) -> Dict[str, Any]:
        """The payload, ready for JSON."""
        payload = {key: value for key, value in asdict(self).items() if key not in ("extra", "message_id") and value is not None}
        payload["timestamp"] = self.timestamp.isoformat()
        return {**payload, **self.extra}


@dataclass
class MessageEnvelope:
    """What travels through the queue."""

    message_id: str
    message_type: str
    payload: Dict[str, Any]
    timestamp: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    retry_count: int = 0
    max_retries: int = 3
    correlation_id: Optional[str] = None

    def __post_init__(self) -> None:
        self.timestamp = _time(self.timestamp)

    @classmethod
    def from_dict(cls, envelope: Mapping[str, Any]) -> "MessageEnvelope":
        """Reads an envelope; keys that are not known are left out."""
        known = {item.name for item in fields(cls)}
        return cls(**{key: value for key, value in envelope.items() if key in known and value is not None})
