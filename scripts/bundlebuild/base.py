"""The default bundle's head: corpus, synthetic voices, two trainings, thresholds, guard set, files.

Two trainings, so that thresholds come from speakers the network had not heard: the first leaves out fold 0 (held out
for good) and fold CALIBRATION, which then sets the thresholds; the second, which is shipped, learns from that too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from idiolect.trust.bundle.phrases import Phrase

from . import augment, calibrate, corpus, export, finish, guard, harvest, space, train, voices, words
from .arguments import DEFAULT_ROUNDS
from .audio import RATE, Audio, read
from .corpus import Clip
from .features import Embedder, Labelled
from .head import Array

__all__ = ["Plan", "build", "replace"]

HELD_OUT, CALIBRATION = 0, 1
CALIBRATION_DIGITS = "digits-theo"
"""There are so few speakers of digits that none is held out for good; this one joins the calibration fold."""
TIMES = {
    "speech_commands": 1.0, "digits": 0.4, "phrases": 1.0, "silence": 2.0, "coffee_orders": 0.5, "synthetic": 0.5,
    "prompts": 0.2,
}  # fmt: skip
"""How often a clip of each source is used per round."""
UNKNOWN_TIMES = 2.0
"""Factor for the few "unknown" words of Speech Commands."""
PROMPTS = Path("/usr/share/asterisk/sounds")
PROMPT_LANGUAGES = ("ru_RU_f_IvrvoiceRU", "fr_CA_f_June")
"""Other speech for the negatives, from Debian's asterisk-core-sounds-{ru,fr}-wav; the other languages stay unheard."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build from. ``rounds`` passes over the material, ``seed`` of everything random."""

    data: Path
    cache: Path
    rounds: int = DEFAULT_ROUNDS
    seed: int = 21
    processes: int = 2
    recipe: train.Recipe = field(default_factory=train.Recipe)
    neural: bool = True


