"""Gives advice while a phrase is being taught: why it will be hard to understand, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from idiolect.learning import aligning
from idiolect.listening.pipeline.alignment import costs
from idiolect.listening.pipeline.decoder import SMOOTHING
from idiolect.listening.pipeline.household import softmax
from idiolect.values import WINDOW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.learning.lesson import Take
    from idiolect.learning.model import Model
    from idiolect.listening.attempt import Taken

FEW_BLOCKS = 6
"""Blocks (0.48 s) of sound up to which a phrase is short: there is little in it to know it by."""
REST = 4
"""Blocks of sound behind a base phrase by which it is the beginning of something longer."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A phrase that somebody taught; ``name`` is "" where the asker may not see it."""

    name: str = field(repr=False)
    takes: Sequence[NDArray[np.float32]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Advice:
    """``kind``: short, begins_like or near; ``base`` says that the other phrase is the model's own.

    ``wake`` says that it is a wake word, which nobody is told to do without.
    """

    kind: str
    phrase: str = field(default="", repr=False)
    base: bool = False
    wake: bool = False

    def told(self, named: bool) -> dict[str, str | bool]:
        """Return the advice in words; without the name of any phrase unless it may be ``named``."""
        phrase = self.phrase if named else ""
        other = f'"{phrase}"' if phrase else _UNNAMED[self.base]
        text, do = _TEXTS[self.kind, self.base]
        do = _BESIDE_WAKE_WORD if self.wake else do
        words = {"text": text.format(other), "do": do.format(other)}
        return {"kind": self.kind, "phrase": phrase, "base": self.base, **words}


_BESIDE_WAKE_WORD = "choose other words: {} wakes the device, wherever it is said"
_UNNAMED = {True: "a phrase that the device knows by itself", False: "a phrase that somebody here has taught"}
_TEXTS = {
    ("short", False): ("this phrase is very short", "teach a longer one, of two or more words"),
    ("begins_like", True): (
        "this phrase sounds at first like {}",
        "begin with another word, or take {} out of listening.phrases and listening.always_on",
    ),
    ("near", True): (
        "this phrase sounds like {}",
        "choose other words, or take {} out of listening.phrases and listening.always_on",
    ),
    ("near", False): ("this phrase sounds like {}", "choose another word, or teach both again, each in its own way"),
}


def advise(
    model: Model, takes: Sequence[Take], neighbours: Sequence[Neighbour], listened: Collection[str]
) -> list[Advice]:
    """Return what there is to say of the takes so far; ``listened`` are the model's phrases that are listened for."""
    if not takes:
        return []
    found = [Advice("short")] if np.median([each.taken.length for each in takes]) <= FEW_BLOCKS else []
    for each in takes:
        found += _base(model, each.taken, listened)
    found += [Advice("near", each.name) for each in neighbours if _near(takes, each)]
    return list(dict.fromkeys(found))


def _base(model: Model, taken: Taken, listened: Collection[str]) -> list[Advice]:
    """Return the model's phrases that the decoder would hear in a take, by their thresholds in a turn."""
    scores = _scores(model, taken)
    found = []
    for column, name in enumerate(model.classes):
        over = np.flatnonzero(scores[:, column] >= model.limits[column])
        if name in listened and len(over):
            rest = taken.length - 1 - int(over[0])
            kind = "begins_like" if rest >= REST else "near"
            found.append(Advice(kind, name, base=True, wake=name in model.wake_words))
    return found


def _scores(model: Model, taken: Taken) -> NDArray[np.float32]:
    """Return the smoothed posteriors of the windows that end with each block of a take and the few behind it."""
    heard = taken.heard if len(taken.heard) else taken.span[-min(taken.length, WINDOW) - 2 :]
    lead = np.repeat(heard[:1], WINDOW, 0)  # what is older than what is kept is taken for the room
    every = np.concatenate([lead, heard])
    count = min(taken.length + 2, len(heard))
    ends = range(len(every) - count + 1, len(every) + 1)
    posteriors = softmax(model.head.logits(np.stack([every[end - WINDOW : end] for end in ends])).copy())
    smooth = [posteriors[max(0, i + 1 - SMOOTHING) : i + 1].mean(0) for i in range(count)]
    return np.asarray(smooth, np.float32)


def _near(takes: Sequence[Take], other: Neighbour) -> bool:
    """Return True if, were this phrase not taught, a take would count as the other one by that one's own limit."""
    if len(other.takes) < aligning.FEWEST:
        return False
    limit = aligning.limit(other.takes)
    return any(float(costs([list(other.takes)], take.frames).min()) <= limit for take in takes)
