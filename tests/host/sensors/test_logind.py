"""logind: whether the machine is about to sleep or shut down, and who is believed about it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from idiolect.host.sensors import logind as logind_module
from tests.conftest import absent
from tests.support.dbus import DAEMON, Bus, Watch, client, logind, names, play, watching


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
        await asyncio.wait_for(watch.task, 60)
        assert (watch.logind.state, watch.logind.leaving, watch.told) == ("no jeepney", False, [])

    play(story)


def test_without_a_bus_the_library_is_never_loaded(tmp_path):
    code = (
        "import asyncio, contextlib, sys, pathlib; from idiolect.host.sensors.logind import Logind\n"
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
