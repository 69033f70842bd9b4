"""Tells if the machine is about to sleep or to shut down, by what systemd-logind announces on the system bus.

org.freedesktop.login1(5): the signals PrepareForSleep and PrepareForShutdown carry true before and false after (or when
it was called off), and two properties say the same to whoever comes late. Optional: without the library, the bus or
logind, nobody ever leaves, and ``state`` says which is missing. Only reading: no delay lock is taken.

Who may say it: the bus puts the sender's unique name on every message, and only what comes from the present owner of
org.freedesktop.login1 counts. Anybody on the system bus may send a signal straight to us, past every match rule, of up
to 32 MiB; so messages are framed here, and what is larger than ``MESSAGE`` is passed over without being kept.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from idiolect.errors import NONSENSE

MESSAGE = 8192
"""Bytes of a message that is looked at: those that are meant for us have about 300."""
ANSWER_S = 10.0
"""Seconds for the bus or logind to answer."""
RETRY_S, RETRY_MOST_S = 1.0, 300.0
"""Seconds between attempts: twice as many each time."""
SOCKET = "/run/dbus/system_bus_socket"

_BUS, _LOGIN, _PATH = "org.freedesktop.DBus", "org.freedesktop.login1", "/org/freedesktop/login1"
_MANAGER = f"{_LOGIN}.Manager"
_PROPERTY_OF = {"PrepareForSleep": "PreparingForSleep", "PrepareForShutdown": "PreparingForShutdown"}
_UNIQUE = re.compile(r":[A-Za-z0-9_-]{1,100}(\.[A-Za-z0-9_-]{1,100}){1,2}")
_FIRST = 16
"""Bytes of a message that tell its length."""
_ENDLESS = (b"()", b"{}")
"""Structures of nothing, which D-Bus forbids: jeepney reads an array of them for ever, and into all memory there is."""
_UNREADABLE = (*NONSENSE, AssertionError)
"""The exceptions that jeepney raises for bytes that it cannot take apart."""


class _Lost(Exception):
    """Raised when the bytes from the other side are not D-Bus."""


class _Refused(_Lost):
    """Raised for an error instead of an answer."""


class Logind:
    """Watches as long as ``run`` runs; ``changed`` is told each new answer, in the loop of ``run``.

    ``socket``: the path of the bus; by default DBUS_SYSTEM_BUS_ADDRESS or the usual one. ``retry_s``: the first and the
    longest pause between attempts.
    """

    def __init__(
        self,
        changed: Callable[[bool], None] = lambda _leaving: None,
        socket: Path | None = None,
        retry_s: tuple[float, float] = (RETRY_S, RETRY_MOST_S),
    ) -> None:
        self._changed = changed
        self._socket = str(socket) if socket else _system_bus()
        self._retry_s = retry_s
        self._state = "starting"
        self._leaving = False
        self._owner = ""
        self._unread = False
        self._announced: dict[str, bool] = {}

    @property
    def leaving(self) -> bool:
        """Return True if the machine is about to sleep or to shut down; False while nobody can say."""
        return self._leaving

    @property
    def state(self) -> str:
        """Return in words: starting, no jeepney, no system bus, not running (logind, that is), watching."""
        return self._state

    async def run(self) -> None:
        """Watch until cancelled, through every loss of the bus. Returns only where jeepney is not installed."""
        first_s, longest_s = self._retry_s
        pause_s, loop = first_s, asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._watch()
            except ImportError:
                self._state = "no jeepney"
                return
            except (OSError, EOFError, _Lost):
                self._state = "no system bus"
            self._adopt("")
            if loop.time() - began > pause_s:
                pause_s = first_s
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)

    async def _watch(self) -> None:
        """Watch over one connection, until it ends (raises)."""
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(self._socket, limit=MESSAGE)
        try:
            import jeepney  # late: a daemon without a bus never needs it

            bus = _Bus(jeepney, reader, writer, self._heard)
            await bus.greet()
            await self._subscribe(bus, jeepney)
            while True:
                if self._unread:
                    await self._ask(bus, jeepney)
                await bus.receive()
        finally:
            writer.close()

    async def _subscribe(self, bus: _Bus, jeepney: Any) -> None:
        """Ask for the signals first and for the present state after, so that nothing falls in between."""
        owner = jeepney.MatchRule(type="signal", sender=_BUS, interface=_BUS, member="NameOwnerChanged")
        owner.add_arg_condition(0, _LOGIN)
        await bus.call(jeepney.message_bus.AddMatch(owner))
        for member in _PROPERTY_OF:
            rule = jeepney.MatchRule(type="signal", sender=_LOGIN, interface=_MANAGER, member=member, path=_PATH)
            await bus.call(jeepney.message_bus.AddMatch(rule))
        try:
            name = "".join(map(str, await bus.call(jeepney.message_bus.GetNameOwner(_LOGIN))))
        except _Refused:
            name = ""  # nobody has it: wait for NameOwnerChanged, and start nothing
        self._state = "not running"
        self._adopt(name)

    async def _ask(self, bus: _Bus, jeepney: Any) -> None:
        """Read the properties of the present owner, by its unique name: that starts no service."""
        self._unread, owner = False, self._owner
        manager = jeepney.DBusAddress(_PATH, bus_name=owner, interface=_MANAGER)
        for name in _PROPERTY_OF.values():
            try:
                body = await bus.call(jeepney.Properties(manager).get(name))
            except _Refused:
                continue
            match body:
                case (("b", bool(value)),) if owner == self._owner:
                    self._announce(name, value)
        if owner == self._owner:
            self._state = "watching"

    def _heard(self, sender: str, path: str, member: str, body: tuple[Any, ...]) -> None:
        """Take one signal of any sender; ``member`` with its interface."""
        match body:
            case (str(name), str(_), str(new)) if (
                sender == _BUS and member == f"{_BUS}.NameOwnerChanged" and name == _LOGIN
            ):
                self._adopt(new)
            case (bool(value),) if sender == self._owner and path == _PATH:
                interface, _, signal = member.rpartition(".")
                if interface == _MANAGER and signal in _PROPERTY_OF:
                    self._announce(_PROPERTY_OF[signal], value)

    def _adopt(self, owner: str) -> None:
        """Take another owner of logind's name, or none, and forget what the last one said.

        Names are those that the bus gives.
        """
        self._owner = owner if _UNIQUE.fullmatch(owner) else ""
        self._unread = bool(self._owner)
        if self._state == "watching":
            self._state = "not running"
        self._announced.clear()
        self._settle()

    def _announce(self, name: str, value: bool) -> None:
        self._announced[name] = value
        self._settle()

    def _settle(self) -> None:
        leaving = any(self._announced.values())
        if leaving != self._leaving:
            self._leaving = leaving
            self._changed(leaving)


class _Bus:
    """One connection to the bus. Signals are handed on in the order in which the bus sent them, also during a call."""

    def __init__(
        self,
        jeepney: Any,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        heard: Callable[[str, str, str, tuple[Any, ...]], None],
    ) -> None:
        self._jeepney = jeepney
        self._reader, self._writer = reader, writer
        self._heard = heard
        self._serials = count(1)

    async def greet(self) -> None:
        """Say who we are (EXTERNAL: the kernel vouches for the uid) and hello."""
        from jeepney.auth import BEGIN, Authenticator

        exchange = Authenticator()
        try:
            async with asyncio.timeout(ANSWER_S):
                for line in exchange:
                    self._writer.write(line)
                    exchange.feed(await self._reader.readuntil(b"\r\n"))
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise _Lost("no D-Bus server, or it does not want us") from error
        self._writer.write(BEGIN)
        await self.call(self._jeepney.message_bus.Hello())

    async def call(self, message: Any) -> tuple[Any, ...]:
        """Return the answer's body.

        Raises ``_Refused`` for an error; after ``TimeoutError`` the connection is of no use.
        """
        fields = self._jeepney.HeaderFields
        serial = next(self._serials)
        may_answer = (message.header.fields[fields.destination], _BUS)
        self._writer.write(message.serialise(serial))
        async with asyncio.timeout(ANSWER_S):
            while True:
                answer = await self.receive()
                head = answer.header.fields if answer else {}
                if head.get(fields.reply_serial) == serial and head.get(fields.sender) in may_answer:
                    break
        if answer.header.message_type is self._jeepney.MessageType.error:
            raise _Refused(str(head.get(fields.error_name)))
        return tuple(answer.body)

    async def receive(self) -> Any:
        """Return the next message, None for one too large or not to be read. Raises when the connection ends."""
        parser = self._jeepney.Parser()
        parser.add_data(await self._reader.readexactly(_FIRST))
        try:
            rest = parser.bytes_desired()
        except _UNREADABLE as error:
            raise _Lost("the beginning of a message makes no sense, so its end cannot be found") from error
        if rest > MESSAGE:
            await self._pass_over(rest)
            return None
        data = await self._reader.readexactly(rest)
        if any(empty in data for empty in _ENDLESS):
            return None
        parser.add_data(data)
        try:
            message = parser.get_next_message()
        except _UNREADABLE:
            return None
        if message.header.message_type is self._jeepney.MessageType.signal:
            self._signal(message)
        return message

    async def _pass_over(self, size: int) -> None:
        while size:
            piece = await self._reader.read(min(size, MESSAGE))
            if not piece:
                raise EOFError
            size -= len(piece)

    def _signal(self, message: Any) -> None:
        fields, head = self._jeepney.HeaderFields, message.header.fields
        sender, path, interface, member = (
            str(head.get(field, "")) for field in (fields.sender, fields.path, fields.interface, fields.member)
        )
        self._heard(sender, path, f"{interface}.{member}", tuple(message.body))


def _system_bus() -> str:
    """Return the first socket in DBUS_SYSTEM_BUS_ADDRESS that can be meant (D-Bus specification, Server Addresses)."""
    for address in os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "").split(";"):
        transport, _, rest = address.partition(":")
        keys = dict(pair.partition("=")[::2] for pair in rest.split(","))
        if transport == "unix" and "path" in keys:
            return unquote(keys["path"])
        if transport == "unix" and "abstract" in keys:
            return "\0" + unquote(keys["abstract"])
    return SOCKET
