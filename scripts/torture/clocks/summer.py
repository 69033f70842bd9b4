"""`idle.hours` in the nights in which the clocks change."""

from __future__ import annotations

import datetime
import os
import random
import time
import zoneinfo
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from idiolect.config.schema import Idle
from idiolect.host import clock
from idiolect.service.idle import conditions
from torture.clocks.turned import DAY, ClockedHome, Clocks

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC")
HOURS = ("01:30-04:30", "02:15-02:45", "23:00-05:00", "00:00-00:00", "12:00-13:00", "always")
CHANGES = ((2026, 3, 6), (2026, 3, 27), (2026, 10, 2), (2026, 10, 23), (2026, 10, 30), (2037, 10, 23))
"""Days before the clocks change somewhere."""


@contextmanager
def zone(name: str) -> Iterator[None]:
    """This process's local time."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        time.tzset()


def hours(step: int) -> tuple[int, list[str]]:
    """Every ``step`` minutes of ten days about each change, what the product takes for the hour and zoneinfo does."""
    looked, found = 0, []
    for name in ZONES:
        there = zoneinfo.ZoneInfo(name)
        with zone(name):
            for change in CHANGES:
                first = datetime.datetime(*change, tzinfo=datetime.UTC).timestamp()
                for minute in range(0, 4 * 1440, step):
                    now = first + 60 * minute
                    shown = datetime.datetime.fromtimestamp(now, there)
                    text = f"{shown:%H:%M}"
                    for wish in HOURS:
                        looked += 1
                        if conditions.within(wish, clock.minute_of_day(now)) != _within(wish, text):
                            found.append(f"{name}, {shown.isoformat()}: {wish} is taken wrongly")
    return looked, found


def _within(wish: str, text: str) -> bool:
    """The same by comparing what one reads."""
    start, _, end = wish.partition("-")
    if wish == "always" or start == end:
        return True
    return start <= text < end if start < end else text >= start or text < end


async def missing_hour(folder: Path) -> list[str]:
    """Work waits for 02:15-02:45 in the night in which that is left out, and in the one in which it comes twice."""
    found = []
    for name, day in (("spring", (2026, 3, 28)), ("autumn", (2026, 10, 24))):
        with zone("Europe/Berlin"):
            clocks = Clocks(random.Random(1))  # noqa: S311 - of which nothing is drawn
            clocks.true = datetime.datetime(*day, 12, tzinfo=datetime.UTC).timestamp()
            home = ClockedHome(folder / name, clocks)
            home.wishes = Idle(machine=home.board.root, hours="02:15-02:45")
            home.windows._minute = lambda clocks=clocks: clock.minute_of_day(clocks.wall)
            home.show()
            async with home:
                await home.agree("Ann", "enrol")
                began = clocks.true
                while clocks.true - began < 2.5 * DAY:
                    await home.windows.look()
                    clocks.pass_(600)
                    home.show()
                if home.windows.log.jobs["checkpoint"] != 1:
                    found.append(f"in {name} the log was checked {home.windows.log.jobs['checkpoint']} times")
    return found
