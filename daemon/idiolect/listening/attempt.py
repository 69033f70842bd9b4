"""Judges one attempt at saying a phrase on purpose: is it good enough to learn from, and if not, why.

Goes in: blocks of sound, and the embeddings that the stream computed of them anyway. Comes out: a take to learn from,
or the reason why it is refused.

Levels are root mean square over a block, in dBFS (0: full-scale square wave). The utterance is found by energy above
the room's own level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from idiolect.listening.pipeline.gate import Gate
from idiolect.listening.pipeline.hearing import LONGEST, resample_window
from idiolect.listening.pipeline.space import SPAN, as_span
from idiolect.values import WINDOW

if TYPE_CHECKING:
    from numpy.typing import NDArray

PATIENCE = 100
"""Blocks (8 s) to wait for somebody to begin."""
ABOVE_DB = 12.0
"""Decibels by which speech stands out from the room."""
FAINTEST_DBFS = -58.0
"""Quieter than this is never speech, however quiet the room is."""
QUIET_DBFS = -45.0
"""Speech below this is too quiet to learn from: the front-end's floor eats its weak parts."""
CLIPPED = 32_600
CLIPPED_SAMPLES = 8
LEAST = 3
"""Blocks of sound below which it was a knock."""
GAP = 6
"""Blocks (0.48 s) of room that end an utterance, where the household has not set a longer pause."""
BEFORE, AFTER = 2, 2
"""Blocks before the begin and behind the end that an example reaches to (``pipeline.space.OFFSETS``)."""
ALIKE = 0.08
"""Mean cosine to the earlier takes: measured on one speaker's words, 4 % of the same word lie below, 65 % of others."""


Recent = Callable[[int], "NDArray[np.float32] | None"]


class Reason(StrEnum):
    """The reasons for which an attempt is refused, in words for the speaker."""

    SILENCE = "nothing was said: speak after the prompt"
    QUIET = "too quiet: come closer, or speak up"
    CLIPPED = "clipped: speak more softly, or turn the microphone's gain down"
    LONG = "too long: a phrase has four seconds"
    SHORT = "too short: that was a knock or a cough"
    CUT_OFF = "cut off: wait for the prompt, then speak"
    NOISY = "the room is too loud to hear you clearly"
    UNLIKE = "unlike the other samples: say the same phrase each time"
    CLOSE = "too close to a phrase that exists already: choose another, or correct that one"
    SAME = "the same recording again: say it anew each time"


@dataclass(frozen=True, slots=True)
class Taken:
    """A good attempt: ``span`` float32 (18, 96) is learnt from, ``samples`` int16 only compared with the next take's.

    Copies of the sound, slower, faster, higher, lower, in a room and in noise, were tried beside the span: with three
    takes they find 1.0 point more of taught words and 0.6 less of taught phrases, with five or ten nothing.
    """

    span: NDArray[np.float32]
    samples: NDArray[np.int16]
    level_dbfs: float
    length: int = 0
    """Blocks that the utterance lasted, without pauses in it."""
    heard: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 96), np.float32), repr=False)
    """The embeddings of all of it with what was before, (n, 96), but for its pauses; none where it is unknown."""
    clear: int = 0
    """By how many dB it stands out from the room (``Gate.clearness``)."""

    @property
    def whole(self) -> NDArray[np.float32]:
        """Return the embeddings, (BEFORE + length + AFTER, 96), where ``span`` has only the end of them; else none."""
        size = BEFORE + self.length + AFTER
        return self.heard[-size:] if SPAN < size <= len(self.heard) else self.heard[:0]


def level(samples: NDArray[np.int16]) -> float:
    """Return the RMS in dBFS, -120 for digital silence."""
    power = float(np.mean(np.square(samples.astype(np.float32) / 32_768.0)))
    return max(-120.0, 10.0 * math.log10(power + 1e-12))


