"""Reads and writes one connection's Wyoming events: a line of JSON, then more JSON and bytes if its header says so.

The library's types and its writer serve; its reader would wait for 99 GB if a header said so. Refused here
(``EventError``, whose ``code`` names the field; numbered in the code):

1. a header of more than 4 KiB, or one that is no JSON object;
2. a ``type`` that is no text of 1 to 64 characters;
3. a ``data_length`` other than 0 to 16,384, and data that are no JSON object;
4. a ``payload_length`` other than 0 to 65,536: two seconds of 16 kHz, 16 bits, mono;
5. an event that is not complete within 5 s;
6. a header or data of more than 1,000 brackets and commas, or more than 16 of them inside each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from wyoming.event import Event, async_write_event, write_event

from idiolect.control.limits import Rate
from idiolect.errors import IdiolectError
from idiolect.host import structure
from idiolect.values import encodable

HEADER_BYTES = 4_096
DATA_BYTES = 16_384
PAYLOAD_BYTES = 65_536
PARTS = 1_000
TYPE_LENGTH = 64
CONNECTIONS = Rate(400.0, 256)
"""Rate of new connections of one uid."""
EVENTS, DESCRIBES = Rate(10.0, 30), Rate(2.0, 8)
"""Rates of one connection. EVENTS: all but describe and audio-chunk; a short question may have a long answer."""
CHUNKS = Rate(128.0, 512)
"""audio-chunk of one connection: in real time there are 16 a second of the usual size, 100 of the smallest."""
ALL_EVENTS, ALL_DESCRIBES = Rate(1_000.0, 2_000), Rate(40.0, 80)
"""Rates of all connections of one uid together."""
_UNSENT_BYTES = 16_384
"""Bytes that a client may leave unread in our memory, beside one event."""


class EventError(IdiolectError):
    """Raised when an event is refused; ``code`` is for machines and holds nothing of what was sent."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds a client gets, and how often it may do what; other values than these are for tests."""

    event_s: float = 5.0
    """Seconds from an event's first byte to its last."""
    idle_s: float = 60.0
    """Seconds without any event, where nothing was asked that takes longer."""
    write_s: float = 10.0
    """Seconds for a client to take what is sent."""
    linger_s: float = 0.5
    """Seconds for a client to read why it is cut off, while it may be sending."""
    sound_s: float = 2.0
    """Seconds from detect or transcribe to audio-start, where too many wait for the microphone."""
    connections: Rate = CONNECTIONS
    events: Rate = EVENTS
    describes: Rate = DESCRIBES
    chunks: Rate = CHUNKS
    all_events: Rate = ALL_EVENTS
    all_describes: Rate = ALL_DESCRIBES


class Wire:
    """Events in and out. Every method raises ``ConnectionError`` when the connection is lost."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits) -> None:
        self._reader, self._writer, self._limits = reader, writer, limits
        self._closing = False
        self._writing = asyncio.Lock()  # what is heard and what is asked are answered by different tasks
        writer.transport.set_write_buffer_limits(_UNSENT_BYTES)

    @property
    def socket(self) -> Any:
        """Return the connected socket, for asking the kernel who is there."""
        return self._writer.get_extra_info("socket")

    async def read(self, patience_s: float | None) -> Event | None:
        """Return the next event.

        None when the client hung up between two, or sent none for ``patience_s`` seconds (None: wait for ever).

        Raises:
            EventError: the event is refused.
            ConnectionError: the client hung up within an event.
        """
        try:
            async with asyncio.timeout(patience_s):
                first = await self._reader.read(1)
        except TimeoutError:
            return None
        if not first:
            return None
        try:
            async with asyncio.timeout(self._limits.event_s):
                return await self._event(first)
        except TimeoutError:
            raise EventError("time-out", f"an event must be complete within {self._limits.event_s:g} s") from None  # 5
        except asyncio.IncompleteReadError:
            raise ConnectionResetError from None

    async def _event(self, first: bytes) -> Event:
        try:
            line = first if first == b"\n" else first + await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            line = b""
        if not 0 < len(line) <= HEADER_BYTES:
            raise EventError("header", f"must be a line of at most {HEADER_BYTES} bytes")  # 1
        header = _object("header", line)
        kind = header.get("type")
        if not isinstance(kind, str) or not 1 <= len(kind) <= TYPE_LENGTH:
            raise EventError("type", f"must be text of 1 to {TYPE_LENGTH} characters")  # 2
        size, payload = _length(header, "data_length", DATA_BYTES), _length(header, "payload_length", PAYLOAD_BYTES)
        data = {} if header.get("data") is None else header["data"]
        if not isinstance(data, dict):
            raise EventError("data", "must be a JSON object")  # 3
        if size:
            data |= _object("data", await self._reader.readexactly(size))
        return Event(kind, data, await self._reader.readexactly(payload) if payload else None)

    async def write(self, event: Event) -> None:
        """Send one event. Raises ``ConnectionResetError``, too, for a client that does not take it in time."""
        try:
            async with self._writing, asyncio.timeout(self._limits.write_s):
                await async_write_event(event, self._writer)
        except TimeoutError:
            self.abort()
            raise ConnectionResetError from None

    async def close(self) -> None:
        """Close after all is sent.

        A client that is still sending would lose our answer to a reset, so its bytes are read and dropped for
        ``linger_s``.
        """
        self._closing = True
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(self._limits.linger_s):
                await self._writer.drain()
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                while await self._reader.read(8_192):
                    pass
        self.abort()

    def dismiss(self, event: Event) -> None:
        """Close now, after a last word if there is room for it."""
        if not self._writing.locked() and not self._closing:
            last = BytesIO()
            write_event(event, last)
            self._writer.write(last.getvalue())
        self.abort()

    def abort(self) -> None:
        """Cut the connection off now, whatever has not been sent."""
        self._writer.transport.abort()


def _object(what: str, raw: bytes) -> dict[str, Any]:
    try:
        value = structure.load(raw, parts=PARTS)
    except structure.StructureError as error:
        raise EventError(what, str(error)) from None  # 6
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise EventError(what, "must be a JSON object in UTF-8")  # 1, 3
    return value


def _length(header: Mapping[str, object], field: str, most: int) -> int:
    length = header.get(field)
    length = 0 if length is None else length
    if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= most:
        raise EventError(field, f"must be a whole number from 0 to {most}")  # 3, 4
    return length


def whole(data: Mapping[str, object], field: str, least: int, most: int) -> int:
    """Return a whole number, ``least`` to ``most``, out of an event's data. Raises ``EventError``."""
    value = data.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise EventError(field, f"must be a whole number from {least} to {most}")
    return value


def text(data: Mapping[str, object], field: str, most: int) -> str | None:
    """Return a text out of an event's data, None where there is none. Raises ``EventError``."""
    value = data.get(field)
    if value is not None and (not isinstance(value, str) or len(value) > most or not encodable(value)):
        raise EventError(field, f"must be text of at most {most} characters")
    return value
