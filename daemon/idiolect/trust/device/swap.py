"""Finds out if this process's memory can get on a disk by way of swap.

The file systems /proc and /sys go in, below any root; one ``Swapping`` comes out, and nothing is changed.

What keeps memory out is ``memory.swap.max`` of its control group, or of one above, when it is 0. That takes the
kernel's memory controller, which a command line may switch off (``cgroup_disable=memory``, as on Raspberry Pi OS); a
unit that says ``MemorySwapMax=0`` then starts all the same, and nothing holds.

Sources: proc(5), Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from idiolect.host.sensors.sysfs import Look
from idiolect.trust.vault import secret

_SWAPS, _GROUPS, _VALUE = 16 << 10, 4 << 10, 64
"""Bytes at most of /proc/swaps, /proc/self/cgroup, and of one value of a control group."""
CONTROLLER = (
    "boot with cgroup_enable=memory (on a Raspberry Pi: in /boot/firmware/cmdline.txt), or do without swap: "
    "sudo swapoff -a, and remove what switches it on at boot"
)
LIMIT = "set MemorySwapMax=0 in the unit again: systemctl cat idiolectd shows every drop-in"


@dataclass(frozen=True, slots=True)
class Swapping:
    """``devices``: what is swapped to, "" where that cannot be told. ``open``: why memory may get there; "": it cannot.

    ``fix``: what to do then. ``service``: whether systemd runs this process as a service. ``locks``: whether the kernel
    locks a page when it is asked to, as is done with keys.
    """

    devices: tuple[str, ...]
    open: str
    fix: str
    service: bool
    locks: bool


def read_swapping(root: Path) -> Swapping:
    """Read the state of this moment from the files below ``root`` (/). Never raises."""
    look = Look(root)
    listed = look.text("proc/swaps", _SWAPS)
    devices = tuple(line.split()[0] for line in (listed or "").splitlines()[1:] if line.strip())
    if listed is None:  # no swap in the kernel, or no sight of it: the control group decides
        devices = ("",) if look.trouble else ()
    group = _group(look)
    reason, fix = _open(look, group) if devices else ("", "")
    return Swapping(devices, reason, fix, group is not None and group.suffix == ".service", secret.lockable())


def _group(look: Look) -> PurePosixPath | None:
    """Return the control group of this process, or where systemd has put it under control groups of version 1."""
    lines = (look.text("proc/self/cgroup", _GROUPS) or "").splitlines()
    named = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines if line.count(":") >= 2}
    path = named.get("", named.get("name=systemd", ""))
    return PurePosixPath(path) if path.startswith("/") and ".." not in path.split("/") else None


def _open(look: Look, group: PurePosixPath | None) -> tuple[str, str]:
    """Return why the control group keeps nothing out of swap, and what mends that; two empty texts where it does."""
    if group is None:
        return "its control group cannot be told", CONTROLLER
    own = _value(look, group, "memory.swap.max")
    if "0" in (own, *(_value(look, above, "memory.swap.max") for above in group.parents)):
        return "", ""
    if own:
        return f"memory.swap.max of its control group is {own}", LIMIT
    if _value(look, group, "memory.max"):
        return "the kernel limits no swap (memory.swap.max is not there)", CONTROLLER
    return "the kernel has no memory controller for it (cgroup_disable=memory?)", CONTROLLER


def _value(look: Look, group: PurePosixPath, name: str) -> str:
    return (look.text(f"sys/fs/cgroup{group}/{name}", _VALUE) or "").strip()
