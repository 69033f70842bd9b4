"""Whether anything grows that should not: memory, descriptors, threads, children, what is written and logged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIB_PER_DAY, MIB_IN_ALL = 1.0, 0.5
"""How much more memory a day may bring: what is found has to be more with 95 % confidence, and to be there: a short run
cannot tell a leak from the last bit of warming up."""
WRITTEN_PER_DAY = 4 << 20
"""The budget at rest (bench, docs): a fault may cost nothing of it."""
LINES_PER_FAULT = 4
"""In the log, beside one line for each event."""
WARM_S, WARM_EVENTS = 3600.0, 400
"""Seconds of sound and events after which nothing is new any more (the daemon keeps its last 256 happenings in memory,
and the windows of the last 64 events); or a quarter of a shorter run."""
_PARTS = 12
"""Means over so many parts of the run make the line: neighbours among single looks are not independent."""
_STUDENT = 2.23
"""97.5 % of Student's t with ten degrees of freedom."""


@dataclass(frozen=True)
class Look:
    """The daemon between two faults, after so many seconds of sound."""

    audio_s: float
    rss_kib: int
    descriptors: tuple[str, ...]
    threads: int
    children: int
    written: int
    events: int = 0


LATE_HELPER = 1
"""A thread of the daemon's pool of two that it starts only when two things are wanted at once."""


@dataclass(frozen=True)
class Slope:
    """MiB per day of sound: the best line by least squares, and half its 95 % interval."""

    mib_per_day: float
    plus_minus: float


def warm(looks: Sequence[Look]) -> list[Look]:
    """Those after the warm-up."""
    end = looks[-1] if looks else Look(0.0, 0, (), 0, 0, 0)
    hours, events = min(WARM_S, end.audio_s / 4), min(WARM_EVENTS, end.events / 4)
    return [look for look in looks if look.audio_s >= hours and look.events >= events]


def slope(looks: Sequence[Look]) -> Slope:
    """See ``Slope``; NaN for fewer than twelve looks."""
    if len(looks) < _PARTS:
        return Slope(math.nan, math.nan)
    parts = np.array_split(np.array([(look.audio_s / 86_400, look.rss_kib / 1024) for look in looks]), _PARTS)
    days, mib = np.array([part.mean(0) for part in parts]).T
    spread = days - days.mean()
    rise = float(spread @ mib / (spread @ spread))
    left = mib - mib.mean() - rise * spread
    error = math.sqrt(float(left @ left) / (_PARTS - 2) / float(spread @ spread))
    return Slope(rise, _STUDENT * error)


def found(looks: Sequence[Look], lines: Mapping[str, int], *, events: int, faults: int) -> list[str]:
    """What leaks. ``lines`` as the daemon logged them, by their text."""
    steady = warm(looks)
    wrong = _growing(steady)
    rise = slope(steady)
    days = (steady[-1].audio_s - steady[0].audio_s) / 86_400 if steady else 0.0
    if rise.mib_per_day - rise.plus_minus > MIB_PER_DAY and rise.mib_per_day * days > MIB_IN_ALL:
        wrong.append(f"memory rises by {rise.mib_per_day:.2f} +- {rise.plus_minus:.2f} MiB per day")
    if looks:
        written, days = looks[-1].written - looks[0].written, (looks[-1].audio_s - looks[0].audio_s) / 86_400
        if written > WRITTEN_PER_DAY * max(days, 1 / 24):
            wrong.append(f"{written} bytes went to the disk in {days:.3f} days")
    said = sum(count for line, count in lines.items() if "event: " not in line)
    if said > LINES_PER_FAULT * (faults + 10):
        wrong.append(f"{said} lines were logged beside events for {faults} faults")
    if (told := sum(count for line, count in lines.items() if "event: " in line)) != events:
        wrong.append(f"{told} events were logged and {events} told")
    return wrong


def _growing(looks: Sequence[Look]) -> list[str]:
    """What is open or runs at the last look and was not at the first after the warm-up."""
    if not looks:
        return []
    first, last, wrong = looks[0], looks[-1], []
    if more := Counter(last.descriptors) - Counter(first.descriptors):
        wrong.append(f"{more.total()} descriptors more are open: {', '.join(sorted(more))}")
    for what, before, after in (
        ("threads", first.threads + LATE_HELPER, last.threads),
        ("child processes", first.children, last.children),
    ):
        if after > before:
            wrong.append(f"{after - before} {what} more")
    return wrong


def draw(path: str, looks: Sequence[Look]) -> None:
    """A picture of memory over the day. ImportError without matplotlib."""
    import matplotlib as mpl  # optional

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4))
    axes.plot([look.audio_s / 3600 for look in looks], [look.rss_kib / 1024 for look in looks], linewidth=0.8)
    axes.set_xlabel("hours of sound")
    axes.set_ylabel("resident memory, MiB")
    axes.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
