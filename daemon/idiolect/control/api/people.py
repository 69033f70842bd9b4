"""The part of the control API about people: consent, teaching, corrections, and everybody's rights over what is kept.

| request | role | answer |
| --- | --- | --- |
| GET /v1/consent | user | {"people": [...], "active", "household": [...]} |
| POST /v1/consent {"name", "purposes": [...], "language"} | user | {"token", "notice", "how", "expires_s"} |
| POST /v1/consent/agree {"token"} | user | {"granted"}: only the Unix user who is paired with that name |
| GET /v1/consent/wait?token= | user | {"state": open or closed}: whether a spoken yes is still waited for |
| POST /v1/consent/withdraw {"profile", "purpose"} | user | {"deleted", "adapter", ...} |
| POST /v1/erase {"profile"} | user | {"erased"} |
| POST /v1/profile {"profile"} | user | {"active"}: who speaks from now on; "guest" is nobody |
| POST /v1/learning {"active", "for_s"} | user | {"learning"} |
| POST /v1/enrol {"profile", "phrase", "samples", "speak"} | user | {"id", "state", ...} |
| GET, DELETE /v1/enrol | user | the same, with "level_dbfs" and the result |
| POST /v1/enrol/take-back {"take", "id"} | user | the same: this take counts no more |
| POST /v1/enrol/keep {"id"} | user | the same, with "costs": the take that was just refused counts |
| POST /v1/correct {"event", "phrase"}; /v1/confirm {"event"} | user | {"example", "counts", "why", "adapter", ...} |
| GET /v1/review, /v1/history, /v1/report ?profile= | user | what is kept; the versions; before and after |
| GET /v1/explain?profile=&adapter= | user | {"text": [...]} |
| GET /v1/adapters/verify?profile=&adapter= | user | {"ok", "checks"} |
| POST /v1/forget {"profile", "example" or "phrase" or "day" or "all"} | user | {"forgotten", "adapter", ...} |
| POST /v1/rollback {"profile"} | user | {"in_use"} |
| POST /v1/share {"profile", "phrase", "shared"} | user | {"profile", "shared": [...]} |
| POST /v1/export {"profile", "passphrase"}; /v1/import {"profile", "document", "passphrase"} | user | the copy |

``profile`` is a name or an id. Where a person is paired with a Unix user, only that user may ask about or change what
is kept of that person; an administrator may erase, and agree for nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from idiolect.control.api.arguments import only
from idiolect.control.peers import Role
from idiolect.errors import RequestError
from idiolect.values import MAX_PAUSE_S

if TYPE_CHECKING:
    from idiolect.control.api.daemon import Daemon
    from idiolect.control.api.requests import Call

SHORTEST_PASSPHRASE = 8
Answer = dict[str, object]


def _text(given: Mapping[str, object], name: str, default: str | None = None, longest: int = 256) -> str:
    value = given.get(name, default)
    if not isinstance(value, str) or len(value) > longest:
        raise RequestError(422, name, f"is needed: text of up to {longest} characters")
    return value


def _asked_number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    return _number(int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None, name)


def _number(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**8:
        raise RequestError(422, name, "must be a whole number")
    return value


def _passphrase(body: Mapping[str, object]) -> str:
    text = _text(body, "passphrase", "")
    if 0 < len(text) < SHORTEST_PASSPHRASE:
        raise RequestError(422, "passphrase", f"needs {SHORTEST_PASSPHRASE} characters or more; or leave it out")
    return text


async def people(daemon: Daemon, call: Call) -> Answer:
    """Answer GET /v1/consent with the people that the device knows."""
    only(call.query)
    return await daemon.people.people()


async def ask(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/consent: put the question of consent."""
    body = only(call.body, "name", "purposes", "language")
    purposes = body.get("purposes")
    if not isinstance(purposes, list) or not all(isinstance(p, str) for p in purposes) or len(purposes) > 16:
        raise RequestError(422, "purposes", "is needed: a list of names")
    return await daemon.people.ask_consent(body.get("name"), purposes, _text(body, "language", "en", 8))


