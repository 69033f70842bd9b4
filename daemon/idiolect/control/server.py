"""HTTP/1.1 on a Unix socket: one request per connection, every read with a cap and a time limit.

Which socket that is, who may ask what there, and with what headers it is answered is its *door*'s business: the
control API, the page, metrics.

What a caller can do to us is bounded here, in the order in which it is met:

1. connections: at most twice ``max_clients`` + 16 are open, of one Unix user half of them; the oldest that has said
   nothing yet makes room for one more (``shares``);
2. the request's head must have come within 5 s (408, or not a word where nothing came) and is at most 8 KiB a line and
   16 KiB in all (400, ``http``);
3. the door refuses strangers (401, 403), then unknown paths (404) and methods (405); and who asks too often is told
   to wait (429, ``limits``);
4. a body is JSON (415), at most 16 KiB (413), and complete within 5 s (408); of the requests with a large body or
   answer, a person's copy say, one is taken at a time, and each caller waits for one at most (503, ``copies``);
5. at most ``max_clients`` requests are served at once, event streams included (503); of one caller three quarters of
   these; a few places beyond are kept for short requests, for pausing and for root, so that listening can be paused
   whoever has opened how many streams;
6. an answer has 10 s to be made (503) and the connection 30 s in all; a stream has 10 s to take each event.

Whatever else goes wrong is a 500 that says nothing, and its type in the log. Nothing of a request is ever logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from idiolect.control.api import requests
from idiolect.control.api.daemon import Daemon
from idiolect.control.copies import Copies
from idiolect.control.doors import Door, KernelDoor
from idiolect.control.http import Request, Wire
from idiolect.control.limits import Rates, TooOften
from idiolect.control.peers import Roles, missing_groups, uid_of
from idiolect.control.serving import Acceptor, Seldom
from idiolect.control.shares import Guest, Guests, Places, Stage
from idiolect.control.sockets import Listener, open_listener
from idiolect.errors import RequestError
from idiolect.events import GAPS, LaggedError, Subscription, frame
from idiolect.host.structure import Source

if TYPE_CHECKING:
    import ssl  # only where it is used: it costs memory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and bytes a caller gets; other values than these are for tests."""

    request_s: float = 5.0
    answer_s: float = 10.0
    connection_s: float = 30.0
    write_s: float = 10.0
    heartbeat_s: float = 15.0
    line_bytes: int = 8_190
    body_bytes: int = 16_384


class Settings(Protocol):
    """The ``control`` section of the configuration."""

    @property
    def socket(self) -> Path:
        """Return the path of the socket to listen on."""

    @property
    def roles(self) -> Roles:
        """Return the groups of each role."""

    @property
    def max_clients(self) -> int:
        """Return how many requests are served at once, 1 or more."""


def control_server(daemon: Daemon, settings: Settings, limits: Limits | None = None) -> Server:
    """Return a server for the control API on the socket of ``settings``, or on systemd's."""

    def opening() -> Listener:
        listener = open_listener(settings.socket)
        if missing := missing_groups(settings.roles):
            log.warning("control.roles names groups that do not exist: %s", ", ".join(missing))
        return listener

    door = KernelDoor(settings.roles)
    return Server(daemon, door, opening, max_clients=settings.max_clients, limits=limits)


