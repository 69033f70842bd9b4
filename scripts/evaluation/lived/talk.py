"""What other people say: wake words, and sentences of which it is known what they are about."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bundlebuild.audio import Audio, read
from bundlebuild.augment import level

from .people import EDGE, rng_of, trimmed


@dataclass(frozen=True, slots=True)
class Sentence:
    """A spoken order, and the words that its label tells."""

    path: Path
    text: str

    def holds(self, phrases: Iterable[str]) -> bool:
        """Whether one of these is said in it."""
        return any(f" {phrase} " in f" {self.text} " for phrase in phrases)

    def clip(self) -> Audio:
        """As it was said, at the level of all speech here."""
        audio = level(read(self.path))
        loud = np.flatnonzero(np.abs(audio) > 0.05 * np.abs(audio).max())
        return np.pad(audio[loud[0] : loud[-1] + 1], EDGE) if len(loud) else audio


def sentences(data: Path) -> list[Sentence]:
    """The orders under coffee_orders/ whose labels are there."""
    labels = data / "coffee_orders" / "labels.json"
    if not labels.is_file():
        return []
    found = []
    for name, label in sorted(json.loads(labels.read_text("utf-8")).items()):
        path = labels.parent / "clean" / f"{name}.flac"
        if path.is_file():
            found.append(Sentence(path, " ".join(map(str, label.get("slots", {}).values())).lower()))
    return found


def wake_words(data: Path, words: Sequence[str], most: int) -> list[Audio]:
    """Recordings of the first of these wake words that other people said, in an order that is always the same."""
    every = (
        [p for p in (data / "phrases" / word).glob("*") if p.suffix in (".flac", ".wav", ".opus")] for word in words
    )
    paths = sorted(next(filter(None, every), []))
    chosen: Sequence[int] = rng_of("wake words").permutation(len(paths))[:most].tolist()
    return [trimmed(read(paths[number])) for number in chosen]
