"""Chooses the takes of a taught phrase by which it is recognised, and how near to them an utterance has to be.

Examples and frames of embeddings go in; rows of an adapter with takes and a limit (``Taught``) come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from idiolect.learning.ledger import MAX_LENGTH
from idiolect.listening.attempt import Reason
from idiolect.listening.pipeline.alignment import SHORTEST, Standard, costs, most_frames, unit
from idiolect.listening.pipeline.alignment import take_of as cut

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.learning.ledger import Example
    from idiolect.learning.model import Model
    from idiolect.listening.pipeline.adapter import Taught

MOST = 3
"""Takes of a phrase that are aligned with: its newest. Each costs its frames of time in a turn, and of space: up to 16,
and more only where it lasted two seconds (``alignment.most_frames``)."""
FEWEST = 2
"""Takes that a phrase needs to be aligned with them: from one take nobody knows how it varies."""
LIMIT = 0.21
OWN = 1.0
"""A phrase may cost LIMIT and as much more as its takes cost each other: how much one's way of saying it varies differs
between people by a factor of four. In noise it may cost more (``pipeline.aligned.allowance``)."""
HIGHEST = 0.53
"""However unlike its takes are: so far, none of 144 sentences of other people was taken (``lived.foreign_taken``)."""


def within(row: Taught) -> bool:
    """Return True if the takes of a phrase and their limit are such as ``aligned`` makes."""
    sizes = all(SHORTEST <= len(take) <= most_frames(MAX_LENGTH) for take in row.takes)
    return len(row.takes) <= MOST and sizes and 0.0 <= row.cost <= HIGHEST


def take_of(standard: Standard, example: Example) -> NDArray[np.float32] | None:
    """Return the frames of an example, (frames, 96); None where its length is unknown, or it is too short."""
    if not example.length:
        return None
    return frames_of(standard, example.spans[0], example.length)


def takes_beside(model: Model, examples: Iterable[Example], phrase: str) -> list[list[NDArray[np.float32]]]:
    """Return the newest takes of each phrase that somebody taught besides ``phrase`` and the base model's."""
    return list(takes_by_phrase(model, examples, phrase).values())


def takes_by_phrase(model: Model, examples: Iterable[Example], phrase: str) -> dict[str, list[NDArray[np.float32]]]:
    """Return the newest takes (frames, 96), by phrase, of all taught phrases but ``phrase`` and the base model's."""
    found: dict[str, list[NDArray[np.float32]]] = {}
    for example in examples:
        if example.phrase not in (phrase, *model.phrases):
            take = take_of(model.standard, example)
            found.setdefault(example.phrase, []).extend([] if take is None else [take])
    return {name: each[-MOST:] for name, each in found.items()}


def frames_of(standard: Standard, span: NDArray[np.float32], length: int) -> NDArray[np.float32] | None:
    """Return the frames of an utterance of ``length`` blocks in a span (18, 96); None where it is too short."""
    frames = standard.frames(cut(span, length))
    return frames if len(frames) >= SHORTEST else None


def aligned(row: Taught, takes: Sequence[NDArray[np.float32]]) -> Taught:
    """Return the phrase with the newest of its ``takes`` and the limit that these give.

    With fewer than FEWEST takes the phrase stays as it is.
    """
    kept = tuple(stored(take) for take in takes[-MOST:])
    if len(kept) < FEWEST:
        return row
    return replace(row, takes=kept, cost=limit([unit(take) for take in kept]))


def limit(takes: Sequence[NDArray[np.float32]]) -> float:
    """Return the highest cost at which a phrase counts as said.

    It is LIMIT plus OWN times the mean of what the takes cost in each other, and at most HIGHEST.

    Args:
        takes: of the phrase, (frames, 96) each, FEWEST of them or more.
    """
    apart = [float(np.delete(costs([[f] for f in takes], heard), i).mean()) for i, heard in enumerate(takes)]
    return min(LIMIT + OWN * float(np.mean(apart)), HIGHEST)


def between(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return how unlike two takes are: the mean of what each costs in the other."""
    return float(costs([[a]], b)[0] + costs([[b]], a)[0]) / 2


def compared(
    take: NDArray[np.float32], before: Sequence[NDArray[np.float32]], others: Sequence[Sequence[NDArray[np.float32]]]
) -> Reason | None:
    """Compare a take (frames, 96) with earlier ones of its phrase, and with the takes of each other phrase.

    Phrases that differ in a part only are told apart later on; refused is a take that is nearer to another phrase than
    to its own, or, while there is no other take of its own, as near to one as that phrase's own takes are to each
    other.
    """
    others = [takes for takes in others if len(takes) >= FEWEST]
    if not before:
        return Reason.CLOSE if any(_same(take, takes) for takes in others) else None
    mine = _apart(take, before)
    if mine > UNLIKE:
        return Reason.UNLIKE
    theirs = min((_apart(take, takes) for takes in others), default=mine)
    return Reason.CLOSE if theirs < mine - NEARER else None


NEARER = 0.05
"""Cost by which a take has to be nearer to another phrase than to its own, where it is to be of that one."""
SAME = 0.3
"""Cost below which a first take may be one of another phrase, if that one's takes are no nearer to each other."""


def _same(take: NDArray[np.float32], takes: Sequence[NDArray[np.float32]]) -> bool:
    return _apart(take, takes) < min(_apart(takes[0], takes[1:]), SAME)


def _apart(take: NDArray[np.float32], takes: Sequence[NDArray[np.float32]]) -> float:
    """Return how unlike a take is to these, on the mean."""
    return float(np.mean([between(take, each) for each in takes]))


UNLIKE = 0.6
"""Cost from which on a take is of something else (``lived.wrong_take_accepted``, ``good_take_refused``)."""


def stored(take: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return a take as it is kept: each frame in steps of a 127th of its largest number; only its direction counts."""
    whole: NDArray[np.int8] = np.rint(take * (127.0 / np.abs(take).max(-1, keepdims=True))).astype(np.int8)
    return whole
