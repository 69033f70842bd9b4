"""What the microphone hears of a turn: somebody else's wake word, a short wait, and what the person says, in a room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bundlebuild.audio import RATE, Audio, to_int16
from bundlebuild.augment import room, stretch
from evaluation.conditions import ROOM
from idiolect.listening.pipeline.chain import MEMORY
from idiolect.values import BLOCK

from .people import EDGE, rng_of

LEAD = (MEMORY + 1) * BLOCK
"""Samples of room before the wake word: as long as anything in the chain remembers."""
TAIL_S = 2.6
"""Seconds of room behind what is said in which an event may come, and a pause that is waited for besides."""
WAIT_S = (0.35, 0.6)
"""Between the wake word and what is said."""
SYLLABLE_S = (0.1, 0.32)
"""How long a first syllable may be."""
NOISES = ("10db", "music")
"""Conditions in which something sounds all the while, at SNR_DB: a kitchen, a piece of music."""
CONDITIONS = ("quiet", "room", *NOISES, "slow", "fast", "syllable", "block300", "block600", "block1000")
PACES = {"slow": 0.7, "fast": 1.4}
SNR_DB = 10.0


@dataclass(frozen=True, slots=True)
class Turn:
    """Samples of a whole number of blocks, and where in them what is said begins and has its last sample."""

    samples: NDArray[np.int16]
    begin: int
    end: int


def said(clip: Audio, condition: str) -> Audio:
    """A clip as it is said in this condition; EDGE stays around it."""
    if condition in PACES:
        core = stretch(clip[EDGE:-EDGE], 1.0 / PACES[condition])
        return np.concatenate([clip[:EDGE], core, clip[-EDGE:]])
    if condition == "syllable":
        return stammered(clip)
    if condition.startswith("block"):
        return blocked(clip, int(condition.removeprefix("block")))
    return clip


def _levels(clip: Audio) -> NDArray[np.float32]:
    """Mean square of each 10 ms, over three of them."""
    hop = RATE // 100
    power = np.square(clip[: len(clip) // hop * hop].reshape(-1, hop)).mean(1)
    return np.asarray(np.convolve(power, np.ones(3) / 3.0, "same"), np.float32)


def _cut(clip: Audio, low: int, high: int) -> int:
    """The sample between these two places at which it is quietest."""
    hop = RATE // 100
    levels = _levels(clip)
    first, last = low // hop, max(low // hop + 1, min(len(levels), high // hop))
    return (first + int(np.argmin(levels[first:last]))) * hop


def _faded(part: Audio) -> Audio:
    """With its end faded out over 5 ms."""
    faded, size = part.copy(), min(len(part), RATE // 200)
    faded[len(faded) - size :] *= np.linspace(1.0, 0.0, size, dtype=np.float32)
    return faded


def stammered(clip: Audio) -> Audio:
    """With its first syllable three times."""
    loud = np.flatnonzero(_levels(clip) > _levels(clip).max() / 300.0)
    onset = int(loud[0]) * RATE // 100 if len(loud) else 0
    low, high = (onset + int(seconds * RATE) for seconds in SYLLABLE_S)
    first = _faded(clip[: _cut(clip, low, high)])
    gap = np.zeros(RATE * 60 // 1000, np.float32)
    return np.concatenate([first, gap, first, gap, clip])


def blocked(clip: Audio, milliseconds: int) -> Audio:
    """With silence inside, where it is quietest in its middle third."""
    at = _cut(clip, len(clip) * 3 // 10, len(clip) * 7 // 10)
    return np.concatenate([_faded(clip[:at]), np.zeros(RATE * milliseconds // 1000, np.float32), clip[at:]])


def alone(clip: Audio) -> NDArray[np.int16]:
    """A clip by itself in a quiet room."""
    heard = rng_of("alone", len(clip)).standard_normal(2 * LEAD + len(clip)).astype(np.float32) * np.float32(ROOM)
    heard[LEAD : LEAD + len(clip)] += clip
    return to_int16(heard)


def turn(
    wake: Audio, clip: Audio, seed: Sequence[object], *, condition: str = "quiet", noise: Audio | None = None,
    pause_s: float = 0.0,
) -> Turn:  # fmt: skip
    """A turn in this condition; ``noise`` is what sounds all the while. ``seed`` tells this turn from others."""
    rng = rng_of(*seed)
    spoken = said(clip, condition)
    begin = LEAD + len(wake) + int(rng.uniform(*WAIT_S) * RATE)
    end = begin + len(spoken) - EDGE
    size = -(-(begin + len(spoken) + int((TAIL_S + pause_s) * RATE)) // BLOCK) * BLOCK
    heard = rng.standard_normal(size).astype(np.float32) * np.float32(ROOM)
    heard[LEAD : LEAD + len(wake)] += wake
    heard[begin : begin + len(spoken)] += spoken
    if condition == "room":
        heard = room(rng_of(seed[0], "room"), heard)
    if condition in NOISES and noise is not None:
        loudness = float(np.sqrt(np.mean(np.square(spoken[EDGE:-EDGE])) + 1e-12))
        at = int(rng.integers(max(1, len(noise) - size)))
        excerpt = np.resize(noise[at:], size)
        heard += excerpt * np.float32(loudness / 10.0 ** (SNR_DB / 20.0) / (excerpt.std() + 1e-9))
    return Turn(to_int16(heard), begin, end)
