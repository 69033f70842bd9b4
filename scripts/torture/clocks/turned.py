"""What is true, what the clocks of a board show of it, and a home that believes them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idiolect.host.clock import Moment
from tests.support.homes import Home

DAY, YEAR = 86_400.0, 365 * 86_400.0
START = 20_000 * DAY
WRONG = (-3 * YEAR, 0.0, 2**31 + 5.0, 130 * YEAR, START - 10 * YEAR, START + 5 * YEAR, START + 0.4 * DAY)
"""Times that a wrong clock shows: before 1970, at it, past 2038, in 2100, and others."""
LIE_S = 20 * 3600.0
"""So long at most a wrong clock calls itself synchronized."""
PERIOD, STORMY = 30, 12
"""Days of a month, and those of them on which the clocks are set: then nothing happens to them for a while."""
DUE_DAYS, LATE_DAYS = 9, 6
"""Within how many days of a right clock the weekly check runs, and what has expired goes."""


@dataclass
class Clocks:
    """What is true, and what the clocks of a board show."""

    chance: random.Random
    true: float = START
    off: float = 0.0
    """By how much the wall clock is wrong."""
    sure: bool = True
    boot: float = 50.0
    boots: int = 1
    right_since: float = START
    lies_until: float = 0.0
    leaps: int = 0

    @property
    def wall(self) -> float:
        """What the wall clock shows."""
        return self.true + self.off

    @property
    def moment(self) -> Moment:
        """Both clocks."""
        return Moment(self.wall, self.boot, f"boot {self.boots}", self.sure)

    @property
    def right(self) -> bool:
        """Whether the clock shows what is true, and knows it."""
        return self.sure and self.off == 0.0

    def pass_(self, seconds: float) -> None:
        """Time passes."""
        self.true += seconds
        self.boot += seconds
        if self.lies_until and self.true >= self.lies_until:
            self.mend()

    def set(self, wall: float, *, sure: bool = False) -> None:
        """Somebody or something sets the wall clock; ``sure``: and calls it synchronized, for a while."""
        self.off, self.sure = wall - self.true, sure
        self.leaps += 1
        self.lies_until = self.true + self.chance.uniform(60, LIE_S) if sure else 0.0

    def mend(self) -> None:
        """A time server answers."""
        self.leaps += self.off != 0.0
        self.right_since = self.right_since if self.right else self.true
        self.off, self.lies_until = 0.0, 0.0
        self.sure = True

    def reboot(self, wall: float | None) -> None:
        """The power was away; without a battery the clock begins at ``wall``, and nobody has set it yet."""
        self.boots += 1
        self.boot = self.chance.uniform(5, 60)
        self.sure, self.lies_until = False, 0.0
        if wall is not None:
            self.set(wall)


def misfortune(clocks: Clocks) -> str:
    """What may happen to a clock on a day."""
    what = clocks.chance.choices(
        ("nothing", "leap", "lie", "flap", "reboot", "no battery", "server"), (60, 6, 4, 2, 6, 5, 17)
    )[0]
    if what in ("lie", "flap") and not clocks.right:  # one that goes on for more than a day is believed, and may be
        return "nothing"
    if what == "leap":
        clocks.set(clocks.chance.choice(WRONG))
    elif what == "lie":
        clocks.set(clocks.chance.choice(WRONG), sure=True)
    elif what == "flap":  # twice about midnight, as if a day had passed
        clocks.set((clocks.wall // DAY + 1) * DAY - 2.0, sure=True)
    elif what == "reboot":
        clocks.reboot(None)
    elif what == "no battery":
        clocks.reboot(clocks.chance.choice((0.0, START - 400 * DAY)))
    elif what == "server":
        clocks.mend()
    return what


class ClockedHome(Home):  # type: ignore[misc]  # tests have no types
    """A home on such clocks."""

    def __init__(self, folder: Path, clocks: Clocks, **more: Any) -> None:
        self._clocks = clocks
        super().__init__(folder, **more)
        self.personal._moment = lambda: clocks.moment
        self.failures: list[str] = []
        failed = self.windows._failed
        self.windows._failed = lambda job, why: (self.failures.append(f"{job.kind}: {why}"), failed(job, why))

    def show(self) -> None:
        """Take over what the clocks show."""
        self.wall, self.boot, self.synchronized = self._clocks.wall, self._clocks.boot, self._clocks.sure
