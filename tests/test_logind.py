"""logind: over a real dbus-daemon, with a small stand-in that owns the real name and sends the real signals."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from idiolect.host import logind as logind_module
from idiolect.host.logind import Logind
from tests.conftest import absent

DAEMON = Path(__file__).parents[1] / "daemon"
PATH, MANAGER = "/org/freedesktop/login1", "org.freedesktop.login1.Manager"
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
QUICK = (0.05, 0.2)


class Bus:
    """A private dbus-daemon on a socket in a folder, which may stop and start again."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "bus"
        self._config = folder / "bus.conf"
        self._config.write_text(CONFIG.format(socket=self.socket))
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["dbus-daemon", f"--config-file={self._config}", "--nofork", "--print-address"]
        self._daemon = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._daemon.stdout.readline().startswith(b"unix:path=")  # it listens from here on

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon.stdout.close()
            self._daemon = None


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    if find_spec("jeepney") is None:
        absent("no jeepney")
    if shutil.which("dbus-daemon") is None:
        absent("no dbus-daemon")
    bus = Bus(tmp_path)
    bus.start()
    yield bus
    bus.stop()


class Client:
    """Somebody on the bus: sends signals, and answers for the properties of logind if it owns the name."""

    def __init__(self, connection: Any, properties: dict[str, Any]) -> None:
        self._connection = connection
        self._properties = properties
        self.silent = False
        self.owns = asyncio.Event()

    async def signal(self, member: str, signature: str | None, *body: Any, to: str = "", **where: str) -> None:
        import jeepney

        place = {"object_path": PATH, "interface": MANAGER, **where}
        message = jeepney.new_signal(jeepney.DBusAddress(**place), member, signature, body)
        if to:
            message.header.fields[jeepney.HeaderFields.destination] = to
        await self._connection.send(message)

    async def sleep(self, value: bool) -> None:
        self._properties["PreparingForSleep"] = ("b", value)
        await self.signal("PrepareForSleep", "b", value)

    async def shutdown(self, value: bool) -> None:
        self._properties["PreparingForShutdown"] = ("b", value)
        await self.signal("PrepareForShutdown", "b", value)

    async def serve(self) -> None:
        """Answer Properties.Get and GetAll, from the moment on in which the name is ours: that is when we are asked."""
        import jeepney

        while True:
            message = await self._connection.receive()
            if message.header.message_type is jeepney.MessageType.method_return and message.body == (1,):
                self.owns.set()  # RequestName: primary owner
            if message.header.message_type is not jeepney.MessageType.method_call or self.silent:
                continue
            member = message.header.fields[jeepney.HeaderFields.member]
            if member == "GetAll":
                answer = jeepney.new_method_return(message, "a{sv}", (self._properties,))
            elif message.body[1] in self._properties:
                answer = jeepney.new_method_return(message, "v", (self._properties[message.body[1]],))
            else:
                answer = jeepney.new_error(message, "org.freedesktop.DBus.Error.UnknownProperty")
            await self._connection.send(answer)


async def names(bus: Bus) -> set[str]:
    """Everybody's unique names, but for the one who asks."""
    import jeepney
    from jeepney.io.asyncio import Proxy, open_dbus_router

    async with open_dbus_router(f"unix:path={bus.socket}") as router:
        (found,) = await Proxy(jeepney.message_bus, router).ListNames()
        return {name for name in found if name.startswith(":")} - {router.unique_name}


@contextlib.asynccontextmanager
async def client(bus: Bus, name: str = "", **properties: Any) -> AsyncIterator[Client]:
    """A connection to the bus, which may own a name."""
    import jeepney
    from jeepney.io.asyncio import open_dbus_connection

    connection = await open_dbus_connection(f"unix:path={bus.socket}")
    it = Client(connection, properties)
    serving = asyncio.create_task(it.serve())
    try:
        if name:
            await connection.send(jeepney.message_bus.RequestName(name))
            await it.owns.wait()
        yield it
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError, EOFError, ConnectionError):
            await serving
        with contextlib.suppress(ConnectionError):
            await connection.close()


def logind(bus: Bus, *, sleep: bool = False, shutdown: bool = False) -> contextlib.AbstractAsyncContextManager[Client]:
    """The stand-in."""
    properties = {"PreparingForSleep": ("b", sleep), "PreparingForShutdown": ("b", shutdown)}
    return client(bus, "org.freedesktop.login1", IdleHint=("b", True), **properties)


