"""Holds the phrases heard in one utterance of a turn until it is time to settle on the best of them.

Goes in: scores at each step. Comes out: the phrase that is held, when it is due, and whether another is as likely.

"lights please" may begin like "one", and "volume down" like "volume up": in the turn of somebody who taught phrases a
peak is not the end. The best phrase of the whole utterance wins, by its log-odds above its threshold. It is due when
the person pauses, or, in noise that has no pauses, when it has not been beaten for a while; and somewhat later where
what was said last may be the beginning of a longer phrase.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

PAUSE = 2
"""Blocks (0.16 s) without sound after which the best phrase so far is settled on."""
INNER_PAUSE, LONGER_PAUSE = 3, 7
"""Blocks without sound where this may be the beginning of a longer phrase: a taught one, or one of the bundle's."""
FOLLOWED = 4
"""Blocks (0.32 s) of further speech after which a word of the bundle's was a part of something else."""
BEATEN, WORD_BEATEN = 4, 6
"""Blocks in which no score was beaten, and nothing longer was begun, after which it is settled on in noise: a taught
phrase, and a word of the bundle's."""
BEHIND = 6.0
"""Log-odds that the beginning of a phrase may be behind what is held: 0.1 of an alignment's cost."""
AMBIGUOUS = 1.2
"""Log-odds by which one taught phrase has to be before another: 0.02 of an alignment's cost."""
WORD, LONGER, SPARE = 8, 1.8, 6
"""An utterance may last so many times as long as a taught phrase, and so many blocks more: a whole sentence in which
something sounds like the phrase is none. A word of the bundle's lasts WORD blocks."""
UNEVEN, UNEVEN_IN_NOISE = 0.26, 0.32
"""Cost by which a part of a taught phrase may stand out (``parts.unevenness``), and in noise. Measured on nine speakers
whom `scripts/evaluate` does not hear by default: 1 of 100 phrases stands out so far, in a quiet room, and half of those
that are taken for another one which differs in a word."""
NEARLY = 6.0
"""Log-odds by which a taught phrase must have failed where a word of the bundle's is to count: 0.1 of a cost."""


class Whole(Protocol):
    """The measures of how what is said goes along with taught phrases, from begin to end. Arrays are (phrases,)."""

    columns: NDArray[np.intp]
    """Classes of the taught phrases."""
    odds: NDArray[np.float32]
    """Log-odds of each to have been said just now, 0 where it would count at a threshold of 0.5."""
    likeness: NDArray[np.float32]
    """Log-odds by one measure for all phrases, whatever each one's limit is: tells which of them it is most like."""
    whole: NDArray[np.intp]
    """Classes of those that are said as a whole utterance, and not in a longer one."""
    favour: NDArray[np.float32]
    """Log-odds by which each goes before what may be a part of it."""
    beginning: float
    """Log-odds that what is being said is the beginning of one."""
    inside: float
    """Log-odds that what is being said is some part of one, its end too."""
    lengths: NDArray[np.float32]
    """Blocks that each phrase lasts."""
    clear: bool
    """True when the level tells speech from the room."""
    goes_on: bool
    """True when somebody is certainly still speaking; never in noise, where nobody can tell."""

    def unevenness(self, column: int) -> float:
        """Return by how much the worst part of the phrase of this class was said less well than all of it."""


@dataclass(frozen=True, slots=True)
class Peak:
    """A phrase that was spoken: class index, score, margin to the best other class."""

    index: int
    score: float
    margin: float


