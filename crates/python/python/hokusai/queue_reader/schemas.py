"""Messages as objects.

Plain data classes, made and written out as the guides' pydantic models are, so that nothing needs to be installed for them;
keys that are not known are kept in ``extra``. With ``pip install hokusai[pydantic]`` the same as pydantic models is in
``hokusai.queue_reader.models``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
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
        text = f"{head}.{digits[:6].ljust(6, '0')}{tail[len(digits) :]}"
    read = datetime.fromisoformat(text)
    return read if read.tzinfo else read.replace(tzinfo=timezone.utc)


class _Written:
    """Writing out, under the names of pydantic 1 and 2."""

    def model_dump(self) -> Dict[str, Any]:
        """All fields, the unknown ones among them."""
        values = asdict(self)  # type: ignore[call-overload]
        return {**{key: value for key, value in values.items() if key != "extra"}, **values["extra"]}

    def model_dump_json(self) -> str:
        """The same as JSON."""
        return json.dumps(self.model_dump(), default=lambda value: value.isoformat())

    dict = model_dump
    json = model_dump_json


@dataclass(init=False)
class ModelReadyToDeployMessage(_Written):
    """A model that beat its baseline and is to get its token."""

    model_id: str
    token_symbol: str
    metric_name: str
    baseline_value: float
    current_value: float
    model_name: str
    model_version: str
    mlflow_run_id: str
    timestamp: datetime
    message_version: str
    improvement_percentage: Optional[float]
    contributor_address: Optional[str]
    experiment_name: Optional[str]
    tags: Optional[Dict[str, str]]
    performance_data: Optional[Dict[str, Any]]
    metric_direction: str
    #: The registration it belongs to, if it was registered here.
    registration_id: Optional[str]
    #: Ties together everything that comes of one request.
    correlation_id: Optional[str]
    #: Of the envelope it came in.
    message_id: Optional[str]
    #: Keys of the payload that this version does not know.
    extra: Dict[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        model_id: str,
        token_symbol: str,
        metric_name: str,
        baseline_value: float,
        current_value: float,
        model_name: str,
        model_version: str,
        mlflow_run_id: str,
        timestamp: Union[str, datetime, None] = None,
        message_version: Optional[str] = "1.0",
        improvement_percentage: Optional[float] = None,
        contributor_address: Optional[str] = None,
        experiment_name: Optional[str] = None,
        tags: Optional[Dict[str, str]] = None,
        performance_data: Optional[Dict[str, Any]] = None,
        metric_direction: Optional[str] = "higher_is_better",
        registration_id: Optional[str] = None,
        correlation_id: Optional[str] = None,
        message_id: Optional[str] = None,
        **extra: Any,
    ) -> None:
        self.model_id = model_id
        self.token_symbol = token_symbol
        self.metric_name = metric_name
        self.baseline_value = float(baseline_value)
        self.current_value = float(current_value)
        self.model_name = model_name
        self.model_version = model_version
        self.mlflow_run_id = mlflow_run_id
        self.timestamp = _time(timestamp)
        self.message_version = message_version or "1.0"
        self.improvement_percentage = improvement_percentage
        self.contributor_address = contributor_address
        self.experiment_name = experiment_name
        self.tags = tags
        self.performance_data = performance_data
        self.metric_direction = metric_direction or "higher_is_better"
        self.registration_id = registration_id
        self.correlation_id = correlation_id
        self.message_id = message_id
        self.extra = extra

    def to_payload(self) -> Dict[str, Any]:
        """The payload, ready for JSON: what is None is left out."""
        payload = {key: value for key, value in self.model_dump().items() if key != "message_id" and value is not None}
        payload["timestamp"] = self.timestamp.isoformat()
        return payload


@dataclass(init=False)
class MessageEnvelope(_Written):
    """What travels through the queue."""

    message_id: str
    message_type: str
    payload: Dict[str, Any]
    timestamp: datetime
    retry_count: int
    max_retries: int
    correlation_id: Optional[str]
    #: Keys that this version does not know; they survive a retry.
    extra: Dict[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        message_id: str,
        message_type: str,
        payload: Mapping[str, Any],
        timestamp: Union[str, datetime, None] = None,
        retry_count: Optional[int] = 0,
        max_retries: Optional[int] = 3,
        correlation_id: Optional[str] = None,
        **extra: Any,
    ) -> None:
        self.message_id = message_id
        self.message_type = message_type
        self.payload = dict(payload)
        self.timestamp = _time(timestamp)
        self.retry_count = retry_count or 0
        self.max_retries = 3 if max_retries is None else max_retries
        self.correlation_id = correlation_id
        self.extra = extra
