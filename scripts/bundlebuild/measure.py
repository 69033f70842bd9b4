"""How good phrases of one's own are, as far as this machine can tell: misses and false accepts through the whole chain.

Misses: utterances by the synthetic voices that nothing was taken from, neither the phrase nor its threshold. False
accepts: the music and the recorded speech that Debian ships, which no own phrase is learnt from. Beside every figure
stands its upper bound at 95 % confidence (Clopper and Pearson 1934; for counts in a stretch of time Garwood 1936).
Neither tells how people are heard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from idiolect.listening.audio import quiet
from idiolect.listening.pipeline.chain import Chain
from idiolect.listening.recognizer import Recognizer, listening

from . import calibrate, corpus
from .audio import RATE, read, to_int16
from .augment import level
from .corpus import Clip

MUSIC, TALK = Path("/usr/share/asterisk/moh"), Path("/usr/share/asterisk/sounds/en_US_f_Allison")
"""Debian's asterisk-moh-opsound-wav and asterisk-core-sounds-en-wav."""
UNSURE = 0.05


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one phrase: what of ``said`` utterances was missed, and what was heard in ``hours`` without it."""

    phrase: str
    threshold: float
    said: int
    missed: int
    hours: float
    accepted: int

    def lines(self) -> list[str]:
        """For people."""
        share, most = self.missed / max(1, self.said), share_at_most(self.missed, self.said)
        found = [
            f'"{self.phrase}" (threshold {self.threshold:.2f})',
            f"  missed {self.missed} of {self.said} new utterances by the synthetic voices:"
            f" {share:.0%}, with 95 % confidence at most {most:.0%}",
        ]
        if not self.hours:
            return [*found, "  false accepts were not measured: there is no sound to play; ./scripts/setup brings some"]
        most = count_at_most(self.accepted) / self.hours
        return [
            *found,
            f"  heard {self.accepted} times in {self.hours:.2f} hours of music and telephone prompts without it:"
            f" {self.accepted / self.hours:.1f} an hour, with 95 % confidence at most {most:.1f}",
        ]


CAUTION = (
    "These figures do not tell how people are heard, who differ from each other more than these voices do, nor how it",
    "is in your rooms. Try it with several people, and give their recordings with --recordings for a product.",
)


def figures(recognizer: Recognizer, clips: Sequence[Clip], names: Sequence[str]) -> list[Figures]:
    """Those of the phrases ``names``; ``clips`` are utterances of them by label."""
    bundle = recognizer.bundle
    always_on = [name for name in names if name in bundle.commands]
    # Back to rest after every wake word: a turn that nobody meant to open would hide what comes next.
    wish = listening(bundle, wake_words=set(names), phrases=(), always_on=always_on, timeout_s=0.1)
    with quiet.without():
        chain = recognizer.chain(wish)
    heard = [(clip.label, _heard(chain, clip)) for clip in clips]
    chain.reset()
    hours, accepted = _ambient(chain)
    limits = {phrase.name: phrase.threshold for phrase in bundle.phrases}
    return [
        Figures(
            name, limits[name], sum(label == name for label, _ in heard),
            sum(label == name and name not in found for label, found in heard), hours, accepted.count(name),
        )
        for name in names
    ]  # fmt: skip


def _heard(chain: Chain, clip: Clip) -> list[str]:
    chain.reset()
    return [d.phrase for d in chain.process(calibrate.in_a_room(level(read(clip.path)))) if d.kind != "rejected"]


def _ambient(chain: Chain) -> tuple[float, list[str]]:
    """Hours played back to back, and every phrase that was reported."""
    samples, found = 0, []
    clips = [clip for folder in (MUSIC, TALK) for clip in corpus.folder(folder, "", "ambient")]
    for clip in clips:
        sound = to_int16(level(read(clip.path)))
        samples += len(sound)
        found += [d.phrase for d in chain.process(sound) if d.kind != "rejected"]
    return samples / RATE / 3600.0, found


def share_at_most(count: int, total: int) -> float:
    """The largest share of which ``count`` of ``total`` or fewer are seen as often as once in 1 / UNSURE."""
    if count >= total:
        return 1.0

    def seldom(share: float) -> float:
        return sum(math.comb(total, k) * share**k * (1.0 - share) ** (total - k) for k in range(count + 1))

    return _where(seldom, 1.0)


def count_at_most(count: int) -> float:
    """The same for a count in a stretch of time: the largest mean."""

    def seldom(mean: float) -> float:
        return sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count + 1))

    return _where(seldom, 2.0 * count + 10.0)


def _where(seldom: Callable[[float], float], high: float) -> float:
    """Where a falling function of 0..``high`` comes down to UNSURE."""
    low = 0.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if seldom(middle) > UNSURE else (low, middle)
    return high
