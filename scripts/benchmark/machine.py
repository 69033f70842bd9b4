"""What kind of machine the figures are from, and what else it was doing; nothing that names it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

BUSY_LOAD = 0.5
"""Load per core, over the last minute, from which others disturb the figures."""
WIDE_SPREAD = 0.15
"""Spread of the rounds from which a median should be taken again."""


def describe() -> dict[str, object]:
    """Processor, system and the settings that change what arithmetic libraries do."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    release = Path("/etc/os-release")
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)', release.read_text(), re.MULTILINE) if release.exists() else None
    return {
        "processor": model.group(1).strip() if model else platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "system": name.group(1) if name else platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("OPENBLAS_", "OMP_", "XNN"))},
    }


def load() -> float:
    """Processes that wanted to run over the last minute, per core."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def warnings(load_before: float, spreads: dict[str, float]) -> list[str]:
    """Why the figures may be off; empty when nothing speaks against them."""
    found = []
    if load_before > BUSY_LOAD:
        found.append(f"the machine was busy before the bench began: load {load_before:.2f} per core")
    found += [
        f"{name}: rounds differ by {spread:.0%}" for name, spread in sorted(spreads.items()) if spread > WIDE_SPREAD
    ]
    return found
