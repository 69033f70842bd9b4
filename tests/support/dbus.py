"""A real dbus-daemon, and a small stand-in of logind that owns the real name on it and sends the real signals."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from idiolect.host.sensors.logind import Logind

DAEMON = Path(__file__).parents[2] / "daemon"
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

    async def until(self, state: str, leaving: bool = False, within: float = 60.0) -> None:
        deadline = time.monotonic() + within
        while (self.logind.state, self.logind.leaving) != (state, leaving):
            assert time.monotonic() < deadline, f"{self.logind.state}, leaving: {self.logind.leaving}"
            if self.task.done():
                self.task.result()
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(self.task, 60)


@contextlib.asynccontextmanager
async def watching(socket: Path, retry_s: tuple[float, float] = QUICK) -> AsyncIterator[Watch]:
    watch = Watch(socket, retry_s)
    try:
        yield watch
    finally:
        await watch.stop()


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 60))