class Watch:
    """A Logind that runs, and what it told."""

    def __init__(self, socket: Path, retry_s: tuple[float, float] = QUICK) -> None:
        self.told: list[bool] = []
        self.logind = Logind(self.told.append, socket, retry_s)
        self.task = asyncio.create_task(self.logind.run())

    async def until(self, state: str, leaving: bool = False, within: float = 20.0) -> None:
        deadline = time.monotonic() + within
        while (self.logind.state, self.logind.leaving) != (state, leaving):
            assert time.monotonic() < deadline, f"{self.logind.state}, leaving: {self.logind.leaving}"
            if self.task.done():
                self.task.result()
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        started = time.monotonic()
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        assert time.monotonic() - started < 0.5


@contextlib.asynccontextmanager
async def watching(socket: Path, retry_s: tuple[float, float] = QUICK) -> AsyncIterator[Watch]:
    watch = Watch(socket, retry_s)
    try:
        yield watch
    finally:
        await watch.stop()


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 30))


# ---- what logind announces ----


def test_sleep_is_announced_and_over(bus):
    async def story() -> None:
        async with logind(bus) as login, watching(bus.socket) as watch:
            await watch.until("watching")
            await login.sleep(True)
            await watch.until("watching", leaving=True)
            await login.sleep(True)  # nothing new
            await login.sleep(False)
            await watch.until("watching")
            assert watch.told == [True, False]

    play(story)


def test_shutdown_is_announced_and_called_off(bus):
    async def story() -> None:
        async with logind(bus) as login, watching(bus.socket) as watch:
            await watch.until("watching")
            await login.shutdown(True)
            await watch.until("watching", leaving=True)
            await login.sleep(True)
            await login.sleep(False)  # a shutdown is still to come
            await login.signal("PrepareForLunch", "b", False)
            await asyncio.sleep(0.2)
            assert watch.told == [True]
            await login.shutdown(False)
            await watch.until("watching")
            assert watch.told == [True, False]

    play(story)


@pytest.mark.parametrize("which", ["sleep", "shutdown"])
def test_who_comes_late_is_told_too(bus, which):
    async def story() -> None:
        async with logind(bus, **{which: True}) as login, watching(bus.socket) as watch:
            await watch.until("watching", leaving=True)
            await (login.sleep if which == "sleep" else login.shutdown)(False)
            await watch.until("watching")

    play(story)


def test_without_logind_it_waits_for_it(bus):
    async def story() -> None:
        async with watching(bus.socket) as watch:
            await watch.until("not running")
            async with logind(bus, sleep=True):
                await watch.until("watching", leaving=True)
            await watch.until("not running")
            assert watch.told == [True, False]

    play(story)


def test_logind_restarts_in_the_middle(bus):
    async def story() -> None:
        async with watching(bus.socket) as watch:
            async with logind(bus) as login:
                await watch.until("watching")
                await login.sleep(True)
                await watch.until("watching", leaving=True)
            await watch.until("not running")  # and what the old one said is forgotten
            async with logind(bus) as login:
                await watch.until("watching")
                await login.shutdown(True)
                await watch.until("watching", leaving=True)
            assert watch.told == [True, False, True]

    play(story)


def test_the_bus_goes_away_and_comes_back(bus):
    async def story() -> None:
        async with watching(bus.socket) as watch:
            async with logind(bus) as login:
                await watch.until("watching")
                await login.sleep(True)
                await watch.until("watching", leaving=True)
                bus.stop()
                await watch.until("no system bus")
            assert watch.told == [True, False]
            bus.start()
            async with logind(bus) as login:
                await watch.until("watching")
                await login.sleep(True)
                await watch.until("watching", leaving=True)

    play(story)


def test_a_logind_without_the_properties_still_announces(bus):
    async def story() -> None:
        async with client(bus, "org.freedesktop.login1") as login, watching(bus.socket) as watch:
            await watch.until("watching")
            await login.sleep(True)
            await watch.until("watching", leaving=True)

    play(story)


