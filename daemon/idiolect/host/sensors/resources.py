"""Measures the room to work in: memory (MemAvailable of proc(5)), the disk under the state directory, and the load."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from idiolect.host.sensors.sysfs import Look

_MEMINFO = 16 << 10
"""Bytes of /proc/meminfo at most: it has about 1500."""
_AVAILABLE = re.compile(r"^MemAvailable: +([0-9]{1,15}) kB$", re.MULTILINE)
_LOAD = re.compile(r"([0-9]{1,9}\.[0-9]{2}) ")


@dataclass(frozen=True, slots=True)
class Resources:
    """``memory_available_mib``: what can be had without swapping. ``disk_free_mib``: what is left for the unprivileged.

    ``writable``: whether the state directory takes new files. ``load_per_core``: tasks that run or wait for a core or
    the disk, mean of the last minute. None: cannot be told; ``trouble`` says why, in words.
    """

    memory_available_mib: float | None
    disk_free_mib: float | None
    writable: bool
    load_per_core: float | None
    trouble: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return memory, disk, load and trouble in one line for people."""
        memory, disk = (
            f"an unknown amount of {what}" if free is None else f"{free:.0f} MiB of {what}"
            for what, free in (("memory", self.memory_available_mib), ("disk", self.disk_free_mib))
        )
        load = "" if self.load_per_core is None else f", load {self.load_per_core:.2f} a core"
        readonly = "" if self.writable else ", state directory not writable"
        return "; ".join((f"{memory} and {disk} free{load}{readonly}", *self.trouble))


def read_resources(root: Path, state_dir: Path) -> Resources:
    """Read memory and load below ``root`` (/), and the disk where ``state_dir`` is. Never raises."""
    look = Look(root)
    memory = _number(look, "proc/meminfo", _AVAILABLE)
    load = _number(look, "proc/loadavg", _LOAD)
    free, writable = _disk(look, state_dir)
    return Resources(
        memory_available_mib=None if memory is None else memory / 1024,
        disk_free_mib=free,
        writable=writable,
        load_per_core=None if load is None else load / (os.cpu_count() or 1),
        trouble=tuple(look.trouble),
    )


def _number(look: Look, path: str, pattern: re.Pattern[str]) -> float | None:
    text = look.text(path, _MEMINFO)
    found = pattern.search(text) if text is not None else None
    if found is None:
        if text is not None:
            look.blame(path, "does not say")
        return None
    return float(found[1])


def _disk(look: Look, state_dir: Path) -> tuple[float | None, bool]:
    try:
        status = os.statvfs(state_dir)
    except OSError as error:
        look.blame(str(state_dir), error.strerror or "unreadable")
        return None, False
    full = status.f_files > 0 and status.f_favail == 0  # some file systems count no inodes
    if full:
        look.blame(str(state_dir), "no room for another file, however small")
    writable = not full and os.access(state_dir, os.W_OK | os.X_OK)  # also says no on a read-only mount
    return status.f_bavail * status.f_frsize / 2**20, writable
