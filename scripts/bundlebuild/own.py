"""An integrator's own phrases on top of a finished bundle: synthetic voices, their recordings if any, no other data.

The base head stays as it is. A phrase adds one column to the projection, learnt on the head's frozen convolution,
and one class whose score is that feature: the logits of all other classes are unchanged, and the new class must win
against them. With s the new score and L = log sum exp of the others, its posterior is 1 / (1 + exp(L - s)): a logistic
regression with an offset.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import augment, calibrate, corpus, harvest, head, voices, words
from . import base as base_head
from .arguments import ROUNDS, VOICES
from .audio import read
from .corpus import Clip
from .features import Embedder, Labelled, windows
from .head import Array
from .train import Trained
from .words import BACKGROUND, UNKNOWN

RATE_OF_LEARNING, DECAY, BATCH, JITTER = 2e-3, 0.05, 256, 0.1
RECORDED_TIMES = 4.0
"""How much more often than a synthetic clip a recording is used."""
PROMPT_LANGUAGES = ("ru_RU_f_IvrvoiceRU", "fr_CA_f_June", "es_MX_f_Allison")
"""People as other speech, where Debian's asterisk-core-sounds-{ru,fr,es}-wav are installed."""
PROMPTS_TIMES = 60
"""So many prompts for each utterance of another word."""
APART = 5
"""Every fifth voice or recording is kept for the threshold, and for the guard set."""
LEAST_TESTED = 10
_PHRASE = re.compile(r"[a-z][a-z']*( [a-z][a-z']*){0,5}")


