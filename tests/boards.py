"""Files that look like a board's /sys and /proc, for tests of what learning waits for."""

from __future__ import annotations

from pathlib import Path


class Board:
    """A root to be given as ``idle.machine``; every reading can be changed while the daemon runs, or taken away."""

    def __init__(self, root: Path, *, celsius: float = 45.0, memory_mib: int = 900, load: float = 0.1) -> None:
        self.root = root
        self.put("sys/class/thermal/thermal_zone0/type", "cpu-thermal")
        self.heat(celsius)
        self.memory(memory_mib)
        self.put("proc/loadavg", f"{load:.2f} 0.10 0.10 1/99 999")

    def put(self, path: str, content: str | bytes) -> Path:
        """Write one file, with the line break that the kernel puts at its end."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())
        return file

    def heat(self, celsius: float) -> None:
        """What the processor's thermometer says."""
        self.put("sys/class/thermal/thermal_zone0/temp", str(round(celsius * 1000)))

    def memory(self, mib: int) -> None:
        """What is available."""
        self.put("proc/meminfo", f"MemTotal: 999999 kB\nMemAvailable: {mib * 1024} kB")

    def battery(self, percent: float | str, status: str = "Discharging", *, mains: int = 0) -> None:
        """A battery, and a plug."""
        for name, value in (("type", "Battery"), ("present", "1"), ("capacity", percent), ("status", status)):
            self.put(f"sys/class/power_supply/BAT0/{name}", str(value))
        self.put("sys/class/power_supply/AC/type", "Mains")
        self.put("sys/class/power_supply/AC/online", str(mains))