def say(text: str) -> None:
    """Progress for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def synthetic_plan() -> list[tuple[str, str, int, bool]]:
    """What the synthetic voices say: text, label, how many, running speech or not."""
    known = [(w, w, 100, False) for w in (*words.COMMANDS, *words.DIGITS, *words.WAKE)]
    other = [(w, words.UNKNOWN, 60, False) for w in words.OTHER_WORDS]
    near = [(w, words.UNKNOWN, 8, False) for w in words.NEAR_MISSES]
    return known + other + near + [(s, words.UNKNOWN, 12, True) for s in words.SENTENCES]


def prompts(languages: Sequence[str] = PROMPT_LANGUAGES) -> list[Clip]:
    """Telephone prompts in languages that have none of the phrases, without their digits and letters.

    Empty where Debian's asterisk-core-sounds-*-wav are not installed.
    """
    clips = [
        clip
        for language in languages
        for clip in corpus.folder(PROMPTS / language, words.UNKNOWN, "prompts", running=True)
    ]
    return [c for c in clips if not {"digits", "letters", "phonetic", "silence"} & set(c.path.parts)]


def material(clips: Sequence[Clip], kitchen: Audio | None) -> harvest.Material:
    """Decode clips and choose what they are mixed with."""
    items, times = [], []
    for clip in clips:
        item = harvest.load(clip)
        if not RATE // 10 <= len(item.audio) <= 15 * RATE:
            continue
        rare = clip.source == "speech_commands" and clip.label == words.UNKNOWN
        items.append(item)
        times.append(TIMES[clip.source] * (UNKNOWN_TIMES if rare else 1.0))
    background = words.CLASSES.index(words.BACKGROUND)
    noises = [i.audio for i in items if i.label == background][:60]
    if kitchen is not None:
        noises += [kitchen[: len(kitchen) // 2]] * 3  # the second half is for measuring
    running = [i.audio for i in items if i.running]
    order = np.random.default_rng(5).permutation(len(running))[:80]
    return harvest.Material(items, np.array(times), noises, [augment.level(running[i]) for i in order])


def split(clips: Sequence[Clip]) -> tuple[list[Clip], list[Clip], list[Clip]]:
    """Clips to learn from at once, those that set the thresholds first, and those never learnt from."""
    parts: tuple[list[Clip], list[Clip], list[Clip]] = ([], [], [])
    for clip in clips:
        if clip.source == "digits":
            part = 1 if clip.speaker == CALIBRATION_DIGITS else 0
        else:
            part = {HELD_OUT: 2, CALIBRATION: 1}.get(clip.fold, 0)
        parts[part].append(clip)
    return parts


def thresholds(model: train.Trained, clips: Sequence[Clip], embed: Embedder) -> dict[str, tuple[float, float]]:
    """Per phrase, its thresholds outside and in a turn, from clips of speakers that ``model`` was not trained on."""
    scores = calibrate.clip_scores(model, [embed(calibrate.in_a_room(read(c.path))) for c in clips])
    said = np.array([c.label for c in clips])
    single = np.array([not c.running for c in clips])
    # Running speech may hold a command, and the unknown words of Speech Commands a digit.
    pure = np.array([c.source != "speech_commands" or c.label != words.UNKNOWN for c in clips])
    found = {}
    for name in (*words.WAKE, *words.COMMANDS, *words.DIGITS):
        column, own = scores[:, model.classes.index(name)], said == name
        if name in words.WAKE:
            limit = calibrate.threshold(column[own], column[~own])
            found[name] = limit, limit
        else:
            other = ~own & single & (pure | (name not in words.DIGITS))
            turn = calibrate.balanced(column[own], column[other])
            limit = calibrate.open_room(column[other], turn)
            found[name] = max(limit, calibrate.ALWAYS_LOWEST) if name in words.ALWAYS_ON else limit, turn
    return found


def build(plan: Plan, encoder: bytes) -> dict[str, bytes]:
    """All files of the bundle but the manifest."""
    clips = corpus.recordings(plan.data)
    synthetic = voices.library(plan.cache / "voices", synthetic_plan(), neural=plan.neural)
    early, later, held = split(clips)
    noise = plan.data / "noise" / "kitchen.flac"
    kitchen = read(noise) if noise.is_file() else None
    say(f"learning from {len(early) + len(later)} recordings and {len(synthetic)} synthetic, {len(held)} held out")

    def gather(chosen: Sequence[Clip], seed: int) -> Labelled:
        mixed = material(chosen, kitchen)
        return harvest.harvest(mixed, encoder, rounds=plan.rounds, seed=seed, processes=plan.processes)

    first = gather([*early, *synthetic, *prompts()], plan.seed)
    second = Labelled.join([first, gather(later, plan.seed + 1)])
    say("training twice: without the calibration speakers, and with them")
    cautious, model = train.fit_all([first, second], words.CLASSES, plan.recipe, plan.processes)
    limits = thresholds(cautious, later, Embedder(encoder))
    statistics = space.fit(space.gather([*early, *later], encoder, plan.processes), words.CLASSES)
    files = assemble(
        model, second, statistics=statistics, limits=limits, held=held, kitchen=kitchen, encoder=encoder,
        rng=np.random.default_rng([plan.seed, 99]),
    )  # fmt: skip
    return {**files, **finish.trained_on(c.path for c in (*early, *later))}


def assemble(
    model: train.Trained,
    data: Labelled,
    *,
    statistics: dict[str, Array],
    limits: dict[str, tuple[float, float]],
    held: Sequence[Clip],
    kitchen: Audio | None,
    encoder: bytes,
    rng: np.random.Generator,
) -> dict[str, bytes]:
    """Head, phrases and guard set of a trained model; ``held`` are clips of speakers it never heard."""
    arrays = {**finish.arrays(model, data, rng), **statistics}
    kinds = {**dict.fromkeys(words.WAKE, "wake"), **dict.fromkeys((*words.COMMANDS, *words.DIGITS), "phrase")}
    # The unknown words of Speech Commands may be digits, and an order is no single window: neither guards anything.
    told = [c for c in held if not c.running and (c.source != "speech_commands" or c.label != words.UNKNOWN)]
    items = [(harvest.load(told[i]), told[i].label) for i in rng.permutation(len(told))]
    windows = guard.make(rng, items, kitchen, Embedder(encoder), guard.COUNT)
    return {
        "encoder.tflite": encoder,
        **export.head_files(arrays, words.CLASSES, kinds, {"language": "en"}),
        **export.phrase_file([Phrase(n, n, kind, *limits[n]) for n, kind in kinds.items()]),
        **guard.files(windows),
    }
