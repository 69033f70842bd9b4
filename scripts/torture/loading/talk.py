"""Who speaks to the daemon: words written into the future of its microphone, each of which must become an event.

Only words are said that a chain with the same bundle, household and wishes hears offline, whatever lies before them:
so each that is not told is one that the load has cost.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import latency
from benchmark.speech import BLOCK, RATE, Samples
from idiolect.config.schema import Config, Listening
from idiolect.listening.pipeline.adapter import Adapter
from idiolect.listening.pipeline.chain import Chain
from idiolect.listening.pipeline.household import Household
from idiolect.listening.recognizer import Recognizer, listening_for, with_taught
from torture.loading.household import House

ROOM = 3.0
"""Standard deviation of a quiet room's samples."""
QUIET_S = 1.2
"""From one word to the next: more than the refractory time and what ends an utterance."""
AHEAD_S = 1.0
LATE_S = 4.0
"""A word of which nobody is told so long after its end is missed."""
LISTENING = {"mode": "always", "wake_words": ["computer"], "phrases": list(latency.DIGITS), "always_on": []}


@dataclass(frozen=True)
class Word:
    """One digit and the quiet behind it, in whole blocks; ``end`` is where it ends in there."""

    digit: str
    samples: Samples
    end: int


@dataclass(frozen=True)
class Said:
    """A word as it was spoken: the samples since frame 0 that it lies in, and the monotonic time of its end."""

    digit: str
    start: int
    stop: int
    ended_at: float


def _trimmed(spoken: latency.Utterance) -> Word:
    """From 0.2 s before it begins, with the room behind it."""
    loud = np.flatnonzero(np.abs(spoken.samples[: spoken.end].astype(int)) > 60)
    first = max(0, int(loud[0]) - RATE // 5) if len(loud) else 0
    clip = spoken.samples[first : spoken.end + 1]
    length = -(-(len(clip) + round(QUIET_S * RATE)) // BLOCK) * BLOCK
    samples = _room(length, len(clip))
    samples[: len(clip)] = clip
    return Word(spoken.digit, samples, len(clip) - 1)


def _room(length: int, seed: int) -> Samples:
    noise = np.random.default_rng(seed).standard_normal(length) * ROOM
    return np.rint(noise).astype(np.int16)


def ears(house: House, adapters: Sequence[Adapter], profile: str) -> Chain:
    """What the daemon hears with when ``profile`` is addressed."""
    said = {name: tuple(value) if isinstance(value, list) else value for name, value in LISTENING.items()}
    config = replace(Config(), listening=Listening(**said))  # type: ignore[arg-type]
    base = listening_for(config, house.bundle)
    chain = Recognizer.from_bundle(house.bundle).chain(base, gated=config.listening.gate)
    if adapters:
        household = Household(house.model.space, house.model.classes, list(adapters))
        chain.listen_for(with_taught(base, household.taught, config.listening.sensitivity), household)
        chain.address(profile)
    return chain


def heard(chain: Chain, words: Sequence[Word], lead: int = RATE * 2) -> list[str]:
    """For each word what was heard in its place, one after the other; several events are joined by a blank."""
    lead = lead // BLOCK * BLOCK
    chain.reset()
    origin = chain.position
    samples = np.concatenate([_room(lead, 1), *(word.samples for word in words), _room(RATE * 2, 2)])
    found = [
        (detection.end - origin, detection.phrase)
        for first in range(0, len(samples) - BLOCK + 1, BLOCK)
        for detection in chain.process(samples[first : first + BLOCK])
        if detection.kind == "phrase"
    ]
    edges = lead + np.cumsum([0, *(len(word.samples) for word in words)])
    return [
        " ".join(phrase for end, phrase in found if start <= end < stop)
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]


def certain(chain: Chain, seed: int = 0, orders: int = 3) -> list[Word]:
    """Words of Debian's prompts that are heard in every one of so many orders. Empty without the prompts."""
    words = [_trimmed(one) for one in latency.utterances(None)]
    chance = random.Random(seed)  # noqa: S311 - for repeatable choices
    for _ in range(orders):
        chance.shuffle(words)
        words = [word for word, what in zip(words, heard(chain, words), strict=True) if what == word.digit]
    return words


class Speaker:
    """Writes into the file that a microphone plays in real time. ``origin`` is the monotonic time of frame 0."""

    def __init__(self, file: Path, minutes: float) -> None:
        length = round(minutes * 60) * RATE
        file.write_bytes(np.tile(_room(10 * RATE, 3), length // (10 * RATE) + 1)[:length].astype("<i2").tobytes())
        self._file = file
        self.origin = 0.0

    def say(self, words: Sequence[Word]) -> list[Said]:
        """Speak, a second from now; returns at once."""
        at = (int((time.monotonic() - self.origin + AHEAD_S) * RATE) // BLOCK + 1) * BLOCK
        said = []
        with self._file.open("r+b") as file:
            for word in words:
                os.pwrite(file.fileno(), word.samples.astype("<i2").tobytes(), 2 * at)
                ended = self.origin + (at + word.end + 1) / RATE
                said.append(Said(word.digit, at, at + len(word.samples), ended))
                at += len(word.samples)
        return said

    def over(self, said: Sequence[Said]) -> float:
        """Seconds until the last word has been spoken."""
        return max(0.0, said[-1].ended_at - time.monotonic()) if said else 0.0


def delays(said: Sequence[Said], arrived: Sequence[tuple[float, dict[str, Any]]]) -> list[float | None]:
    """By word, ms from its end to its event at a client; None where nobody was told, or too late."""
    found: list[float | None] = []
    for word in said:
        at = next(
            (t for t, e in arrived if e.get("phrase") == word.digit and word.start <= int(e["end"]) < word.stop), None
        )
        late = None if at is None else 1000.0 * (at - word.ended_at)
        found.append(late if late is not None and late <= 1000.0 * LATE_S else None)
    return found
