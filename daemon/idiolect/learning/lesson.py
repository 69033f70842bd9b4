"""Holds the takes of a phrase while it is being taught: which count, taking one back, and keeping one on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from idiolect.learning import aligning
from idiolect.listening.attempt import Reason, Taken, repeated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from idiolect.listening.pipeline.alignment import Standard

COSTS = {
    Reason.UNLIKE: "kept, and recognised less surely: your takes of this phrase differ",
    Reason.CLOSE: "kept, and sometimes confused: it will be taken for the other phrase, and that for this",
}
"""The price, in words, of keeping a take that was refused for this reason; no other one can be kept."""
ODD_ONES = 2
"""So many unlike takes in a row, and the odd one out may well have been the first: it is begun anew."""


@dataclass(frozen=True, slots=True)
class Take:
    """A take that counts; ``number`` is its own and given to no other."""

    number: int
    taken: Taken
    frames: NDArray[np.float32]
    why: Reason | None = None
    """For what it was refused, where it is kept on request."""


class Lesson:
    """Judges what is said, and holds the takes that count."""

    def __init__(self, standard: Standard, others: Sequence[Sequence[NDArray[np.float32]]]) -> None:
        """Begin a lesson; ``others`` are the takes of each other phrase of this person."""
        self._standard, self._others = standard, others
        self.takes: list[Take] = []
        self._refused: tuple[Take, list[Take]] | None = None
        self._unlike = 0

    @property
    def keepable(self) -> bool:
        """Return True if the last take was refused for a reason that its speaker may overrule."""
        return self._refused is not None

    @property
    def advised_on(self) -> list[Take]:
        """Return the takes to advise on: those that count, and one that was just refused as too close."""
        refused = self._refused[0] if self._refused else None
        return [*self.takes, *([refused] if refused and refused.why is Reason.CLOSE else [])]

    def hear(self, outcome: Taken | Reason, number: int) -> Reason | None:
        """Judge an attempt; return why it is refused, or None: it counts, under this number."""
        self._refused = None
        if isinstance(outcome, Reason):
            return outcome
        if repeated(outcome.samples, [each.taken.samples for each in self.takes]):
            return Reason.SAME
        frames = aligning.frames_of(self._standard, outcome.span, outcome.length)
        if frames is None:
            return Reason.SHORT
        why = self._compared(frames)
        self._unlike = self._unlike + 1 if why is Reason.UNLIKE else 0
        take = Take(number, outcome, frames, why)
        if why is None:
            self.takes.append(take)
            return None
        self._refused = take, list(self.takes)
        if self._unlike >= ODD_ONES and not any(each.why for each in self.takes):
            self.takes, self._unlike = [], 0
        return why

    def _compared(self, frames: NDArray[np.float32]) -> Reason | None:
        """Compare a take with the earlier ones, or, where one was kept on request, with each of them alone."""
        others = () if any(each.why is Reason.CLOSE for each in self.takes) else self._others
        before = [each.frames for each in self.takes]
        if not any(each.why is Reason.UNLIKE for each in self.takes):
            return aligning.compared(frames, before, others)
        found = [aligning.compared(frames, [each], others) for each in before]
        return None if None in found else found[0]

    def take_back(self, number: int) -> bool:
        """Let a take count no more; return False when none has this number."""
        left = [each for each in self.takes if each.number != number]
        if len(left) == len(self.takes):
            return False
        self.takes, self._refused, self._unlike = left, None, 0
        return True

    def keep(self) -> str:
        """Let the take that was just refused count; return what that costs, or "" when there is none to keep."""
        if self._refused is None:
            return ""
        take, before = self._refused
        self.takes, self._refused, self._unlike = [*before, take], None, 0
        return COSTS[take.why] if take.why else ""
