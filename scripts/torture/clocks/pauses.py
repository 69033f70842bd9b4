"""Pauses over leaps and restarts: none ends early, and each ends."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from idiolect.listening.audio.capture import BlockQueue, Capture
from idiolect.service.pause import Pausing
from torture.clocks.turned import DAY, WRONG, Clocks


@dataclass
class Pauses:
    """How they went."""

    tried: int = 0
    restarts: int = 0
    found: list[str] = field(default_factory=list)


async def pauses(folder: Path, times: int, chance: random.Random) -> Pauses:
    """Pauses of listening, each through whatever happens to the clocks meanwhile."""
    told = Pauses()
    for number in range(times):
        clocks = Clocks(chance, sure=chance.random() < 0.7)
        home = folder / f"pause-{number % 7}"
        shutil.rmtree(home, ignore_errors=True)
        seconds, began = chance.choice((60.0, 7200.0, 7 * DAY)), clocks.true
        pausing = _pausing(home, clocks)
        pausing.pause(seconds)
        told.tried += 1
        started, doubtful, ended = clocks.true, not clocks.sure, False
        while not ended:
            clocks.pass_(seconds * chance.uniform(0.01, 0.15))
            what = chance.choices(("nothing", "restart", "leap", "reboot", "no battery", "server"), (8, 2, 2, 1, 1, 1))[
                0
            ]
            boots = clocks.boots
            if what == "leap":
                clocks.set(chance.choice(WRONG))
            elif what in ("reboot", "no battery"):
                clocks.reboot(chance.choice(WRONG) if what == "no battery" else None)
            elif what == "server":
                clocks.mend()
            if what == "restart" or boots != clocks.boots:
                told.restarts += 1
                doubtful = doubtful or boots != clocks.boots
                _cancel(pausing)
                started, pausing = clocks.true, _pausing(home, clocks)
                pausing.restore()
            else:
                pausing._look() if pausing.active else None
            ended = not pausing.active
            passed = clocks.true - began
            if ended and passed < seconds - 1:
                told.found.append(f"pause {number} of {seconds:.0f} s ended after {passed:.0f} s, after {what}")
            limit = started - began + 1.2 * seconds if doubtful else 1.2 * seconds
            if not ended and passed > limit:
                told.found.append(f"pause {number} of {seconds:.0f} s lasts for {passed:.0f} s, after {what}")
                break
        _cancel(pausing)
    return told


def _pausing(home: Path, clocks: Clocks) -> Pausing:
    def nothing() -> Any:
        raise OSError("nobody listens here")

    return Pausing(Capture(nothing, BlockQueue(1), lambda: None), home, lambda: None, now=lambda: clocks.moment)


def _cancel(pausing: Pausing) -> None:
    if pausing._timer:
        pausing._timer.cancel()
