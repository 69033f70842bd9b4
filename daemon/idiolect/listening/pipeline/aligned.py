"""Follows what is being said along the takes of the phrases that somebody taught.

Goes in: each embedding of a turn. Comes out: how surely each phrase was said by now, and whether more of one may come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from idiolect.listening.pipeline import parts
from idiolect.listening.pipeline.alignment import Aligner, Standard, Takes, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.listening.pipeline.adapter import Taught

SLOPE = np.float32(60.0)
"""Log-odds of a taught phrase per unit of cost below its limit: a good match is as sure as a base phrase can be."""
HEARD = 64
"""Newest frames (5 s) in which the parts of a phrase are looked for."""
OWN_LIMIT = np.float32(0.25)
"""Weight of a phrase's own limit where phrases are compared: one whose takes vary much is not likelier for it."""


def allowance(clearness: float) -> np.float32:
    """Return by how much more a match may cost where speech stands out from the room by so many dB only."""
    return np.float32(np.interp(clearness, CLEARNESS, ALLOWED))


CLEARNESS, ALLOWED = (12.0, 24.0, 40.0), (0.30, 0.20, 0.0)
"""Measured on synthetic and real speakers in a quiet room and in a kitchen: nine in ten utterances of a phrase cost no
more, at 10, 20 and 40 dB, while sentences of other people cost 0.4 and more in any of them."""
FAVOURED, FAVOUR = (6.0, 12.0), 10.0
"""When two phrases were both heard, the longer one was said: a word inside it is a good match, too. So a phrase
that was matched from begin to end is given up to FAVOUR log-odds more, by the frames of its takes."""


LENT = 0.11
"""Cost that a match with a phrase of somebody else's may have more, less what its window scores above its threshold, in
cosine: windows know other voices better than takes do. Measured on 8 who teach and 22 others who say it, none of whom
`scripts/evaluate` hears by default: at 0.07, 0.11 and 0.15 the others are heard in 76, 78 and 81 of 100 phrases, and in
a turn 1, 1 and 3 of 200 sentences are taken for one."""
WINDOWS = 3
"""Newest windows of which the best counts: a match ends with one embedding, and a window fits best a little earlier."""
WINDOW_SLOPE = np.float32(SLOPE / 24.0)
"""A unit of a window's cosine (``pipeline.household.SLOPE``, 24 log-odds) counts as one of cost."""


class Aligned:
    """One stream along the takes of one profile: how surely each phrase was said up to now, and what may yet come.

    Implements ``decoder.Whole``.
    """

    def __init__(self, taught: Sequence[Taught], columns: Sequence[int], standard: Standard, *, lent: int = 0) -> None:
        """Start with nothing said.

        Args:
            columns: of the household's classes, for each phrase; one that several people taught is one phrase.
            lent: the last so many are other people's: what is said goes along with them as a whole or not at all.
        """
        unique, self._places = np.unique(np.array(columns, np.intp), return_inverse=True)
        self.columns: NDArray[np.intp] = unique
        self._limits = np.array([t.cost for t in taught], np.float32)
        frames = np.array([np.median([len(take) for take in t.takes]) for t in taught])
        self.lengths = self._best_of(frames.astype(np.float32))
        self.favour = self._best_of(np.interp(frames, FAVOURED, (0.0, FAVOUR)).astype(np.float32))
        self._takes = [tuple(unit(take) for take in t.takes) for t in taught]
        self._own: dict[int, NDArray[np.float32]] = {}
        self._standard = standard
        self._heard: deque[NDArray[np.float32]] = deque(maxlen=HEARD)
        others = np.arange(len(taught)) >= len(taught) - lent
        self.whole: NDArray[np.intp] = np.unique(np.array(columns, np.intp)[others])
        """Classes of these phrases of other people."""
        self._lent = np.isin(unique, self.whole)
        self._aligner = Aligner(Takes([t.takes for t in taught]), others if lent else None)
        self.reset()

    def _best_of(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the highest value of each phrase, whoever taught it."""
        best = np.full(len(self.columns), -np.inf, np.float32)
        np.maximum.at(best, self._places, values)
        return best

    def reset(self) -> None:
        """Forget what was said before."""
        self._heard.clear()
        self._aligner.reset()
        nothing = np.full(len(self.columns), -np.inf, np.float32)
        self.odds = self.likeness = nothing
        self._now = nothing, nothing
        self.beginning = self.inside = -np.inf
        self.clear = self.goes_on = False
        self._windows = np.full((WINDOWS, len(self.whole)), 1e-6, np.float32)
        self._fitted = -np.inf  # how well some part of a phrase went along since the last pause
        self._paused = False

    def unevenness(self, column: int) -> float:
        """Return by how much the worst part of the phrase of this class was said less well than all of it.

        0 where there was a pause in it, as the part behind that is heard worse, and of what somebody else taught.
        """
        if self._paused or column in self.whole:
            return 0.0
        heard = np.array(self._heard)
        rows = [row for row, place in enumerate(self._places) if self.columns[place] == column]
        for row in rows:
            if row not in self._own:
                self._own[row] = parts.of_takes(self._takes[row])
        return min(parts.unevenness(self._takes[row], self._own[row], heard) for row in rows)

    def rest(self) -> NDArray[np.float32]:
        """Let a block of a pause pass; no phrase, (phrases,), scores anything."""
        self.odds = np.full(len(self.columns), -np.inf, np.float32)
        return np.zeros(len(self.columns), np.float32)

    def resume(self) -> None:
        """Go on after a pause: where a part of a phrase came before it, what comes now may be the rest of it."""
        self._paused = self._fitted >= 0.0
        self._fitted = -np.inf

    def push(
        self, embedding: NDArray[np.float32], clearness: float, windows: NDArray[np.float32] | None = None, *,
        fresh: bool = True,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Take the next embedding, (96,); return the score of each phrase, (phrases,), 0..1, at its limit 0.5.

        A match ends with one embedding and not with its neighbours, so each score stands for two steps.

        Args:
            embedding: The newest one.
            clearness: In dB (``Gate.clearness``): the more noise there is, the more a match costs, and may cost.
            windows: What the newest window gives each phrase, 0..1: it counts for other people's.
            fresh: Whether somebody has only begun to speak: other people's begin there alone.
        """
        limits = self._limits + allowance(clearness)
        frame = self._standard.frames(embedding)
        self._heard.append(frame)
        costs = self._aligner.push(frame, fresh=fresh)
        shared = OWN_LIMIT * limits + (np.float32(1.0) - OWN_LIMIT) * limits.mean()
        now, likeness = self._best_of(SLOPE * (limits - costs)), self._best_of(SLOPE * (shared - costs))
        if windows is not None and len(self.whole):
            known = self._by_windows(windows[self._lent])
            now[self._lent] += known
            likeness[self._lent] += known
        self.odds, self.likeness = np.maximum(self._now[0], now), np.maximum(self._now[1], likeness)
        self._now = now, likeness
        self.beginning = float((SLOPE * (limits - self._aligner.begun())).max())
        self.inside = float((SLOPE * (limits - self._aligner.inside())).max())
        self._fitted = max(self._fitted, self.inside)
        return (1.0 / (1.0 + np.exp(np.minimum(-self.odds, 30.0)))).astype(np.float32)

    def _by_windows(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log-odds of other people's phrases by the best of the last windows."""
        self._windows = np.roll(self._windows, 1, axis=0)
        self._windows[0] = np.clip(windows, 1e-6, 1.0 - 1e-6)
        best = self._windows.max(0)
        return np.asarray(WINDOW_SLOPE * np.log(best / (1.0 - best)), np.float32)
