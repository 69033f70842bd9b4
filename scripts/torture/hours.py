#!/usr/bin/env python3
"""A day of sound for a real idiolectd, faster than life, with a fault every few minutes. Nothing may be lost or grow.

The tests' ALSA plugin plays recordings, noise and silence through the real libasound, and its clock is told: the daemon
reads as fast as it can process. Every event that its stream tells is compared with a chain here that heard the same
samples, one for each stretch between two losses (``audio/reference.py``):

1. no event is missed, doubled, invented or out of order; kind, phrase, scores (to the four places that are told), start
   and end are the same; ids rise; nothing rests on sound from before a fault: of an utterance that was cut, only what
   comes after the cut counts;
2. blocks processed are blocks delivered less those reported as dropped; overruns, returns and drops are counted as they
   happened; positions go on by what was heard and what was lost; every event is told while its sound is processed, and,
   in real time, wall time and samples do not drift apart by more than a block;
3. memory, descriptors, threads and children do not grow; what goes to the disk and into the log is bounded.

    scripts/torture/hours.py --minutes 1440 --seconds 3000 --json FILE [--plot memory.png]

Exit code 1 when something did not hold. The same ``--seed`` makes the same sound and faults.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for part in (ROOT, ROOT / "scripts", ROOT / "daemon"):
    sys.path.insert(0, str(part))

from torture import harness  # noqa: E402


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = harness.arguments(
        __doc__ or "", seconds=3600, minutes=(1440, "of sound"), realtime=(120, "seconds in real time")
    )
    parser.add_argument("--every", type=int, default=360, metavar="S", help="most sound between two faults (360)")
    parser.add_argument("--plot", metavar="FILE", help="draw memory over the day")
    return parser


if __name__ == "__main__":
    harness.help_first(arguments)

import numpy as np  # noqa: E402

from idiolect.listening.recognizer import Recognizer, bundle_directory, read_bundle  # noqa: E402
from idiolect.values import BLOCK, SAMPLE_RATE  # noqa: E402
from tests.support.alsa.wavmic import PluginError, build  # noqa: E402
from torture.audio import leaks  # noqa: E402
from torture.audio.daemon import Stuck  # noqa: E402
from torture.audio.faults import FAULTS  # noqa: E402
from torture.audio.programme import Material, Room  # noqa: E402
from torture.audio.realtime import RealTime, live  # noqa: E402
from torture.audio.session import MOST_FOUND, Session  # noqa: E402

DATA = Path(os.environ.get("IDIOLECT_DATA", ROOT.parent / "shared" / "data"))
MEMORY = "/dev/shm"  # noqa: S108 - a folder of our own in it
LONGEST_WAIT = 250
"""Blocks until somebody speaks, where a fault is to strike in the middle of a word."""
OPENING_S = 12
"""Sound between two faults in the beginning: whatever a kind of fault loads, it loads then."""


class Day:
    """One run."""

    def __init__(self, run: harness.Run, material: Material, folder: Path, quick: Path) -> None:
        chance = np.random.default_rng(run.seed)
        recognizer = Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))
        self._run, self._chance, self._material = run, chance, material
        self.session = Session(folder, quick, Room(material, chance), recognizer, chance)
        self._deck: list[str] = []
        self.faults: Counter[str] = Counter()
        self.left_out: list[str] = []

    def pass_(self, seconds: float, every: int) -> None:
        """Each fault once, one soon after the other, and then so much sound, and a fault now and then."""
        session = self.session
        session.start()
        if not session.inference:
            self.left_out.append("queue overflow: the kernel lets us hold no thread")
        session.look()
        self._deck = list(FAULTS)
        while self._deck:
            self.one_more(seconds, OPENING_S)
        while session.told < seconds * SAMPLE_RATE and not self._run.over and len(session.found) < MOST_FOUND:
            self.one_more(seconds, every)
        session.close_stretch()

    def one_more(self, seconds: float, every: int) -> None:
        """Some minutes of sound, a fault, and a look at what came of it."""
        session = self.session
        name = "before the next"
        try:
            session.feed(int(self._chance.integers(every // 6, every + 1)) * SAMPLE_RATE // BLOCK)
            if self._chance.random() < 0.5:
                session.feed_to_speech(LONGEST_WAIT)
            name = self._draw()
            FAULTS[name][1](session)
            self.faults[name] += 1
            name = f"after {name}"
            session.feed(50)
        except Stuck as stuck:
            raise Stuck(f"{name}: {stuck}") from None
        name = name.removeprefix("after ")
        session.check_counts(name)
        session.look()
        day = f"{session.told / SAMPLE_RATE / 3600:.2f} of {seconds / 3600:g} h"
        self._run.show(f"{day}, {self.faults.total()} faults, {session.events} events, {len(session.found)} found")

    def _draw(self) -> str:
        """Each as often as its weight says, in any order."""
        if not self._deck:
            deck = [name for name, (weight, _) in FAULTS.items() for _ in range(round(2 * weight))]
            self._deck = [deck[i] for i in self._chance.permutation(len(deck))]
        name = self._deck.pop()
        return "overrun" if self.left_out and name == "queue overflow" else name

    def live(self, seconds: float, every: int, plot: str | None = None) -> tuple[dict[str, object], list[str]]:
        """Figures, and what did not hold."""
        session, cpu, code = self.session, 0.0, 0
        try:
            self.pass_(seconds, every)
            cpu = session.daemon.cpu_s()
        except Stuck as stuck:
            session.say(str(stuck))
        finally:
            code = session.stop()
        if code:
            session.say(f"the daemon ended with {code}")
        lines = session.daemon.lines
        found = [*session.found, *leaks.found(session.looks, lines, events=session.events, faults=self.faults.total())]
        if plot:
            leaks.draw(plot, session.looks)
        return self._figures(cpu), found

    def _figures(self, cpu: float) -> dict[str, object]:
        session = self.session
        steady = leaks.warm(session.looks)
        rise = leaks.slope(steady)
        first, last = (steady[0], steady[-1]) if steady else (None, None)
        days = session.told / SAMPLE_RATE / 86_400
        return {
            "hours": round(24 * days, 3),
            "sound": self._material.source,
            "utterances": session.room.utterances,
            "events": session.events,
            "faults": self.faults.total(),
            "fault_kinds": dict(self.faults.most_common()),
            "left_out": self.left_out,
            "stretches": session.stretch.number + 1,
            "counted": asdict(session.counts) | {"samples_lost": session.positions.lost},
            "cpu_s": round(cpu, 1),
            "memory": {
                "first_mib": round(first.rss_kib / 1024, 1) if first else None,
                "last_mib": round(last.rss_kib / 1024, 1) if last else None,
                "mib_per_day": None if math.isnan(rise.mib_per_day) else round(rise.mib_per_day, 3),
                "plus_minus": None if math.isnan(rise.plus_minus) else round(rise.plus_minus, 3),
            },
            "descriptors": len(last.descriptors) if last else None,
            "threads": last.threads if last else None,
            "written_bytes": session.looks[-1].written - session.looks[0].written if session.looks else 0,
            "log_lines": dict(session.daemon.lines.most_common(20)),
        }


def main() -> int:
    """See the module."""
    wish = arguments().parse_args()
    if os.geteuid():
        return harness.lacking("hours", "only root sees what the daemon has open, and may hold one of its threads")
    for name in ("prometheus_client", *(("matplotlib",) if wish.plot else ())):
        if find_spec(name) is None:
            return harness.lacking("hours", f"needs {name}: .venv/bin/pip install {name.replace('_', '-')}")
    try:
        build()
        material = Material.found(DATA, np.random.default_rng(wish.seed))
    except (PluginError, OSError) as error:
        return harness.lacking("hours", str(error))
    run = harness.Run("hours", wish)
    folder = Path(tempfile.mkdtemp(prefix="hours-"))
    quick = Path(tempfile.mkdtemp(prefix="hours-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    try:
        figures, found = Day(run, material, folder, quick).live(wish.minutes * 60.0, wish.every, wish.plot)
        drift = live(material, folder, quick, wish.seed, float(wish.realtime)) if wish.realtime else RealTime()
        figures["realtime"] = drift.figures()
        return run.finish(figures, [*found, *drift.found])
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(quick)


if __name__ == "__main__":
    sys.exit(main())