class Server:
    """Serves ``daemon`` through ``door`` on a socket that ``opening`` opens, from ``start()`` to ``stop()``."""

    def __init__(
        self, daemon: Daemon, door: Door, opening: Callable[[], Listener], *, max_clients: int = 32,
        limits: Limits | None = None, tls: ssl.SSLContext | None = None, rates: Rates | None = None,
        proxied: bool = False,
    ) -> None:  # fmt: skip
        """Set up the server without opening its socket.

        Args:
            max_clients: requests served at once, 1 or more.
            tls: where it is given, nobody is heard in clear text.
            proxied: all connections come from one program, so that the kernel does not tell who it is.
        """
        self._daemon = daemon
        self._door = door
        self._limits = limits or Limits()
        self._rates = rates or Rates()
        self._seldom = Seldom()
        self._guests, self._places = Guests(2 * max_clients + 16, known=not proxied), Places(max_clients)
        self._known: dict[object, Guest] = {}  # by socket
        self._copies = Copies(2 * self._limits.request_s)
        self._acceptor = Acceptor(
            opening, self._accept, tls=tls, handshake_s=self._limits.request_s, admit=self._admit, lost=self._lost
        )  # fmt: skip

    @property
    def connected(self) -> int:
        """Return how many connections are open, whatever they do."""
        return self._acceptor.busy

    @property
    def busy(self) -> int:
        """Return how many requests are being served."""
        return self._places.taken

    @property
    def bringing(self) -> int:
        """Return how many callers bring or take a copy, or wait for it."""
        return self._copies.callers

    async def start(self) -> None:
        """Open the socket and serve. Raises ``ListenError``, and leaves nothing behind then."""
        await self._acceptor.start()

    async def stop(self) -> None:
        """End event streams, finish or drop the rest, remove the socket: within 300 ms."""
        await self._acceptor.stop(self._daemon.hub.hang_up)

    def _admit(self, transport: asyncio.WriteTransport) -> bool:
        """Take a place for a connection until it is lost; return False where there is none."""
        sock = transport.get_extra_info("socket")
        guest = self._guests.enter(uid_of(sock), transport.abort)
        if guest is not None:
            self._known[sock] = guest
        return guest is not None

    def _lost(self, transport: asyncio.WriteTransport) -> None:
        if guest := self._known.pop(transport.get_extra_info("socket"), None):
            self._guests.leave(guest)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        if sock in self._known or self._admit(writer.transport):
            guest = self._known.pop(sock)
            self._acceptor.spawn(self._connection(Wire(reader, writer, self._limits.line_bytes), guest))
        else:
            writer.transport.abort()

    async def _connection(self, wire: Wire, guest: Guest) -> None:
        """Serve one connection from its first byte to its last; never raises but when cancelled."""
        try:
            await self._converse(wire, guest)
        except (ConnectionError, TimeoutError):
            pass  # the caller has gone, or has no time left
        except Exception as error:  # in place of asyncio's traceback, which could quote what was sent
            log.error("control: a connection failed: %s", type(error).__name__)
        finally:
            self._guests.leave(guest)
            wire.abort()

    async def _converse(self, wire: Wire, guest: Guest) -> None:
        linger = self._limits.request_s
        asked: Request | RequestError
        try:
            async with asyncio.timeout(self._limits.request_s):
                asked = await wire.head()
        except TimeoutError:
            if not wire.begun:  # browsers open connections in advance, and would take a 408 for their request's answer
                return
            asked, linger = RequestError(408, "request", "did not come in time"), 0.0
        except RequestError as error:
            log.debug("control: refused with %d", error.status)
            asked = error
        async with asyncio.timeout(self._limits.connection_s) as whole:
            if isinstance(asked, RequestError):
                await self._refuse(wire, asked)
            else:
                await self._serve(wire, asked, whole, guest)
            guest.stage = Stage.ANSWERED
            await wire.close(linger)

    async def _serve(self, wire: Wire, request: Request, whole: asyncio.Timeout, guest: Guest) -> None:
        """Serve one request, whatever comes of it."""
        try:
            caller, route = await self._door.admit(wire.socket, request)
            self._hurry(caller, request.path)
            async with self._copies.turn((caller.uid, caller.person)) if route.large else nullcontext():
                answer = await self._dispatch(wire, request, whole, (caller, route, guest))
                if answer is not None:
                    kind = {"Content-Type": answer.content_type}
                    await wire.answer(200, {**self._door.headers, **kind, **answer.headers}, answer.body)
        except RequestError as error:
            allowed = self._door.routes[request.path] if error.status == 405 else ()
            await self._refuse(wire, error, allowed)
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:  # a bug: the caller learns nothing, the journal what kind it was
            what = request.path if request.path in self._door.routes else "a request"
            log.error("control: %s failed: %s", what, type(error).__name__)
            await self._refuse(wire, RequestError(500, "", "internal error: see the journal of idiolectd"))

    async def _dispatch(
        self, wire: Wire, request: Request, whole: asyncio.Timeout, known: tuple[requests.Caller, requests.Route, Guest]
    ) -> requests.Reply | None:
        """Return the answer; None when it was a stream, and has been sent."""
        caller, route, guest = known
        body: dict[str, object] = {}
        if request.method == "POST":
            requests.check_keys(request.query, ())  # what is asked for is in the body
            body = await self._body(wire, request, route)
        with self._places.take(caller, request.path, short=route.answer is not None):
            guest.stage = Stage.SERVED
            if route.answer is None:
                requests.check_keys(request.query, ())
                whole.reschedule(None)  # no limit on the whole: each write has one
                await wire.while_there(self._stream(wire, caller, request.headers.get("last-event-id") or None))
                whole.reschedule(asyncio.get_running_loop().time() + self._limits.write_s)
                return None
            return await wire.while_there(
                self._answer(route.answer, requests.Call(request.query, body, caller, request.headers))
            )

    def _hurry(self, caller: requests.Caller, path: str) -> None:
        """Raise ``TooOften`` for who asks too often; the journal hears of it once a minute."""
        try:
            self._rates.check(caller, path)
        except TooOften:
            if self._seldom.now():
                log.warning("control: somebody asks too often, and is told to wait")
            raise

    async def _answer(self, answer: requests.Answer, call: requests.Call) -> requests.Reply:
        try:
            async with asyncio.timeout(self._limits.answer_s):
                made = await answer(self._daemon, call)
                return made if isinstance(made, requests.Reply) else requests.Reply(requests.encode(made))
        except TimeoutError:
            raise RequestError(503, "", "the daemon is too busy to answer: try again") from None

    async def _body(self, wire: Wire, request: Request, route: requests.Route) -> dict[str, object]:
        # no Content-Encoding: no small body that unpacks into a large one
        if "content-encoding" in request.headers or not _is_json(request.headers.get("content-type", "")):
            raise RequestError(415, "Content-Type", "must be application/json, in UTF-8 and not compressed")
        try:
            async with asyncio.timeout(self._limits.request_s):
                source = Source(await wire.body(route.body_bytes or self._limits.body_bytes))
        except TimeoutError:
            raise RequestError(408, "body", f"did not come within {self._limits.request_s:g} s") from None
        if not route.body_bytes:
            return requests.parse_body(source.raw)
        self._copies.holds(source)
        return requests.parse_copy(source)

    async def _stream(self, wire: Wire, caller: requests.Caller, last_id: str | None) -> None:
        """Send the event stream, from after ``last_id`` if that is given, until somebody hangs up."""
        with self._daemon.hub.subscribe(last_id) as subscription:
            wire.begin({**self._door.headers, "Content-Type": "text/event-stream", "Cache-Control": "no-store"})
            try:
                await self._send(wire, _opening(subscription))
                while (entries := await subscription.take(self._limits.heartbeat_s)) is not None:
                    frames = b"".join(entry.frame for entry in entries if caller.sees(entry.data))
                    if frames or not entries:
                        await self._send(wire, frames or b": heartbeat\n\n")
            except LaggedError as error:
                await self._send(wire, frame("lagged", {"missed": error.missed, "message": str(error)}))
        wire.end()

    async def _refuse(self, wire: Wire, error: RequestError, allowed: Iterable[str] = ()) -> None:
        headers = {**self._door.headers, "Content-Type": "application/json"}
        headers |= {"Allow": ", ".join(allowed)} if allowed else {}
        wait = error.retry_s if isinstance(error, TooOften) else 1
        headers |= {"Retry-After": str(wait)} if error.status in (429, 503) else {}
        await wire.answer(
            error.status, headers, requests.encode({"error": {"field": error.field, "message": str(error)}})
        )

    async def _send(self, wire: Wire, data: bytes) -> None:
        async with asyncio.timeout(self._limits.write_s):
            await wire.send(data)


def _opening(subscription: Subscription) -> bytes:
    """Return the beginning of a stream: if events are missing, and from which id on none is."""
    begin = f"retry: 1000\nid: {subscription.begin}\n: from here on nothing is missed\n\n".encode()
    if not subscription.gap:
        return begin if subscription.begin else b"retry: 1000\n\n"
    return b"retry: 1000\n\n" + frame(subscription.gap, {"missed": None, "message": GAPS[subscription.gap]})


def _is_json(content_type: str) -> bool:
    """Return True for application/json, RFC 8259. It has no charset, but utf-8 is what people write there."""
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    pairs = (parameter.partition("=")[::2] for parameter in parameters)
    return kind == "application/json" and all(v.strip('"') == "utf-8" for name, v in pairs if name == "charset")
