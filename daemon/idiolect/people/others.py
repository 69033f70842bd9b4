"""Collects examples of the rest of the household, on which a new adapter of one person is tried.

A new adapter must take nothing that the others say for a phrase of its own. The gate tries it on what is returned here.
Goes in: the vault's records and one person's ledger. Comes out: windows of embeddings, or None. Nothing is written.
"""

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
    """Return examples of everybody but this person, newest first, without phrases that this person has too.

    The places (``OTHERS_CAP``) are shared evenly; a person who has fewer examples than that share gives all, and what
    is left goes to the others, so that in a full house everybody is tried. Examples that are kept but not in use, or
    that the adapter in use does not recognise, are left out (``learning.neighbours``).

    Args:
        known: the ledger of the person for whom a new adapter is made.
        of: the earlier model, when the new adapter is for that one; None for the bundle's own.

    Returns:
        float32 (examples, 18, 96); None when there are no such examples.
    """
    own = {example.phrase for example in known.examples}
    people = sorted((other for other in records.vault.profiles() if other != known.profile), key=records.count)
    model = of.load() if of else records.model
    spans: list[NDArray[np.float32]] = []
    for number, other in enumerate(people):
        # Who has least comes first: places left over go to those who come later.
        share = (OTHERS_CAP - len(spans)) // (len(people) - number)
        spans += [example.spans[0] for example in _heard(records, other, own, share, model, of)]
    return np.stack(spans) if spans else None


def _heard(  # noqa: PLR0917 - whose, which, and with what
    records: Records, profile: str, besides: set[str], most: int, model: Model, of: Earlier | None
) -> list[Example]:
    """Return the newest examples, not of phrases ``besides``, from which the other's adapter in use has learnt."""
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
