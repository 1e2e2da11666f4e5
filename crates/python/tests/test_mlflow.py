"""Values and baselines from MLflow."""

from __future__ import annotations

import pytest
from conftest import a_model

import hokusai
from hokusai import EnhancedModelRegistry

pytestmark = pytest.mark.mlflow


def test_values_come_from_runs_and_aliases(mlflow_url):
    import mlflow

    mlflow.set_tracking_uri(mlflow_url)
    client = mlflow.MlflowClient()

    def run(value):
        with mlflow.start_run() as started:
            mlflow.log_metric("reply_rate", value)
        return started.info.run_id

    registry = EnhancedModelRegistry(tracking_uri=mlflow_url)
    model = {key: value for key, value in a_model().items() if key not in ("baseline_value", "current_value")}
    weak = run(0.7)
    first = registry.register_tokenized_model_with_events(**{**model, "model_uri": f"runs:/{weak}/model"}, baseline_value=0.7)
    assert (first.current_value, first.version, first.mlflow_run_id) == (0.7, "1", weak)
    client.set_registered_model_alias("my-model", "champion", first.version)
    better = registry.register_tokenized_model_with_events(
        **{**model, "model_uri": f"runs:/{run(0.8)}/model"}, baseline="models:/my-model@champion"
    )
    assert (better.baseline_value, better.current_value, better.version) == (0.7, 0.8, "2")
    assert client.get_model_version("my-model", "2").run_id == better.mlflow_run_id
    with pytest.raises(hokusai.InvalidRequest, match="current_value: is 0.9, but the run .* logged 0.6"):
        registry.register_tokenized_model_with_events(
            **{**model, "model_uri": f"runs:/{run(0.6)}/model"}, baseline_value=0.5, current_value=0.9
        )
