"""Deploying from Python, on a real node."""

from __future__ import annotations

import json
import threading

import pytest
from conftest import CONTROLLER, KEYS, OWNER, a_message, a_model, run_hokusai

import hokusai
from hokusai import EnhancedModelRegistry, ModelReadyToDeployMessage, QueueConsumer, TokenDeployer


@pytest.fixture()
def registry_address(anvil, monkeypatch):
    made = run_hokusai(
        "contracts", "deploy", "--owner", OWNER, "--controller", CONTROLLER, "--json", WEB3_PROVIDER_URL=anvil.url, DEPLOYER_PRIVATE_KEY=KEYS[0]
    )
    assert made.returncode == 0, made.stderr
    monkeypatch.setenv("HOKUSAI_CONFIRMATIONS", "1")
    return json.loads(made.stdout)["address"]


def test_what_is_missing_is_named(anvil):
    deployer = TokenDeployer(anvil.url, KEYS[0])
    assert KEYS[0] not in repr(deployer)
    with pytest.raises(hokusai.ConfigurationError, match="HOKUSAI_REGISTRY_ADDRESS"):
        deployer.check()


def test_one_token_whatever_asks_for_it(anvil, registry_address, redis_url, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("HOKUSAI_REGISTRY_ADDRESS", registry_address)
    registration = EnhancedModelRegistry().register_tokenized_model_with_events(**a_model())
    deployer = TokenDeployer(web3_provider_url=anvil.url, deployer_private_key=KEYS[0])
    # As the guide's main.py: the consumer hands the deployer each message.
    assert QueueConsumer(redis_url=redis_url).consume(message_handler=deployer.deploy_token, poll_interval=1, max_messages=1) == 1
    registration.refresh()
    assert registration.status == "deployed" and registration.token_address

    # Again, and from two threads at once, by messages of other ids: the same token.
    message = ModelReadyToDeployMessage(**{**a_message(), "model_name": "my-model", "metric_name": "reply_rate", "baseline_value": 0.75, "current_value": 0.82})
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(deployer.deploy(message))) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert {answer["token_address"] for answer in answers} == {registration.token_address}
    # A message that can never be deployed is False, and says why in the log.
    assert deployer.deploy_token(ModelReadyToDeployMessage(**a_message(token_symbol="no spaces"))) is False
