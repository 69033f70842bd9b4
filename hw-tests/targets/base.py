"""What a test may ask of a machine, whatever kind of machine it is."""

from __future__ import annotations

import json
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

    from .neighbour import Neighbour
    from .sound import Room
    from .tpm import Chip

CHUNK = 512 << 10
"""Files travel in pieces that every transport takes."""


class TargetError(Exception):
    """The machine, not the product, did not do what was asked of it."""


class Unavailable(Exception):  # a reason to skip, not an error
    """This kind of machine lacks what a test needs; the message says what."""


@dataclass(frozen=True)
class Done:
    """A command that ended: exit status (124: it was stopped at its time limit), what it wrote, how long it took."""

    command: str
    rc: int
    out: str
    err: str
    seconds: float

    @property
    def said(self) -> str:
        """Everything it wrote."""
        return "\n".join(part for part in (self.out.strip(), self.err.strip()) if part)

    def checked(self) -> Done:
        """Itself if it went well, else ``TargetError``."""
        if self.rc:
            raise TargetError(f"exit status {self.rc}: {self.command}\n{self.said}")
        return self


@dataclass
class Facts:
    """What kind of machine it is. ``lacks`` names abilities with the reason why they are missing."""

    arch: str = ""
    model: str = ""
    kernel: str = ""
    system: str = ""
    systemd: int = 0
    memory_mib: int = 0
    has_tpm: bool = False
    has_sound: bool = False
    enforces_cgroups: bool = False
    lacks: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return dict(vars(self))


PROBE = """\
arch=$(dpkg --print-architecture); kernel=$(uname -r); systemd=$(systemctl --version | awk 'NR==1{print $2}')
. /etc/os-release; memory=$(awk '/MemTotal/{print int($2/1024)}' /proc/meminfo)
tpm=false; [ -e /dev/tpmrm0 ] && tpm=true
sound=false; grep -qs '[0-9]' /proc/asound/pcm && sound=true
controllers=$(cat /sys/fs/cgroup/cgroup.controllers 2>/dev/null)
# What the board's maker calls it, where the firmware says so; it ends in a zero.
model=$(2>/dev/null tr -cd 'A-Za-z0-9 .+-' < /proc/device-tree/model)
printf '{"arch":"%s","kernel":"%s","system":"%s","systemd":%s,"memory_mib":%s,"has_tpm":%s,"has_sound":%s,' \
    "$arch" "$kernel" "$PRETTY_NAME" "$systemd" "$memory" "$tpm" "$sound"
printf '"model":"%s","controllers":"%s"}' "$model" "$controllers"
"""


class Target(ABC):
    """A machine with systemd as PID 1 on which we are root.

    A test that needs an ability calls ``need``; one of the abilities a machine lacks becomes a skip with the reason.
    """

    name: str
    facts: Facts
    room: Room
    chip: Chip
    patience = 1.0
    """How much longer than others it may take: an emulated processor is slow."""

    # -- what every kind does in its own way --------------------------------------------------------------------

    @abstractmethod
    def run(self, command: str, *, timeout: float = 30, stdin: bytes = b"", network: bool = False) -> Done:
        """Run a shell command as root; ``network`` says that it must reach the package mirror."""

    @abstractmethod
    def reboot(self) -> None:
        """An orderly restart; returns when commands run again. RAM is lost, the disk is kept."""

    @abstractmethod
    def power_cut(self) -> None:
        """Off without a warning and on again, the TPM too."""

    @abstractmethod
    def close(self) -> None:
        """Switch it off and remove what was made for it."""

    def unplug(self) -> None:
        """Pull the microphone out."""
        raise Unavailable("nobody here to pull the plug")

    def plug(self) -> None:
        """Put the microphone back."""
        raise Unavailable("nobody here to put it back")

    def neighbour(self) -> Neighbour:
        """Somebody else in its network, to be plugged in."""
        raise Unavailable("nobody else is in this machine's network")

    def connect(self, port: int) -> socket.socket:
        """Connect to a port of its loopback, from the machine itself. Raises ``OSError``."""
        raise Unavailable("this machine's loopback cannot be reached from here")

    def suspend(self) -> float:
        """Sleep and wake up again; returns the seconds asleep."""
        raise Unavailable(self.facts.lacks.get("suspend", "cannot sleep"))

    # -- what follows from it -----------------------------------------------------------------------------------

    def need(self, *abilities: str) -> None:
        """Raise ``Unavailable`` unless it has all of them."""
        for ability in abilities:
            if reason := self.facts.lacks.get(ability):
                raise Unavailable(reason)

    def check(self, command: str, **wishes: Any) -> str:
        """Run a command that must go well; returns its standard output without blanks around it."""
        return self.run(command, **wishes).checked().out.strip()

    def python(self, program: str, *arguments: str, timeout: float = 30) -> Done:
        """Run a Python program on the machine's own interpreter."""
        command = " ".join(["python3", "-", *map(shlex.quote, arguments)])
        return self.run(command, stdin=program.encode(), timeout=timeout)

    def put(self, data: bytes | Path | str, path: str, mode: int = 0o644) -> None:
        """Write a file, with the directories above it; a power cut leaves it there."""
        content = data.read_bytes() if isinstance(data, Path) else data.encode() if isinstance(data, str) else data
        where = shlex.quote(path)
        self.run(f"mkdir -p $(dirname {where}) && : > {where} && chmod {mode:o} {where}").checked()
        for start in range(0, len(content), CHUNK):
            self.run(f"cat >> {where}", stdin=content[start : start + CHUNK]).checked()
        self.run(f"sync {where}").checked()

    def get(self, path: str) -> bytes:
        """A file's content."""
        return bytes.fromhex(self.check(f"od -An -v -tx1 {shlex.quote(path)}", timeout=60))

    def unlink(self, *paths: str) -> None:
        """Remove files or directories, whether they are there or not."""
        self.run("rm -rf " + " ".join(map(shlex.quote, paths))).checked()

    def wait(self, condition: Callable[[], Any], seconds: float, what: str, every: float = 0.1) -> Any:
        """Ask until the answer is true; returns it. ``TimeoutError`` names what was waited for."""
        ends = time.monotonic() + seconds * self.patience
        while not (answer := condition()):
            if time.monotonic() > ends:
                raise TimeoutError(f"not within {seconds:g} s: {what}")
            time.sleep(every)
        return answer

    def now(self) -> float:
        """The machine's monotonic clock."""
        return float(self.check("cut -d' ' -f1 /proc/uptime"))

    def _observe(self, **known: Any) -> Facts:
        """Facts as the machine itself tells them."""
        told: Mapping[str, Any] = json.loads(self.check(PROBE))
        controllers = str(told["controllers"]).split()
        facts = {name: value for name, value in told.items() if name != "controllers"}
        enforces = {"memory", "pids"} <= set(controllers)
        return Facts(**{**facts, "enforces_cgroups": enforces, **known})
