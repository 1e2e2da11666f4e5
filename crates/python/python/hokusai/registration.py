"""A registered model, and how far it is on the way to its token."""

from __future__ import annotations

import json
import sys
import time
from html import escape
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from hokusai import _html
from hokusai._native import Registry as _Registry
from hokusai.errors import NotDeployed, NotDeployedInTime

__all__ = ["Registration"]

_ENDED = ("deployed", "rejected", "refused", "dead_lettered")
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0
#: After so long without anybody taking the message, waiting says so.
_NOBODY_S = 10.0


class Registration(Mapping[str, Any]):
    """What registering returned; a mapping, with the commonest keys as attributes too.

    ``refresh()`` asks how far it is by now, ``wait()`` until it has come to an end. It can be pickled.
    """

    def __init__(self, fields: Dict[str, Any], overrides: Optional[Dict[str, str]] = None) -> None:
        self._fields = fields
        self._overrides = dict(overrides or {})
        self._registry: Optional[_Registry] = None

    # -- a mapping

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __getattr__(self, name: str) -> Any:
        # Only asked for what is no attribute.
        if not name.startswith("_") and name in self._fields:
            return self._fields[name]
        raise AttributeError(f"{type(self).__name__!s} has no {name!r}; its keys are {', '.join(self.__dict__.get('_fields', {}))}")

    def __getstate__(self) -> Dict[str, Any]:
        return {"_fields": self._fields, "_overrides": self._overrides, "_registry": None}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def registration_id(self) -> str:
        """Its id."""
        return str(self._fields["registration_id"])

    @property
    def status(self) -> str:
        """Where it stood when it was last asked about: queued, deploying, deployed, rejected, refused, dead_lettered."""
        return str(self._fields["status"])

    @property
    def token_address(self) -> Optional[str]:
        """The token's contract, once it is deployed."""
        return (self._fields.get("deployment") or {}).get("token_address")

    @property
    def transaction_hash(self) -> Optional[str]:
        """The transaction that recorded the version, once it is deployed."""
        return (self._fields.get("deployment") or {}).get("transaction_hash")

    @property
    def history(self) -> List[Dict[str, Any]]:
        """What happened, oldest first; empty until it was asked about."""
        return list(self._fields.get("history", []))

    # -- following it

    def refresh(self) -> "Registration":
        """Asks how far it is, and returns itself."""
        self._fields.update(json.loads(self._open().get(self.registration_id)))
        return self

    def wait(self, timeout: float = 600.0, progress: Optional[bool] = None) -> "Registration":
        """Blocks until it is deployed or rejected, and returns itself.

        Shows progress in terminals and notebooks, unless ``progress`` says otherwise, and says so when nothing takes the
        message from the queue.

        Raises:
            NotDeployed: it was refused or given up.
            NotDeployedInTime: it is still on its way after ``timeout`` seconds (a ``TimeoutError``).
        """
        show = _progress(progress)
        started = time.monotonic()
        pause = _FIRST_PAUSE_S
        nobody: Optional[str] = None
        try:
            while True:
                self.refresh()
                elapsed = time.monotonic() - started
                if self.status in _ENDED:
                    break
                if self.status == "queued" and elapsed > min(_NOBODY_S, timeout / 2):
                    nobody = self._nobody()
                show(f"{self._fields.get('model_id')}: {self._step()} ({elapsed:.0f} s){'; ' + nobody if nobody else ''}")
                if elapsed >= timeout:
                    raise NotDeployedInTime(self._late(timeout, nobody), self)
                time.sleep(min(pause, max(timeout - elapsed, 0.01)))
                pause = min(pause * 1.5, _LONGEST_PAUSE_S)
            show(f"{self._fields.get('model_id')}: {self.status}{' at ' + self.token_address if self.token_address else ''}")
        finally:
            show(None)
        if self.status in ("refused", "dead_lettered"):
            raise NotDeployed(f"registration {self.registration_id} was {self.status.replace('_', ' ')}: {self._why()}", self)
        return self

    def _open(self) -> _Registry:
        if self._registry is None:
            self._registry = _Registry(self._overrides)
        return self._registry

    def _nobody(self) -> Optional[str]:
        try:
            main, processing = self._open().waiting()
        except Exception:  # Whether somebody takes messages is only a hint.
            return None
        if processing:
            return None
        return f"nothing is taking from the queue ({main} waiting): is a worker running, and connected to this queue?"

    def _late(self, timeout: float, nobody: Optional[str]) -> str:
        hint = f"; {nobody}" if nobody else ""
        return f"registration {self.registration_id} is still {self.status} after {timeout:g} s{hint}"

    def _step(self) -> str:
        return str(self.history[-1]["step"]) if self.history else self.status

    def _why(self) -> str:
        details = [step.get("detail") or {} for step in reversed(self.history)]
        reasons = (detail.get("reason") or detail.get("error") for detail in details)
        return str(next((reason for reason in reasons if reason), "see its history"))

    # -- looking at it

    def __repr__(self) -> str:
        model = self._fields.get("model_id")
        at = f", token_address={self.token_address!r}" if self.token_address else ""
        return f"<Registration {self.registration_id} {model} {self.status}{at}>"

    def _repr_html_(self) -> str:
        percent = self._fields.get("improvement_percentage")
        metric, current, baseline = (self._fields.get(key) for key in ("metric_name", "current_value", "baseline_value"))
        compared = f"{metric} {current} against {baseline}" + (f" ({percent:+} %)" if percent is not None else "")
        deployment = self._fields.get("deployment") or {}
        rows = [
            ("metric", compared if metric else None),
            ("reason", self._fields.get("reason")),
            ("token", deployment.get("token_address")),
            ("transaction", deployment.get("transaction_hash")),
            ("block", deployment.get("block_number")),
            ("gas", deployment.get("gas_used")),
            ("MLflow run", self._fields.get("mlflow_run_id")),
            ("registration", self.registration_id),
        ]
        return _html.table(f"<b>{escape(str(self._fields.get('model_id')))}</b> {_html.badge(self.status)}", rows)


def _progress(wanted: Optional[bool]) -> Callable[[Optional[str]], None]:
    """Shows a line that changes; ``None`` ends it."""
    handle = _notebook() if wanted is not False else None
    if handle is not None:
        return lambda text: handle(text) if text else None
    if not (sys.stderr.isatty() if wanted is None else wanted):
        return lambda text: None
    shown = [0]

    def line(text: Optional[str]) -> None:
        if text is None:
            print(file=sys.stderr) if shown[0] else None
            return
        print("\r" + text.ljust(shown[0]), end="", file=sys.stderr, flush=True)
        shown[0] = len(text)

    return line


def _notebook() -> Optional[Callable[[str], None]]:
    """A line in the notebook's output, if this is one."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    if running is None or type(running).__name__ != "ZMQInteractiveShell":
        return None
    from IPython.display import HTML, display  # type: ignore[import-not-found]

    handle = display(HTML(""), display_id=True)
    return lambda text: handle.update(HTML(f"<code>{escape(text)}</code>"))
