"""Finds the examples of a person that somebody else's new adapter must leave alone: those that are really heard.

An example counts where the adapter that its owner is heard with was made with it, and hears in it what it is an example
of. One that was kept but never used, and a bad take that the adapter does not hear, protect nobody: what sounds like
them may be learnt by others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from idiolect.learning import aligning, gate
from idiolect.listening.pipeline.alignment import costs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.learning.ledger import Example
    from idiolect.learning.model import Model
    from idiolect.listening.pipeline.adapter import Adapter, Taught

CHUNK = 64
"""Examples that are heard together: their windows take 54 KiB each."""


def heard_in(model: Model, adapter: Adapter, examples: Sequence[Example]) -> list[Example]:
    """Return those of ``examples`` in which the adapter hears what they are examples of.

    A phrase that is heard by alignment is looked for by the nearest of its other takes: one that is itself among them
    would always be found. An example of unknown length (kept before lengths were) is found by its windows, and so a bad
    take among those may be found, too.
    """
    aligned = {row.name: row for row in adapter.taught if row.takes}
    found = []
    for first in range(0, len(examples), CHUNK):
        some = examples[first : first + CHUNK]
        spoken = gate.spoken(model, adapter, model.hear_examples(np.stack([e.spans[0] for e in some])))
        for example, name in zip(some, spoken, strict=True):
            row = aligned.get(example.phrase)
            if name == example.phrase if row is None else _fits(model, row, example):
                found.append(example)
    return found


def _fits(model: Model, row: Taught, example: Example) -> bool:
    """Return True if the example is near enough to the nearest of the others.

    Only the nearest counts: one bad take among three must not make the good ones unlike.
    """
    takes = [[take] for take in _other_takes(model, row, example)]
    return bool(costs(takes, model.standard.frames(example.spans[0])).min() <= row.cost)


def _other_takes(model: Model, row: Taught, example: Example) -> list[NDArray[np.int8]]:
    """Return the takes that are not of this very example; all of them where none would be left."""
    take = aligning.take_of(model.standard, example)
    if take is None:
        return list(row.takes)
    own = aligning.stored(take)
    return [each for each in row.takes if not np.array_equal(each, own)] or list(row.takes)
