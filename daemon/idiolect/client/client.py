"""A typed client of the control API, for programs on the device: `from idiolect.client import Client`.

Standard library only; blocking; one connection a request, so that one client may serve several threads. Every method
is one route of ``control/openapi.yaml`` (docs/api.md) and raises ``UnreachableError`` (no daemon, or no time),
``NotPermittedError`` (with the group to join), or ``RequestError`` with status, field and reason.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote

from idiolect.client import answers as t
from idiolect.client.connection import NoAnswerError, NotPermittedError, UnreachableError, exchange, explain, frames
from idiolect.errors import RequestError

__all__ = ["Client", "NoAnswerError", "NotPermittedError", "RequestError", "ServerEvent", "UnreachableError", "explain"]

SOCKET = "/run/idiolect/control.sock"
_FIRST_WAIT_S, _LAST_WAIT_S = 0.25, 8.0
"""Between two tries to get a lost stream back: doubled each time."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One thing of the event stream.

    ``kind`` is wake, phrase, rejected or state, with an ``id`` to resume from; or a word about the stream itself, with
    "" for an id: ``lagged`` (events are lost: this client was too slow, or away for too long), ``restarted`` (the
    daemon was, and what it had not told before is lost); with ``resume`` besides ``connected`` (the stream is there,
    the first time and again) and ``lost`` (the daemon has gone, and is tried again and again).
    """

    id: str
    kind: str
    data: dict[str, object] = field(default_factory=dict)


class Client:
    """See the module. ``timeout`` in seconds, for each answer."""

    def __init__(self, socket_path: str = SOCKET, timeout: float = 15.0) -> None:
        self.socket_path = socket_path
        self._timeout = timeout

    # -- any route ----------------------------------------------------------------------------------------------

    def get(self, path: str, **query: object) -> dict[str, object]:
        """The JSON object at ``path``; a parameter that is None is left out."""
        return self._ask("GET", path + _query(query), None)

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, object]:
        """The JSON object that comes back for ``body``."""
        return self._ask("POST", path, body)

    def delete(self, path: str) -> dict[str, object]:
        """The JSON object that comes back for removing what is at ``path``."""
        return self._ask("DELETE", path, None)

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None) -> dict[str, object]:
        with exchange(self.socket_path, self._timeout, method, path, body=body) as answer:
            return answer.object()

    # -- events -------------------------------------------------------------------------------------------------

    def events(
        self, last_id: str = "", seconds: float | None = None, *, resume: bool = False, patience_s: float | None = 30.0
    ) -> Iterator[ServerEvent]:
        """The event stream from now on, or from after ``last_id``, until the daemon ends it or dies.

        With ``resume`` it goes on where it was lost, with waits of up to 8 s, for at most ``patience_s`` at a time
        (None: for ever); the first time the daemon must be there. Raises ``TimeoutError`` once ``seconds`` are over,
        whatever has come until then.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        wait, gives_up, told = _FIRST_WAIT_S, 0.0, ""
        while True:
            failure: NoAnswerError = UnreachableError("the daemon ended the event stream", "try again")
            try:
                for event in self._stream(last_id, deadline):
                    wait, gives_up, last_id = _FIRST_WAIT_S, 0.0, event.id or last_id
                    if event.kind == "connected" and not resume:
                        continue
                    if event.kind and not event.kind == told == "lagged":  # said already, as the last stream ended
                        yield event
                    told = event.kind if event.id or event.kind == "lagged" else told
                if not resume:
                    return
            except UnreachableError as error:
                if not (resume and gives_up):
                    raise
                failure = error
            if not gives_up:
                gives_up = float("inf") if patience_s is None else time.monotonic() + patience_s
                yield ServerEvent("", "lost", {"message": failure.message})
            elif time.monotonic() > gives_up:
                raise failure
            _sleep(wait, deadline)
            wait = min(2 * wait, _LAST_WAIT_S)

    def _stream(self, last_id: str, deadline: float | None) -> Iterator[ServerEvent]:
        """One connection's worth; one without a kind only says from which id on nothing is missed."""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        with exchange(self.socket_path, self._timeout, "GET", "/v1/events", headers=headers) as answer:
            yield ServerEvent("", "connected")
            for ident, kind, data in frames(answer, deadline):
                yield ServerEvent(ident, kind, data)

    def recent(self, limit: int | None = None) -> t.Recent:
        """The last events, 256 at most."""
        return cast(t.Recent, self.get("/v1/events/recent", limit=limit))

    # -- the daemon ---------------------------------------------------------------------------------------------

    def status(self) -> t.Status:
        """What it is doing."""
        return cast(t.Status, self.get("/v1/status"))

    def pause(self, for_s: float | None = None) -> t.ListeningAnswer:
        """Close the microphone for so many seconds (1 to 604800), or until resumed; survives a restart."""
        return cast(t.ListeningAnswer, self.post("/v1/listening", _given(active=False, for_s=for_s)))

    def resume(self) -> t.ListeningAnswer:
        """Listen again."""
        return cast(t.ListeningAnswer, self.post("/v1/listening", {"active": True}))

    def playback(self, active: bool, for_s: float | None = None) -> t.PlaybackAnswer:
        """Say that the box plays something itself: for so long at most (1 to 3600 s, else 300), or no more."""
        return cast(t.PlaybackAnswer, self.post("/v1/playback", _given(active=active, for_s=for_s)))

    def devices(self) -> t.Devices:
        """Capture devices."""
        return cast(t.Devices, self.get("/v1/devices"))

    def config(self) -> dict[str, Any]:
        """The configuration in force."""
        return self.get("/v1/config")

    def config_origin(self) -> t.ConfigOrigin:
        """The same, and where each key was set."""
        return cast(t.ConfigOrigin, self.get("/v1/config", origin="true"))

    def reload(self) -> t.Reload:
        """Read the configuration again."""
        return cast(t.Reload, self.post("/v1/reload", {}))

    def doctor(self) -> t.Doctor:
        """Checks of the running daemon."""
        return cast(t.Doctor, self.get("/v1/doctor"))

    def metrics(self) -> str:
        """Numbers for Prometheus, in its text format."""
        with exchange(self.socket_path, self._timeout, "GET", "/metrics") as answer:
            return answer.text()

    # -- consent ------------------------------------------------------------------------------------------------

    def people(self) -> t.People:
        """Who agreed to what, and who speaks now."""
        return cast(t.People, self.get("/v1/consent"))

    def ask_consent(self, name: str, purposes: Sequence[t.Purpose | str], language: str = "en") -> t.Question:
        """Put the question: it is answered aloud, or with ``agree`` where the name is paired with our Unix user."""
        return cast(
            t.Question, self.post("/v1/consent", {"name": name, "purposes": list(purposes), "language": language})
        )

    def agree(self, token: str) -> t.Agreement:
        """Answer it, as the paired Unix user."""
        return cast(t.Agreement, self.post("/v1/consent/agree", {"token": token}))

    def consent_state(self, token: str) -> t.QuestionState:
        """Whether a spoken yes is still waited for."""
        return cast(t.QuestionState, self.get("/v1/consent/wait", token=token))

    def withdraw(self, profile: str, purpose: t.Purpose | str) -> t.Withdrawn:
        """Take a consent back, and delete what it covered."""
        return cast(t.Withdrawn, self.post("/v1/consent/withdraw", {"profile": profile, "purpose": purpose}))

    def erase(self, profile: str) -> t.Erased:
        """Forget a person altogether."""
        return cast(t.Erased, self.post("/v1/erase", {"profile": profile}))

    def address(self, profile: str) -> t.Active:
        """Say who speaks from now on; "guest" is nobody."""
        return cast(t.Active, self.post("/v1/profile", {"profile": profile}))

    # -- teaching and learning ----------------------------------------------------------------------------------

    def teach(self, profile: str, phrase: str, samples: int = 3, speak: str = "") -> t.Teaching:
        """Begin to teach a phrase; ``speak`` "en" or "de" prompts aloud. Follow it with ``teaching``."""
        body = {"profile": profile, "phrase": phrase, "samples": samples, "speak": speak}
        return cast(t.Teaching, self.post("/v1/enrol", body))

    def teaching(self) -> t.TeachingState:
        """Where it stands."""
        return cast(t.TeachingState, self.get("/v1/enrol"))

    def take_back(self, take: int) -> t.Teaching:
        """Let a take of what is being taught count no more, by its number; it is asked for anew."""
        return cast(t.Teaching, self.post("/v1/enrol/take-back", {"take": take}))

    def keep_take(self) -> t.TakeKept:
        """Let the take count that was just refused as unlike the others, or as too close to another phrase."""
        return cast(t.TakeKept, self.post("/v1/enrol/keep", {}))

    def cancel_teaching(self) -> t.Teaching:
        """Give it up; nothing is kept of it."""
        return cast(t.Teaching, self.delete("/v1/enrol"))

    def correct(self, event: str, phrase: str) -> t.Corrected:
        """Say what was meant by an event of the last ten minutes."""
        return cast(t.Corrected, self.post("/v1/correct", {"event": event, "phrase": phrase}))

    def confirm(self, event: str) -> t.Learnt:
        """Say that it was understood."""
        return cast(t.Learnt, self.post("/v1/confirm", {"event": event}))

    def learning(self) -> t.Learning:
        """What learning waits for."""
        return cast(t.Learning, self.get("/v1/learn"))

    def learn(self) -> t.Learning:
        """Learn now, without waiting for silence and hours."""
        return cast(t.Learning, self.post("/v1/learn", {}))

    def pause_learning(self, for_s: float | None = None) -> t.PersonalizationAnswer:
        """Learn nothing for so many seconds, or until resumed."""
        return cast(t.PersonalizationAnswer, self.post("/v1/learning", _given(active=False, for_s=for_s)))

    def resume_learning(self) -> t.PersonalizationAnswer:
        """Learn again."""
        return cast(t.PersonalizationAnswer, self.post("/v1/learning", {"active": True}))

    # -- what is kept of somebody -------------------------------------------------------------------------------

    def review(self, profile: str) -> t.Review:
        """Everything, and until when."""
        return cast(t.Review, self.get("/v1/review", profile=profile))

    def history(self, profile: str) -> t.History:
        """The versions of what was learnt."""
        return cast(t.History, self.get("/v1/history", profile=profile))

    def report(self, profile: str) -> t.Report:
        """Figures before and after."""
        return cast(t.Report, self.get("/v1/report", profile=profile))

    def explain(self, profile: str, adapter: int | None = None) -> t.Explanation:
        """In words; of the version in use, or of another."""
        return cast(t.Explanation, self.get("/v1/explain", profile=profile, adapter=adapter))

    def verify_adapter(self, profile: str, adapter: int) -> t.Proof:
        """Prove a version from what is kept."""
        return cast(t.Proof, self.get("/v1/adapters/verify", profile=profile, adapter=adapter))

    def forget(self, profile: str, **what: object) -> t.Forgotten:
        """One of ``example=7``, ``phrase="lights please"``, ``day="2026-11-24"``, ``all=True``."""
        return cast(t.Forgotten, self.post("/v1/forget", {"profile": profile, **what}))

    def share(self, profile: str, phrase: str, shared: bool = True) -> t.Shared:
        """Let everybody say a phrase that this person taught, or nobody else any more."""
        return cast(t.Shared, self.post("/v1/share", {"profile": profile, "phrase": phrase, "shared": shared}))

    def rollback(self, profile: str) -> t.InUse:
        """Take back what was learnt last."""
        return cast(t.InUse, self.post("/v1/rollback", {"profile": profile}))

    def export(self, profile: str, passphrase: str = "") -> dict[str, Any]:
        """The person's copy; sealed with a passphrase of 8 characters or more."""
        return self.post("/v1/export", {"profile": profile, "passphrase": passphrase})

    def import_copy(self, profile: str, document: Mapping[str, Any], passphrase: str = "") -> t.Imported:
        """Bring one back, as far as consent covers it here."""
        body = {"profile": profile, "document": document, "passphrase": passphrase}
        return cast(t.Imported, self.post("/v1/import", body))

    def pair(self, profile: str) -> t.PairingCode:
        """A code that lets one browser show the page for somebody."""
        return cast(t.PairingCode, self.post("/v1/pair", {"profile": profile}))

    def browsers(self) -> t.Browsers:
        """Those that are let in."""
        return cast(t.Browsers, self.get("/v1/pair"))

    def forget_browsers(self, **which: object) -> t.ForgottenBrowsers:
        """One of ``id="..."``, ``profile="ann"``, ``all=True``."""
        return cast(t.ForgottenBrowsers, self.post("/v1/pair/forget", which))

    # -- proofs -------------------------------------------------------------------------------------------------

    def audit(self, limit: int | None = None) -> t.Audit:
        """The newest entries of the log, 50 unless told otherwise, 1000 at most."""
        return cast(t.Audit, self.get("/v1/audit", limit=limit))

    def verify_audit(self) -> t.AuditHead:
        """Have the whole log checked."""
        return cast(t.AuditHead, self.get("/v1/audit/verify"))

    def export_audit(self, nonce: bytes) -> t.AuditExport:
        """The log for somebody else; the nonce (8 to 64 bytes) is theirs."""
        return cast(t.AuditExport, self.get("/v1/audit/export", nonce=nonce.hex()))

    def attest(self, nonce: bytes) -> t.Attestation:
        """A TPM's quote over what this boot measured."""
        return cast(t.Attestation, self.get("/v1/attest", nonce=nonce.hex()))

    def mark_good(self) -> t.Minimum:
        """Keep the keys from every older bundle, for good."""
        return cast(t.Minimum, self.post("/v1/bundle/mark-good", {}))


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _query(fields: Mapping[str, object]) -> str:
    given = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in _given(**fields).items())
    return f"?{given}" if given else ""


def _sleep(seconds: float, deadline: float | None) -> None:
    """``TimeoutError`` where ``deadline`` comes first."""
    left = float("inf") if deadline is None else deadline - time.monotonic()
    time.sleep(max(0.0, min(seconds, left)))
    if left <= seconds:
        raise TimeoutError
