"""Finds out where the electricity comes from: /sys/class/power_supply (Documentation/ABI/testing/sysfs-class-power).

The rule follows the kernel's own ``power_supply_is_system_supplied``: any supply that is no battery and is online
feeds the machine, what has the scope Device is somebody's mouse and does not count, and a machine without a battery
that runs is fed by something, whether its supply can be seen (PoE hat, USB-C port of a desktop) or not (Raspberry Pi).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from idiolect.host.sensors.sysfs import Look

_CLASS = "sys/class/power_supply"
_BATTERIES = ("Battery", "UPS")
_EXTERNAL = re.compile(r"Mains|Wireless|BrickID|Unknown|USB(_[A-Z0-9_]+)?")
_SCOPES = ("Unknown", "System", "Device")
_STATUSES = ("Unknown", "Charging", "Discharging", "Not charging", "Full")
_ONLINE_MOST = 2
"""0 offline, 1 online with a fixed voltage, 2 online with a programmed one (USB PD PPS)."""


@dataclass(frozen=True, slots=True)
class Power:
    """The machine's power supply at one moment.

    ``mains``: something from outside feeds it; None where that cannot be told. ``battery_percent``: 0 to 100, of the
    machine's emptiest battery or UPS; None without one or where it does not say. ``charging``: at least one of them is
    being charged. ``trouble``: what was unreadable or garbage, in words, with its name in sysfs.
    """

    mains: bool | None
    battery_percent: float | None
    charging: bool
    has_battery: bool
    trouble: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return source, battery and trouble in one line for people."""
        source = {True: "on mains", False: "on battery", None: "cannot tell whether on mains"}[self.mains]
        level = "" if self.battery_percent is None else f" {self.battery_percent:.0f} %"
        if not self.has_battery:
            battery = "no battery"
        else:
            battery = f"battery{level or ' at an unknown level'}{', charging' if self.charging else ''}"
        return "; ".join((f"{source}, {battery}", *self.trouble))


@dataclass(slots=True)
class _Found:
    """All supplies together: ``online`` of each external one, ``status`` and ``capacity`` of each battery."""

    online: list[int | None] = field(default_factory=list)
    status: list[str | None] = field(default_factory=list)
    capacity: list[int | None] = field(default_factory=list)
    hidden: bool = False  # something is there that does not say what it is


def read_power(root: Path = Path("/")) -> Power:
    """Look at every supply, and return the whole. Never raises."""
    look = Look(root)
    supplies = look.entries(_CLASS)
    found = _Found(hidden=supplies is None)
    for path in supplies or ():
        _add(look, path, found)
    levels = [level for level in found.capacity if level is not None]
    return Power(
        mains=_on_mains(found.online, found.status, hidden=found.hidden),
        battery_percent=float(min(levels)) if levels else None,
        charging="Charging" in found.status,
        has_battery=bool(found.status),
        trouble=tuple(look.trouble),
    )


def _add(look: Look, path: str, found: _Found) -> None:
    # First the scope: the names of people's mice and headsets hold addresses, and never get into ``trouble``.
    if look.word(f"{path}/scope", _SCOPES) == "Device":
        return
    before = len(look.trouble)
    kind = look.text(f"{path}/type")
    if kind is None:
        found.hidden |= len(look.trouble) > before  # without a type and without trouble it has been unplugged
    elif _EXTERNAL.fullmatch(kind):
        found.online.append(look.whole(f"{path}/online", 0, _ONLINE_MOST))
    elif kind not in _BATTERIES:
        found.hidden = True
        look.blame(f"{path}/type", f"says {kind[:20]!r}")
    elif look.whole(f"{path}/present", 0, 1) != 0:
        found.status.append(look.word(f"{path}/status", _STATUSES))
        found.capacity.append(look.whole(f"{path}/capacity", 0, 100))


def _on_mains(online: Sequence[int | None], status: Sequence[str | None], *, hidden: bool) -> bool | None:
    if any(online) or "Charging" in status:
        return True
    if not status:
        return None if hidden else True
    if online and None not in online and not hidden:
        return False
    if "Discharging" in status:
        return False
    full_alone = not online and not hidden and all(each == "Full" for each in status)
    return True if full_alone else None
