"""Files that look like a board's /sys and /proc, for tests of sensors and of what learning waits for."""

from __future__ import annotations

import os
from pathlib import Path

PIPE, FOLDER, EIO, MEGABYTES = object(), object(), object(), object()
"""Oddities in the place of an attribute."""


def put(path: Path, value: object) -> None:
    """One attribute: text as the kernel ends it, bytes as they are, or one of the oddities."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if value is PIPE:
        os.mkfifo(path)
    elif value is FOLDER:
        path.mkdir()
    elif value is EIO:
        path.symlink_to("/proc/self/mem")  # a regular file whose first byte cannot be read: EIO, from a real kernel
    elif value is MEGABYTES:
        path.write_bytes(b"5" * (5 << 20))
    elif isinstance(value, bytes):
        path.write_bytes(value)
    else:
        path.write_text(f"{value}\n")


class Sysfs:
    """A root with devices in it, as the kernel has them: the entries of a class are symbolic links to elsewhere."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def device(self, kind: str, name: str, /, **attributes: object) -> Path:
        home = self.root / "sys/devices/platform/bus" / kind / name
        home.mkdir(parents=True, exist_ok=True)
        link = self.root / "sys/class" / kind / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(Path("../../devices/platform/bus") / kind / name)
        for attribute, value in attributes.items():
            put(home / attribute, value)
        return home

    def supply(self, name: str, /, **attributes: object) -> Path:
        return self.device("power_supply", name, **attributes)

    def zone(self, number: int, type_: str, temp: object, **more: object) -> Path:
        return self.device("thermal", f"thermal_zone{number}", type=type_, temp=temp, **more)

    def cooler(self, number: int, type_: str, cur_state: object) -> Path:
        return self.device("thermal", f"cooling_device{number}", type=type_, cur_state=cur_state)

    def supplies(self, **by_name: dict[str, object]) -> Sysfs:
        for name, attributes in by_name.items():
            self.supply(name, **attributes)
        return self


class Board(Sysfs):
    """A board that runs, cool and on mains; what it shows can be changed while a daemon looks at it."""

    def __init__(self, root: Path, *, celsius: float = 45.0, memory_mib: int = 900, load: float = 0.1) -> None:
        super().__init__(root)
        self.thermometer = self.zone(0, "cpu-thermal", "") / "temp"
        self.heat(celsius)
        self.memory(memory_mib)
        self.put("proc/loadavg", f"{load:.2f} 0.10 0.10 1/99 999")

    def put(self, path: str, value: object) -> None:
        """Write one file below the root."""
        put(self.root / path, value)

    def heat(self, celsius: float) -> None:
        """What the processor's thermometer says."""
        put(self.thermometer, round(celsius * 1000))

    def memory(self, mib: int) -> None:
        """What is available."""
        self.put("proc/meminfo", f"MemTotal: 999999 kB\nMemAvailable: {mib * 1024} kB")

    def battery(self, percent: object, status: str = "Discharging", *, mains: int = 0) -> None:
        """A battery, and a plug."""
        if not (self.root / "sys/class/power_supply").exists():
            self.supplies(BAT0={"type": "Battery", "present": "1"}, AC={"type": "Mains"})
        for name, value in (("BAT0/capacity", percent), ("BAT0/status", status), ("AC/online", mains)):
            self.put(f"sys/class/power_supply/{name}", value)
