"""The methods that the API's handlers call on the daemon and its parts, as Protocols: ``service`` stands above them."""

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
        """Return the session as people see it, without its token."""
        return {
            "id": self.ident, "person": self.person, "profile": self.profile, "created": self.created,
            "expires": self.expires,
        }  # fmt: skip


class Pairing(Protocol):
    """Lets browsers in, and shuts them out (``browsers.Pairing``). Raises ``RequestError``."""

    async def identity(self) -> bytes:
        """Return the TLS key and certificate, PEM, as soon as there are keys to keep them under."""

    async def begin(self, name: object, user: str, uid: int) -> dict[str, object]:
        """Make a code with which a browser comes in for the person ``name``."""

    async def redeem(self, code: object) -> tuple[str, Session]:
        """Return a browser's token and session in exchange for a code."""

    async def session(self, token: str) -> Session | None:
        """Return the session that a token belongs to, None for no session."""

    async def end(self, token: str) -> None:
        """End the session that a token belongs to."""

    async def browsers(self, user: str, admin: bool) -> dict[str, object]:
        """Return all browsers of whom the caller may ask."""

    async def forget(self, what: Mapping[str, object], user: str, admin: bool) -> dict[str, object]:
        """Shut out the browsers that ``what`` names."""


class People(Protocol):
    """Answers all questions about people (``people.People``). Raises ``RequestError``."""

    async def people(self) -> dict[str, object]:
        """Return everybody that the device knows, and who is addressed."""

    async def ask_consent(self, name: object, purposes: list[str], language: str) -> dict[str, object]:
        """Put the question of consent to somebody, and return its notice and token."""

    async def agree(self, token: str, user: str, uid: int) -> dict[str, object]:
        """Settle a question for the Unix user who is paired with that person."""

    async def consent_state(self, token: str) -> dict[str, object]:
        """Return if a question still waits for its answer."""

    async def withdraw(self, name: object, purpose: str, user: str, uid: int) -> dict[str, object]:
        """Take back a consent, and delete what was kept under it."""

    async def erase(self, name: object, user: str, admin: bool) -> dict[str, object]:
        """Delete everything of a person."""

    async def address(self, name: object) -> dict[str, object]:
        """Set whose phrases count from now on."""

    async def pause(self, seconds: float | None, active: bool) -> dict[str, object]:
        """Stop learning, for ``seconds`` or until told otherwise (None), or resume it."""

    async def correct(self, event: str, phrase: object, user: str) -> dict[str, object]:
        """Take note of the phrase that was meant in an event."""

    async def confirm(self, event: str, user: str) -> dict[str, object]:
        """Take note that an event was understood."""

    async def see(self, what: str, name: object, adapter: int | None, user: str) -> dict[str, object]:
        """Return a person's review, history, report or explanation."""

    async def verify(self, name: object, number: int, user: str) -> dict[str, object]:
        """Prove a version: check its signature, and make its file again."""

    async def forget(self, name: object, what: Mapping[str, object], user: str) -> dict[str, object]:
        """Delete the examples that ``what`` names."""

    async def share(self, name: object, phrase: object, wanted: bool, user: str) -> dict[str, object]:
        """Let everybody say a phrase."""

    async def rollback(self, name: object, user: str) -> dict[str, object]:
        """Take a person's version out of use."""

    async def export(self, name: object, passphrase: str, user: str) -> dict[str, object]:
        """Return the person's copy, sealed with the passphrase."""

    async def bring(self, name: object, document: Mapping[str, Any], passphrase: str, user: str) -> dict[str, object]:
        """Take back a copy that was exported, here or on another device."""


class Teaching(Protocol):
    """Teaches one phrase at a time (``enrolment.Enrolment``). Raises ``RequestError``."""

    async def start(
        self, name: object, phrase: object, samples: int, speak: str, user: str, *, session: str
    ) -> dict[str, object]:
        """Begin to teach a phrase, and return the first state."""

    def state(self, user: str, session: str) -> dict[str, object]:
        """Return how far the teaching is, and its result in the end."""

    async def take_back(self, number: int, ident: str, user: str, session: str) -> dict[str, object]:
        """Let a take count no more."""

    async def keep(self, ident: str, user: str, session: str) -> dict[str, object]:
        """Let a refused take count."""

    def cancel(self) -> dict[str, object]:
        """End the teaching without a result."""


class Windows(Protocol):
    """Learns when the house is quiet (``service.idle.scheduler``)."""

    def ask(self) -> None:
        """Ask for a round now: comfort does not count until it is done."""

    def status(self) -> dict[str, object]:
        """Return the jobs that are due, and the conditions they wait for."""

    def closed(self) -> RequestError:
        """Return the error that says why nothing can be learnt, where the state is "off"."""


class Box(Protocol):
    """Hears from the box around the daemon (``service.playback``)."""

    def playback(self, seconds: float | None) -> dict[str, object]:
        """Take note that something is played, for so long at most; None: no more."""


class Proofs(Protocol):
    """Proves things with keys and audit log. Raises ``RequestError`` where there are none."""

    async def audit(self, limit: int) -> dict[str, object]:
        """Return the newest entries, oldest first."""

    async def audit_verify(self) -> dict[str, object]:
        """Walk the whole chain, and return where it ends."""

    async def audit_export(self, nonce: bytes) -> dict[str, object]:
        """Return the log for somebody else to check."""

    async def attest(self, nonce: bytes) -> dict[str, object]:
        """Return a TPM's quote over what this boot measured."""

    async def mark_good(self) -> dict[str, object]:
        """Raise the minimum version to the running bundle's."""


class Measuring(Protocol):
    """Gathers the numbers for `/metrics` (``service.metrics``)."""

    async def measures(self) -> Measures:
        """Return everything that is measured, within a third of a second."""


class Daemon(Protocol):
    """The daemon as the API sees it. Quick and thread-safe; called on the event loop's thread."""

    @property
    def hub(self) -> EventStream:
        """Return the stream on which the daemon's events are published."""

    @property
    def proofs(self) -> Proofs:
        """Return the part that answers for keys, bundle and audit log."""

    @property
    def people(self) -> People:
        """Return the part that answers for people, and for what is kept of them."""

    @property
    def windows(self) -> Windows:
        """Return the part that decides when to learn."""

    @property
    def pairing(self) -> Pairing:
        """Return the part that knows which browsers may show the page."""

    @property
    def box(self) -> Box:
        """Return the part that hears from the box around the daemon."""

    @property
    def measuring(self) -> Measuring:
        """Return the part that gathers the numbers for `/metrics`."""

    @property
    def teaching(self) -> Teaching:
        """Return the part that teaches a phrase, live."""

    def status(self) -> dict[str, object]:
        """Return everything about the daemon at a glance; "listening" holds {"state", "paused_until"}."""

    def pause(self, seconds: float | None) -> None:
        """Stop listening, for so long or until resumed (None); survives a restart."""

    def resume(self) -> None:
        """Listen again after a pause."""

    def config(self) -> dict[str, object]:
        """Return the configuration in force, defaults included."""

    def origins(self) -> dict[str, object]:
        """Return where each key that is set was set, by its dotted name: {"file", "line"}."""

    def reload(self) -> dict[str, object]:
        """Read the configuration again: {"taken", "at_next_start", "problems"}; refused, the old one stays."""

    async def devices(self) -> list[dict[str, object]]:
        """Return the sound cards one could capture from."""

    async def doctor(self) -> list[dict[str, object]]:
        """Return checks of the running daemon: {"check", "ok", "level": ok | warn | fail, "detail", "fix"}."""
