"""Registering models and following them to their tokens."""

from __future__ import annotations

import os
import pickle
import re
import sys

import pytest
from conftest import Service, a_model, answers_http, eventually, free_port

import hokusai
from hokusai import EnhancedModelRegistry, testing


def test_a_registration_holds_what_the_guides_say():
    result = EnhancedModelRegistry().register_tokenized_model_with_events(
        **a_model(contributor_address="0x1234567890123456789012345678901234567890")
    )
    assert result.get("event_emitted") is True
    named = {key: result[key] for key in a_model() if key != "model_uri"}
    assert named == {key: value for key, value in a_model().items() if key != "model_uri"}
    assert (result["version"], result["model_id"], result["mlflow_run_id"]) == ("1", "my-model/1/msg-ai", "abc123")
    assert result.status == "queued" and result.message_id and result.registration_id
    assert result.improvement_percentage == 9.33


def test_the_same_again_is_the_same_registration_and_other_content_conflicts():
    registry = EnhancedModelRegistry()
    first = registry.register_tokenized_model_with_events(**a_model())
    assert dict(registry.register_tokenized_model_with_events(**a_model())) == dict(first)
    with pytest.raises(hokusai.Conflict) as conflict:
        registry.register_tokenized_model_with_events(**a_model(current_value=0.9))
    assert conflict.value.registration_id == first.registration_id


def test_below_the_baseline_is_a_value_error_that_carries_the_same():
    with pytest.raises(ValueError, match="worse than baseline") as raised:
        EnhancedModelRegistry().register_tokenized_model_with_events(**a_model(current_value=0.7))
    error = raised.value
    assert isinstance(error, hokusai.BelowBaseline)
    assert (error.registration.status, error.registration["event_emitted"]) == ("rejected", False)
    assert (error.registration.version, error.registration.current_value) == ("1", 0.7)
    again = pickle.loads(pickle.dumps(error))
    assert again.registration.registration_id == error.registration_id and str(again) == str(error)


@pytest.mark.parametrize(
    "change, field",
    [
        ({"token_id": "no spaces"}, "token_id"),
        ({"model_uri": "runs:/"}, "model_uri"),
        ({"current_value": float("nan")}, "current_value"),
        ({"baseline_value": "0.75"}, "baseline_value"),
        ({"contributor_address": "0x12"}, "contributor_address"),
        ({"current_value": None}, "current_value"),
    ],
)
def test_what_is_wrong_is_named(change, field):
    with pytest.raises(hokusai.InvalidRequest, match=f"^{field}: ") as raised:
        EnhancedModelRegistry().register_tokenized_model_with_events(**a_model(**change))
    assert isinstance(raised.value, ValueError) and isinstance(raised.value, hokusai.HokusaiError)


def test_configuration_and_outages_have_their_own_exceptions(monkeypatch):
    monkeypatch.setenv("MESSAGE_QUEUE_TYPE", "carrier-pigeon")
    with pytest.raises(hokusai.ConfigurationError, match="MESSAGE_QUEUE_TYPE"):
        EnhancedModelRegistry().register_tokenized_model_with_events(**a_model())
    with pytest.raises(hokusai.Unavailable, match="did not answer"):
        EnhancedModelRegistry(api_url="http://127.0.0.1:9").register_tokenized_model_with_events(**a_model())


def test_it_can_be_followed_listed_and_pickled():
    registry = pickle.loads(pickle.dumps(EnhancedModelRegistry()))
    first = registry.register_tokenized_model_with_events(**a_model())
    again = pickle.loads(pickle.dumps(first)).refresh()
    assert [step["step"] for step in again.history] == ["queued"]
    assert [found.registration_id for found in registry.list(token="MSG-AI")] == [first.registration_id]
    assert registry.get(first.registration_id).reason == first.reason
    with pytest.raises(hokusai.NotFound):
        registry.get("nothing")


def test_waiting_says_when_nothing_takes_from_the_queue():
    registration = EnhancedModelRegistry().register_tokenized_model_with_events(**a_model())
    with pytest.raises(TimeoutError, match="nothing is taking from the queue \\(1 waiting\\)") as raised:
        registration.wait(timeout=0.5)
    assert raised.value.registration is registration


def test_waiting_asks_the_server_too(monkeypatch, tmp_path):
    """A server without a worker."""
    port = free_port()
    monkeypatch.setenv("HOKUSAI_LISTEN", f"127.0.0.1:{port}")
    server = Service([sys.executable, "-m", "hokusai", "serve"], tmp_path / "serve.log")
    eventually("the server answers", lambda: answers_http(f"http://127.0.0.1:{port}/live"))
    registration = EnhancedModelRegistry(api_url=f"http://127.0.0.1:{port}").register_tokenized_model_with_events(**a_model())
    with pytest.raises(hokusai.NotDeployedInTime, match="nothing is taking from the queue \\([01] waiting\\)"):
        registration.wait(timeout=1)
    server.stop()


def test_over_http_to_the_token(dev: testing.Embedded, monkeypatch, capsys):
    monkeypatch.setenv("HOKUSAI_API_URL", dev.api_url)
    registration = hokusai.EnhancedModelRegistry().register_tokenized_model_with_events(**a_model(token_id="over-http"))
    assert registration.wait(timeout=60, progress=True) is registration
    assert registration.status == "deployed"
    assert re.fullmatch(r"0x[0-9a-fA-F]{40}", registration.token_address)
    assert re.fullmatch(r"0x[0-9a-f]{64}", registration.transaction_hash)
    assert f"deployed at {registration.token_address}" in capsys.readouterr().err
    html = registration._repr_html_()
    assert registration.token_address in html and "deployed" in html and "my-model/1/over-http" in html
    with pytest.raises(hokusai.InvalidRequest, match="token_id"):
        hokusai.EnhancedModelRegistry().register_tokenized_model_with_events(**a_model(token_id="a b"))
    with pytest.raises(hokusai.Conflict) as conflict:
        hokusai.EnhancedModelRegistry().register_tokenized_model_with_events(**a_model(token_id="over-http", current_value=0.9))
    assert conflict.value.registration_id == registration.registration_id


def test_html_is_escaped():
    registration = EnhancedModelRegistry().register_tokenized_model_with_events(**a_model(model_name="<b>bold"))
    assert "<b>bold" not in registration._repr_html_() and "&lt;b&gt;bold" in registration._repr_html_()


def test_the_test_helper_cleans_up():
    with testing.embedded() as running:
        directory = running.directory
        assert running.registry().list() == []
    assert not os.path.exists(directory / "hokusai.db")
