"""The control API's vocabulary: what can be asked, by whom, and what comes back. No sockets and no HTTP in here.

| request | role | answer |
| --- | --- | --- |
| GET /v1/openapi.json | observer | all of this, as OpenAPI 3.1 (``openapi.yaml``) |
| GET /v1/status | observer | the daemon's state |
| GET /v1/events | observer | Server-Sent Events: wake, phrase, rejected, state; `lagged`, `restarted`: some are lost |
| GET /v1/events/recent?limit=1..256 | observer | {"events": [...]}, oldest first |
| POST /v1/listening {"active": bool, "for_s": 1..604800} | user | {"listening": {...}}; for_s only to pause |
| GET /v1/devices | observer | {"devices": [...]} |
| GET /v1/config | observer | the configuration in force |
| GET /v1/config?origin=true | observer | {"config", "origin": {key: {"file", "line"}}}: where each key was set |
| POST /v1/reload {} | admin | {"taken", "at_next_start", "problems"}: the configuration is read again |
| GET /v1/doctor | observer | {"checks": [...]} |
| consent, teaching, corrections, rights | | ``control.learn_api`` |
| /v1/learn | | idle windows: ``control.idle_api`` |
| /v1/pair | | browsers: ``control.pairing_api`` |
| /v1/playback | | what the box plays: ``control.box_api`` |
| GET /metrics | observer | for Prometheus: ``control.metrics`` |
| /v1/audit..., /v1/attest, /v1/bundle/... | | keys, bundle and audit log: ``control.trust_api`` |

Errors are {"error": {"field", "message"}}; ``RequestError`` carries their status.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import NoReturn, Protocol

from idiolect.control.api import audit as trust_api
from idiolect.control.api import browsers as pairing_api
from idiolect.control.api import learn as idle_api
from idiolect.control.api import metrics
from idiolect.control.api import people as learn_api
from idiolect.control.api import playback as box_api
from idiolect.control.peers import Role
from idiolect.errors import RequestError
from idiolect.events import RING, Hub
from idiolect.host import structure
from idiolect.values import GUEST, MAX_PAUSE_S, encodable

BODY_PARTS = 1000
"""Brackets and commas in a request's body."""
COPY_BYTES, COPY_PARTS, COPY_AROUND = 16 << 20, 1 << 16, 5 << 19
"""Of a request that brings a person's copy: all of it, its brackets and commas, its bytes beside the long texts."""


class Daemon(Protocol):
    """What the service offers to the API. Quick and thread-safe; called on the event loop's thread."""

    @property
    def hub(self) -> Hub:
        """Where the daemon's happenings are published."""

    @property
    def proofs(self) -> trust_api.Proofs:
        """What it can prove, and the bundle."""

    @property
    def people(self) -> learn_api.People:
        """Whom it knows, and what it learnt of them."""

    @property
    def windows(self) -> idle_api.Windows:
        """When it learns."""

    @property
    def pairing(self) -> pairing_api.Pairing:
        """Which browsers may show the page."""

    @property
    def box(self) -> box_api.Box:
        """What it is built into."""

    @property
    def measuring(self) -> metrics.Measuring:
        """What can be measured about it."""

    @property
    def teaching(self) -> learn_api.Teaching:
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


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a Unix user, by the kernel's word ("" and -1 when nobody knows), and what it may do."""

    user: str = ""
    uid: int = -1
    role: Role = Role.OBSERVER
    session: pairing_api.Session | None = None
    """Of a browser, which may ask about one person only."""
    token: str = field(default="", repr=False)
    """What the browser showed for it."""

    @property
    def admin(self) -> bool:
        """Whether it may do everything."""
        return self.role >= Role.ADMIN

    @property
    def person(self) -> str:
        """The name of the only person about whom it may ask; "" where that is not so."""
        return self.session.person if self.session else ""

    @property
    def profile(self) -> str:
        """That person's profile, "" while there is none yet."""
        return self.session.profile if self.session else ""

    def sees(self, happening: Mapping[str, object]) -> bool:
        """Whether a happening is any of its business: not what somebody else said, where it is confined to one."""
        return not self.person or happening.get("profile", GUEST) in (GUEST, self.profile)


