"""The life of an adapter's versions: one table of states, the signals that move a version along it, and its counts.

Versions and signals go in, versions come out; nothing is stored here (docs/architecture.md has a glossary).

| state | means |
| --- | --- |
| shadow | the gate passed; it is scored silently beside what is in use, on the person's own utterances |
| canary | in use; it goes back by itself at the first signs of trouble |
| active | in use, and proven |
| superseded | a later version took over; kept for going back |
| rolled-back | taken out of use; kept for looking at, never used again |

A freshly taught phrase enters as canary: there is nothing to compare it with. What a person withdraws or forgets takes
every kept version with it, whatever its state; that is not in the table, as nothing is left to have a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from idiolect.errors import NONSENSE, LearningError


class State(StrEnum):
    """The states of a version that the module's table explains."""

    SHADOW = "shadow"
    CANARY = "canary"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    ROLLED_BACK = "rolled-back"


class Signal(StrEnum):
    """The events that move a version along the table."""

    AGREED = "agreed"
    """In the shadow it understood enough utterances, and no worse than what is in use."""
    DISAGREED = "disagreed"
    """In the shadow it understood others."""
    SETTLED = "settled"
    """As a canary it was used enough without trouble."""
    TROUBLE = "trouble"
    """In use it was corrected, or drifted, or a self-test found it worse than the base model."""
    REPLACED = "replaced"
    """Another version came into use."""
    TAKEN_BACK = "taken back"
    """The person rolled it back."""
    RESTORED = "restored"
    """The person, or trouble with its successor, brought it back."""


TABLE: dict[tuple[State, Signal], State] = {
    (State.SHADOW, Signal.AGREED): State.CANARY,
    (State.SHADOW, Signal.DISAGREED): State.ROLLED_BACK,
    (State.SHADOW, Signal.REPLACED): State.SUPERSEDED,
    (State.SHADOW, Signal.TAKEN_BACK): State.ROLLED_BACK,
    (State.CANARY, Signal.SETTLED): State.ACTIVE,
    (State.CANARY, Signal.TROUBLE): State.ROLLED_BACK,
    (State.CANARY, Signal.REPLACED): State.SUPERSEDED,
    (State.CANARY, Signal.TAKEN_BACK): State.ROLLED_BACK,
    (State.ACTIVE, Signal.REPLACED): State.SUPERSEDED,
    (State.ACTIVE, Signal.TAKEN_BACK): State.ROLLED_BACK,
    (State.ACTIVE, Signal.TROUBLE): State.ROLLED_BACK,
    (State.SUPERSEDED, Signal.RESTORED): State.ACTIVE,
}
IN_USE = (State.CANARY, State.ACTIVE)
KEPT = 5
"""Versions that are kept beside the one in use."""
SHADOW_USES, SHADOW_AGREEMENT = 10, 0.8
CANARY_USES = 20
CORRECTIONS, CORRECTION_SHARE = 2, 0.2
DRIFTS, DRIFT_SHARE = 4, 0.3


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a profile's adapter. Counts are of the person's utterances in the state it is in."""

    number: int
    state: State
    uses: int = 0
    agreed: int = 0
    """Utterances that it understands as what is in use does, or as the person said they were meant."""
    corrections: int = 0
    drifts: int = 0
    """Utterances that the base model understands clearly and this version does not."""

    @property
    def in_use(self) -> bool:
        """Return True if people are heard with it."""
        return self.state in IN_USE

    def next(self, signal: Signal) -> Version:
        """Return the version after a signal, its counts begun anew; itself where the table has no such line."""
        state = TABLE.get((self.state, signal))
        return self if state is None else Version(self.number, state)

    def heard(self, *, agreed: bool, drifted: bool) -> Version:
        """Return the version after one more utterance of its owner, with the step it takes by itself."""
        counted = replace(
            self, uses=self.uses + 1, agreed=self.agreed + agreed, drifts=self.drifts + (drifted and self.in_use)
        )
        return counted._moved()

    def corrected(self) -> Version:
        """Return the version after its owner corrected what it understood."""
        return replace(self, corrections=self.corrections + 1)._moved()

    def _moved(self) -> Version:
        signal = None
        if self.state is State.SHADOW and self.uses >= SHADOW_USES:
            signal = Signal.AGREED if self.agreed >= SHADOW_AGREEMENT * self.uses else Signal.DISAGREED
        elif self.state is State.CANARY:
            seen = max(1, self.uses)
            corrected = self.corrections >= max(CORRECTIONS, CORRECTION_SHARE * seen)
            if corrected or self.drifts >= max(DRIFTS, DRIFT_SHARE * seen):
                signal = Signal.TROUBLE
            elif self.uses >= CANARY_USES:
                signal = Signal.SETTLED
        return self.next(signal) if signal else self


def read(rows: Sequence[dict[str, Any]]) -> list[Version]:
    """Read a table as it is kept, a dictionary for each version. Raises ``LearningError`` when it is something else."""
    try:
        return [Version(**{**row, "state": State(row["state"])}) for row in rows]
    except NONSENSE:
        raise LearningError(
            "the table of versions is not what was written",
            "erase the profile, or go back to the idiolect that wrote it",
        ) from None


def enter(versions: Sequence[Version], number: int, *, at_once: bool) -> list[Version]:
    """Add a version that passed the gate: as canary when ``at_once`` or nothing is in use, else in the shadow."""
    joins = State.CANARY if at_once or not any(v.in_use for v in versions) else State.SHADOW
    gone = (State.SHADOW, *IN_USE) if joins is State.CANARY else (State.SHADOW,)
    rest = [v.next(Signal.REPLACED) if v.state in gone else v for v in versions]
    return kept([*rest, Version(number, joins)])


def update(versions: Sequence[Version], changed: Version) -> list[Version]:
    """Put a changed version in its place, and change the others with it: one in use at most, one if there can be.

    A canary that came out of the shadow replaces what was in use. One that went back gives way to the newest that was
    superseded, or to the base model.
    """
    rest = [changed if v.number == changed.number else v for v in versions]
    if changed.in_use:
        rest = [v.next(Signal.REPLACED) if v.in_use and v.number != changed.number else v for v in rest]
    elif not any(v.in_use for v in rest):
        before = [v for v in rest if v.state is State.SUPERSEDED and v.number < changed.number]
        if before:
            back = max(before, key=lambda v: v.number).next(Signal.RESTORED)
            rest = [back if v.number == back.number else v for v in rest]
    return kept(rest)


def kept(versions: Sequence[Version]) -> list[Version]:
    """Return the versions that stay: the one in use, the shadow, and the KEPT newest of the others, by number."""
    held = [v for v in versions if v.in_use or v.state is State.SHADOW]
    others = sorted((v for v in versions if v not in held), key=lambda v: v.number)[-KEPT:]
    return sorted([*held, *others], key=lambda v: v.number)


def in_use(versions: Sequence[Version]) -> Version | None:
    """Return the version that people are heard with, None for the base model."""
    return next((v for v in versions if v.in_use), None)