async def agree(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/consent/agree for the paired Unix user."""
    token = _text(only(call.body, "token"), "token")
    return await daemon.people.agree(token, call.caller.user, call.caller.uid)


async def wait(daemon: Daemon, call: Call) -> Answer:
    """Answer GET /v1/consent/wait: does the question still wait?"""
    return await daemon.people.consent_state(_text(only(call.query, "token"), "token"))


async def withdraw(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/consent/withdraw: take back one consent."""
    body = only(call.body, "profile", "purpose")
    purpose = _text(body, "purpose", None, 32)
    return await daemon.people.withdraw(_text(body, "profile"), purpose, call.caller.user, call.caller.uid)


async def erase(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/erase: delete everything of a person."""
    name = _text(only(call.body, "profile"), "profile")
    return await daemon.people.erase(name, call.caller.user, call.caller.role >= Role.ADMIN)


async def address(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/profile: set who speaks from now on."""
    return await daemon.people.address(_text(only(call.body, "profile"), "profile"))


async def learning(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/learning: stop or resume learning."""
    body = only(call.body, "active", "for_s")
    active, seconds = body.get("active"), body.get("for_s")
    if not isinstance(active, bool):
        raise RequestError(422, "active", "is needed, and must be true or false")
    if "for_s" in body and (
        active or isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= MAX_PAUSE_S
    ):
        raise RequestError(422, "for_s", f"limits a pause, to 1 to {MAX_PAUSE_S} seconds")
    return await daemon.people.pause(float(seconds) if isinstance(seconds, int | float) else None, active)


async def enrol(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/enrol: begin to teach a phrase."""
    body = only(call.body, "profile", "phrase", "samples", "speak")
    samples = _number(body.get("samples", 3), "samples")
    speak = _text(body, "speak", "", 8)
    caller = call.caller
    return await daemon.teaching.start(
        _text(body, "profile"), body.get("phrase"), samples, speak, caller.user, session=caller.profile
    )


async def enrolling(daemon: Daemon, call: Call) -> Answer:
    """Answer GET /v1/enrol with how far the teaching is."""
    only(call.query)
    return daemon.teaching.state(call.caller.user, call.caller.profile)


async def take_back(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/enrol/take-back: let one take count no more."""
    body, caller = only(call.body, "take", "id"), call.caller
    take = _number(body.get("take"), "take")
    return await daemon.teaching.take_back(take, _text(body, "id", "", 16), caller.user, caller.profile)


async def keep(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/enrol/keep: let the refused take count."""
    ident = _text(only(call.body, "id"), "id", "", 16)
    return await daemon.teaching.keep(ident, call.caller.user, call.caller.profile)


async def cancel(daemon: Daemon, call: Call) -> Answer:
    """Answer DELETE /v1/enrol: end the teaching."""
    only(call.query)
    return daemon.teaching.cancel()


async def correct(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/correct: take note of the phrase that was meant."""
    body = only(call.body, "event", "phrase")
    return await daemon.people.correct(_text(body, "event", None, 64), body.get("phrase"), call.caller.user)


async def confirm(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/confirm: take note that it was understood."""
    return await daemon.people.confirm(_text(only(call.body, "event"), "event", None, 64), call.caller.user)


async def _see(what: str, daemon: Daemon, call: Call) -> Answer:
    query = only(call.query, "profile", *(["adapter"] if what == "explain" else []))
    number = _asked_number(call.query, "adapter") if "adapter" in query else None
    return await daemon.people.see(what, _text(query, "profile"), number, call.caller.user)


async def review(daemon: Daemon, call: Call) -> Answer:
    """Answer GET /v1/review with what is kept of a person."""
    return await _see("review", daemon, call)


async def history(daemon: Daemon, call: Call) -> Answer:
    """Answer GET /v1/history with the versions of a person."""
    return await _see("history", daemon, call)


async def report(daemon: Daemon, call: Call) -> Answer:
    """Answer GET /v1/report with figures from before and after."""
    return await _see("report", daemon, call)


async def explain(daemon: Daemon, call: Call) -> Answer:
    """Answer GET /v1/explain with a version's story in words."""
    return await _see("explain", daemon, call)


async def verify(daemon: Daemon, call: Call) -> Answer:
    """Answer GET /v1/adapters/verify with the checks of a version."""
    query = only(call.query, "profile", "adapter")
    number = _asked_number(call.query, "adapter")
    return await daemon.people.verify(_text(query, "profile"), number, call.caller.user)


async def forget(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/forget: delete examples."""
    body = dict(only(call.body, "profile", "example", "phrase", "day", "all"))
    name = _text(body, "profile")
    del body["profile"]
    if "example" in body:
        _number(body["example"], "example")
    for kind in ("phrase", "day"):
        _text(body, kind, "", 64)
    if body.get("all", True) is not True:
        raise RequestError(422, "all", "must be true, or left out")
    return await daemon.people.forget(name, body, call.caller.user)


async def rollback(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/rollback: take a version out of use."""
    return await daemon.people.rollback(_text(only(call.body, "profile"), "profile"), call.caller.user)


async def share(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/share: let everybody say a phrase, or not."""
    body = only(call.body, "profile", "phrase", "shared")
    wanted = body.get("shared")
    if not isinstance(wanted, bool):
        raise RequestError(422, "shared", "is needed, and must be true or false")
    return await daemon.people.share(_text(body, "profile"), body.get("phrase"), wanted, call.caller.user)


async def export(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/export with the person's sealed copy."""
    body = only(call.body, "profile", "passphrase")
    return await daemon.people.export(_text(body, "profile"), _passphrase(body), call.caller.user)


async def bring(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/import: take back a person's copy."""
    body = only(call.body, "profile", "document", "passphrase")
    document = body.get("document")
    if not isinstance(document, dict):
        raise RequestError(422, "document", "is needed: what `idiolect export` wrote")
    name, passphrase = _text(body, "profile"), _passphrase(body)
    return await daemon.people.bring(name, document, passphrase, call.caller.user)
