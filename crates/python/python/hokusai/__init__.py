"""Carries a machine-learning model that beat its baseline to its token on an EVM chain, exactly once.

- ``EnhancedModelRegistry().register_tokenized_model_with_events(...)`` registers a model; ``.wait()`` follows it to its token.
- ``QueueConsumer(redis_url).consume(handler)`` and ``get_publisher()`` work on the queue.
- ``TokenDeployer(node, key).deploy_token(message)`` deploys through the ledger.
- ``hokusai.testing.embedded()`` gives tests a queue and a chain of their own.
"""

from hokusai._native import __version__
from hokusai.errors import (
    BelowBaseline,
    ConfigurationError,
    Conflict,
    HokusaiError,
    InvalidRequest,
    NotDeployed,
    NotDeployedInTime,
    NotFound,
    Unavailable,
)
from hokusai.events.publishers.factory import get_publisher
from hokusai.events.publishers.redis_publisher import RedisPublisher
from hokusai.queue_reader.consumer import QueueConsumer
from hokusai.queue_reader.schemas import MessageEnvelope, ModelReadyToDeployMessage
from hokusai.registration import Registration
from hokusai.services.enhanced_model_registry import EnhancedModelRegistry
from hokusai.token_deployer import TokenDeployer

__all__ = [
    "BelowBaseline",
    "ConfigurationError",
    "Conflict",
    "EnhancedModelRegistry",
    "HokusaiError",
    "InvalidRequest",
    "MessageEnvelope",
    "ModelReadyToDeployMessage",
    "NotDeployed",
    "NotDeployedInTime",
    "NotFound",
    "QueueConsumer",
    "RedisPublisher",
    "Registration",
    "TokenDeployer",
    "Unavailable",
    "__version__",
    "get_publisher",
]
