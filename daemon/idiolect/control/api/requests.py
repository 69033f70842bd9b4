"""The words of a request: a caller, its arguments, a route and an answer. Bodies in and answers out are JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from idiolect.control.api.daemon import Daemon, Session
from idiolect.control.peers import Role
from idiolect.errors import RequestError
from idiolect.host import structure
from idiolect.values import GUEST, encodable

BODY_PARTS = 1000
"""Brackets and commas in a request's body."""

COPY_BYTES, COPY_PARTS, COPY_AROUND = 16 << 20, 1 << 16, 5 << 19
"""Caps on a request with a person's copy: all bytes, brackets and commas, bytes beside the long texts."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a Unix user, by the kernel's word ("" and -1 when nobody knows), and what it may do."""

    user: str = ""
    uid: int = -1
    role: Role = Role.OBSERVER
    session: Session | None = None
    """The session of a browser, which may ask about one person only."""
    token: str = field(default="", repr=False)
    """The token that the browser sent."""

    @property
    def admin(self) -> bool:
        """Return True if the caller may do everything."""
        return self.role >= Role.ADMIN

    @property
    def person(self) -> str:
        """Return the name of the only person about whom it may ask; "" where that is not so."""
        return self.session.person if self.session else ""

    @property
    def profile(self) -> str:
        """Return that person's profile, "" while there is none yet."""
        return self.session.profile if self.session else ""

    def sees(self, happening: Mapping[str, object]) -> bool:
        """Return True if a happening may be told to the caller.

        One who is confined to a person does not hear what somebody else said.
        """
        return not self.person or happening.get("profile", GUEST) in (GUEST, self.profile)


@dataclass(frozen=True, slots=True)
class Call:
    """A request's arguments, syntactically sound and otherwise unchecked."""

    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, object] = field(default_factory=dict)
    caller: Caller = field(default_factory=Caller)
    headers: Mapping[str, str] = field(default_factory=dict)
    """The header fields that ``http`` reads, by lower-case name."""


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


Routes = Mapping[str, Mapping[str, Route]]


def find_route(routes: Routes, method: str, path: str) -> Route:
    """Return the route asked for. Raises ``RequestError`` 404 with a suggestion, or 405 with what would do."""
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
    """Return an answer as it goes out: JSON in UTF-8, and a line's end for whoever uses curl."""
    return json.dumps(answer, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def parse_body(raw: bytes | bytearray) -> dict[str, object]:
    """Return a JSON object without duplicate names, NaN or infinities.

    Raises ``RequestError`` 400 (not JSON), 422 (no object, or of more than BODY_PARTS parts or DEPTH levels).
    """
    return _object(lambda: structure.load(
        raw, parts=BODY_PARTS, pairs=_unique, constant=_refuse_constant
    ))  # fmt: skip


def parse_copy(source: structure.Source) -> dict[str, object]:
    """Return the JSON object of a body with a person's copy in it, whose long texts stay in ``source``.

    Raises ``RequestError`` as ``parse_body`` does.
    """
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
