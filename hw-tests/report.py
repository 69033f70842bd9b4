"""What a run found: the machine, every test, and every number beside its limit. sharing.py says what others may see."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Number:
    """One measurement. ``limit`` is None where there is none, or where it does not count on this machine."""

    name: str
    value: float
    unit: str
    limit: float | None
    test: str
    note: str = ""

    @property
    def good(self) -> bool:
        """Within its limit."""
        return self.limit is None or self.value <= self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"  limit {self.limit:g}"
        note = f"  ({self.note})" if self.note else ""
        return f"{self.name:58} {self.value:9.2f} {self.unit:4}{limit}{'' if self.good else '  EXCEEDED'}{note}"


@dataclass
class Report:
    """Filled while the tests run."""

    target: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    package: str = ""
    built: dict[str, float] = field(default_factory=dict)
    """What had to be made first, and the seconds it took."""
    tests: list[dict[str, Any]] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        facts, lacks = dict(self.facts), self.facts.get("lacks", {})
        about = ", ".join(str(facts[name]) for name in ("model", "arch", "system", "kernel") if facts.get(name))
        yield_ = [f"{self.target}: {about}, systemd {facts.get('systemd')}, {facts.get('memory_mib')} MiB"]
        yield_ += [f"  {name}: {value}" for name, value in facts.get("notes", {}).items()]
        yield_ += [f"  package: {self.package}"]
        yield_ += [f"  made first: {name} in {seconds:g} s" for name, seconds in self.built.items()]
        yield_ += [f"  lacks {name}: {why}" for name, why in lacks.items()]
        return yield_ + [str(number) for number in self.numbers]
