"""Survivors that are known, each with the reason why it is none that a test should kill."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .changes import Mutant

FILE = Path(__file__).resolve().parents[1] / "equivalent.toml"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line, and what it may become."""

    file: str
    function: str
    was: str
    now: tuple[str, ...]
    reason: str


class Explained:
    """All of them."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self._reasons = {(e.file, e.function, e.was, now): e.reason for e in entries for now in e.now}

    @classmethod
    def read(cls, path: Path) -> Explained:
        """From ``[[mutant]]`` tables; ``now`` is one line or several."""
        entries = []
        for each in tomllib.loads(path.read_text()).get("mutant", []):
            now = each["now"] if isinstance(each["now"], list) else [each["now"]]
            entry = Entry(each["file"], each["function"], each["was"], tuple(now), each["reason"])
            if not entry.now or not entry.reason:
                raise ValueError(f"{path.name}: {entry.file}: {entry.was}: no change, or no reason")
            entries.append(entry)
        return cls(entries)

    def reason(self, mutant: Mutant) -> str:
        """Why ``mutant`` may survive; empty when nobody knows."""
        place = mutant.place
        return self._reasons.get((place.file, place.function, mutant.was, mutant.now), "")
