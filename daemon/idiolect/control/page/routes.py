"""The routes of the page: its own files, its session, and the parts of the control API about the session's person.

| request | answer |
| --- | --- |
| GET /, /page.css, /js/..., /strings/... | the page |
| POST /v1/session {"code"} | {"person", "profile", "expires"} and a cookie |
| GET /v1/session | the same; 401 where the browser is not paired |
| DELETE /v1/session {} | {}: this browser is paired no more |
| `SHARED` | as on the control socket, for that one person |

A request that names somebody else is refused (403), lists are cut to that person, and of events only those of theirs
and of guests are told. What concerns the device as a whole (pausing) is anybody's in the house, as with the group.
"""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING

from idiolect.control.api import people, requests
from idiolect.control.api import routes as api
from idiolect.control.api.daemon import Daemon
from idiolect.control.peers import Role
from idiolect.errors import RequestError
from idiolect.values import GUEST, NOBODY, name_key

if TYPE_CHECKING:
    from importlib.abc import Traversable

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
SHARED = (
    ("GET", "/v1/status"), ("GET", "/v1/events"), ("GET", "/v1/events/recent"), ("POST", "/v1/listening"),
    ("GET", "/v1/learn"), ("POST", "/v1/learn"), ("POST", "/v1/learning"), ("GET", "/v1/consent"),
    ("POST", "/v1/consent"), ("POST", "/v1/consent/agree"), ("GET", "/v1/consent/wait"),
    ("POST", "/v1/consent/withdraw"), ("POST", "/v1/erase"), ("POST", "/v1/profile"), ("GET", "/v1/enrol"),
    ("POST", "/v1/enrol"), ("DELETE", "/v1/enrol"), ("POST", "/v1/correct"), ("POST", "/v1/confirm"),
    ("GET", "/v1/review"), ("GET", "/v1/history"), ("GET", "/v1/report"), ("GET", "/v1/explain"),
    ("GET", "/v1/adapters/verify"), ("POST", "/v1/forget"), ("POST", "/v1/rollback"), ("POST", "/v1/export"),
    ("POST", "/v1/import"), ("POST", "/v1/share"), ("POST", "/v1/enrol/take-back"), ("POST", "/v1/enrol/keep"),
)  # fmt: skip
_Asked = Callable[[Daemon, requests.Call], Awaitable[dict[str, object] | requests.Reply]]


def routes() -> requests.Routes:
    """Return all routes that the page's door lets through."""
    found: dict[str, dict[str, requests.Route]] = {path: {"GET": route} for path, route in _files().items()}
    for method, path in SHARED:
        known = api.ROUTES[path][method]
        answer = None if known.answer is None else partial(_confined, _CUT.get((method, path), known.answer), path)
        found.setdefault(path, {})[method] = requests.Route(Role.USER, answer, known.body_bytes, known.large)
    return found


def _files() -> dict[str, requests.Route]:
    """Return the page's files, read when they are asked for: they cost no memory until then."""
    found: dict[str, requests.Route] = {}

    def walk(folder: Traversable, prefix: str) -> None:
        for each in folder.iterdir():
            if each.is_dir():
                walk(each, f"{prefix}{each.name}/")
            elif (kind := KINDS.get(each.name[each.name.rfind(".") :])) is not None:
                path = prefix if each.name == "index.html" else prefix + each.name
                found[path] = requests.Route(Role.OBSERVER, partial(_file, each, kind))

    walk(resources.files("idiolect.control.page").joinpath("static"), "/")
    return found


async def _file(file: Traversable, kind: str, daemon: Daemon, call: requests.Call) -> requests.Reply:  # noqa: ARG001
    body, headers = file.read_bytes(), {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    accepted = (each.partition(";")[0].strip() for each in call.headers.get("accept-encoding", "").split(","))
    if "gzip" in accepted:  # of files only, which hold no secret that a length could tell
        body, headers["Content-Encoding"] = gzip.compress(body, 6, mtime=0), "gzip"
    return requests.Reply(body, kind, headers)


async def _confined(
    answer: _Asked, path: str, daemon: Daemon, call: requests.Call
) -> dict[str, object] | requests.Reply:
    """Return an answer for a session's person, by the id that is then used, and for nobody else."""
    caller, query, body = call.caller, dict(call.query), dict(call.body)
    for given in (query, body):
        for name in ("profile", "name"):
            if _mine(given.get(name), caller, name, nobody=path == "/v1/profile") and caller.profile:
                given[name] = caller.profile
    if "event" in body:
        _check_event(daemon, str(body["event"]), caller)
    return await answer(daemon, replace(call, query=query, body=body))


def _mine(named: object, caller: requests.Caller, field: str, *, nobody: bool) -> bool:
    """Return whether somebody is named, the session's person; False for nobody.

    Raises:
        RequestError: 403, it is another person, or a word for nobody where ``nobody`` does not allow that.
    """
    if not isinstance(named, str) or not named:
        return False  # the request itself says what is wrong with it
    key = name_key(named)
    if nobody and key in NOBODY:  # anybody may say that a guest speaks
        return False
    if named == caller.profile or key == name_key(caller.person):
        return True
    raise RequestError(403, field, "is somebody else: this browser is paired for one person only")


def _check_event(daemon: Daemon, ident: str, caller: requests.Caller) -> None:
    for happening in daemon.hub.recent():
        if happening["id"] == ident and not caller.sees(happening):
            raise RequestError(403, "event", "was somebody else's: this browser is paired for one person only")


async def _recent(daemon: Daemon, call: requests.Call) -> dict[str, object]:
    known = api.ROUTES["/v1/events/recent"]["GET"].answer
    answer = await known(daemon, call) if known else {}
    events = answer.get("events") if isinstance(answer, dict) else None
    return {"events": [each for each in events if call.caller.sees(each)] if isinstance(events, list) else []}


async def _people(daemon: Daemon, call: requests.Call) -> dict[str, object]:
    answer = await people.people(daemon, call)
    rows = answer["people"]
    mine = [row for row in rows if row["profile"] == call.caller.profile] if isinstance(rows, list) else []
    active = answer["active"]
    who = active if active in (GUEST, call.caller.profile) else "other"
    return {"people": mine, "active": who, "household": answer["household"]}


_CUT: dict[tuple[str, str], _Asked] = {
    ("GET", "/v1/events/recent"): _recent,
    ("GET", "/v1/consent"): _people,
}
