"""What happened in a run of ``crash``, and which steps were hit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

WANTED = 6
"""Steps of an operation that are waited for at a time."""


@dataclass
class Tally:
    """What happened."""

    cycles: int = 0
    deaths: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    power_cycles_needed: Counter[str] = field(default_factory=Counter)
    proven: int = 0
    devices: int = 0
    span: dict[bool, float] = field(default_factory=lambda: {True: 0.4, False: 0.1})
    """Seconds that a run takes when nobody dies, with and without training."""
    longest_orphan: float = 0.0
    seen: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    tried: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    hit: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def rarest(self, name: str, steps: Sequence[str]) -> frozenset[str]:
        """A few steps that were hit most rarely; somebody dies at the first that comes.

        Not every step comes each time: one that was waited for in vain is waited for less often.
        """
        hits, tried = self.hit[name], self.tried[name]
        worth = {step: hits[step] + tried[step] / 5 for step in steps}
        least = min(worth.values())
        chosen = sorted((step for step in steps if worth[step] < least + 0.5), key=worth.__getitem__)[:WANTED]
        tried.update(chosen)
        return frozenset(chosen)

    def left(self, name: str) -> int:
        """How many steps of an operation there are at which nobody died yet."""
        return len(set(self.seen[name]) - set(self.hit[name]))

    def coverage(self) -> dict[str, str]:
        """Steps at which somebody died, of those there are, by operation."""
        return {name: f"{len(self.hit[name])}/{len(self.seen[name])}" for name in sorted(self.seen)}

    def missed(self) -> dict[str, list[str]]:
        """Steps at which nobody died."""
        left = {name: sorted(set(steps) - set(self.hit[name])) for name, steps in sorted(self.seen.items())}
        return {name: steps for name, steps in left.items() if steps}

    def figures(self) -> dict[str, object]:
        """For the summary."""
        return {
            "cycles": self.cycles, "devices": self.devices, "deaths": dict(self.deaths),
            "operations": dict(self.operations.most_common()), "candidates dropped": self.dropped,
            "refused while the TPM was off": dict(self.refused), "adapters made again": self.proven,
            "power cycles needed": dict(self.power_cycles_needed),
            "longest life of a worker without its daemon, s": round(self.longest_orphan, 2),
            "steps hit of steps seen": self.coverage(), "steps missed": self.missed(),
        }  # fmt: skip
