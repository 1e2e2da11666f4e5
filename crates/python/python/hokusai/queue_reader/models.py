"""The messages as pydantic models: ``pip install hokusai[pydantic]``."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Dict, Optional

try:
    from pydantic import BaseModel, ConfigDict, Field
except ImportError as error:  # pragma: no cover
    raise ImportError("hokusai.queue_reader.models needs pydantic 2: pip install 'hokusai[pydantic]'") from error

__all__ = ["MessageEnvelope", "ModelReadyToDeployMessage"]


def _now() -> datetime:
    return datetime.now(timezone.utc)


class ModelReadyToDeployMessage(BaseModel):
    """A model that beat its baseline and is to get its token."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model_id: str
    token_symbol: str = Field(pattern=r"^[A-Za-z0-9-]{1,64}$")
    metric_name: str
    baseline_value: float = Field(allow_inf_nan=False)
    current_value: float = Field(allow_inf_nan=False)
    model_name: str
    model_version: str
    mlflow_run_id: str
    timestamp: datetime = Field(default_factory=_now)
    message_version: str = "1.0"
    improvement_percentage: Optional[float] = None
    contributor_address: Optional[str] = None
    experiment_name: Optional[str] = None
    tags: Optional[Dict[str, str]] = None
    performance_data: Optional[Dict[str, Any]] = None
    metric_direction: str = "higher_is_better"
    registration_id: Optional[str] = None
    correlation_id: Optional[str] = None


class MessageEnvelope(BaseModel):
    """What travels through the queue."""

    model_config = ConfigDict(extra="allow")

    message_id: str = Field(min_length=1)
    message_type: str
    payload: Dict[str, Any]
    timestamp: datetime = Field(default_factory=_now)
    retry_count: int = 0
    max_retries: int = 3
    correlation_id: Optional[str] = None
