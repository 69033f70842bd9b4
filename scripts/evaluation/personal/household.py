"""Several people on one device: what one's adapter does to another, who is told by voice, and what is kept of a voice.

A household is up to four people whom one model never heard. Each enrols SHOTS utterances of every word, and five in all
for being told by voice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bundlebuild.words import BACKGROUND, UNKNOWN
from idiolect.learning import trainer
from idiolect.learning.ledger import Ledger
from idiolect.learning.model import Model
from idiolect.listening.pipeline.adapter import Adapter
from idiolect.listening.pipeline.household import Household
from idiolect.values import GUEST

from .adapt import HARM, choose
from .people import DAY, Clip, Stream, enrolled, example, learn, mean, utterances, words_of

SHOTS = 3
VOICE_SHOTS = 5
ZIPF = 1.0
"""Exponent of how often somebody says her commands: the second half as often as the first, and so on."""


@dataclass(slots=True)
class Home:
    """What was measured in one household."""

    crossed: list[float] = field(default_factory=list)
    """Change of one person's error under another one's adapter."""
    by_voice: list[float] = field(default_factory=list)
    """The same with the profile that the voice chose."""
    told: list[bool] = field(default_factory=list)
    """Whether a member's utterance was given to her."""
    mistaken: list[bool] = field(default_factory=list)
    """Whether it was given to another member."""
    strangers: list[bool] = field(default_factory=list)
    """Whether somebody else's was given to a member."""
    prior: list[tuple[float, float]] = field(default_factory=list)
    guest: float = 0.0
    """Largest difference of a guest's posteriors from the base model's."""


def measure(members: Mapping[str, Sequence[Clip]], strangers: Sequence[Clip], model: Model) -> Home:
    """One household; ``strangers`` do not live in it."""
    home = Home()
    adapters: dict[str, Adapter] = {}
    rest: dict[str, list[Clip]] = {}
    for number, (name, own) in enumerate(members.items()):
        rng = np.random.default_rng(list(name.encode()))
        chosen = choose(own, words_of(own[0].heard.clip.source), SHOTS, rng)
        adapter, _ = learn(model, enrolled([own[i] for i in chosen], f"{number:016x}"))
        adapters[name] = replace(adapter or Adapter(f"{number:016x}"), voice=_voice(model, [own[i] for i in chosen]))
        rest[name] = [clip for i, clip in enumerate(own) if i not in set(chosen)]
    household = Household(model.space, model.classes, list(adapters.values()))
    for name, adapter in adapters.items():
        _member(home, model, household, adapter, rest[name])
    for clip in strangers:
        home.strangers.append(_who(model, household, clip) != GUEST)
    for name, clips in rest.items():
        home.prior.append(_prior(model, clips, np.random.default_rng(list(name.encode()))))
    return home


def _voice(model: Model, clips: Sequence[Clip]) -> NDArray[np.float32] | None:
    """From the first five utterances."""
    few = tuple(example(clip, i) for i, clip in enumerate(clips[:VOICE_SHOTS]))
    ledger = Ledger("aa" * 8, few, voice=True)
    material, _ = trainer.prepare(model, ledger)
    return trainer.build(model, ledger, material, trainer.When(DAY), trainer.LADDER[-1]).voice


def _who(model: Model, household: Household, clip: Clip) -> str:
    z = model.space.features(utterances([clip])[0])
    return household.who(z.mean(0), clip.word)[0]


def _member(home: Home, model: Model, household: Household, mine: Adapter, clips: Sequence[Clip]) -> None:
    words = words_of(clips[0].heard.clip.source)
    streams = [Stream(model, clip.heard.embeddings["clean"]) for clip in clips]
    said = [clip.label if clip.label in words else UNKNOWN for clip in clips]
    errors = {
        adapter.profile: float(np.mean([s.decide(adapter, words) != t for s, t in zip(streams, said, strict=True)]))
        for adapter in household.adapters.values()
    }
    base = [s.decide(None, words) for s in streams]
    before = float(np.mean([b != t for b, t in zip(base, said, strict=True)]))
    home.crossed += [error - before for profile, error in errors.items() if profile != mine.profile]
    wrong = []
    for clip, stream, text, plain in zip(clips, streams, said, base, strict=True):
        profile = _who(model, household, clip)
        if clip.word in model.classes:
            home.told.append(profile == mine.profile)
            home.mistaken.append(profile not in (mine.profile, GUEST))
        chosen = household.adapters.get(profile)
        wrong.append((stream.decide(chosen, words) if chosen else plain) != text)
        guest = household.posteriors(GUEST, stream.scored.logits, household.rows(stream.scored.z))
        plain_scores = stream.scored.posteriors()
        home.guest = max(home.guest, float(np.abs(guest[..., : plain_scores.shape[-1]] - plain_scores).max()))
    home.by_voice.append(float(np.mean(wrong)) - before)


