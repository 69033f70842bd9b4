"""The same in real time: naps and waits are as in life, and wall time and samples must not drift apart.

An event was decided at a sample, by the daemon's count, and told at a wall time. Their difference may rise and fall
with the load of the machine; it may not walk. Where sound was lost the daemon estimates how much by the wall, so that
its count goes on with it. A device whose crystal is off takes the count along: there it has to follow the device.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from idiolect.listening.recognizer import Recognizer, bundle_directory, read_bundle
from idiolect.values import BLOCK, SAMPLE_RATE
from torture.audio.daemon import Stuck
from torture.audio.faults import xrun
from torture.audio.programme import Material, Room
from torture.audio.reference import Stretch, offset_of
from torture.audio.session import Session

BLOCK_S = BLOCK / SAMPLE_RATE
EVERY_S = 9.0
"""Between two faults."""
SKEW = 1.004
"""How fast the crystal of the last third is."""


@dataclass(frozen=True)
class Moment:
    """An event's: wall time less sample time, at that wall time."""

    at: float
    lag_s: float


@dataclass
class RealTime:
    """What came of it."""

    seconds: float = 0.0
    events: int = 0
    faults: int = 0
    late_s: float = 0.0
    drift_s: float = 0.0
    skew: float = 1.0
    found: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, object]:
        """For the summary."""
        return {
            "seconds": round(self.seconds, 1),
            "events": self.events,
            "faults": self.faults,
            "drift_ms": round(1000 * self.drift_s, 1),
            "told_late_ms": round(1000 * self.late_s, 1),
            "crystal": {"told": SKEW, "counted": round(self.skew, 5)},
        }


def moments(stretch: Stretch) -> list[Moment]:
    """When its events were decided, by the wall and by the daemon's count."""
    offset = offset_of(stretch)
    if offset is None:
        return []
    pairs = zip(stretch.expected, stretch.told, strict=False)
    told = [(float(str(event["time"])), (offset + each.decided) / SAMPLE_RATE) for each, event in pairs]
    return [Moment(at, at - counted) for at, counted in told]


def drift(found: Sequence[Moment]) -> float:
    """How far the difference walks, in seconds: its least values in each part, for load only adds to it."""
    if len(found) < 2:
        return 0.0
    parts = np.array_split(np.array([each.lag_s for each in found]), max(2, min(6, len(found) // 4)))
    least = [float(part.min()) for part in parts]
    return max(least) - min(least)


def crystal(found: Sequence[Moment]) -> float:
    """Samples in a second of the wall, over those that there should be: a line through the moments."""
    if len(found) < 3:
        return float("nan")
    at, lag = np.array([(each.at, each.lag_s) for each in found]).T
    return 1.0 - float(np.polyfit(at - at[0], lag, 1)[0])


def unplugged(s: Session) -> None:
    """The device is away for a second."""
    with s.restart("reopened"):
        s.mic.switch("gone")
        time.sleep(1.0)
        s.mic.switch("gone", False)


def standstill(s: Session) -> None:
    """The daemon stands still for half a second: the device keeps the sound."""
    s.daemon.halt()
    time.sleep(0.5)
    s.daemon.signal(signal.SIGCONT)


FAULTS: Sequence[Callable[[Session], None]] = (xrun, unplugged, standstill)


def live(material: Material, folder: Path, quick: Path, seed: int, seconds: float) -> RealTime:
    """So many seconds, a third of them with a crystal that is off."""
    places = [each / "realtime" for each in (folder, quick)]
    for each in places:
        each.mkdir()
    chance = np.random.default_rng([seed, 1])
    recognizer = Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))
    room = Room(material, chance, talkative=True)
    session, result = Session(places[0], places[1], room, recognizer, chance), RealTime()
    found: list[Moment] = []
    began = time.monotonic()
    try:
        session.start()
        unplugged(session)  # it began faster than life, and counted so
        _even(session, seconds * 2 / 3, result, found)
        session.feed_in_time(seconds / 3, SKEW)
        last = session.stretch
        session.close_stretch()
        skewed = moments(last)
    except Stuck as stuck:
        session.say(str(stuck))
        skewed = []
    finally:
        session.stop()
    result.seconds, result.events = time.monotonic() - began, session.events
    result.late_s, result.found = session.late_s, session.found
    return judged(result, found, skewed)


def _even(session: Session, seconds: float, result: RealTime, found: list[Moment]) -> None:
    """With a crystal as it should be, and faults."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        session.feed_in_time(EVERY_S)
        stretch, fault = session.stretch, FAULTS[result.faults % len(FAULTS)]
        fault(session)
        result.faults += 1
        if session.stretch is not stretch:
            found += moments(stretch)
    stretch = session.stretch
    xrun(session)
    found += moments(stretch)


def judged(result: RealTime, even: Sequence[Moment], skewed: Sequence[Moment]) -> RealTime:
    """Whether wall and samples stayed together."""
    result.drift_s, result.skew = drift(even), crystal(skewed)
    if result.drift_s > BLOCK_S + result.late_s:
        result.found.append(f"wall time and samples drift apart by {1000 * result.drift_s:.0f} ms")
    if len(skewed) > 3:
        length = skewed[-1].at - skewed[0].at
        if abs(result.skew - SKEW) * length > BLOCK_S + result.late_s:
            result.found.append(f"a crystal {SKEW:.4f} times as fast was counted as {result.skew:.4f} times")
    return result
