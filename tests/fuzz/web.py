"""Targets that are HTTP: bytes at the real servers of the control API and of the page, in any pieces (``stage``).

An input's first byte says how it is sent. The connection ends, nothing is left of it, no place in the server is lost,
and what comes back is an answer of HTTP, and none of a bug.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from idiolect.control.api import routes
from idiolect.control.api.daemon import Session
from idiolect.control.doors import Door, KernelDoor
from idiolect.control.http import Pieces
from idiolect.control.limits import Rate, Rates
from idiolect.control.page.door import PageDoor
from idiolect.control.server import Server
from idiolect.errors import RequestError
from tests.fuzz.engine import MARK
from tests.fuzz.stage import converse, kept, play, settled, unopened
from tests.support.fake_daemon import FakeDaemon

ENDLESS = Rate(1e9, 1_000_000_000)
TOKEN = "A" * 43
_ANSWER = re.compile(
    rb"(HTTP/1\.1 100 \r\n\r\n)?HTTP/1\.1 (200|4\d\d|503) [A-Za-z' -]+\r\n([A-Za-z-]+: [^\r\n]+\r\n)+\r\n"
)


class Nobody:
    """Implements ``api.people.People`` and ``Teaching``, and ``pairing_api.Pairing`` with one browser let in."""

    session_of = Session("0" * 16, "ann", "aa" * 8, "ann", 1234, 1, 2_000_000_000)

    async def _found(self, *_: object) -> dict[str, object]:
        return {}

    async def _missing(self, *_: object) -> dict[str, object]:
        raise RequestError(404, "profile", "there is nobody of that name")

    people = ask_consent = agree = consent_state = withdraw = address = pause = export = bring = _found
    erase = correct = confirm = see = verify = forget = rollback = share = _missing
    start = begin = browsers = _found

    def state(self) -> dict[str, object]:
        return {}

    cancel = state

    async def redeem(self, code: object) -> tuple[str, Session]:
        if code != "ABCDEFGH":
            raise RequestError(401, "code", "is wrong")
        return TOKEN, self.session_of

    async def session(self, token: str) -> Session | None:
        return self.session_of if token == TOKEN else None

    async def end(self, token: str) -> None:
        """Nothing to forget."""

    async def identity(self) -> bytes:
        raise AssertionError("no TLS here")


class Everything(FakeDaemon):
    """``FakeDaemon`` with every part of the interface."""

    people = teaching = pairing = Nobody()


class _Roles:
    observer: Sequence[str] = ()
    user: Sequence[str] = ()
    admin: Sequence[str] = ()


def _server(door: Door) -> Server:
    return Server(Everything(), door, unopened, rates=Rates(ENDLESS, ENDLESS, strangers=ENDLESS))


@kept
def _control() -> Server:
    return _server(KernelDoor(_Roles()))


@kept
def _page(tls: bool) -> Server:
    return _server(PageDoor(Nobody(), tls=tls))


async def _http(server: Server, data: bytes) -> None:
    got = await converse(lambda: Pieces(server._accept), data)
    await settled(lambda: server.connected)
    assert server.busy == 0, "a place is lost"
    if got:
        head = _ANSWER.match(got)
        assert head, "no answer of HTTP, or of a bug"
        if b"application/json\r\n" in head[0] and got[head.end() :]:
            json.loads(got[head.end() :])


def control(data: bytes) -> None:
    """The control API's server and its door; the daemon behind it knows nobody."""
    play(_http(_control(), data))


def page(data: bytes) -> None:
    """The page's, with its hosts, origins and cookies; the first byte's lowest bit says for whom."""
    play(_http(_page(bool(data[:1] and data[0] & 1)), data))


def requests() -> list[bytes]:
    """One good request of each route, and what clients do besides."""
    made = []
    for path, methods in routes.ROUTES.items():
        for method, route in methods.items():
            body = b"" if method != "POST" else json.dumps({"profile": MARK, "active": True, "all": True}).encode()
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
            size = f"Content-Length: {len(body)}\r\n\r\n".encode() if body else b"\r\n"
            made.append(bytes([route.role * 64 % 256]) + head + size + body)
    chunks = b"11\r\n" + b'{"active": true}\n' + b"\r\n0\r\n\r\n"
    post = b"POST /v1/listening HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    one = b"GET /v1/events/recent?limit=3 HTTP/1.1\r\nHost: x\r\n\r\n"
    made += [
        b"\x05" + post + b"Transfer-Encoding: chunked\r\n\r\n" + chunks,
        b"\x86" + post + b"Expect: 100-continue\r\nContent-Length: 17\r\n\r\n" + b'{"active": true}\n',
        b"\0" + one * 3,  # pipelined
        b"\xc3GET /v1/events HTTP/1.1\r\nLast-Event-ID: a.1\r\n\r\n",
        b"\0GET /" + MARK.encode() + b"?%7a=" + MARK.encode() + b" HTTP/1.0\r\n\r\n",
    ]
    return made


def page_requests() -> list[bytes]:
    """What a browser sends."""
    head = "Host: localhost\r\nOrigin: http://localhost\r\nSec-Fetch-Site: same-origin\r\nAccept-Encoding: gzip\r\n"
    cookie = f"Cookie: idiolect={TOKEN}; other={MARK}\r\n"
    enter = '{"code": "ABCDEFGH"}'
    sized = f"Content-Type: application/json\r\nContent-Length: {len(enter)}\r\n\r\n{enter}"
    texts = [
        f"GET / HTTP/1.1\r\n{head}\r\n",
        f"GET /js/main.js HTTP/1.1\r\n{head}\r\n",
        f"GET /v1/status HTTP/1.1\r\n{head}{cookie}\r\n",
        f"GET /v1/session HTTP/1.1\r\n{head}{cookie}\r\n",
        f"GET /v1/review?profile=ann HTTP/1.1\r\n{head}{cookie}\r\n",
        f"POST /v1/session HTTP/1.1\r\n{head}{sized}",
        f"POST /v1/forget HTTP/1.1\r\n{head}{cookie}{sized}",
        f"DELETE /v1/session HTTP/1.1\r\n{head}{cookie}\r\n",
    ]
    return [b"\0" + text.encode() for text in texts] + [
        b"\x43" + text.replace("http:", "https:").encode() for text in texts
    ]


HTTP_TOKENS = (
    *(b"GET ", b"POST ", b"DELETE ", b"HEAD ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"\r\n\r\n"),
    *(b"Host: localhost\r\n", b"Content-Length: 17\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    *(b"Expect: 100-continue\r\n", b"Content-Type: application/json\r\n", b"Content-Encoding: gzip\r\n"),
    *(b"Connection: upgrade\r\n", b"Cookie: ", b"Origin: null\r\n", b"ffffffff\r\n", b"__Host-idiolect="),
    *(b"%2F", b"%00", b"?a=1&a=2", *(path.encode() for path in routes.ROUTES)),
)
