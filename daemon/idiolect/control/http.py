"""Speaks HTTP/1.1 on one connection: bytes become a ``Request``, answers become bytes. h11 is the parser.

h11 reads generously, as RFC 9112 allows; nobody who speaks to this socket needs that. Refused here beyond what h11
refuses (400 each; numbered in the code):

1. lines over ``line_bytes``, heads over 16 KiB or 100 fields;
2. a line feed alone, a carriage return alone, folded lines (RFC 9112, 2.2 and 5.2), control characters (RFC 9110, 5.5);
3. versions other than 1.0 and 1.1;
4. two opinions on a body's length: Content-Length as a list, twice or beside Transfer-Encoding (RFC 9112, 6.3), and
   Transfer-Encoding in HTTP/1.0 (6.1);
5. a field that is read here, given twice, unless it is a list (RFC 9110, 5.3), of which the first counts;
6. targets with a fragment, a broken escape, an escaped slash, or bytes that are not UTF-8; an absolute target (RFC
   9112, 3.2.2) of another scheme than http or with a user name in it;
7. a query parameter given twice, or more than 32 of them;
8. a body that takes twice its cap on the wire: tiny chunks and long extensions are work for nothing (413).

There is one request per connection, and what follows it is thrown away unread: nothing can be smuggled behind it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

import h11

from idiolect.errors import RequestError

_PIECE = 8_192
"""Bytes taken from a socket at once; a connection holds at most three of these before somebody takes them."""
_HEAD_BYTES = 16_384
_FIELDS = 100
_PARAMETERS = 32
_SENT = 65_536
"""Bytes of an answer that are handed to the socket at once."""
_EXCESS = 65_536
"""Bytes after its request that a caller may send while it waits for the answer; then it is cut off."""

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_REQUEST_LINE = re.compile(rb"[!-~]+ [!-~]+ HTTP/1\.[01]")
_LENGTH = re.compile(rb"[0-9]{1,20}")
_ABSOLUTE = re.compile(r"http://[^/?#@]+(?=[/?]|$)", re.IGNORECASE)
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_READ = (
    *("content-type", "content-encoding", "last-event-id", "accept-encoding"),
    *("host", "origin", "cookie", "sec-fetch-site"),
)
_ONCE = {name.encode() for name in (*_READ, "content-length", "transfer-encoding", "expect")} - {b"accept-encoding"}

_Result = TypeVar("_Result")


class Pieces(asyncio.StreamReaderProtocol, asyncio.BufferedProtocol):
    """asyncio's streams, fed by the piece: left alone they take 256 KiB from a socket at once, per connection."""

    _buffer = memoryview(bytearray(_PIECE))  # one for all: each read fills it and hands it on before the next

    def __init__(self, connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]) -> None:
        super().__init__(asyncio.StreamReader(_PIECE), connected)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # a hint
        """Return the buffer into which asyncio reads the next piece."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand a piece that has come, ``nbytes`` long, to the stream reader."""
        self.data_received(bytes(self._buffer[:nbytes]))


class SecurePieces(Pieces):
    """Reads pieces from a connection behind TLS, which cannot be closed by halves."""

    def eof_received(self) -> bool:
        """End the input, and have asyncio close the connection."""
        super().eof_received()
        return False


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head. ``path`` is decoded; ``headers`` holds, by lower-case name, what is ever asked for."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


