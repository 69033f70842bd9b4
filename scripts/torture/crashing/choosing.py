"""Whom an operation fits, and what it leaves of them, step by step: the same at a learner and at a daemon's client."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from idiolect.learning import rollout
from torture.crashing.story import Person, State


@dataclass(frozen=True)
class Doing:
    """An operation: what may be there while it runs, step by step, and how to run it."""

    states: list[State]
    run: Callable[[], object]
    minimum: int = 0
    """The version that is marked good by it."""


class Choosing:
    """An operation is a method that looks for somebody it fits, and gives what is to be done, or None."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._state: State = {}

    def choose(self, name: str, state: State) -> Doing | None:
        """An operation by its name, as ``state`` is."""
        self._state = state
        made: Doing | None = getattr(self, f"_{name}")()
        return made

    def _changed(self, profile: str, *steps: Person) -> list[State]:
        return [{**self._state, profile: person} for person in steps]

    def _pick(self, test: Callable[[Person], object]) -> str | None:
        fitting = sorted(profile for profile, person in self._state.items() if test(person))
        return self._chance.choice(fitting) if fitting else None

    def _withdrawing(self, withdraw: Callable[[str, str], object]) -> Doing | None:
        """``withdraw`` gets profile and purpose."""
        profile = self._pick(lambda p: p.receipts)
        if profile is None:
            return None
        person = self._state[profile]
        purpose = self._chance.choice(sorted(person.receipts))
        left = replace(
            person.kept([e for e in person.examples if e.purpose != purpose]),
            receipts={p: r for p, r in person.receipts.items() if p != purpose},
            usage={} if purpose == "usage" else person.usage,
        )
        states = self._changed(profile, left.without_versions(), left.purged())
        return Doing(states, lambda: withdraw(profile, purpose))

    def _erasing(self, erase: Callable[[str], object]) -> Doing | None:
        """``erase`` gets a profile."""
        profile = self._pick(lambda _: True)
        if profile is None:
            return None
        rest = {p: person for p, person in self._state.items() if p != profile}
        return Doing([rest], lambda: erase(profile))

    def _forgetting(self, forget: Callable[[str, dict[str, object]], object]) -> Doing | None:
        """``forget`` gets a profile, and what: an example, a phrase, or all."""
        profile = self._pick(lambda p: p.examples)
        if profile is None:
            return None
        person = self._state[profile]
        one = self._chance.choice(person.examples)
        wishes: list[dict[str, object]] = [{"example": one.sequence}, {"phrase": one.phrase}, {"all": True}]
        (what,) = self._chance.choices(wishes, (5, 3, 1))
        gone = {
            "example": lambda e: e.sequence == one.sequence,
            "phrase": lambda e: one.phrase in (e.phrase, e.heard),
            "all": lambda _: True,
        }[next(iter(what))]
        left = person.kept([e for e in person.examples if not gone(e)])
        left = replace(left, usage={}) if "all" in what else left
        states = self._changed(profile, left.without_versions(), left.purged())
        return Doing(states, lambda: forget(profile, what))

    def _taking_back(self, rollback: Callable[[str], object]) -> Doing | None:
        """``rollback`` gets a profile."""
        profile = self._pick(in_use)
        if profile is None:
            return None
        person = self._state[profile]
        versions = [rollout.Version(number, rollout.State(state)) for number, state in person.table or ()]
        used = rollout.in_use(versions)
        assert used is not None  # noqa: S101 - the story says so
        after = rollout.update(versions, used.next(rollout.Signal.TAKEN_BACK))
        states = self._changed(profile, replace(person, table=tuple((v.number, v.state.value) for v in after)))
        return Doing(states, lambda: rollback(profile))


def in_use(person: Person) -> bool:
    """Whether a version of somebody's is."""
    return any(state in rollout.IN_USE for _, state in person.table or ())
