"""The package itself."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import pathlib
import pkgutil
import subprocess
import sys

import pytest
from conftest import a_message, run_hokusai

import hokusai
from hokusai import _native

PACKAGE = pathlib.Path(hokusai.__file__).parent


def test_everything_public_has_a_docstring():
    for module in pkgutil.walk_packages([str(PACKAGE)], "hokusai."):
        if module.name.endswith(("_native", "__main__", "models")):
            continue
        loaded = importlib.import_module(module.name)
        assert loaded.__doc__, module.name
        for name in getattr(loaded, "__all__", []):
            assert isinstance(getattr(loaded, name), str) or getattr(loaded, name).__doc__, f"{module.name}.{name}"


def test_the_stubs_say_what_the_native_half_has():
    stubs = ast.parse((PACKAGE / "_native.pyi").read_text())
    described = {
        node.name: {item.name for item in node.body if isinstance(item, ast.FunctionDef)} - {"__init__"}
        for node in stubs.body
        if isinstance(node, ast.ClassDef)
    }
    for name, methods in described.items():
        native = {method for method in dir(getattr(_native, name)) if not method.startswith("_")}
        assert native == methods, name
    classes = {name for name in dir(_native) if isinstance(getattr(_native, name), type)}
    assert classes == set(described) and (PACKAGE / "py.typed").exists()


def test_the_wheel_carries_the_command():
    (script,) = [entry for entry in importlib.metadata.distribution("hokusai").entry_points if entry.name == "hokusai"]
    assert script.load() is importlib.import_module("hokusai._command").main
    shown = run_hokusai("--version")
    assert (shown.returncode, shown.stdout.strip()) == (0, f"hokusai {hokusai.__version__}")
    assert run_hokusai("registration", "show", "nothing").returncode == 1
    assert run_hokusai("no-such-command").returncode == 2


def test_importing_is_quick_and_needs_nothing_else():
    code = "import sys, hokusai; print([name for name in ('redis', 'pydantic', 'mlflow', 'numpy') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_messages_as_pydantic_models():
    pydantic = pytest.importorskip("pydantic")
    from hokusai.queue_reader import models

    message = models.ModelReadyToDeployMessage(**a_message(timestamp="2025-01-27T15:30:00Z", extra_key=1))
    assert message.message_version == "1.0" and message.model_dump()["extra_key"] == 1
    with pytest.raises(pydantic.ValidationError):
        models.ModelReadyToDeployMessage(**a_message(token_symbol="no spaces"))


def test_messages_are_made_and_written_as_the_guides_do():
    """The steps of the guide's own consumer, its retry included."""
    raw = json.dumps({"message_id": "m-1", "message_type": "model_ready_to_deploy", "timestamp": "2025-01-27T15:30:00Z",
                      "payload": a_message(not_known=1), "trace": "t-1"})
    envelope = hokusai.MessageEnvelope(**json.loads(raw))
    message = hokusai.ModelReadyToDeployMessage(**envelope.payload)
    assert (message.token_symbol, message.contributor_address, message.extra) == ("msg-ai", None, {"not_known": 1})
    assert (envelope.retry_count, envelope.max_retries) == (0, 3)
    envelope.retry_count += 1
    again = json.loads(envelope.json())
    assert (again["retry_count"], again["trace"], again["payload"]) == (1, "t-1", a_message(not_known=1))
    assert again["timestamp"] == "2025-01-27T15:30:00+00:00"
    assert message == hokusai.ModelReadyToDeployMessage(**message.to_payload())
    with pytest.raises(TypeError, match="token_symbol"):
        hokusai.ModelReadyToDeployMessage(model_id="only")


def test_the_guides_imports():
    """The code of the guides runs when only the package's prefix changes."""
    from hokusai.events.publishers.factory import get_publisher
    from hokusai.events.publishers.redis_publisher import RedisPublisher
    from hokusai.queue_reader.consumer import QueueConsumer
    from hokusai.queue_reader.schemas import MessageEnvelope, ModelReadyToDeployMessage
    from hokusai.services.enhanced_model_registry import EnhancedModelRegistry
    from hokusai.token_deployer import TokenDeployer

    top = [get_publisher, RedisPublisher, QueueConsumer, MessageEnvelope, ModelReadyToDeployMessage, EnhancedModelRegistry, TokenDeployer]
    assert all(getattr(hokusai, thing.__name__) is thing for thing in top)
