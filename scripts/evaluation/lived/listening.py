"""The device: the real chain with what the daemon would listen for, and what it made of a turn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from bundlebuild.audio import Audio
from idiolect.config import schema as config
from idiolect.learning.model import Model
from idiolect.listening import recognizer as assembly
from idiolect.listening.pipeline.adapter import Adapter
from idiolect.listening.pipeline.decoder import State
from idiolect.listening.pipeline.household import Household
from idiolect.listening.recognizer import Recognizer
from idiolect.values import BLOCK, GUEST, SAMPLE_RATE

from .sound import Turn, alone

FEW = ("yes", "no", "stop")
"""Base phrases of a household that wants few."""
AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True)
class Heard:
    """The first that was made of a turn: ``kind`` "phrase", "ambiguous", or "" where nothing was.

    ``late_ms``: from the last sample of what was said to the block with which the event was told.
    """

    kind: str = ""
    phrase: str = ""
    late_ms: float = 0.0
    woken: bool = True


def has_pause() -> bool:
    """Whether the pause that ends an utterance is a setting."""
    return any(each.name == "pause_ms" for each in fields(config.Listening))


class Device:
    """A chain in a household. One utterance after another, each in a turn of its own."""

    def __init__(self, recognizer: Recognizer, model: Model, *, few: bool = False, pause_ms: int = 0) -> None:
        wish = {"phrases": f"[{', '.join(FEW)}]"} if few else {}
        if pause_ms and has_pause():
            wish["pause_ms"] = str(pause_ms)
        lines = ["listening:", *(f"  {name}: {value}" for name, value in wish.items())] if wish else []
        self._config = config.parse("\n".join([*lines, ""]), "lived")
        self._bundle, self._model = recognizer.bundle, model
        self._base = assembly.listening_for(self._config, self._bundle)
        self.chain = recognizer.chain(self._base)
        self.live(())

    def live(
        self, adapters: Sequence[Adapter], profile: str = GUEST, shared: Mapping[str, Collection[str]] | None = None
    ) -> None:
        """Lay a household over it, and take ``profile`` to speak, as the daemon does after a round.

        ``shared``: by profile, which of the phrases that this person taught everybody may say.
        """
        household = Household(self._model.space, self._model.classes, adapters, shared) if adapters else None
        taught = household.taught if household else ()
        wish = assembly.with_taught(self._base, taught, self._config.listening.sensitivity)
        self.listening = assembly.for_people(wish, self._config, {})
        self.chain.listen_for(self.listening, household, None)
        self.address(profile)

    def address(self, profile: str) -> None:
        """Take somebody to be the one who speaks."""
        self.chain.address(profile)

    @property
    def phrases(self) -> frozenset[str]:
        """All that can be said in a turn."""
        names = np.array(self.listening.classes)
        return frozenset(map(str, names[self.listening.phrases | self.listening.always_on]))

    def woken_by(self, clips: Sequence[Audio]) -> list[Audio]:
        """Those of these wake words that are heard in a quiet room: how well that goes is another figure."""
        kept = []
        for clip in clips:
            self.chain.reset(same_room=True)
            if any(event.kind == "wake" for event in self.chain.process(alone(clip))):
                kept.append(clip)
        self.chain.reset(same_room=True)
        return kept

    def hear(self, turn: Turn) -> Heard:
        """Play a turn, block by block, until the chain says what it was."""
        self.chain.reset(same_room=True)
        begun = self.chain.position
        woken = False
        try:
            for at in range(0, len(turn.samples), BLOCK):
                for event in self.chain.process(turn.samples[at : at + BLOCK]):
                    if event.kind == "wake":
                        woken = True
                        continue
                    reason = getattr(event, "reason", "")
                    if event.kind == "rejected" and reason != AMBIGUOUS:
                        continue  # the turn stays open, and nothing was done
                    late = 1000.0 * (self.chain.position - begun - turn.end) / SAMPLE_RATE
                    kind = AMBIGUOUS if event.kind == "rejected" else "phrase"
                    return Heard(kind, event.phrase, late, woken)
                if woken and self.chain.state is State.IDLE:
                    break
                if not woken and at > turn.begin:
                    break  # nobody goes on talking to a box that did not wake up
            return Heard(woken=woken)
        finally:
            self.chain.reset(same_room=True)
