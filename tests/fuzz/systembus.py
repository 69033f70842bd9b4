"""A target that is D-Bus: what the system bus, or anybody on it, says to the one who watches logind."""

from __future__ import annotations

import asyncio
from pathlib import Path

from idiolect.control.sockets import make_listener
from tests.fuzz.engine import MARK
from tests.fuzz.machine import folder
from tests.fuzz.stage import kept, loop, play


@kept
def _bus() -> tuple[Path, list[bytes]]:
    """A bus whose every connection is told the same."""
    path, said = folder() / "bus", [b""]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in said:
            writer.write(part)
            await asyncio.sleep(0)
        writer.write_eof()
        while await reader.read(65_536):
            pass
        writer.close()

    listener = make_listener(path, "bus")
    loop().run_until_complete(asyncio.start_unix_server(serve, sock=listener.socket))
    return path, said


async def _watched(path: Path) -> None:
    from idiolect.host.sensors.logind import Logind

    logind = Logind(socket=path, retry_s=(1e6, 1e6))
    running = asyncio.ensure_future(logind.run())
    await asyncio.sleep(1000.0)  # one connection, to its end, and nothing more
    if running.done():
        running.result()
        raise AssertionError("it watches no more")
    running.cancel()
    await asyncio.wait([running])
    await asyncio.sleep(10.0)
    if not running.cancelled():
        running.result()
    assert logind.leaving is False, "a lost bus still says that we leave"


def bus(data: bytes) -> None:
    """What the system bus, or anybody on it, says to the one who watches logind."""
    path, said = _bus()
    welcome = b"OK 00112233445566778899aabbccddeeff\r\n"
    said[:] = [data[1:]] if data[:1] == b"\xff" else [welcome, data[1:]]
    play(_watched(path))


def messages() -> list[bytes]:
    """What a real bus says: answers to each of our calls, and the signals."""
    import jeepney

    fields, kinds = jeepney.HeaderFields, jeepney.MessageType

    def reply(
        serial: int, signature: str = "", body: tuple[object, ...] = (), sender: str = "org.freedesktop.DBus"
    ) -> bytes:
        call = jeepney.new_method_call(jeepney.DBusAddress("/x", "a.b", "a.b"), "y")
        call.header.serial = serial
        made = jeepney.new_method_return(call, signature or None, body)
        made.header.fields[fields.sender] = sender
        made.header.fields[fields.reply_serial] = serial
        return bytes(made.serialise(serial + 100))

    def signal(member: str, signature: str, body: tuple[object, ...], sender: str = ":1.5") -> bytes:
        manager = jeepney.DBusAddress("/org/freedesktop/login1", interface="org.freedesktop.login1.Manager")
        made = jeepney.new_signal(manager, member, signature, body)
        assert made.header.message_type is kinds.signal
        made.header.fields[fields.sender] = sender
        return bytes(made.serialise(7))

    hello = reply(1, "s", (":1.9",)) + b"".join(reply(n) for n in (2, 3, 4)) + reply(5, "s", (":1.5",))
    state = b"".join(reply(n, "v", (("b", n == 6),), ":1.5") for n in (6, 7))
    signals = [
        signal("PrepareForSleep", "b", (True,)),
        signal("PrepareForShutdown", "b", (False,)),
        signal("X", "a{sv}", ({MARK: ("ay", b"x")},)),
    ]
    return [
        b"\0" + hello + state + b"".join(signals),
        b"\0" + hello + signals[0],
        b"\xffREJECTED EXTERNAL\r\n",
        b"\0" + signals[2],
    ]