class Attempt:
    """Finds and judges one utterance. Feed it every block, after the stream has had it, until it returns something."""

    def __init__(self, pause: int = 0) -> None:
        """Start without sound. ``pause``: blocks without sound that end an utterance, where more than GAP."""
        self._gap = max(GAP, pause)
        self._outcome: Taken | Reason | None = None  # what it is if no more is said
        self._blocks: list[NDArray[np.int16]] = []
        self._levels: list[float] = []
        self._sound: list[bool] = []
        self._gate = Gate()
        self._begun: int | None = None
        self._last = 0
        self.level_dbfs = -120.0

    def hear(self, block: NDArray[np.int16], recent: Recent) -> Taken | Reason | None:
        """Take one block; return the outcome, or None while there is none yet.

        Args:
            recent: ``recent(n)`` are the newest n embeddings of the stream, (n, 96), or None without so many.
        """
        number = len(self._blocks)
        self._blocks.append(block.copy())
        self._gate.hear(block)
        self.level_dbfs = level(block)
        self._levels.append(self.level_dbfs)
        self._sound.append(self.level_dbfs > max(self._room() + ABOVE_DB, FAINTEST_DBFS))
        if self._sound[-1]:
            self._begun = number if self._begun is None else self._begun
            self._last = number
        return self._judge(number, recent)

    def _room(self) -> float:
        """Return the room's level in dBFS: the quietest tenth of what was heard, and at most -30.

        In a louder room than that nobody can be understood.
        """
        return min(-30.0, float(np.quantile(self._levels[-PATIENCE:], 0.1)) if len(self._levels) > 3 else -60.0)

    def _judge(self, number: int, recent: Recent) -> Taken | Reason | None:
        if self._begun is None:
            return Reason.SILENCE if number >= PATIENCE else None
        quiet = number - self._last
        if number - self._begun > LONGEST + self._gap:
            return Reason.LONG
        if quiet < GAP:
            return None
        length = self._last - self._begun + 1
        if length < LEAST:
            self._begun = None  # go on waiting: a door is no attempt
            return Reason.SHORT if number >= PATIENCE else None
        if quiet == GAP:
            self._outcome = self._refusal(length) or self._taken(length, recent)
        return self._outcome if quiet >= self._gap else None

    def _refusal(self, length: int) -> Reason | None:
        begun = self._begun or 0
        spoken = np.concatenate(self._blocks[begun : self._last + 1])
        loudest = float(np.quantile(self._levels[begun : self._last + 1], 0.8))
        if length > LONGEST:
            return Reason.LONG
        if begun == 0:
            return Reason.CUT_OFF
        if int((np.abs(spoken.astype(np.int32)) >= CLIPPED).sum()) >= CLIPPED_SAMPLES:
            return Reason.CLIPPED
        if loudest < QUIET_DBFS:
            return Reason.QUIET
        return Reason.NOISY if loudest < self._room() + ABOVE_DB else None

    def _taken(self, length: int, recent: Recent) -> Taken | Reason:
        late, begun = GAP - AFTER, self._begun or 0
        said = self._said(begun, length)
        spoken = int(said.sum())
        lead = max(0, SPAN - AFTER - spoken)
        every = recent(lead + length + AFTER + late)
        if every is None:
            return Reason.CUT_OFF  # the stream had not settled yet
        every = _without(every[:-late], said, lead)
        # Spoken slowly, it is squeezed in time, as the decoder does it.
        span = every[:SPAN] if spoken <= WINDOW else as_span(resample_window(every[: spoken + 1]))
        samples = np.concatenate(self._blocks[begun : self._last + 1])
        loudness = float(np.quantile(self._levels[begun : self._last + 1], 0.8))
        longer = recent(late + WINDOW + length + AFTER)
        heard = every if longer is None else _without(longer[:-late], said, WINDOW)
        return Taken(span, samples, loudness, spoken, heard, round(self._gate.clearness()))

    def _said(self, begun: int, length: int) -> NDArray[np.bool_]:
        """Return which blocks of the utterance, (length,), are no pause: in a turn too, pauses are not aligned."""
        sound = np.concatenate([np.ones(AFTER, bool), self._sound[begun : begun + length]])
        return np.asarray(np.lib.stride_tricks.sliding_window_view(sound, AFTER + 1).any(1), np.bool_)


def _without(embeddings: NDArray[np.float32], said: NDArray[np.bool_], lead: int) -> NDArray[np.float32]:
    """Return embeddings, (lead + length + AFTER, 96), without those of the utterance's blocks that are not ``said``."""
    left: NDArray[np.float32] = embeddings[np.concatenate([np.ones(lead, bool), said, np.ones(AFTER, bool)])]
    return left


def alike(z: NDArray[np.float32], others: Sequence[NDArray[np.float32]]) -> bool:
    """Return whether a take (D,) is like the other ones of its phrase, in the mean; alone it is."""
    return not others or float(np.mean([z @ other for other in others])) >= ALIKE


def repeated(samples: NDArray[np.int16], before: Sequence[NDArray[np.int16]]) -> bool:
    """Return whether this is an earlier take played again, at any level and time: nobody speaks twice quite alike.

    Told by the highest normalized cross-correlation. Embeddings cannot tell: half a block of 40 ms between two playings
    moves them as far as another take does.
    """
    return any(_correlation(samples, other) > REPEATED for other in before)


REPEATED = 0.8


def _correlation(a: NDArray[np.int16], b: NDArray[np.int16]) -> float:
    x, y = (v.astype(np.float32) - np.float32(v.mean()) for v in (a, b))
    size = 1 << (len(x) + len(y) - 1).bit_length()
    product = np.fft.rfft(x, size) * np.conj(np.fft.rfft(y, size))
    scale = float(np.linalg.norm(x) * np.linalg.norm(y)) + 1e-9
    return float(np.fft.irfft(product, size).max()) / scale
