"""What can go wrong. ``HokusaiError`` is the base of all; the others are named for what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from hokusai.registration import Registration

__all__ = [
    "BelowBaseline",
    "ConfigurationError",
    "Conflict",
    "HokusaiError",
    "InvalidRequest",
    "NotDeployed",
    "NotDeployedInTime",
    "NotFound",
    "Unavailable",
]


class HokusaiError(Exception):
    """The base of everything that hokusai raises."""

    #: The registration that is concerned, if one is.
    registration_id: Optional[str] = None


class ConfigurationError(HokusaiError):
    """A variable is missing or cannot be used; the message names it."""


class InvalidRequest(HokusaiError, ValueError):
    """What was asked is wrong; the message names the field."""


class Conflict(HokusaiError):
    """The same model version was registered with other content; ``registration_id`` names that registration."""


class NotFound(HokusaiError, LookupError):
    """There is nothing by that name."""


class Unavailable(HokusaiError, ConnectionError):
    """A service does not answer. What was asked may have happened; asking again is safe."""


class BelowBaseline(HokusaiError, ValueError):
    """The model is below its baseline; it is registered as rejected, and has no token.

    ``registration`` holds everything that a successful registration returns.
    """

    def __init__(self, registration: Registration) -> None:
        super().__init__(registration.get("reason") or "the model is below its baseline")
        self.registration = registration
        self.registration_id = registration.registration_id

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (BelowBaseline, (self.registration,))


class NotDeployed(HokusaiError):
    """Waiting for a token ended otherwise: the registration was refused, given up, or is not done yet.

    ``registration`` holds it as it was last seen.
    """

    def __init__(self, message: str, registration: Registration) -> None:
        super().__init__(message)
        self.registration = registration
        self.registration_id = registration.registration_id

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (type(self), (str(self), self.registration))


class NotDeployedInTime(NotDeployed, TimeoutError):
    """The registration is still on its way."""
