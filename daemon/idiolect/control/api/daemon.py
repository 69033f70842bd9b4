"""What the handlers of the API may ask of the daemon, and of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from idiolect.control.api.measures import Measures
from idiolect.errors import RequestError
from idiolect.events import EventStream


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that was let in, for one person. ``expires`` in seconds since the epoch."""

    ident: str
    person: str = field(repr=False)
    profile: str
    user: str = field(repr=False)
    uid: int
    created: int
    expires: int

    def public(self) -> dict[str, object]:
        """What people see of it."""
        return {
            "id": self.ident, "person": self.person, "profile": self.profile, "created": self.created,
            "expires": self.expires,
        }  # fmt: skip


class Pairing(Protocol):
    """What the service offers; see ``browsers.Pairing``. Raises ``RequestError``."""

    async def identity(self) -> bytes:
        """The TLS key and certificate, PEM, as soon as there are keys to keep them under."""

    async def begin(self, name: object, user: str, uid: int) -> dict[str, object]:
        """A code."""

    async def redeem(self, code: object) -> tuple[str, Session]:
        """A token, for a code."""

    async def session(self, token: str) -> Session | None:
        """Whose browser it is."""

    async def end(self, token: str) -> None:
        """It is nobody's any more."""

    async def browsers(self, user: str, admin: bool) -> dict[str, object]:
        """All that are let in."""

    async def forget(self, what: Mapping[str, object], user: str, admin: bool) -> dict[str, object]:
        """Some are let in no more."""


class People(Protocol):
    """What the service offers; see ``people.People`` and ``enrolment.Enrolment``."""

    async def people(self) -> dict[str, object]:
        """Everybody."""

    async def ask_consent(self, name: object, purposes: list[str], language: str) -> dict[str, object]:
        """Put the question."""

    async def agree(self, token: str, user: str, uid: int) -> dict[str, object]:
        """Settle it, for the paired user."""

    async def consent_state(self, token: str) -> dict[str, object]:
        """Whether it is open."""

    async def withdraw(self, name: object, purpose: str, user: str, uid: int) -> dict[str, object]:
        """Take a consent back."""

    async def erase(self, name: object, user: str, admin: bool) -> dict[str, object]:
        """Forget somebody altogether."""

    async def address(self, name: object) -> dict[str, object]:
        """Say who speaks."""

    async def pause(self, seconds: float | None, active: bool) -> dict[str, object]:
        """Stop or resume learning."""

    async def correct(self, event: str, phrase: object, user: str) -> dict[str, object]:
        """What was meant."""

    async def confirm(self, event: str, user: str) -> dict[str, object]:
        """It was understood."""

    async def see(self, what: str, name: object, adapter: int | None, user: str) -> dict[str, object]:
        """review, history, report or explain."""

    async def verify(self, name: object, number: int, user: str) -> dict[str, object]:
        """Prove a version."""

    async def forget(self, name: object, what: Mapping[str, object], user: str) -> dict[str, object]:
        """Forget something."""

    async def share(self, name: object, phrase: object, wanted: bool, user: str) -> dict[str, object]:
        """Let everybody say a phrase."""

    async def rollback(self, name: object, user: str) -> dict[str, object]:
        """Take a version back."""

    async def export(self, name: object, passphrase: str, user: str) -> dict[str, object]:
        """The person's copy."""

    async def bring(self, name: object, document: Mapping[str, Any], passphrase: str, user: str) -> dict[str, object]:
        """A copy, back."""


class Teaching(Protocol):
    """One enrolment at a time."""

    async def start(
        self, name: object, phrase: object, samples: int, speak: str, user: str, *, session: str
    ) -> dict[str, object]:
        """Begin."""

    def state(self, user: str, session: str) -> dict[str, object]:
        """Where it stands."""

    async def take_back(self, number: int, ident: str, user: str, session: str) -> dict[str, object]:
        """Let a take count no more."""

    async def keep(self, ident: str, user: str, session: str) -> dict[str, object]:
        """Let a refused take count."""

    def cancel(self) -> dict[str, object]:
        """Give up."""


class Windows(Protocol):
    """What the service offers; see ``windows.Windows``."""

    def ask(self) -> None:
        """Learn now."""

    def status(self) -> dict[str, object]:
        """What is due, and what it waits for."""

    def closed(self) -> RequestError:
        """Why nothing can be learnt, where the state is "off"."""


class Box(Protocol):
    """What the service offers; see ``box.Box``."""

    def playback(self, seconds: float | None) -> dict[str, object]:
        """Something is played, for so long at most; None: no more."""


class Proofs(Protocol):
    """What the service offers about keys and audit log. Raises ``RequestError`` where there is nothing to offer."""

    async def audit(self, limit: int) -> dict[str, object]:
        """The newest entries."""

    async def audit_verify(self) -> dict[str, object]:
        """Walk the chain."""

    async def audit_export(self, nonce: bytes) -> dict[str, object]:
        """The log for somebody else to check."""

    async def attest(self, nonce: bytes) -> dict[str, object]:
        """What this boot measured."""

    async def mark_good(self) -> dict[str, object]:
        """Raise the minimum version to the running bundle's."""


class Measuring(Protocol):
    """What the service offers; see ``metrics.Measuring``."""

    async def measures(self) -> Measures:
        """Everything, within a third of a second."""


class Daemon(Protocol):
    """What the service offers to the API. Quick and thread-safe; called on the event loop's thread."""

    @property
    def hub(self) -> EventStream:
        """Where the daemon's happenings are published."""

    @property
    def proofs(self) -> Proofs:
        """What it can prove, and the bundle."""

    @property
    def people(self) -> People:
        """Whom it knows, and what it learnt of them."""

    @property
    def windows(self) -> Windows:
        """When it learns."""

    @property
    def pairing(self) -> Pairing:
        """Which browsers may show the page."""

    @property
    def box(self) -> Box:
        """What it is built into."""

    @property
    def measuring(self) -> Measuring:
        """What can be measured about it."""

    @property
    def teaching(self) -> Teaching:
        """Teaching a phrase, live."""

    def status(self) -> dict[str, object]:
        """Everything about the daemon at a glance; "listening" holds {"state", "paused_until"}."""

    def pause(self, seconds: float | None) -> None:
        """Stop listening, for so long or until resumed (None); survives a restart."""

    def resume(self) -> None:
        """Listen again."""

    def config(self) -> dict[str, object]:
        """The configuration in force, defaults included."""

    def origins(self) -> dict[str, object]:
        """Where each key that is set was set, by its dotted name: {"file", "line"}."""

    def reload(self) -> dict[str, object]:
        """Read the configuration again: {"taken", "at_next_start", "problems"}; refused, the old one stays."""

    async def devices(self) -> list[dict[str, object]]:
        """The sound cards one could capture from."""

    async def doctor(self) -> list[dict[str, object]]:
        """Checks of the running daemon: {"check", "ok", "level": ok | warn | fail, "detail", "fix"}."""