def _prior(model: Model, clips: Sequence[Clip], rng: np.random.Generator) -> tuple[float, float]:
    """Expected error, weighted by how often each word is said, without and with the prior and nothing else."""
    words = words_of(clips[0].heard.clip.source)
    order = [str(w) for w in rng.permutation([w for w in words if any(c.label == w for c in clips)])]
    often = {word: 1.0 / (rank + 1) ** ZIPF for rank, word in enumerate(order)}
    usage = {(word, DAY): round(100 * share) for word, share in often.items()}
    ledger = Ledger("aa" * 8, usage=usage)
    material, _ = trainer.prepare(model, ledger)
    adapter = trainer.build(model, ledger, material, trainer.When(DAY), trainer.LADDER[0])
    total, wrong = 0.0, [0.0, 0.0]
    for clip in clips:
        if clip.label not in often:
            continue
        stream = Stream(model, clip.heard.embeddings["clean"])
        weight = often[clip.label] / sum(c.label == clip.label for c in clips)
        total += weight
        for side, used in enumerate((None, adapter)):
            wrong[side] += weight * (stream.decide(used, words) != clip.label)
    return (wrong[0] / total, wrong[1] / total) if total else (0.0, 0.0)


def privacy(groups: Mapping[str, Sequence[Clip]], model: Model) -> dict[str, float | None]:
    """How well a thief of the ledger could tell who of these people spoke: nearest mean of residuals within words.

    What is kept are windows; ``z`` is what else could be kept. Half of everybody's utterances are known to the thief.
    """
    if len(groups) < 2:
        return {"privacy.speaker_id_accuracy": None}
    clips = [clip for own in groups.values() for clip in own if clip.label != BACKGROUND]
    known = np.concatenate([np.arange(sum(c.label != BACKGROUND for c in own)) % 2 == 0 for own in groups.values()])
    words, speakers = np.array([c.word for c in clips]), np.array([c.speaker for c in clips])
    windows = utterances(clips)
    found: dict[str, float | None] = {"privacy.speakers": len(groups), "privacy.chance": 1.0 / len(groups)}
    kinds = {
        "speaker_id_accuracy": windows.reshape(len(clips), 3, -1),
        "speaker_id_accuracy_z": model.space.features(windows),
    }
    for name, each in kinds.items():
        found[f"privacy.{name}"] = _told_apart(each.mean(1), words, speakers, known)
    return found


def _told_apart(
    x: NDArray[np.float32], words: NDArray[np.str_], speakers: NDArray[np.str_], known: NDArray[np.bool_]
) -> float:
    x = (x - x[known].mean(0)) / (x[known].std(0) + 1e-6)
    for word in np.unique(words):
        if (known & (words == word)).any():
            x[words == word] -= x[known & (words == word)].mean(0)
    names = np.unique(speakers[known])
    centres = np.stack([x[known & (speakers == n)].mean(0) for n in names])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True) + 1e-9
    return float(np.mean(names[(x[~known] @ centres.T).argmax(1)] == speakers[~known]))


def figures(homes: Sequence[Home]) -> dict[str, float | None]:
    """``household.*``, ``voice_match.*``, ``prior.*``."""
    crossed = [c for h in homes for c in h.crossed]
    voiced = [c for h in homes for c in h.by_voice]
    priors = [p for h in homes for p in h.prior]
    return {
        "household.cross_harm": mean([max(0.0, c) for c in crossed]),
        "household.cross_change": mean(crossed),
        "household.cross_harmed_pairs": mean([float(c > HARM) for c in crossed]),
        "household.by_voice_change": mean(voiced),
        f"voice_match.accuracy_k{VOICE_SHOTS}": mean([float(t) for h in homes for t in h.told]),
        "voice_match.other_member": mean([float(t) for h in homes for t in h.mistaken]),
        "voice_match.guest_false_match": mean([float(t) for h in homes for t in h.strangers]),
        "prior.error_without": mean([a for a, _ in priors]),
        "prior.error_with": mean([b for _, b in priors]),
        "prior.guest_delta": max((h.guest for h in homes), default=None),
    }
