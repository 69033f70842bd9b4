"""The control API on its Unix socket: HTTP/1.1, one request per connection, every read with a cap and a time limit.

What a caller can do to us is bounded here, in the order in which it is met:

1. connections: at most twice ``max_clients`` + 16 are open; more are cut off at once;
2. the request's head must have come within 5 s (408) and is at most 8 KiB a line (400);
3. strangers are refused by what the kernel says of them (403), then unknown paths (404) and methods (405);
4. at most ``max_clients`` requests are served at once, event streams included (503); a few places beyond are kept
   for short requests, so that listening can be paused however many streams are open;
5. a body is JSON (415), at most 16 KiB (413), and complete within 5 s (408);
6. an answer has 10 s to be made (503) and the connection 30 s in all; a stream has 10 s to take each event.

Whatever else goes wrong is a 500 that says nothing, and its type in the log.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiohttp import web
from aiohttp.http import HttpProcessingError

from idiolect.control import api
from idiolect.control.hub import LaggedError, Subscription, frame
from idiolect.control.listener import Listener, open_listener
from idiolect.control.peers import Role, Roles, how_to_get, missing_groups, peer_of, role_of
from idiolect.errors import RequestError

log = logging.getLogger(__name__)

_KEPT_FREE = 4
"""Places for short requests beyond ``max_clients``."""
_GRACE_S = 0.05
"""What requests in flight get, twice, when the server stops."""


class Settings(Protocol):
    """The ``control`` section of the configuration."""

    @property
    def socket(self) -> Path:
        """Where to listen."""

    @property
    def roles(self) -> Roles:
        """Who may do what."""

    @property
    def max_clients(self) -> int:
        """Requests served at once, 1 or more."""


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


class ControlServer:
    """Serves ``daemon`` on the socket of ``settings`` (or on systemd's) from ``start()`` to ``stop()``."""

    def __init__(self, daemon: api.Daemon, settings: Settings, limits: Limits | None = None) -> None:
        self._daemon = daemon
        self._settings = settings
        self._limits = limits or Limits()
        self._busy = 0
        self._listener: Listener | None = None
        self._server: asyncio.Server | None = None
        self._http: web.Server | None = None

    async def start(self) -> None:
        """Open the socket and serve. Raises ``ListenError``, and leaves nothing behind then."""
        self._listener = open_listener(self._settings.socket)
        self._http = web.Server(self._serve, handler_cancellation=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._connection, sock=self._listener.socket)
        if missing := missing_groups(self._settings.roles):
            log.warning("control.roles names groups that do not exist: %s", ", ".join(missing))

    async def stop(self) -> None:
        """End event streams, finish or drop the rest, remove the socket: within 300 ms."""
        if self._server is None or self._http is None or self._listener is None:
            return
        self._server.close()
        self._daemon.hub.hang_up()
        transports = [connection.transport for connection in self._http.connections]
        for connection in self._http.connections:
            connection.close()  # those who have not asked for anything yet
        await self._http.shutdown(_GRACE_S)
        for transport in transports:
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()  # whoever still has not read its answer will not now
        self._listener.close()
        self._server = None

    def _connection(self) -> web.RequestHandler:
        assert self._http is not None  # noqa: S101  # it was made before the socket opened
        return _Connection(self._http, self._limits, 2 * self._settings.max_clients + 16)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request, whatever comes of it."""
        if isinstance(request.protocol, _Connection):
            request.protocol.asked()
        try:
            return await self._dispatch(request)
        except RequestError as error:
            headers = {"Allow": ", ".join(api.ROUTES[request.path])} if error.status == 405 else {}
            headers |= {"Retry-After": "1"} if error.status == 503 else {}
            return _problem(error.status, error.field, str(error), headers)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:  # a bug: the caller learns nothing, the journal what kind it was
            log.error("control: %s %s failed: %s", request.method[:8], request.path[:64], type(error).__name__)
            return _problem(500, "", "internal error: see the journal of idiolectd")

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        role = self._role(request)
        self._require(role, Role.OBSERVER)
        route = api.find_route(request.method, request.path)
        self._require(role, route.role)
        with self._place(0 if route.answer is None else _KEPT_FREE):
            if route.answer is None:
                api.check_keys(request.query, ())
                return await self._stream(request)
            body = await self._body(request) if request.method == "POST" else {}
            try:
                async with asyncio.timeout(self._limits.answer_s):
                    answer = await route.answer(self._daemon, api.Call(request.query, body))
            except TimeoutError:
                raise RequestError(503, "", "the daemon is too busy to answer: try again") from None
            return _respond(200, answer)

    def _role(self, request: web.BaseRequest) -> Role | None:
        if request.transport is None:
            raise ConnectionResetError
        return role_of(peer_of(request.transport.get_extra_info("socket")), self._settings.roles)

    def _require(self, role: Role | None, needed: Role) -> None:
        if role is None or role < needed:
            fix = how_to_get(needed, self._settings.roles)
            raise RequestError(403, "role", f"this needs the role {needed.name.lower()}: {fix}")

    @contextmanager
    def _place(self, extra: int) -> Iterator[None]:
        if self._busy >= self._settings.max_clients + extra:
            raise RequestError(503, "", "too many clients: close an event stream, or raise control.max_clients")
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    async def _body(self, request: web.BaseRequest) -> dict[str, object]:
        charset = (request.charset or "utf-8").lower()
        plain = "Content-Encoding" not in request.headers
        if request.content_type != "application/json" or charset != "utf-8" or not plain:
            raise RequestError(415, "Content-Type", "must be application/json, in UTF-8 and not compressed")
        cap = self._limits.body_bytes
        raw = bytearray()
        try:
            async with asyncio.timeout(self._limits.request_s):
                while len(raw) <= cap and (request.content_length or 0) <= cap:
                    piece = await request.content.readany()
                    if not piece:
                        return api.parse_body(bytes(raw))
                    raw += piece
        except TimeoutError:
            raise RequestError(408, "body", f"did not come within {self._limits.request_s:g} s") from None
        except (web.RequestPayloadError, HttpProcessingError):
            raise RequestError(400, "body", "is not what its headers say") from None
        raise RequestError(413, "body", f"is larger than {cap} bytes")

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        """The event stream, from after Last-Event-ID if that is given, until somebody hangs up."""
        if isinstance(request.protocol, _Connection):
            request.protocol.streaming()
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "Server": "idiolectd"}
        response = web.StreamResponse(headers=headers)
        response.force_close()
        with self._daemon.hub.subscribe(request.headers.get("Last-Event-ID")) as subscription:
            try:
                await response.prepare(request)
                await self._follow(response, subscription)
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()  # it has stopped reading
            except ConnectionError:
                pass  # it has gone
        return response

    async def _follow(self, response: web.StreamResponse, subscription: Subscription) -> None:
        try:
            await self._send(response, b"retry: 1000\n: from here on nothing is missed\n\n")
            while (entries := await subscription.take(self._limits.heartbeat_s)) is not None:
                await self._send(response, b"".join(entry.frame for entry in entries) or b": heartbeat\n\n")
        except LaggedError as error:
            await self._send(response, frame("lagged", {"missed": error.missed, "message": str(error)}))

    async def _send(self, response: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(self._limits.write_s):
            await response.write(data)


class _Connection(web.RequestHandler):
    """One connection: aiohttp's HTTP machine with deadlines, and with errors in our own form."""

    __slots__ = ("_deadline", "_limits", "_most", "_others")

    def __init__(self, manager: web.Server, limits: Limits, most: int) -> None:
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # as documented: no access log
            tcp_keepalive=False,
            auto_decompress=False,  # no small body that unpacks into a large one
            max_line_size=limits.line_bytes,
            max_field_size=limits.line_bytes,
            lingering_time=limits.request_s,
        )
        self._limits = limits
        self._others = manager
        self._most = most
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock for the request's head."""
        super().connection_made(transport)
        if len(self._others.connections) > self._most and isinstance(transport, asyncio.WriteTransport):
            transport.abort()
        self._set_deadline(self._limits.request_s)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nothing can be late any more."""
        self.streaming()
        super().connection_lost(exc)

    def asked(self) -> None:
        """The head has come: the rest of the connection has a limit of its own."""
        self._set_deadline(self._limits.connection_s)

    def streaming(self) -> None:
        """No limit on the whole; a stream limits each write."""
        if self._deadline is not None:
            self._deadline.cancel()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Answer what is not HTTP at all; its bytes belong neither in the answer nor in the log."""
        if request.writer.output_size > 0:
            raise ConnectionResetError
        log.debug("control: refused with %d: %s", status, type(exc).__name__)
        return _problem(status, "request", "is not HTTP/1.1 with lines of up to 8 KiB")

    def log_exception(self, *_: object, exc_info: object = None, **__: object) -> None:
        """In place of aiohttp's traceback, which quotes what was sent."""
        log.error("control: a connection failed: %s", type(exc_info).__name__)

    def _set_deadline(self, seconds: float) -> None:
        self.streaming()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        transport = self.transport
        if isinstance(transport, asyncio.WriteTransport):
            if self._request_count == 0:
                transport.write(_LATE)
                transport.close()
            else:
                transport.abort()


def _respond(status: int, answer: Mapping[str, object], headers: Mapping[str, str] | None = None) -> web.Response:
    body = json.dumps(answer, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
    response = web.Response(status=status, body=body, content_type="application/json", headers=headers)
    response.headers["Server"] = "idiolectd"
    response.force_close()
    return response


def _problem(status: int, field: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return _respond(status, {"error": {"field": field, "message": message}}, headers)


_LATE_BODY = b'{"error": {"field": "request", "message": "did not come in time"}}\n'
_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\nServer: idiolectd\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b"
) % (len(_LATE_BODY), _LATE_BODY)
