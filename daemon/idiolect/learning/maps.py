"""Makes what was taught under an earlier encoder useful under a new one.

Two ways: an example's embeddings are mapped into the new space, or the model before hears beside this one.

A record in the vault stays what it is, bound to the encoder that made it. The map is the bundle's, and is applied each
time a ledger is read: so the adapter stays a function of (bundle, ledger, day), forgetting stays exact, and another
bundle, older or newer, finds everything as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.learning.ledger import Example
    from idiolect.learning.model import Model

_LARGEST = 65504.0
"""The largest number of float16, in which examples are kept."""


@dataclass(frozen=True, slots=True)
class EmbeddingMap:
    """From an earlier encoder's embeddings to this one's: x @ matrix + offset. ``digest``: SHA-256, hex."""

    matrix: NDArray[np.float32]
    """(96, 96)"""
    offset: NDArray[np.float32]
    """(96,)"""
    digest: str

    def __call__(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return embeddings (..., 96) in the new space, rounded as examples are kept.

        In float64, so that after rounding to float16 no library and no processor gives other bytes than another.
        """
        exact = embeddings.astype(np.float64) @ self.matrix.astype(np.float64) + self.offset
        return np.clip(exact, -_LARGEST, _LARGEST).astype(np.float16).astype(np.float32)

    def carried(self, example: Example, origin: str) -> Example:
        """Return an example of the encoder ``origin`` as one of this.

        Only its embeddings are changed, and its origin is noted in it.
        """
        return replace(example, spans=self(example.spans), whole=self(example.whole), origin=origin)


Maps = Mapping[str, EmbeddingMap]
"""Maps by the id of the encoder that they are from."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """The model of the bundle before, which this one carries: for phrases that nobody taught anew. It learns nothing.

    ``load`` makes its arrays, some MiB, which nobody keeps longer than they are needed; ``graph`` is its encoder.
    """

    digest: str
    """The earlier bundle's, which its adapters name."""
    encoder: str
    """Id of its encoder, to which its examples are bound."""
    classes: tuple[str, ...]
    """Its head's."""
    graph: bytes = field(repr=False)
    load: Callable[[], Model]
    maps: Maps
    """Its own."""


@dataclass(frozen=True, slots=True)
class Succession:
    """The means that a bundle brings for what was taught under earlier ones: maps by encoder, and the model before."""

    maps: Maps = field(default_factory=dict)
    earlier: Earlier | None = None


NOTHING = Succession()