@dataclass(frozen=True, slots=True)
class Call:
    """A request's arguments, syntactically sound and otherwise unchecked."""

    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, object] = field(default_factory=dict)
    caller: Caller = field(default_factory=Caller)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Those that ``wire`` reads, by lower-case name."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is no JSON object, or has headers of its own."""

    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Callable[[Daemon, Call], Awaitable[dict[str, object] | Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """Who may ask (``role`` or more), and how it is answered; ``answer`` is None for the event stream.

    ``body_bytes`` is the longest body, 0 for the usual. What is ``large`` either way is asked for one at a time.
    """

    role: Role
    answer: Answer | None
    body_bytes: int = 0
    large: bool = False


async def _openapi(daemon: Daemon, call: Call) -> Reply:  # noqa: ARG001 - the same for every daemon
    check_keys(call.query, ())
    return Reply(await asyncio.to_thread(_description))


@functools.cache
def _description() -> bytes:
    """``openapi.yaml`` as JSON. Read when it is asked for: it would be memory for nothing. To read it takes long."""
    import yaml

    text = resources.files("idiolect.control").joinpath("openapi.yaml").read_bytes()
    return encode(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # noqa: S506 - both are safe


async def _status(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ())
    return daemon.status()


async def _recent(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ("limit",))
    text = call.query.get("limit", str(RING))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= RING):
        raise RequestError(422, "limit", f"must be a whole number from 1 to {RING}")
    return {"events": daemon.hub.recent(int(text))}


async def _listening(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ())
    check_keys(call.body, ("active", "for_s"))
    active = call.body.get("active")
    if not isinstance(active, bool):
        raise RequestError(422, "active", "is needed, and must be true or false")
    seconds = _pause_length(call.body)
    if not active:
        daemon.pause(seconds)
    elif seconds is None:
        daemon.resume()
    else:
        raise RequestError(422, "for_s", 'limits a pause: send it with "active": false, or leave it out')
    return {"listening": daemon.status()["listening"]}


def _pause_length(body: Mapping[str, object]) -> float | None:
    if "for_s" not in body:
        return None
    value = body["for_s"]
    # bool is an int to Python, not to a caller
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MAX_PAUSE_S:
        raise RequestError(
            422, "for_s", f"must be a number of seconds from 1 to {MAX_PAUSE_S}; left out: until resumed"
        )
    return float(value)


async def _devices(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ())
    return {"devices": await daemon.devices()}


async def _config(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ("origin",))
    wanted = call.query.get("origin", "false")
    if wanted not in ("true", "false"):
        raise RequestError(422, "origin", "must be true or false")
    return {"config": daemon.config(), "origin": daemon.origins()} if wanted == "true" else daemon.config()


async def _reload(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ())
    check_keys(call.body, ())
    return daemon.reload()


async def _doctor(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ())
    return {"checks": await daemon.doctor()}


ROUTES: Mapping[str, Mapping[str, Route]] = {
    "/v1/openapi.json": {"GET": Route(Role.OBSERVER, _openapi)},
    "/v1/status": {"GET": Route(Role.OBSERVER, _status)},
    "/v1/events": {"GET": Route(Role.OBSERVER, None)},
    "/v1/events/recent": {"GET": Route(Role.OBSERVER, _recent)},
    "/v1/listening": {"POST": Route(Role.USER, _listening)},
    "/v1/devices": {"GET": Route(Role.OBSERVER, _devices)},
    "/v1/config": {"GET": Route(Role.USER, _config)},  # it names people
    "/v1/reload": {"POST": Route(Role.ADMIN, _reload)},
    "/v1/doctor": {"GET": Route(Role.OBSERVER, _doctor)},
    "/v1/audit": {"GET": Route(Role.USER, trust_api.show)},
    "/v1/audit/verify": {"GET": Route(Role.USER, trust_api.verify)},
    "/v1/audit/export": {"GET": Route(Role.ADMIN, trust_api.export, large=True)},
    "/v1/attest": {"GET": Route(Role.ADMIN, trust_api.attest)},
    "/v1/consent": {"GET": Route(Role.USER, learn_api.people), "POST": Route(Role.USER, learn_api.ask)},
    "/v1/consent/agree": {"POST": Route(Role.USER, learn_api.agree)},
    "/v1/consent/wait": {"GET": Route(Role.USER, learn_api.wait)},
    "/v1/consent/withdraw": {"POST": Route(Role.USER, learn_api.withdraw)},
    "/v1/erase": {"POST": Route(Role.USER, learn_api.erase)},
    "/v1/profile": {"POST": Route(Role.USER, learn_api.address)},
    "/v1/learn": {"GET": Route(Role.USER, idle_api.see), "POST": Route(Role.USER, idle_api.ask)},
    "/v1/learning": {"POST": Route(Role.USER, learn_api.learning)},
    "/v1/enrol": {
        "GET": Route(Role.USER, learn_api.enrolling),
        "POST": Route(Role.USER, learn_api.enrol),
        "DELETE": Route(Role.USER, learn_api.cancel),
    },
    "/v1/enrol/take-back": {"POST": Route(Role.USER, learn_api.take_back)},
    "/v1/enrol/keep": {"POST": Route(Role.USER, learn_api.keep)},
    "/v1/correct": {"POST": Route(Role.USER, learn_api.correct)},
    "/v1/confirm": {"POST": Route(Role.USER, learn_api.confirm)},
    "/v1/review": {"GET": Route(Role.USER, learn_api.review)},
    "/v1/history": {"GET": Route(Role.USER, learn_api.history)},
    "/v1/report": {"GET": Route(Role.USER, learn_api.report)},
    "/v1/explain": {"GET": Route(Role.USER, learn_api.explain)},
    "/v1/adapters/verify": {"GET": Route(Role.USER, learn_api.verify)},
    "/v1/forget": {"POST": Route(Role.USER, learn_api.forget)},
    "/v1/rollback": {"POST": Route(Role.USER, learn_api.rollback)},
    "/v1/share": {"POST": Route(Role.USER, learn_api.share)},
    "/v1/export": {"POST": Route(Role.USER, learn_api.export, large=True)},
    "/v1/import": {"POST": Route(Role.USER, learn_api.bring, body_bytes=COPY_BYTES, large=True)},
    "/v1/playback": {"POST": Route(Role.USER, box_api.playback)},
    "/metrics": {"GET": Route(Role.OBSERVER, metrics.show)},
    "/v1/pair": {"GET": Route(Role.USER, pairing_api.show), "POST": Route(Role.USER, pairing_api.begin)},
    "/v1/pair/forget": {"POST": Route(Role.USER, pairing_api.forget)},
    "/v1/bundle/mark-good": {"POST": Route(Role.ADMIN, trust_api.mark_good)},
}


Routes = Mapping[str, Mapping[str, Route]]


def find_route(routes: Routes, method: str, path: str) -> Route:
    """The route asked for; ``RequestError`` 404 with a suggestion, or 405 with what would do."""
    methods = routes.get(path)
    if methods is None:
        raise RequestError(404, "path", f"there is no such path; {_suggest(path, tuple(routes))}")
    route = methods.get(method)
    if route is None:
        raise RequestError(405, "method", f"use {' or '.join(methods)} here")
    return route


def check_keys(given: Mapping[str, object], known: tuple[str, ...]) -> None:
    """Raise ``RequestError`` 422 for the first name that is not ``known``."""
    for name in given:
        if name not in known:
            hint = _suggest(name, known) if known else "nothing can be said here"
            raise RequestError(422, name[:64], f"unknown; {hint}")


def _suggest(name: str, known: tuple[str, ...]) -> str:
    import difflib  # only for callers in error: a megabyte otherwise unused

    close = difflib.get_close_matches(name[:64], known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def encode(answer: Mapping[str, object]) -> bytes:
    """An answer as it goes out: JSON in UTF-8, and a line's end for whoever uses curl."""
    return json.dumps(answer, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def parse_body(raw: bytes | bytearray) -> dict[str, object]:
    """A JSON object without duplicate names, NaN or infinities.

    ``RequestError`` 400 (not JSON), 422 (no object, or of more than BODY_PARTS parts or DEPTH levels).
    """
    return _object(lambda: structure.load(
        raw, parts=BODY_PARTS, pairs=_unique, constant=_refuse_constant
    ))  # fmt: skip


def parse_copy(source: structure.Source) -> dict[str, object]:
    """The same for a body with a person's copy in it, whose long texts stay in ``source``."""
    return _object(lambda: structure.load_apart(
        source, parts=COPY_PARTS, depth=structure.DEPTH, around=COPY_AROUND, pairs=_unique
    ))  # fmt: skip


def _object(load: Callable[[], object]) -> dict[str, object]:
    try:
        body = load()
    except structure.StructureError as error:
        raise RequestError(422, "body", str(error)) from None
    except (ValueError, RecursionError):
        raise RequestError(400, "body", "is not valid JSON in UTF-8") from None
    if not isinstance(body, dict):
        raise RequestError(422, "body", "must be a JSON object")
    if not encodable(body):
        raise RequestError(400, "body", "holds half of a surrogate pair, which is no character")
    return body


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    body: dict[str, object] = {}
    for name, value in pairs:
        if name in body:
            raise RequestError(422, name[:64], "is given twice")
        body[name] = value
    return body


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError
