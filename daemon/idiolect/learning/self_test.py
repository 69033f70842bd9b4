"""The self-test compares an adapter in use with the base model on the same utterances, slice by slice.

Two kinds of material: the person's own admitted examples, each heard in a turn of its own (``lived``), of which those
that came after the adapter was made are *unseen* by it, and the bundle's guard set in its strata (channel, noise,
pace). A slice counts what was lost (the base model understands it, the adapter does not) and what was won. Whether it
has become worse is an exact sign test over these (McNemar 1947, as in ``gate``): on unseen examples at
``gate.SIGNIFICANT``, on the guard set at the same level shared by all strata (Bonferroni), as one false alarm in
twenty a week would take good adapters away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from idiolect.learning import gate, trainer

if TYPE_CHECKING:
    from idiolect.learning.ledger import Ledger
    from idiolect.learning.lived import Wish
    from idiolect.learning.model import Model
    from idiolect.listening.pipeline.adapter import Adapter

UNSEEN = "own: after it was made"
GUARD = "others: "


@dataclass(frozen=True, slots=True)
class Slice:
    """One part of the material: utterances in all, misunderstood, lost and won against the base model."""

    name: str
    total: int
    wrong: int
    lost: int
    won: int


def run(model: Model, ledger: Ledger, adapter: Adapter, last: int, wish: Wish | None = None) -> list[Slice]:
    """Test ``adapter``, made from the examples up to number ``last``. Slices without material are left out."""
    return [*_own(model, ledger, adapter, last, wish), *_others(model, adapter)]


def _own(model: Model, ledger: Ledger, adapter: Adapter, last: int, wish: Wish | None) -> list[Slice]:
    material, verdicts = trainer.prepare(model, ledger)
    if not material.phrases:
        return []
    examples = [e for e, v in zip(ledger.examples, verdicts, strict=True) if v.admitted]
    every, known = np.arange(len(examples)), set(model.phrases)
    now = gate.heard_again(model, wish, adapter, material, every)
    may = every[[e.phrase in known for e in examples]]
    base = np.full(len(examples), "", object)  # a phrase that is not the model's is none to it
    base[may] = gate.heard_again(model, wish, None, material, may)
    right = [(e, a == e.phrase, b == e.phrase) for e, a, b in zip(examples, now, base, strict=True)]
    return _counted(
        (UNSEEN, [(a, b) for e, a, b in right if e.sequence > last]),
        ("own: it was made from", [(a, b) for e, a, b in right if e.sequence <= last]),
        ("own: taught phrases", [(a, b) for e, a, b in right if e.phrase not in known]),
        ("own: the model's phrases", [(a, b) for e, a, b in right if e.phrase in known]),
        ("own: recorded on purpose", [(a, b) for e, a, b in right if e.source == "enrolment"]),
        ("own: by the way", [(a, b) for e, a, b in right if e.source != "enrolment"]),
    )


def _others(model: Model, adapter: Adapter) -> list[Slice]:
    if not model.guard_labels:
        return []
    said, base, now = gate.on_others(model, adapter)
    right = [(bool(a == s), bool(b == s)) for a, b, s in zip(now, base, said, strict=True)]
    slices = [
        (f"{GUARD}{kind} {value}", [pair for pair, its in zip(right, values, strict=True) if its == value])
        for kind, values in sorted(model.guard_strata.items())
        for value in sorted(set(values))
    ]
    return _counted((f"{GUARD}all", right), *slices)


def _counted(*slices: tuple[str, Sequence[tuple[bool, bool]]]) -> list[Slice]:
    return [
        Slice(name, len(pairs), sum(not a for a, _ in pairs), sum(b and not a for a, b in pairs),
              sum(a and not b for a, b in pairs))
        for name, pairs in slices
        if pairs
    ]  # fmt: skip


def worse(slices: Sequence[Slice]) -> str:
    """Return the first slice on which the adapter is worse than the base model beyond chance, "" for none."""
    strata = sum(s.name.startswith(GUARD) for s in slices)
    for each in slices:
        level = gate.SIGNIFICANT / strata if each.name.startswith(GUARD) else gate.SIGNIFICANT
        judged = each.name == UNSEEN or each.name.startswith(GUARD)
        if judged and gate.chance(each.lost, each.won) <= level:
            return each.name
    return ""
