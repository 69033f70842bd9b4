"""A round: a ledger goes in, a judged adapter comes out. The worker process runs it, and a replay runs it again.

The strongest step of the trainer's ladder that passes the gate is taken; when none does, the last verdict says why.
When that is what is in use already there is nothing to do: no weaker step takes its place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from idiolect.learning import adapter_file, gate, trainer
from idiolect.learning.admission import Verdict as Admitted
from idiolect.learning.ledger import Ledger
from idiolect.learning.lived import Wish
from idiolect.learning.model import Heard, Model
from idiolect.listening.pipeline.adapter import Adapter


@dataclass(frozen=True, slots=True)
class Outcome:
    """``data`` is the adapter's file, also when the gate refused it; ``digest`` its SHA-256 in hex."""

    data: bytes
    digest: str
    verdict: gate.Verdict
    admissions: tuple[Admitted, ...]

    @property
    def adapter(self) -> Adapter:
        """Return the adapter that the file holds."""
        return adapter_file.decode(self.data)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The facts that a round depends on beside bundle, ledger and day.

    Its file depends on them only through the step that passed.
    """

    active: Adapter | None = None
    others: Heard | None = None
    owed: bool = False
    wish: Wish | None = None
    """The phrases that count in the household; None: all that the bundle has."""


def run(model: Model, ledger: Ledger, when: trainer.When, around: Circumstances | None = None) -> Outcome:
    """Train and judge one version, from the strongest step of the ladder to the weakest."""
    around = around or Circumstances()
    prepared = trainer.prepare(model, ledger)
    for step, strength in enumerate(trainer.LADDER):
        made = trainer.candidate(model, ledger, prepared, when, strength)
        data = adapter_file.encode(made.adapter)
        verdict = gate.judge(
            model, made, active=around.active, wish=around.wish, others=around.others, owed=around.owed, size=len(data)
        )
        if verdict.passed and data != _again(model, ledger, prepared[0], when, strength):
            verdict = gate.Verdict(gate.NOT_REPRODUCIBLE, verdict.numbers)
        in_use = verdict.passed and not around.owed and _alike(made.adapter, around.active)
        if in_use:
            verdict = gate.Verdict(gate.NO_IMPROVEMENT, verdict.numbers)
        verdict = gate.Verdict(verdict.check, {**verdict.numbers, "step": step})
        outcome = Outcome(data, hashlib.sha256(data).hexdigest(), verdict, prepared[1])
        if verdict.passed or in_use:
            break
    return outcome


def _alike(adapter: Adapter, active: Adapter | None) -> bool:
    """Return True if the adapter in use says the same already: a quarantined example makes no new version."""
    return active is not None and adapter_file.encode(replace(active, number=adapter.number)) == adapter_file.encode(
        adapter
    )


def _again(
    model: Model, ledger: Ledger, material: trainer.Material, when: trainer.When, strength: trainer.Strength
) -> bytes:
    """Build the adapter's file once more, with nothing remembered of the first time (check 7)."""
    return adapter_file.encode(trainer.build(model, ledger, replace(material, known={}), when, strength))


def replay(model: Model, ledger: Ledger, when: trainer.When, step: int) -> bytes:
    """Return the file that these make, without judging: for proving what an adapter was made from."""
    material, _ = trainer.prepare(model, ledger)
    return adapter_file.encode(trainer.build(model, ledger, material, when, trainer.LADDER[step]))
