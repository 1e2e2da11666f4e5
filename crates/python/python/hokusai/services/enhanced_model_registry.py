"""Registering models for tokens."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional

from hokusai._native import Registry as _Registry
from hokusai._settings import overrides
from hokusai._values import json_text, number
from hokusai.errors import BelowBaseline
from hokusai.registration import Registration

__all__ = ["EnhancedModelRegistry"]


class EnhancedModelRegistry:
    """Registers models; if they reach their baseline, their tokens are deployed, exactly once.

    With ``HOKUSAI_API_URL`` it works through that server, else in this process, with the database and queue that the
    environment names. The arguments stand for ``HOKUSAI_API_URL``, ``HOKUSAI_API_KEY``, ``DATABASE_URL`` and
    ``MLFLOW_TRACKING_URI``. Safe to share between threads, and to use after a fork.
    """

    def __init__(
        self,
        tracking_uri: Optional[str] = None,
        *,
        api_url: Optional[str] = None,
        api_key: Optional[str] = None,
        database_url: Optional[str] = None,
    ) -> None:
        self._overrides = overrides(
            MLFLOW_TRACKING_URI=tracking_uri, HOKUSAI_API_URL=api_url, HOKUSAI_API_KEY=api_key, DATABASE_URL=database_url
        )
        self._registry = _Registry(self._overrides)

    def __getstate__(self) -> Dict[str, Any]:
        return {"_overrides": self._overrides}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self._overrides = state["_overrides"]
        self._registry = _Registry(self._overrides)

    def register_tokenized_model_with_events(
        self,
        model_uri: str,
        model_name: str,
        token_id: str,
        metric_name: str,
        baseline_value: Optional[float] = None,
        current_value: Optional[float] = None,
        contributor_address: Optional[str] = None,
        *,
        baseline: Optional[str] = None,
        metric_direction: Optional[str] = None,
        experiment_name: Optional[str] = None,
        tags: Optional[Dict[str, str]] = None,
        additional_tags: Optional[Dict[str, str]] = None,
        mlflow_run_id: Optional[str] = None,
        performance_data: Optional[Dict[str, Any]] = None,
        idempotency_key: Optional[str] = None,
        correlation_id: Optional[str] = None,
    ) -> Registration:
        """Registers a model. When it returns, the registration and its message are committed and cannot be lost.

        Sending the same again returns the first answer.

        Args:
            model_uri: ``runs:/<run>/<path>``, ``models:/<name>/<version>``, ``models:/<name>@<alias>``, or another location.
            model_name: The name to register it under.
            token_id: The token's symbol.
            metric_name: The metric that is compared.
            baseline_value: The value to reach.
            current_value: The model's value; if missing, MLflow's run says it.
            contributor_address: Who contributed the model.
            baseline: Instead of ``baseline_value``: the model whose metric is to be reached, such as ``models:/<name>@champion``.
            metric_direction: ``higher_is_better`` (if missing) or ``lower_is_better``.

        Returns:
            A mapping with ``model_name``, ``version``, ``model_id``, ``token_id``, ``metric_name``, ``baseline_value``,
            ``current_value``, ``mlflow_run_id``, ``event_emitted``, ``registration_id``, ``message_id``, ``status`` and more.

        Raises:
            BelowBaseline: a ``ValueError`` that carries the same as ``registration``.
            InvalidRequest: a ``ValueError`` that names the field.
            Conflict: the same version was registered with other content.
            Unavailable: a service does not answer; asking again is safe.
        """
        labels = {**(tags or {}), **(additional_tags or {})}
        request = {
            "model_uri": model_uri,
            "model_name": model_name,
            "token_id": token_id,
            "metric_name": metric_name,
            "baseline_value": number("baseline_value", baseline_value),
            "current_value": number("current_value", current_value),
            "baseline": baseline,
            "metric_direction": metric_direction,
            "contributor_address": contributor_address,
            "experiment_name": experiment_name,
            "tags": labels or None,
            "mlflow_run_id": mlflow_run_id,
            "performance_data": performance_data,
        }
        body = json_text({key: value for key, value in request.items() if value is not None})
        answer = json.loads(self._registry.register(body, idempotency_key, correlation_id))
        # The values that MLflow supplied stand in the registration itself.
        if baseline_value is None or current_value is None:
            stored = json.loads(self._registry.get(answer["registration_id"]))
            request.update({key: stored[key] for key in ("baseline_value", "current_value")})
        fields = {
            **answer,
            "version": answer["model_version"],
            **{key: request[key] for key in ("metric_name", "baseline_value", "current_value")},
        }
        registration = Registration(fields, self._overrides)
        if registration.status == "rejected":
            raise BelowBaseline(registration)
        return registration

    def get(self, registration_id: str) -> Registration:
        """A registration as it is now, with its history.

        Raises:
            NotFound: there is none by that id.
        """
        return self._view(json.loads(self._registry.get(registration_id)))

    def list(
        self,
        *,
        status: Optional[str] = None,
        token: Optional[str] = None,
        model: Optional[str] = None,
        limit: int = 50,
    ) -> List[Registration]:
        """Registrations, the newest first."""
        search = {"status": status, "token": token, "model": model, "limit": limit}
        found = json.loads(self._registry.list(json_text({key: value for key, value in search.items() if value is not None})))
        return [self._view(fields) for fields in found["registrations"]]

    def _view(self, fields: Dict[str, Any]) -> Registration:
        fields.setdefault("version", fields.get("model_version"))
        fields.setdefault("event_emitted", fields.get("message_id") is not None)
        return Registration(fields, self._overrides)
