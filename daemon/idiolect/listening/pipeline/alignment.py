"""Alignment: how well what is being said goes along with a take of a phrase, from its begin to its end.

A take is the sequence of embeddings of one utterance of a phrase, standardised and each of length 1. Its frames are
matched in order with the newest embeddings of the stream (dynamic time warping; H. Sakoe and S. Chiba, IEEE
Transactions on Acoustics, Speech and Signal Processing 26(1), 1978). The cost of a frame is 1 less the cosine, the cost
of a match is the mean over the frames of the take, and a match may begin at any embedding. With one embedding the take
goes on by one frame; either side may skip a frame for PENALTY, so that speech may be up to twice as fast or slow.

A phrase costs the mean over its takes. That tells phrases apart which differ in a part only, where a window of fixed
length looks at all parts alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idiolect.values import EMBEDDING, WINDOW

if TYPE_CHECKING:
    from numpy.typing import NDArray

PENALTY = np.float32(0.02)
NEVER = np.float32(1e3)
"""A cost that nothing has: the match has not begun."""
BEGUN = 6
"""Frames of a take, or half of it, from which on what is said may be its beginning."""
HARDLY = 4
"""Frames of a take from which on what is said may be a part of it, where a word like its beginning was heard."""
LATE = 5
"""Frames before the end of a take from which on nothing longer is being said: two of them lie behind the utterance."""
SHORTEST = 3
"""Frames of the shortest take."""


@dataclass(frozen=True, slots=True)
class Standard:
    """The measures that make embeddings comparable, float32 (96,) each: the mean and the spread of other people's."""

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]

    @classmethod
    def of(cls, embeddings: NDArray[np.floating]) -> Standard:
        """Return the measures of embeddings (..., 96), in double precision so that every machine finds the same."""
        rows = np.asarray(embeddings, np.float64).reshape(-1, EMBEDDING)
        if not len(rows):
            return cls(np.zeros(EMBEDDING, np.float32), np.ones(EMBEDDING, np.float32))
        spread = np.maximum(rows.std(0), 1e-3)
        return cls(rows.mean(0).astype("<f2").astype(np.float32), spread.astype("<f2").astype(np.float32))

    def frames(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return embeddings (..., 96), standardised and of length 1."""
        return unit((np.asarray(embeddings, np.float32) - self.mean) / self.spread)


def take_of(span: NDArray[np.floating], length: int) -> NDArray[np.floating]:
    """Return the embeddings of an utterance of ``length`` blocks in an example (18, 96) that ends two blocks behind it.

    The first two blocks of an utterance are left out: their embeddings are of what was before it. A longer utterance
    than a window was squeezed into one, and is drawn out again as far as speech needs to get through it.
    """
    if length <= len(span) - 2:
        return span[max(0, len(span) - length) :]
    squeezed, count = span[1:17], most_frames(length)
    return squeezed if count == len(squeezed) else resampled(squeezed, count)


def most_frames(length: int) -> int:
    """Return how many frames the take of an utterance of ``length`` blocks has at most.

    With two of them for three blocks it may be said by a third more slowly than it was taught.
    """
    return max(WINDOW, 2 * length // 3)


def resampled(frames: NDArray[np.floating], count: int) -> NDArray[np.float32]:
    """Return a sequence (n >= 2, 96) stretched or squeezed linearly in time to ``count`` frames, (count, 96)."""
    place = np.linspace(0.0, len(frames) - 1.0, count)
    low = np.minimum(place.astype(np.intp), len(frames) - 2)
    part = (place - low).astype(np.float32)[:, None]
    between: NDArray[np.float32] = frames[low] * (1 - part) + frames[low + 1] * part
    return between


class Takes:
    """The takes of several phrases, laid out for matching them all at once."""

    def __init__(self, phrases: Sequence[Sequence[NDArray[Any]]]) -> None:
        """Lay the takes out. ``phrases``: for each its takes, (frames, 96) of any scale, of SHORTEST frames or more."""
        takes = [take for each in phrases for take in each]
        longest = max(len(take) for take in takes)
        starts = np.cumsum([0, *(len(take) for take in takes[:-1])])
        self.lengths = np.array([len(take) for take in takes])
        self.frames = np.ascontiguousarray(unit(np.concatenate(takes)).T)
        """(96, all frames): one product with an embedding gives every cosine."""
        inside = np.minimum(np.arange(longest)[None], self.lengths[:, None] - 1)
        self.index = starts[:, None] + inside
        """(takes, longest): each frame's column of ``frames``; behind a take's end its last."""
        self.of = np.repeat(np.arange(len(phrases)), [len(each) for each in phrases])
        """(takes,): whose each take is."""
        self.first = np.cumsum([0, *(len(each) for each in phrases[:-1])])
        """(phrases,): its first take."""
        self.count = np.bincount(self.of, minlength=len(phrases)).astype(np.float32)
        first = np.minimum(BEGUN, np.maximum(self.lengths // 2, 2))
        place = np.arange(longest)[None]
        self.begun = (place + 1 >= first[:, None]) & (place < self.lengths[:, None] - LATE)
        """(takes, longest): where somebody would be who is saying it and has not ended."""
        self.inside = (place + 1 >= np.minimum(first, HARDLY)[:, None]) & (place < self.lengths[:, None])
        """(takes, longest): where somebody would be who is saying it, or has just ended."""
        self.steps = (np.arange(longest) + 1).astype(np.float32)

    def by_phrase(self, matches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cost of each phrase, (..., phrases), of matches (..., takes, longest) that end now."""
        ends = matches[..., np.arange(len(self.lengths)), self.lengths - 1] / self.lengths
        total = np.add.reduceat(np.minimum(ends, 2.0), self.first, axis=-1)
        return (total / self.count).astype(np.float32)


def step(last: NDArray[np.float32], before: NDArray[np.float32], costs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return matches (..., frames of a take) after one more embedding, from those of the two steps before it."""
    now = np.full(last.shape, NEVER, np.float32)
    now[..., 0] = costs[..., 0]
    now[..., 1:] = np.minimum(last[..., :-1], before[..., :-1] + PENALTY) + costs[..., 1:]
    both = last[..., :-2] + costs[..., 1:-1] + costs[..., 2:] + PENALTY
    now[..., 2:] = np.minimum(now[..., 2:], both)
    return now


class Aligner:
    """Follows a stream along all takes. ``reset`` where nothing said before counts."""

    def __init__(self, takes: Takes, early: NDArray[np.bool_] | None = None) -> None:
        """Start with no match begun. ``early``, (phrases,): those whose match may begin only when speech does."""
        self._takes = takes
        self._early = np.flatnonzero(early[takes.of]) if early is not None else np.zeros(0, np.intp)
        self.reset()

    def reset(self) -> None:
        """Forget all embeddings, so that no match has begun."""
        self._last = np.full(self._takes.index.shape, NEVER, np.float32)
        self._before = self._last.copy()

    def push(self, frame: NDArray[np.float32], *, fresh: bool = True) -> NDArray[np.float32]:
        """Take the next frame, (96,) of length 1; return the cost of each phrase's best match that ends now.

        ``fresh``: whether somebody has only begun to speak. The costs are (phrases,).
        """
        costs = 1.0 - frame @ self._takes.frames
        self._before, self._last = self._last, step(self._last, self._before, costs[self._takes.index])
        if not fresh:
            self._last[self._early, 0] = NEVER
        return self._takes.by_phrase(self._last)

    def begun(self) -> NDArray[np.float32]:
        """Return the cost, (phrases,), of what is being said as the beginning of each phrase, by its best take."""
        return self._least(self._takes.begun)

    def inside(self) -> NDArray[np.float32]:
        """Return the cost, (phrases,), of what is being said as some part of each phrase, by its best take."""
        return self._least(self._takes.inside)

    def _least(self, where: NDArray[np.bool_]) -> NDArray[np.float32]:
        takes = self._takes
        so_far = np.where(where, self._last / takes.steps, NEVER).min(1)
        found = np.full(len(takes.count), NEVER, np.float32)
        np.minimum.at(found, takes.of, so_far)
        return found


def unit(frames: NDArray[Any]) -> NDArray[np.float32]:
    """Return frames (..., 96) scaled to length 1."""
    x: NDArray[np.float32] = np.array(frames, np.float32)
    x /= np.sqrt((x * x).sum(-1, keepdims=True)) + np.float32(1e-9)
    return x


def costs(phrases: Sequence[Sequence[NDArray[Any]]], heard: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the least cost of each phrase anywhere in what was heard, (..., n, 96) of length 1: (..., phrases)."""
    takes = Takes(phrases)
    several = heard.reshape(-1, *heard.shape[-2:])
    found = [_least_of(takes, several[i : i + _TOGETHER]) for i in range(0, len(several), _TOGETHER)]
    return np.concatenate(found).reshape(*heard.shape[:-2], len(phrases))


_TOGETHER = 32
"""Utterances that are aligned at once: their costs take 4 bytes for each frame of each take and each embedding."""


def _least_of(takes: Takes, heard: NDArray[np.float32]) -> NDArray[np.float32]:
    last = np.full((len(heard), *takes.index.shape), NEVER, np.float32)
    before, least = last, np.full((len(heard), len(takes.count)), NEVER, np.float32)
    every = 1.0 - heard @ takes.frames
    for place in range(heard.shape[1]):
        before, last = last, step(last, before, every[:, place][:, takes.index])
        np.minimum(least, takes.by_phrase(last), out=least)
    return least