class Wire:
    """One connection, between asyncio's streams and h11. Every method raises ``ConnectionError`` when it is lost."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line_bytes: int) -> None:
        self._reader = reader
        self._writer = writer
        self._line_bytes = line_bytes
        self._http = h11.Connection(h11.SERVER)
        self._length = 0  # as its headers say; 0 for chunks, too
        self._unread = True  # there may be more to come from the caller
        self._head_only = False
        self._answering = False
        self.begun = False
        """Anything has come at all."""

    @property
    def socket(self) -> Any:
        """Return the connected socket, for asking the kernel who is there."""
        return self._writer.get_extra_info("socket")

    async def head(self) -> Request:
        """Wait for the request's head. Raises ``RequestError`` 400, or 422 for a parameter given twice."""
        lines = _Lines(self._line_bytes)
        while (rest := lines.feed(await self._receive())) is None:
            pass
        lines.check_framing()
        self._http.receive_data(lines.raw())
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError:
            raise _not_http() from None
        if not isinstance(event, h11.Request):
            raise _not_http()
        self._length = int(lines.field(b"content-length", b"0"))
        self._unread = bool(self._length or lines.field(b"transfer-encoding") or rest)
        self._head_only = event.method == b"HEAD"
        if rest:
            self._http.receive_data(rest)
        path, query = _parse_target(event.target.decode("ascii"))
        fields = {name: lines.field(name.encode()).decode(errors="replace") for name in _READ if lines.has(name)}
        return Request(event.method.decode("ascii"), path, query, fields)

    async def body(self, cap: int) -> bytearray:
        """Return the request's body, up to ``cap`` bytes.

        Raises ``RequestError`` 413 (larger) or 400 (not what the head said).
        """
        too_large = RequestError(413, "body", f"is larger than {cap} bytes")
        if self._length > cap:
            raise too_large
        body = bytearray()
        came = 0
        try:
            while not isinstance(event := self._next_of_body(), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    body += event.data
                elif came > 2 * cap:  # 8
                    raise RequestError(413, "body", "comes in too many small chunks")
                else:
                    came += await self._more()
                if len(body) > cap:
                    raise too_large
        except BaseException:  # cancelled, too: the error remembers this function's variables until it is answered
            body.clear()
            raise
        self._unread = bool(self._http.trailing_data[0])
        return body

    async def while_there(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Return the result of ``work``, which is cancelled if the caller hangs up: half-closing counts as that."""
        working = asyncio.ensure_future(work)
        tasks: set[asyncio.Future[Any]] = {working}
        try:
            await asyncio.sleep(0)
            if not working.done():  # most answers wait for nothing
                tasks.add(asyncio.ensure_future(self._discard(_EXCESS)))
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise ConnectionResetError
        finally:
            for task in tasks:
                task.cancel()
            if left := {task for task in tasks if not task.done()}:
                await asyncio.wait(left)  # two must not read at once, and a place is free when its work has ended

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer. Raises ``ConnectionResetError`` after a part of another, which cannot be taken back."""
        if self._answering:
            raise ConnectionResetError
        data = self._start(status, {**headers, "Content-Length": str(len(body))})
        rest = memoryview(b"" if self._head_only else body)
        while len(rest) > _SENT:  # a copy of megabytes is not to lie in memory twice
            self._writer.write(data + self._http.send(h11.Data(data=bytes(rest[:_SENT]))))
            data, rest = b"", rest[_SENT:]
            await self._writer.drain()
        data += self._http.send(h11.Data(data=bytes(rest))) if rest else b""
        self._writer.write(data + self._http.send(h11.EndOfMessage()))
        await self._writer.drain()

    def begin(self, headers: Mapping[str, str]) -> None:
        """Start an answer, 200, of unknown length."""
        self._writer.write(self._start(200, headers))

    async def send(self, data: bytes) -> None:
        """Send more of it; wait for a caller that reads slowly, with at most 64 KiB beside ``data`` in memory."""
        self._writer.write(self._http.send(h11.Data(data=data)))
        await self._writer.drain()

    def end(self) -> None:
        """End an answer that ``begin`` started."""
        self._writer.write(self._http.send(h11.EndOfMessage()))

    async def close(self, linger: float) -> None:
        """Close after all is sent.

        A caller still at sending its body would lose our answer to a reset: it is let finish, for ``linger`` seconds.
        """
        if self._unread and linger:
            if self._writer.can_write_eof():  # TLS cannot be closed by halves
                self._writer.write_eof()
            with suppress(TimeoutError):
                async with asyncio.timeout(linger):
                    await self._discard(None)
        self._writer.close()
        await self._writer.wait_closed()

    def abort(self) -> None:
        """Close now, whatever has not been sent."""
        self._writer.transport.abort()

    def _start(self, status: int, headers: Mapping[str, str]) -> bytes:
        self._answering = True
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())  # no setlocale here, so in English
        fields = {**headers, "Server": "idiolectd", "Date": date, "Connection": "close"}
        reason = HTTPStatus(status).phrase.encode()
        return self._http.send(h11.Response(status_code=status, headers=list(fields.items()), reason=reason))

    def _next_of_body(self) -> object:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError:
            raise RequestError(400, "body", "is not what its headers say") from None

    async def _more(self) -> int:
        """Give h11 some more of the body, and return its size."""
        if self._http.they_are_waiting_for_100_continue:
            self._writer.write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        await asyncio.sleep(0)  # a read of what has already come would not let anybody else run
        data = await self._receive()
        self._http.receive_data(data)
        return len(data)

    async def _receive(self) -> bytes:
        data = await self._reader.read(_PIECE)
        if not data:
            raise ConnectionResetError
        self.begun = True
        return data

    async def _discard(self, most: int | None) -> None:
        """Throw away what comes, until the caller hangs up or has sent more than ``most`` bytes."""
        with suppress(ConnectionError):
            while (most is None or most >= 0) and (data := await self._reader.read(_PIECE)):
                most = None if most is None else most - len(data)


class _Lines:
    """Collects a head line by line as it comes in, and refuses it at the first line that is wrong."""

    def __init__(self, line_bytes: int) -> None:
        self._line_bytes = line_bytes
        self._lines: list[bytes] = []
        self._rest = bytearray()  # of a line that is not complete
        self._size = 0

    def feed(self, data: bytes) -> bytes | None:
        """Take ``data``, and return what follows the head once that is complete. Raises ``RequestError`` 400."""
        self._rest += data
        while (end := self._rest.find(b"\r\n")) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 2]
            self._size += end + 2
            if line:
                self._take(line)
            elif self._lines:  # an empty line before the request is let pass, RFC 9112, 2.2
                return bytes(self._rest)
        begun = self._rest[:1]
        no_request = not self._lines and begun != b"\r" and not b"!" <= (begun or b"!") <= b"~"  # TLS, for one
        if no_request or b"\n" in self._rest or len(self._rest) > self._line_bytes or self._size > _HEAD_BYTES:
            raise _not_http()
        return None

    def _take(self, line: bytes) -> None:
        short = len(line) <= self._line_bytes and self._size <= _HEAD_BYTES and len(self._lines) <= _FIELDS  # 1
        plain = not line.startswith((b" ", b"\t")) and not _CONTROL.search(line)  # 2
        known = self._lines or _REQUEST_LINE.fullmatch(line)  # 3
        if not (short and plain and known):
            raise _not_http()
        self._lines.append(line)

    def check_framing(self) -> None:
        """Raise ``RequestError`` 400 where the head could be read in two ways."""
        names = [line.partition(b":")[0].lower() for line in self._lines[1:]]
        twice = any(names.count(name) > 1 for name in _ONCE)  # 5, and of 4: Content-Length
        chunks, sized = b"transfer-encoding" in names, b"content-length" in names
        old = self._lines[0].endswith(b"1.0")
        odd = sized and not _LENGTH.fullmatch(self.field(b"content-length"))
        if twice or odd or (chunks and (sized or old)):  # 4
            raise _not_http()

    def raw(self) -> bytes:
        """Return the head as it came."""
        return b"\r\n".join((*self._lines, b"", b""))

    def has(self, name: str) -> bool:
        """Return True if there is a field ``name`` (lower case)."""
        return any(found == name.encode() for found, _ in self._fields())

    def field(self, name: bytes, default: bytes = b"") -> bytes:
        """Return the value of ``name`` (lower case)."""
        return next((value for found, value in self._fields() if found == name), default)

    def _fields(self) -> Iterable[tuple[bytes, bytes]]:
        for line in self._lines[1:]:
            name, _, value = line.partition(b":")
            yield name.lower(), value.strip(b" \t")


def _parse_target(target: str) -> tuple[str, dict[str, str]]:
    """Return path and query of an origin-form, absolute-form or asterisk-form target, RFC 9112, 3.2."""
    if absolute := _ABSOLUTE.match(target):
        target = target[absolute.end() :]
        target = target if target.startswith("/") else "/" + target
    path, _, query = target.partition("?")
    if not (path.startswith("/") or target == "*") or "#" in target or _BROKEN_ESCAPE.search(target):  # 6
        raise _bad_target()
    try:
        decoded = unquote(path, errors="strict")
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_PARAMETERS)
    except ValueError:
        raise _bad_target() from None
    if decoded.count("/") != path.count("/"):
        raise _bad_target()
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:  # 7
            raise RequestError(422, name[:64], "is given twice")
    return decoded, dict(pairs)


def _not_http() -> RequestError:
    return RequestError(400, "request", "is not HTTP/1.1 with lines of up to 8 KiB, 16 KiB in all")


def _bad_target() -> RequestError:
    return RequestError(400, "path", "is not a path and query as HTTP has them")
