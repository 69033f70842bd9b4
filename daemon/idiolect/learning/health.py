"""Health counts how an adapter does in daily use, beside the base model that listens along in its shadow.

Nobody says afterwards whether an utterance was understood, so each is judged by what is known of it:

| the device | the person | counts as |
| --- | --- | --- |
| understood P | did not correct it | won, if the base model alone would have missed P or taken it for another |
| understood P | said that T was meant | lost, if the base model alone would have understood T |
| rejected it | - | lost, if the base model alone would have understood a phrase |

Lost against won is an exact sign test (``gate.chance``). The counts roll: beyond WINDOW utterances all are halved, so
that a year of good service does not hide a bad month.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from idiolect.errors import NONSENSE, LearningError
from idiolect.learning import gate

WINDOW = 100.0


@dataclass(frozen=True, slots=True)
class Health:
    """The rolling figures of one version. ``confidence`` sums are of posteriors, 0..1 each, over ``uses``."""

    number: int
    """Number of the version."""
    day: int
    """Day on which its owner was last heard, since the epoch."""
    uses: float = 0.0
    rejected: float = 0.0
    corrected: float = 0.0
    lost: float = 0.0
    won: float = 0.0
    confidence: float = 0.0
    base_confidence: float = 0.0

    def heard(
        self,
        day: int,
        *,
        understood: str,
        base: str,
        meant: str | None = None,
        sure: float = 0.0,
        base_sure: float = 0.0,
    ) -> Health:
        """Return the figures after one more utterance.

        Args:
            understood: the phrase that the device understood, "" for none.
            base: the one that the base model alone would have understood, "" for none.
            meant: the phrase of a correction.
        """
        corrected = meant is not None and meant != understood
        lost = (corrected and base == meant) or (not understood and meant is None and bool(base))
        won = not corrected and bool(understood) and base != understood
        after = replace(
            self,
            day=max(self.day, day),
            uses=self.uses + 1,
            rejected=self.rejected + (not understood),
            corrected=self.corrected + corrected,
            lost=self.lost + lost,
            won=self.won + won,
            confidence=self.confidence + sure,
            base_confidence=self.base_confidence + base_sure,
        )
        return after.halved() if after.uses > WINDOW else after

    def halved(self) -> Health:
        """Return the figures with older utterances counted half."""
        sums = {f.name: round(getattr(self, f.name) / 2, 4) for f in fields(self) if f.name not in ("number", "day")}
        return replace(self, **sums)

    @property
    def worse(self) -> bool:
        """Return True if the base model alone would do better, beyond chance."""
        return gate.chance(round(self.lost), round(self.won)) <= gate.SIGNIFICANT

    def rates(self) -> dict[str, float]:
        """Return shares of the utterances, for people."""
        if not self.uses:
            return {}
        named = ("rejected", "corrected", "lost", "won", "confidence", "base_confidence")
        return {"uses": round(self.uses, 1), **{name: round(getattr(self, name) / self.uses, 4) for name in named}}

    def as_dict(self) -> dict[str, float]:
        """Return the figures as the vault keeps them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def read(kept: Any) -> Health:
    """Read figures that ``as_dict`` gave.

    Raises:
        LearningError: they are something else.
    """
    try:
        return Health(int(kept["number"]), int(kept["day"]), *(float(kept[f.name]) for f in fields(Health)[2:]))
    except NONSENSE:
        raise LearningError("an adapter's health is not what was written", "`idiolect rollback`") from None
