"""What the rest of the household is heard with: a new adapter must take none of it for a phrase of its own."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from idiolect.errors import LearningError
from idiolect.learning import adapter_file, neighbours
from idiolect.people import carryover

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.learning.ledger import Example, Ledger
    from idiolect.learning.maps import Earlier
    from idiolect.learning.model import Model
    from idiolect.people.records import Records

OTHERS_CAP = 200
"""Examples of the rest of the household that a candidate is tried on."""


def others(records: Records, known: Ledger, of: Earlier | None = None) -> NDArray[np.float32] | None:
    """What the rest of the household is heard with, newest first, but for phrases that this person has too.

    Of everybody alike, and of who has less than his share all: in a full house nobody goes untried. What is kept
    but not in use, or is not heard with the adapter in use, counts for nothing (``learning.neighbours``).
    """
    own = {example.phrase for example in known.examples}
    people = sorted((other for other in records.vault.profiles() if other != known.profile), key=records.count)
    model = of.load() if of else records.model
    spans: list[NDArray[np.float32]] = []
    for number, other in enumerate(people):
        share = (OTHERS_CAP - len(spans)) // (len(people) - number)
        spans += [example.spans[0] for example in _heard(records, other, own, share, model, of)]
    return np.stack(spans) if spans else None


def _heard(  # noqa: PLR0917 - whose, which, and with what
    records: Records, profile: str, besides: set[str], most: int, model: Model, of: Earlier | None
) -> list[Example]:
    """The newest examples of phrases ``besides`` others from which the adapter in use has learnt something."""
    sealed = carryover.carried(records, profile) if of else records.used(profile)
    try:
        adapter = adapter_file.decode(sealed.data) if sealed else None
    except LearningError:
        return []
    if sealed is None or adapter is None:
        return []
    newest = sealed.provenance.last
    made_with = (e for e in records.backwards(profile, of) if e.sequence <= newest and e.phrase not in besides)
    return neighbours.heard_in(model, adapter, list(islice(made_with, most)))
