"""A home over years: nothing goes before its time, and goes then; and rotations, of which there are so many a day."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from idiolect.trust.vault import audit
from idiolect.trust.vault.roots import State
from idiolect.trust.vault.rotation import COST, FULL_CREDIT, Meter
from idiolect.values import RETENTION
from tests.support.learners import invented
from torture.clocks.turned import DAY, DUE_DAYS, LATE_DAYS, PERIOD, START, STORMY, ClockedHome, Clocks, misfortune


@dataclass
class Life:
    """What truly was: when each example was kept, and when the log was checked."""

    kept: dict[int, float] = field(default_factory=dict)
    dated: dict[int, float | None] = field(default_factory=dict)
    """The same, but for what was kept while nobody knew the day: from when that was known."""
    checked: float = START
    happened: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    gone: int = 0
    checks: int = 0
    found: list[str] = field(default_factory=list)


async def walk(folder: Path, days: int, chance: random.Random, over: Callable[[], bool] = lambda: False) -> Life:
    """So many days of a home; a few looks a day."""
    clocks, life = Clocks(chance), Life()
    profile, day = "", 0
    while day < days and not over() and not life.found:
        home = ClockedHome(folder, clocks)
        home.show()
        async with home:
            profile = profile or await home.agree("Ann", "enrol", "adapt_corrections")
            home.personal.pause(float("inf"))  # of learning: rounds are not what this is about
            boots = clocks.boots
            while day < days and boots == clocks.boots and not over() and not life.found:
                day += 1
                await _one_day(home, clocks, life, profile, day)
            life.found += [f"until day {day} failed: {each}" for each in home.failures[:1]]
            await home.do(lambda learner: learner.vault.audit_verify())
    return life


async def _one_day(home: ClockedHome, clocks: Clocks, life: Life, profile: str, day: int) -> None:
    quiet = day % PERIOD > STORMY
    for _ in range(1 if quiet else 4):
        clocks.pass_(clocks.chance.uniform(*(0.8, 1.2) if quiet else (0.1, 0.4)) * DAY)
        boots = clocks.boots
        what = _served(clocks) if quiet else misfortune(clocks)
        life.happened[what] += 1
        if boots != clocks.boots:
            return
        home.show()
        if clocks.chance.random() < 0.06:
            await _keep(home, clocks, life, profile)
        for moment in range(2 if what == "flap" else 1):
            clocks.pass_(3.0 * moment)
            home.show()
            before = home.windows.log.jobs["checkpoint"]
            await home.windows.look()
            life.looks += 1
            if home.windows.log.jobs["checkpoint"] > before:
                life.checks += 1
                life.checked = clocks.true
            life.found += [f"day {day}, after {what}: {each}" for each in await _wrong(home, clocks, life, profile)]


def _served(clocks: Clocks) -> str:
    clocks.mend()
    return "server"


async def _keep(home: ClockedHome, clocks: Clocks, life: Life, profile: str) -> None:
    number = clocks.chance.randrange(1000)
    known = await home.do(
        lambda learner: learner.add(profile, "enrolment", f"phrase {number}", [invented(number % 40)], "01")
    )
    if clocks.right or not clocks.sure:  # a wrong clock that calls itself right dates wrongly, and nobody can know
        life.kept[known[0]] = clocks.true
        life.dated[known[0]] = clocks.true if clocks.right else None


async def _wrong(home: ClockedHome, clocks: Clocks, life: Life, profile: str) -> list[str]:
    """What is not as it should be; a number that is given anew is another example."""
    there = {e.sequence for e, _ in await home.do(lambda learner: learner.examples(profile))}
    found = []
    for number, then in list(life.kept.items()):
        known = clocks.right and clocks.true - clocks.right_since > LATE_DAYS * DAY
        if known and life.dated[number] is None:
            life.dated[number] = clocks.true
        age = (clocks.true - then) / DAY - RETENTION["enrol"]
        late = (clocks.true - (life.dated[number] or clocks.true)) / DAY - RETENTION["enrol"]
        if number not in there:
            del life.kept[number]
            life.gone += 1
            if age < -2:
                found.append(f"an example went {-age:.0f} days too early")
        elif late > LATE_DAYS and known:
            found.append(f"an example is there {late:.0f} days too long")
    if clocks.right and clocks.true - max(clocks.right_since, life.checked) > DUE_DAYS * DAY:
        found.append("the log was not checked for more than a week")
    if life.checks > clocks.leaps + clocks.boots + (clocks.true - START) / (6 * DAY):
        found.append("the log was checked in a storm")
    return found


def rotations(days: int, chance: random.Random) -> tuple[int, list[str]]:
    """As many as the meter gives, whatever the wall clock shows at a start."""
    clocks = Clocks(chance)
    start = audit.start("00")
    state = State("00", 0, 1, 0, False, FULL_CREDIT - COST, int(clocks.wall), start, start)
    meter = Meter(lambda: clocks.wall, lambda: clocks.boot)
    done: list[float] = []
    gifts: list[float] = []
    while clocks.true - START < days * DAY:
        clocks.pass_(chance.uniform(60, 4 * 3600))
        boots = clocks.boots
        misfortune(clocks)
        if boots != clocks.boots or chance.random() < 0.05:
            gifts += [clocks.true] if clocks.wall - state.high > FULL_CREDIT else []
            meter = Meter(lambda: clocks.wall, lambda: clocks.boot)
            state = meter.resume(state)
        while meter.due(state) and chance.random() < 0.9:
            state = meter.reckon(state)
            meter.settle()
            state = State(**{**{n: getattr(state, n) for n in State.__slots__}, "credit": state.credit - COST})
            done.append(clocks.true)
        last = [each for each in done if clocks.true - each < DAY]
        given = sum(6 for each in gifts if clocks.true - each < 2 * DAY)
        if len(last) > 12 + given:
            return len(done), [f"{len(last)} rotations within a day, with {given} for clocks that were set"]
    if len(done) < days:
        return len(done), ["there are hardly any rotations to be had"]
    return len(done), []