@dataclass(frozen=True, slots=True)
class Wish:
    """One phrase of the integrator's: lower case letters, at most six words; ``recordings`` a folder or None."""

    text: str
    kind: str = "wake"
    recordings: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what the voices cannot be asked to say."""
        if not _PHRASE.fullmatch(self.text):
            raise ValueError(f"phrase {self.text!r} must be one to six words of the letters a to z")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much speech is made: ``voices`` utterances of each phrase, ``rounds`` of mixing, ``passes`` of learning."""

    voices: int = VOICES
    others: int = 4
    rounds: int = ROUNDS
    passes: float = 3.0
    processes: int = 2
    neural: bool = True
    seed: int = 5

    @property
    def tested(self) -> int:
        """Further utterances of each phrase, from which nothing is taken but how often they are heard."""
        return max(LEAST_TESTED, self.voices // 4)


def near(text: str) -> list[str]:
    """What sounds like a part of the phrase: its words alone and the phrase without its first or last word."""
    parts = text.split()
    shorter = [" ".join(parts[1:]), " ".join(parts[:-1])] if len(parts) > 1 else []
    return sorted({p for p in [*parts, *shorter] if p and p != text})


def _plan(wishes: Sequence[Wish], effort: Effort) -> list[tuple[str, str, int, bool]]:
    own = [(wish.text, wish.text, effort.voices + effort.tested, False) for wish in wishes]
    spoken = {wish.text for wish in wishes}
    known = (*words.WAKE, *words.COMMANDS, *words.DIGITS)
    less = max(1, effort.others)
    close = [
        (p, UNKNOWN, effort.voices // 3, False) for w in wishes for p in near(w.text) if p not in (*known, *spoken)
    ]
    plain = [(w, w, less, False) for w in known if w not in spoken]
    other = [(w, UNKNOWN, less, False) for w in (*words.OTHER_WORDS, *words.NEAR_MISSES) if w not in spoken]
    return own + close + plain + other + [(s, UNKNOWN, 2 * less, True) for s in words.SENTENCES]


def _columns(model: Trained, x: Array) -> Array:
    """The frozen convolution, flattened: (n, 16, 96) -> (n, 14 * H)."""
    w = model.weights
    x = (x - model.mean) / model.std
    columns: Array = np.maximum(head.unfold(x) @ w.convolution + w.convolution_bias, 0.0).reshape(len(x), -1)
    return columns


def learn(model: Trained, data: Labelled, target: int, effort: Effort) -> tuple[Array, float]:
    """The new phrase's direction (14 * H,) and bias. ``target`` is its class in ``data.labels``."""
    rng = np.random.default_rng([effort.seed, target])
    w = model.weights
    direction = np.zeros((w.projection.shape[0], 1), np.float32)
    bias = np.full(1, -4.0, np.float32)
    optimizer = head.Adam([direction, bias], DECAY)
    own = np.flatnonzero(data.labels == target)
    rest = np.flatnonzero((data.labels >= 0) & (data.labels != target))
    half = BATCH // 4
    total = max(1, int(effort.passes * len(rest)) // (BATCH - half))
    for step in range(total):
        chosen = np.concatenate([rng.choice(own, half), rng.choice(rest, BATCH - half)])
        x = windows(data.embeddings, chosen).astype(np.float32)
        x += rng.standard_normal(x.shape, np.float32) * data_spread(data) * np.float32(JITTER)
        columns = _columns(model, x)
        others = (columns @ w.projection + w.projection_bias) @ w.scores + w.scores_bias
        peak = others.max(1)
        against = peak + np.log(np.exp(others - peak[:, None]).sum(1))
        posterior = 1.0 / (1.0 + np.exp(np.clip(against - columns @ direction[:, 0] - bias[0], -30.0, 30.0)))
        wrong = ((posterior - (np.arange(BATCH) < half)) / BATCH).astype(np.float32)
        optimizer.update(
            [(columns.T @ wrong)[:, None], wrong.sum(keepdims=True)], RATE_OF_LEARNING * (1.0 - step / total)
        )
    return direction[:, 0], float(bias[0])


def data_spread(data: Labelled) -> np.float32:
    """A typical standard deviation of embeddings: the unit of jitter."""
    return np.float32(data.embeddings[:2_000].astype(np.float32).std())


def extend(model: Trained, classes: tuple[str, ...], found: Sequence[tuple[Array, float]]) -> Trained:
    """The head with new classes put before unknown and background; all old logits stay what they were."""
    w, count = model.weights, len(found)
    old = [classes.index(name) for name in model.classes]
    new = [i for i in range(len(classes)) if i not in old]
    dim = w.projection.shape[1]
    scores = np.zeros((dim + count, len(classes)), np.float32)
    scores[:dim, old] = w.scores
    scores[dim + np.arange(count), new] = 1.0
    bias = np.zeros(len(classes), np.float32)
    bias[old] = w.scores_bias
    projection = np.concatenate([w.projection, *(d[:, None] for d, _ in found)], axis=1)
    projection_bias = np.concatenate([w.projection_bias, np.array([b for _, b in found], np.float32)])
    weights = head.Weights(w.convolution, w.convolution_bias, projection, projection_bias, scores, bias)
    return Trained(weights, model.mean, model.std, classes)


def threshold(model: Trained, name: str, clips: Sequence[Clip], embed: Embedder) -> float:
    """From clips kept apart: the phrase's own and everything else."""
    heard = [embed(calibrate.in_a_room(augment.level(read(c.path)))) for c in clips]
    column = calibrate.clip_scores(model, heard)[:, model.classes.index(name)]
    own = np.array([c.label == name for c in clips])
    return calibrate.threshold(column[own], column[~own])


def _recorded(wish: Wish) -> list[Clip]:
    if wish.recordings is None:
        return []
    clips = corpus.folder(wish.recordings, wish.text, "recorded")
    if not clips:
        raise ValueError(f"no WAV or FLAC files in {wish.recordings}")
    return clips


@dataclass(frozen=True, slots=True)
class Result:
    """What the new phrases add: the extended head, thresholds, the data it was learnt on and the recordings used.

    Of the clips of these phrases: those that were learnt from, those kept apart for thresholds and guard set, and those
    that were used for nothing yet.
    """

    model: Trained
    thresholds: dict[str, float]
    data: Labelled
    recorded: list[Path]
    learnt: list[Clip]
    apart: list[Clip]
    unheard: list[Clip]


def add(base: Trained, wishes: Sequence[Wish], encoder: bytes, cache: Path, effort: Effort) -> Result:
    """Teach phrases to a head. ``ValueError`` for a phrase the head has already, or a folder without recordings."""
    for wish in wishes:
        if [each.text for each in wishes].count(wish.text) > 1:
            raise ValueError(f"the phrase {wish.text!r} was given twice")
        if wish.text in base.classes:
            raise ValueError(f"the bundle has the phrase {wish.text!r} already")
    spoken = {wish.text for wish in wishes}
    made = voices.library(cache / "voices", _plan(wishes, effort), neural=effort.neural)
    unheard = [c for c in made if c.label in spoken and voices.number(c) >= effort.voices]
    synthetic = [c for c in made if c.label not in spoken or voices.number(c) < effort.voices]
    recorded = [clip for wish in wishes for clip in _recorded(wish)]
    people = base_head.prompts(PROMPT_LANGUAGES)
    people = people[:: max(1, len(people) // (PROMPTS_TIMES * effort.others))]
    everything = [*synthetic, *recorded, *people]
    apart = everything[::APART]
    learnt = [c for i, c in enumerate(everything) if i % APART]
    classes = (
        *(c for c in base.classes if c not in (UNKNOWN, BACKGROUND)),
        *(w.text for w in wishes),
        UNKNOWN,
        BACKGROUND,
    )
    times = np.array([RECORDED_TIMES if c.source == "recorded" else 1.0 for c in learnt])
    items = [harvest.load(c, classes) for c in learnt]
    running = [i.audio for i in items if i.running]
    material = harvest.Material(items, times, [], [augment.level(a) for a in running[:80]], classes)
    data = harvest.harvest(material, encoder, rounds=effort.rounds, seed=effort.seed, processes=effort.processes)
    found = [learn(base, data, classes.index(wish.text), effort) for wish in wishes]
    model = extend(base, classes, found)
    embed = Embedder(encoder)
    limits = {wish.text: threshold(model, wish.text, apart, embed) for wish in wishes}
    own, own_apart = ([c for c in clips if c.label in spoken] for clips in (learnt, apart))
    return Result(model, limits, data, [c.path for c in recorded], own, own_apart, unheard)
