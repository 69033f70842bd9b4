#!/usr/bin/env python3
"""Clocks that are set: years both ways at any moment, before 1970 and past 2038, DST, boots without a battery clock.

Nobody's clock is touched: the real parts run on clocks that this turns, seeded, thousands of days in minutes. What is
true is kept beside what the clocks show, and compared with what the product makes of it:

* **walk**: a home over years, with leaps, reboots into 1970 and servers that set it right. Nothing that was kept goes
  before its time has truly passed, and it goes once the clock has been right for a few days; the weekly check of the
  log neither stops nor storms; nothing fails, and the log verifies.
* **pauses**: of listening and of learning, over leaps and restarts: none ends early, and each ends.
* **hours**: `idle.hours` through both nights in which the clocks change, minute by minute, against zoneinfo; work that
  waits for an hour which does not exist is done all the same, once.
* **rotations**: at most 12 in 24 true hours, and 6 more for each time the clock was set forward while it was off.

    scripts/torture/clock.py --days 3000 --json FILE
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for part in (ROOT, ROOT / "scripts", ROOT / "daemon"):
    sys.path.insert(0, str(part))

from torture import harness  # noqa: E402


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    return harness.arguments(
        __doc__,
        seconds=900.0,
        days=(3000, "days of a home"),
        pauses=(2000, "pauses"),
        step=(1, "minutes between looks"),
    )


if __name__ == "__main__":
    harness.help_first(arguments)

from torture.clocks.pauses import pauses  # noqa: E402
from torture.clocks.summer import hours, missing_hour  # noqa: E402
from torture.clocks.years import rotations, walk  # noqa: E402


def main() -> int:
    """See the module."""
    wish = arguments().parse_args()
    logging.getLogger("idiolect").setLevel(logging.CRITICAL)
    run = harness.Run("clock", wish)
    chance = random.Random(wish.seed)  # noqa: S311 - choices, not keys
    folder = Path(tempfile.mkdtemp(prefix="clock-"))
    try:
        turns, many = rotations(wish.days, random.Random(chance.random()))  # noqa: S311
        paused = asyncio.run(pauses(folder, wish.pauses, random.Random(chance.random())))  # noqa: S311
        looked, wrong = hours(wish.step)
        missing = asyncio.run(missing_hour(folder))
        life = asyncio.run(walk(folder / "home", wish.days, random.Random(chance.random()), lambda: run.over))  # noqa: S311
    finally:
        shutil.rmtree(folder)
    figures = {
        "days": wish.days,
        "looks": life.looks,
        "happened": dict(life.happened),
        "examples_gone_in_time": life.gone,
        "checks_of_the_log": life.checks,
        "rotations": turns,
        "pauses": paused.tried,
        "restarts_in_pauses": paused.restarts,
        "hours_looked_at": looked,
    }
    return run.finish(figures, [*many, *paused.found[:5], *wrong[:5], *missing, *life.found])


if __name__ == "__main__":
    sys.exit(main())
