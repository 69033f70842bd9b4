"""Reads what scripts/packaging/lock writes: one exact version with all its hashes for each package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?P<marker>\s*;[^\\]*)?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of a lock file; ``hashes`` are those of all its wheels and its source."""

    name: str
    version: str
    hashes: frozenset[str]

    def requirement(self) -> str:
        """As pip reads it."""
        return " \\\n    ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{h}" for h in sorted(self.hashes))])


def normal(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(path: Path) -> dict[str, Pin]:
    """Every pin by its normal name. ``ValueError`` for a line that is none, or one without a hash."""
    text = re.sub(r"(?m)^\s*#.*\n?", "", path.read_text()).replace("\\\n", " ")
    pins = {}
    for line in filter(str.strip, text.splitlines()):
        match = _PIN.match(line)
        hashes = frozenset(_HASH.findall(line))
        if not match or not hashes:
            raise ValueError(f"{path.name}: no version with hashes: {line[:60]}")
        pins[normal(match["name"])] = Pin(normal(match["name"]), match["version"], hashes)
    return pins