def test_a_logind_that_does_not_answer_is_tried_again(bus, monkeypatch):
    monkeypatch.setattr(logind_module, "ANSWER_S", 0.2)

    async def story() -> None:
        async with logind(bus, sleep=True) as login:
            login.silent = True
            async with watching(bus.socket) as watch:
                await watch.until("no system bus")
                login.silent = False
                await watch.until("watching", leaving=True)

    play(story)


# ---- what others say ----


def test_another_sender_is_not_believed(bus):
    async def story() -> None:
        async with client(bus, "com.example.liar") as liar, logind(bus) as login:
            others = await names(bus)
            async with watching(bus.socket) as watch:
                await watch.until("watching")
                (us,) = await names(bus) - others
                for to in ("", us):  # to everybody, and past every match rule
                    await liar.signal("PrepareForSleep", "b", True, to=to)
                    await liar.signal("PrepareForShutdown", "b", True, to=to)
                    owner = {"object_path": "/org/freedesktop/DBus", "interface": "org.freedesktop.DBus"}
                    body = ("org.freedesktop.login1", "", ":1.0")
                    await liar.signal("NameOwnerChanged", "sss", *body, to=to, **owner)
                await asyncio.sleep(0.2)
                assert (watch.told, watch.logind.state) == ([], "watching")
                await login.sleep(True)
                await watch.until("watching", leaving=True)

    play(story)


def test_a_message_that_is_too_large_is_passed_over(bus):
    async def story() -> None:
        async with client(bus) as liar, logind(bus) as login:
            others = await names(bus)
            async with watching(bus.socket) as watch:
                await watch.until("watching")
                (us,) = await names(bus) - others
                for size in (9_000, 3 << 20):
                    await liar.signal("PrepareForSleep", "s", "x" * size, to=us)
                await login.sleep(True)
                await watch.until("watching", leaving=True)
                await asyncio.sleep(0.2)
                assert watch.told == [True]  # without a new connection in between

    play(story)


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        (None, ()),
        ("s", ("true",)),
        ("u", (1,)),
        ("bb", (True, True)),
        ("v", (("b", True),)),
        ("ab", ([True],)),
        ("sss", ("org.freedesktop.login1", "", "")),
    ],
)
def test_a_body_that_is_none_is_ignored(bus, signature, body):
    async def story() -> None:
        async with logind(bus) as login, watching(bus.socket) as watch:
            await watch.until("watching")
            await login.signal("PrepareForSleep", signature, *body)
            await asyncio.sleep(0.1)
            assert (watch.told, watch.logind.state) == ([], "watching")
            await login.sleep(True)
            await watch.until("watching", leaving=True)

    play(story)


@pytest.mark.parametrize("where", [{"object_path": "/org/freedesktop"}, {"interface": "org.freedesktop.login1.Seat"}])
def test_the_right_signal_from_the_wrong_place_is_ignored(bus, where):
    async def story() -> None:
        async with logind(bus) as login:
            others = await names(bus)
            async with watching(bus.socket) as watch:
                await watch.until("watching")
                (us,) = await names(bus) - others
                await login.signal("PrepareForSleep", "b", True, to=us, **where)
                await asyncio.sleep(0.1)
                assert watch.told == []

    play(story)


def test_a_property_that_is_no_truth_value_is_ignored(bus):
    async def story() -> None:
        garbage = {"PreparingForSleep": ("s", "yes"), "PreparingForShutdown": ("u", 1)}
        async with client(bus, "org.freedesktop.login1", **garbage), watching(bus.socket) as watch:
            await watch.until("watching")
            await asyncio.sleep(0.1)
            assert watch.told == []

    play(story)


# ---- no bus ----


def test_without_a_bus_it_says_so_and_comes_when_there_is_one(bus):
    bus.stop()

    async def story() -> None:
        async with watching(bus.socket) as watch:
            await watch.until("no system bus")
            await asyncio.sleep(0.2)
            bus.start()
            async with logind(bus):
                await watch.until("watching")
            assert watch.told == []

    play(story)


