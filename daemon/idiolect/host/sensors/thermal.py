"""Reads how hot the machine is, and if it is being slowed down for heat, voltage or current.

Sources, all below /sys: thermal zones and cooling devices (Documentation/driver-api/thermal/sysfs-api.rst); the
Raspberry Pi's firmware (``get_throttled``: the bits of ``vcgencmd get_throttled``) and its under-voltage alarm
(drivers/hwmon/raspberrypi-hwmon.c: of the last two seconds); Jetson's over-current counters (``oc*_event_cnt``: events
since boot, so that only their growth says something about now).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from idiolect.host.sensors.sysfs import Look

COLDEST, HOTTEST = -40_000, 150_000
"""Thousandths of a degree Celsius that are believed. Drivers say -273000 or -274000 for "no idea"."""
_THERMAL, _HWMON, _PLATFORM = "sys/class/thermal", "sys/class/hwmon", "sys/devices/platform"
_FOREIGN = ("pmic-die", "iwlwifi*", "battery*", "*charger*")
"""Types, in lower case, of zones that say nothing of the processor. Jetson's PMIC-Die is 100 degrees, always."""
_SLOWING = ("Processor", "cpufreq*", "thermal-cpufreq*", "devfreq*", "thermal-devfreq*")
"""Types of cooling devices that cool by doing less, unlike a fan."""
_FIRMWARE_BITS = {
    0: "the supply's voltage is too low",
    1: "the firmware caps the processor's frequency",
    2: "the firmware throttles the processor",
    3: "the soft temperature limit is reached",
}
"""The bits of the Raspberry Pi's firmware; those from 16 on mean that it was so at some time since the start."""
_HEX = re.compile(r"(0x)?[0-9a-fA-F]{1,8}")
_OC_EVENTS = re.compile(r"(oc[0-9]+)_event_cnt")


@dataclass(frozen=True, slots=True)
class Thermal:
    """``celsius``: the hottest believable zone, named by ``zone``; None and empty where there is none.

    ``throttled``: why the machine is being slowed down now, in words; empty when it is not. ``trouble``: what was
    unreadable or garbage, in words, with its name in sysfs.
    """

    celsius: float | None
    zone: str = ""
    throttled: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return temperature, reasons for being slowed down and trouble in one line for people."""
        heat = "no thermometer" if self.celsius is None else f"{self.celsius:.0f} °C ({self.zone})"
        return "; ".join((heat, *(self.throttled or ("not throttled",)), *self.trouble))


class ThermalReader:
    """Looks again and again, and remembers the counters of events from one look to the next."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._events: dict[str, int] = {}

    def read(self) -> Thermal:
        """Read everything once more. Never raises. Over-current is seen from the second time on."""
        look = Look(self._root)
        celsius, zone = _hottest(look)
        throttled = (*_cooling(look), *_firmware(look), *self._hwmon(look))
        return Thermal(celsius, zone, throttled, tuple(look.trouble))

    def _hwmon(self, look: Look) -> Iterator[str]:
        for device in look.entries(_HWMON, "hwmon") or ():
            for path in look.entries(device, "oc") or ():
                if (counter := _OC_EVENTS.fullmatch(path.removeprefix(f"{device}/"))) and self._grown(look, path):
                    yield f"too much current was drawn since the last look ({counter[1]})"
            alarm = f"{device}/in0_lcrit_alarm"
            if look.text(f"{device}/name") == "rpi_volt" and look.whole(alarm, 0, 1):
                yield "the supply's voltage is or was just now too low"

    def _grown(self, look: Look, path: str) -> bool:
        count = look.whole(path, 0, 2**64 - 1)
        if count is None:
            return False
        before = self._events.get(path, count)
        self._events[path] = count
        return count > before


def read_thermal(root: Path = Path("/")) -> Thermal:
    """Read everything once, which cannot tell about over-current. Never raises."""
    return ThermalReader(root).read()


def _hottest(look: Look) -> tuple[float | None, str]:
    found: list[tuple[int, str]] = []
    for path in look.entries(_THERMAL, "thermal_zone") or ():
        kind = look.text(f"{path}/type")
        if kind is None or any(fnmatchcase(kind.lower(), foreign) for foreign in _FOREIGN):
            continue
        if look.text(f"{path}/mode") == "disabled":
            continue
        # EAGAIN: the part of the chip that it measures is switched off (Jetson's cv0 to cv2 and gpu).
        heat = look.whole(f"{path}/temp", COLDEST, HOTTEST, quiet=(errno.EAGAIN,))
        if heat is not None:
            found.append((heat, kind))
    if not found:
        return None, ""
    heat, zone = max(found)
    return heat / 1000, zone


def _cooling(look: Look) -> Iterator[str]:
    for path in look.entries(_THERMAL, "cooling_device") or ():
        kind = look.text(f"{path}/type")
        if kind is None or not any(fnmatchcase(kind, slowing) for slowing in _SLOWING):
            continue
        state = look.whole(f"{path}/cur_state", 0, 2**31)
        if state:
            yield f"slowed down to stay cool ({kind}, step {state})"


def _firmware(look: Look) -> Iterator[str]:
    for soc in look.entries(_PLATFORM, "soc") or ():  # soc on a Pi 4, soc@... on a Pi 5
        for device in look.entries(soc, "soc") or ():
            if not device.endswith(":firmware"):
                continue
            path = f"{device}/get_throttled"
            text = look.text(path)
            if text is not None and not _HEX.fullmatch(text):
                look.blame(path, f"says {text[:20]!r} and not a hexadecimal number")
            elif text is not None:
                yield from (reason for bit, reason in _FIRMWARE_BITS.items() if int(text, 16) >> bit & 1)
