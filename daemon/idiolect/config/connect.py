"""The sections of the configuration about who else may use the daemon: `schema` puts them into `Config`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from idiolect.config.kinds import Choice, Flag, Number, Text

SOCKET = Text("an absolute path of at most 107 bytes, Linux's limit for sockets", r"/.*[^/]", 107, Path)
_USER = Text('the name of a Unix user, or ""', r"(?:[A-Za-z_][0-9A-Za-z_.-]{0,30}\$?)?", 32)


@dataclass(frozen=True, slots=True)
class Wyoming:
    """Wake words and phrases for Home Assistant and other speakers of the Wyoming protocol, which is clear text."""

    enabled: Annotated[bool, Flag(), "Serve Wyoming at all."] = False
    socket: Annotated[Path, SOCKET, "Path of the Unix socket; idiolect-tcp@wyoming.socket gives it a TCP port."] = Path(
        "/run/idiolect/wyoming.sock"
    )
    microphone: Annotated[bool, Flag(), "Tell clients that send no audio what the daemon's own microphone hears."] = (
        False
    )
    max_clients: Annotated[int, Number(1, 128, whole=True), "Connections served at once."] = 32


@dataclass(frozen=True, slots=True)
class Metrics:
    """Numbers for Prometheus, without a word of what was said."""

    enabled: Annotated[bool, Flag(), "Serve /metrics on a socket of its own, besides the control socket."] = False
    socket: Annotated[Path, SOCKET, "Path of the Unix socket; idiolect-tcp@metrics.socket gives it a TCP port."] = Path(
        "/run/idiolect/metrics.sock"
    )


@dataclass(frozen=True, slots=True)
class Page:
    """The page on which people see and change what is kept of them."""

    enabled: Annotated[bool, Flag(), "Serve the page at all."] = False
    access: Annotated[
        Literal["loopback", "lan"],
        Choice(("loopback", "lan")),
        "loopback: for a browser on this device; lan: for the network, with TLS 1.3 and a certificate of the device's.",
    ] = "loopback"
    socket: Annotated[Path, SOCKET, "Path of the Unix socket; idiolect-tcp@page.socket gives it a TCP port."] = Path(
        "/run/idiolect/page.sock"
    )


@dataclass(frozen=True, slots=True)
class Handoff:
    """The sound of a turn, from the wake word on, for one program on this device that goes on with it."""

    user: Annotated[str, _USER, 'The Unix user as whom that program runs; "": nobody gets any sound.'] = ""
    socket: Annotated[Path, SOCKET, "Path of the Unix socket."] = Path("/run/idiolect/handoff.sock")