GREETING = b"OK 0123456789abcdef0123456789abcdef\r\n"


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"REJECTED ANONYMOUS\r\n",
        b"x" * 100_000,
        GREETING,
        GREETING + b"surplus",
        (GREETING, b"\0" * 64),
        (GREETING, b"l\xff\xff\xff" + b"\xff" * 60),  # claims to be 4 GiB long
        (GREETING, b"l\x02\x00\x01" + b"\x08\x00\x00\x00" * 15),
    ],
    ids=lambda says: repr(says)[:30],
)
def test_what_is_no_bus_is_left_alone_for_longer_and_longer(tmp_path, says):
    if find_spec("jeepney") is None:
        absent("no jeepney")
    visits: list[float] = []
    socket = tmp_path / "bus"

    async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.append(time.monotonic())
        with contextlib.suppress(ConnectionError):
            for piece in says if isinstance(says, tuple) else (says,):
                await reader.read(100)
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def story() -> None:
        async with await asyncio.start_unix_server(visited, socket), watching(socket, (0.05, 0.4)) as watch:
            await watch.until("no system bus")
            used = time.process_time()
            await asyncio.sleep(1.2)  # after 0.05, 0.1, 0.2, 0.4, 0.4 s
            assert 3 <= len(visits) <= 6
            assert time.process_time() - used < 0.5
            assert (watch.told, watch.logind.state) == ([], "no system bus")

    play(story)


def test_a_message_that_is_too_large_is_never_held_as_a_whole(tmp_path):
    if find_spec("jeepney") is None:
        absent("no jeepney")
    size, piece = 32 << 20, bytes(32 << 10)
    gone = asyncio.Event()

    async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(GREETING)
        await reader.read(100)
        writer.write(struct.pack("<cBBBIII", b"l", 4, 0, 1, size, 1, 0))
        for _ in range(size // len(piece)):
            writer.write(piece)
            await writer.drain()
        gone.set()

    async def story() -> None:
        socket = tmp_path / "bus"
        async with await asyncio.start_unix_server(visited, socket), watching(socket):
            await gone.wait()

    tracemalloc.start()
    try:
        play(story)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("state", ["no system bus", "not running", "watching"])
def test_it_can_be_cancelled_at_any_time_and_leaves_nothing_open(bus, state):
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            if state == "no system bus":
                bus.stop()
            elif state == "watching":
                await stack.enter_async_context(logind(bus))
            before = len(list(Path("/proc/self/fd").iterdir()))
            async with watching(bus.socket, (60.0, 60.0)) as watch:
                await watch.until(state)
            await asyncio.sleep(0.05)
            assert len(list(Path("/proc/self/fd").iterdir())) == before

    play(story)


def test_a_machine_without_the_library_does_without(bus, monkeypatch):
    monkeypatch.setitem(sys.modules, "jeepney", None)

    async def story() -> None:
        watch = Watch(bus.socket)
        await asyncio.wait_for(watch.task, 5)
        assert (watch.logind.state, watch.logind.leaving, watch.told) == ("no jeepney", False, [])

    play(story)


def test_without_a_bus_the_library_is_never_loaded(tmp_path):
    code = (
        "import asyncio, contextlib, sys, pathlib; from idiolect.host.logind import Logind\n"
        f"logind = Logind(socket=pathlib.Path({str(tmp_path / 'nothing')!r}), retry_s=(0.01, 0.01))\n"
        "with contextlib.suppress(TimeoutError): asyncio.run(asyncio.wait_for(logind.run(), 0.1))\n"
        "print(logind.state, 'jeepney' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DAEMON)
    assert done.stdout == "no system bus False\n"


# ---- which bus ----


@pytest.mark.parametrize(
    ("address", "socket"),
    [
        ("", "/run/dbus/system_bus_socket"),
        ("unix:path=/run/my%20bus,guid=0123", "/run/my bus"),
        ("tcp:host=localhost,port=1;unix:guid=1,path=/b;unix:path=/c", "/b"),
        ("unix:abstract=/tmp/hidden", "\0/tmp/hidden"),
        ("unixexec:path=/bin/false", "/run/dbus/system_bus_socket"),
        ("nonsense", "/run/dbus/system_bus_socket"),
    ],
)
def test_the_address_is_the_environments(monkeypatch, address, socket):
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    asked: list[str] = []

    async def connect(path: str, **_: Any) -> None:
        asked.append(path)
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio, "open_unix_connection", connect)

    async def story() -> None:
        watch = Watch(socket=None, retry_s=(60.0, 60.0))
        await watch.until("no system bus")
        await watch.stop()

    play(story)
    assert asked == [socket]
