"""Deploying the tokens of messages, through the ledger."""

from __future__ import annotations

import json
import logging
import uuid
from typing import Any, Dict, Optional

from hokusai._native import Deployer as _Deployer
from hokusai._settings import overrides
from hokusai.errors import HokusaiError
from hokusai.queue_reader.schemas import ModelReadyToDeployMessage

__all__ = ["TokenDeployer"]

logger = logging.getLogger(__name__)


class TokenDeployer:
    """Deploys tokens exactly once, whatever crashes: what was sent is in the ledger of ``DATABASE_URL`` before it is sent.

    The registry contract is that of ``HOKUSAI_REGISTRY_ADDRESS`` (``hokusai contracts deploy`` makes one). Any number of
    deployers may share a ledger: one sends, the others wait for it.
    """

    def __init__(
        self,
        web3_provider_url: Optional[str] = None,
        deployer_private_key: Optional[str] = None,
        *,
        registry_address: Optional[str] = None,
        database_url: Optional[str] = None,
    ) -> None:
        self._overrides = overrides(
            WEB3_PROVIDER_URL=web3_provider_url,
            DEPLOYER_PRIVATE_KEY=deployer_private_key,
            HOKUSAI_REGISTRY_ADDRESS=registry_address,
            DATABASE_URL=database_url,
        )
        self._deployer = _Deployer(self._overrides)

    def __repr__(self) -> str:
        return f"<TokenDeployer {', '.join(sorted(self._overrides))}>"

    def check(self) -> None:
        """Checks chain, contract, key and ledger now rather than with the first message.

        Raises:
            ConfigurationError: names the variable that is missing or wrong.
        """
        self._deployer.open()

    def deploy(self, message: ModelReadyToDeployMessage) -> Dict[str, Any]:
        """Deploys a message's token and waits until it is final.

        Returns:
            ``token_address``, ``transaction_hash``, ``block_number``, ``gas_used``, ``fee_wei``. The transaction is None if
            somebody else's had done it.

        Raises:
            HokusaiError: why it was not deployed.
        """
        envelope = {
            "message_id": message.message_id or str(uuid.uuid4()),
            "message_type": "model_ready_to_deploy",
            "timestamp": message.timestamp.isoformat(),
            "payload": message.to_payload(),
        }
        if message.correlation_id:
            envelope["correlation_id"] = message.correlation_id
        deployed: Dict[str, Any] = json.loads(self._deployer.deploy(json.dumps(envelope)))
        return deployed

    def deploy_token(self, message: ModelReadyToDeployMessage) -> bool:
        """As ``deploy``; False, with the reason in the log, if the token was not deployed."""
        logger.info("Deploying token for model %s", message.model_id)
        try:
            deployed = self.deploy(message)
        except HokusaiError as error:
            logger.error("Token deployment failed: %s", error)
            return False
        logger.info("Successfully deployed token at %s", deployed["token_address"])
        return True