class Weighing:
    """One utterance's phrases. ``best`` is the one that is held."""

    def __init__(self, pause: int, at_once: NDArray[np.bool_]) -> None:
        """Start with nothing held.

        Args:
            pause: blocks without sound that end an utterance.
            at_once: (classes,): phrases that need no turn.
        """
        self._pause, self._at_once = pause, at_once
        self.clear()

    def clear(self) -> None:
        """Hold nothing: something else is going to be said."""
        self.best: Peak | None = None
        self._lead = 0.0  # log-odds of the best above its threshold
        self._unbeaten = 0  # blocks since it came
        self._followed = 0  # blocks of speech since then
        self._inside = False  # whether what was said last may be the beginning of something longer
        self._nearest = (-1, -np.inf)  # the taught phrase that came nearest to its threshold, and its log-odds
        self._unlike: set[int] = set()  # taught phrases of which a part was something else
        self._taught: dict[int, float] = {}  # of each taught phrase that was heard, by class, its best log-odds

    def consider(
        self, scores: NDArray[np.float32], may: NDArray[np.bool_], limits: NDArray[np.float32], whole: Whole | None
    ) -> None:
        """Hold the best of the classes that ``may`` count and are over their limits, if it is better than what is held.

        ``whole`` is None for scores (classes,) of something else than the newest step.
        """
        needed = _odds(limits)
        if self._unlike:
            may = may.copy()
            may[list(self._unlike)] = False
        over = may & (scores >= limits)
        if whole is not None:
            own = whole.odds - needed[whole.columns]
            over[whole.columns] |= (own >= 0.0) & may[whole.columns]
            nearest = int(own.argmax())
            if own[nearest] > self._nearest[1]:
                self._nearest = int(whole.columns[nearest]), float(own[nearest])
        if not over.any():
            return
        leads = _odds(scores) - needed
        if whole is not None:
            like = whole.likeness - needed[whole.columns]
            for index, lead in zip(whole.columns.tolist(), like.tolist(), strict=True):
                if over[index]:
                    self._taught[index] = max(lead, self._taught.get(index, lead))
            leads[whole.columns] = like + whole.favour
        leads = np.where(over, leads, -np.inf)
        index = int(leads.argmax())
        if self.best is None or leads[index] > self._lead:
            others = np.delete(scores, index)
            self.best = Peak(index, float(scores[index]), float(scores[index] - others.max(initial=0.0)))
            self._lead, self._unbeaten, self._followed = float(leads[index]), -1, -1

    def due(self, whole: Whole, *, active: bool, quiet: int, spoken: int) -> bool:
        """Return whether it is time to settle, after a block that was ``active`` or is the ``quiet``-th without sound.

        ``spoken``: blocks with sound in the utterance so far.
        """
        if active:
            word = self.best is not None and self.best.index not in self._taught
            self._inside = (whole.inside if word else whole.beginning) >= max(0.0, self._lead - BEHIND)
            self._unbeaten = 0 if self._inside else self._unbeaten + 1
        if self.best is None:
            return False
        if self._at_once[self.best.index]:  # "stop" waits only for what may be "stop the timer"
            return whole.inside < 0.0 or quiet >= max(self._pause, INNER_PAUSE)
        taught = self.best.index in self._taught
        self._followed += whole.goes_on
        within = taught and self.best.index not in whole.whole
        if self._too_long(whole, spoken) or (not within and self._followed >= FOLLOWED):
            self._drop()
            return False
        inner = INNER_PAUSE if taught else LONGER_PAUSE
        pause = max(self._pause, inner) if self._inside or not (taught or whole.clear) else self._pause
        return quiet >= pause or (self._unbeaten >= (BEATEN if taught else WORD_BEATEN) and not whole.goes_on)

    def _too_long(self, whole: Whole, spoken: int) -> bool:
        """Return whether more was said than the phrase that is held."""
        if self.best is None or not whole.clear:
            return False
        length = float(whole.lengths[whole.columns == self.best.index].max(initial=WORD))
        return spoken > LONGER * length + SPARE

    def whole_said(self, whole: Whole) -> bool:
        """Return whether every part of what is held was said; if not, hold it no more, nor again in this utterance."""
        if self.best is None or self.best.index not in self._taught:
            return True
        if whole.unevenness(self.best.index) <= (UNEVEN if whole.clear else UNEVEN_IN_NOISE):
            return True
        self._unlike.add(self.best.index)
        del self._taught[self.best.index]
        self._drop()
        return False

    def _drop(self) -> None:
        """Give up what is held: whatever phrase comes next is held in its place."""
        self.best, self._lead = None, 0.0

    def rival(self) -> int:
        """Return the class of another taught phrase that was heard nearly as well as the best, -1 for none.

        Where a word of the bundle's is the best, the rival is a taught phrase that came near to its threshold.
        """
        if self.best is None or self._at_once[self.best.index]:
            return -1
        if self.best.index not in self._taught:
            return self._nearest[0] if self._nearest[1] > -NEARLY else -1
        others = {index: lead for index, lead in self._taught.items() if index != self.best.index}
        nearest = max(others, key=others.__getitem__, default=-1)
        near = nearest >= 0 and self._taught[self.best.index] - others[nearest] < AMBIGUOUS
        return nearest if near else -1


def _odds(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the log-odds of 0..1, as far as these are finite."""
    clipped = np.clip(np.asarray(scores, np.float64), 1e-6, 1.0 - 1e-6)
    found: NDArray[np.float64] = np.log(clipped / (1.0 - clipped))
    return found
