"""From one encoder to the next: an affine map between their embeddings of the same sound, and how good it is.

Least squares with a ridge (Hoerl and Kennard 1970) over every embedding that both encoders give for the corpus: around
the ends of words, within them, and in sentences. A short context instead of one embedding was tried (three or five
neighbours). It comes nearer to the new embeddings and finds hardly more: for a rotated encoder with 3 % of noise on its
weights, cosine 0.931, 0.936, 0.939 and taught phrases found 96.7, 96.9, 96.9 %; with 10 %, which spoils the encoder
itself, 0.689, 0.727, 0.741 and 92.1, 92.8, 93.0 %. So one embedding it is.

Judged on speakers who are not in it: by cosine, after the mean is taken off; and by what a person would notice, the
share of taught phrases that are found at one false accept in a hundred clips, taught with three people's recordings as
the new encoder hears them ("native") and as they are mapped. Teachers and those who are tested are different people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idiolect.learning.maps import EmbeddingMap
from idiolect.listening.pipeline.space import RIVAL, Space
from idiolect.trust.bundle.predecessors import Affine

from .space import STEPS, Array, Spoken
from .words import BACKGROUND, UNKNOWN

RIDGE = 1e-3
"""Of the mean variance of an embedding's numbers."""
SHOTS, DRAWS = 3, 20
FALSE_ACCEPTS = 0.01
LEAST_TESTED = 3
WORST = 0.05
"""By which taught phrases may be found more rarely with mapped examples than with native ones."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Of a map, on held-out speakers; shares in 0..1. A kind of recordings that is missing gives nan."""

    cosine: float
    cosine_p5: float
    """Of the worst twentieth of the embeddings, at most."""
    phrases_native: float
    phrases_mapped: float
    words_native: float
    words_mapped: float
    speakers: int

    @property
    def good(self) -> bool:
        """Whether examples that are mapped serve nearly as well as those that the new encoder would give."""
        pairs = ((self.phrases_native, self.phrases_mapped), (self.words_native, self.words_mapped))
        known = [native - mapped for native, mapped in pairs if not np.isnan(native)]
        return bool(known) and max(known) <= WORST

    def permille(self) -> dict[str, int]:
        """For a manifest's provenance, which has no floats."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "speakers"}
        rounded = {f"{name}_permille": round(1000 * value) for name, value in values.items() if not np.isnan(value)}
        return {**rounded, "held_out_speakers": self.speakers}


def _embeddings(spoken: Spoken) -> NDArray[np.float64]:
    """Every embedding there is, (n, 96)."""
    parts = (spoken.spans, spoken.passing, spoken.running)
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts]).astype(np.float64)


def fit(old: Spoken, new: Spoken) -> Affine:
    """The map from these clips and no others, heard by both encoders."""
    x, y = _embeddings(old), _embeddings(new)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x -= x_mean
    spread = x.T @ x / len(x)
    spread += RIDGE * np.trace(spread) / len(spread) * np.eye(len(spread))
    matrix = np.linalg.solve(spread, x.T @ (y - y_mean) / len(x))
    return Affine(matrix.astype(np.float32), (y_mean - x_mean @ matrix).astype(np.float32))


def measure(affine: Affine, old: Spoken, new: Spoken, space: Space) -> Quality:
    """How good a map is on clips that it has not seen; ``space`` is the new bundle's."""
    mapped = EmbeddingMap(affine.matrix, affine.offset, affine.digest)(old.spans)
    mean = new.spans.mean((0, 1))
    here, there = (each.reshape(-1, each.shape[-1]) - mean for each in (mapped, new.spans))
    cosine = (here * there).sum(-1) / (np.linalg.norm(here, axis=-1) * np.linalg.norm(there, axis=-1) + 1e-9)
    rates = {how: _found(space, new, spans) for how, spans in (("native", new.spans), ("mapped", mapped))}
    return Quality(
        cosine=float(cosine.mean()),
        cosine_p5=float(np.quantile(cosine, 0.05)),
        phrases_native=rates["native"][0],
        phrases_mapped=rates["mapped"][0],
        words_native=rates["native"][1],
        words_mapped=rates["mapped"][1],
        speakers=len(np.unique(new.speakers)),
    )


def _found(space: Space, heard: Spoken, examples: Array) -> tuple[float, float]:
    """Mean share found of phrases and of single words, taught with ``examples`` (n, 20, 96) and said as ``heard``."""
    z = space.features(heard.windows(STEPS))
    rivals = RIVAL * space.rival(z)[..., -1]
    taught = space.features(Spoken.windows(_with_spans(heard, examples), (-1, 0, 1))).mean(1)
    rates: dict[bool, list[float]] = {True: [], False: []}
    for word in sorted(set(heard.words.tolist()) - {UNKNOWN, BACKGROUND, "_silence_"}):
        own = np.flatnonzero(heard.words == word)
        rng, shares = np.random.default_rng(list(word.encode())), []
        for _ in range(DRAWS):
            teachers = rng.permutation(np.unique(heard.speakers[own]))[:SHOTS]
            chosen = [int(rng.choice(own[heard.speakers[own] == who])) for who in teachers]
            strangers = ~np.isin(heard.speakers, teachers)
            direction = taught[chosen].mean(0)
            scores = (z @ (direction / np.linalg.norm(direction)) - rivals).max(-1)
            said, other = strangers & (heard.words == word), strangers & (heard.words != word)
            if len(teachers) == SHOTS and said.sum() >= LEAST_TESTED:
                shares.append(float(np.mean(scores[said] > np.quantile(scores[other], 1.0 - FALSE_ACCEPTS))))
        if shares:
            rates[len(word) > LONG].append(float(np.mean(shares)))
    return (float(np.mean(rates[True])) if rates[True] else np.nan,
            float(np.mean(rates[False])) if rates[False] else np.nan)  # fmt: skip


LONG = 5
"""Letters above which a word counts as a phrase: "alexa" is a word, "computer" and "smart_mirror" are phrases."""


def _with_spans(spoken: Spoken, spans: Array) -> Spoken:
    return Spoken(spans, spoken.passing, spoken.words, spoken.labels, spoken.speakers, spoken.running)
