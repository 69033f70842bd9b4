"""The guard set: windows of speakers that no training ever saw, under stated conditions, shipped in the bundle.

An adapter that answers worse on these than the base head does is refused on the device. Every window is one clip
under one combination of the strata below, so that "no worse" can also be asked of one stratum alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from idiolect.trust.bundle.canonical import encode as canonical
from idiolect.values import BLOCK, WINDOW

from . import augment
from .audio import RATE, Audio, to_int16
from .augment import SPEECH_DBFS, Utterance
from .features import Embedder
from .head import Array

NOISE: dict[str, float | None] = {"clean": None, "10dB": 10.0, "5dB": 5.0}
COUNT = 400
"""Windows in the default bundle, 600 KiB."""
PACE = {"slow": 1.35, "normal": 1.0, "fast": 0.8}
CHANNEL = ("near", "far", "telephone")
AFTER_END = 2_400
"""A window is taken 150 ms after the phrase ended, where an event would be decided."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Windows float32 (n, 16, 96), and for each its class name and the stratum of every kind."""

    windows: Array
    labels: list[str]
    strata: dict[str, list[str]]


def telephone(audio: Audio) -> Audio:
    """300 to 3400 Hz and eight bits of logarithmic (mu-law) amplitude."""
    spectrum = np.fft.rfft(audio)
    hertz = np.fft.rfftfreq(len(audio), 1 / RATE)
    spectrum[(hertz < 300.0) | (hertz > 3400.0)] = 0.0
    narrow = np.fft.irfft(spectrum, len(audio))
    peak = float(np.abs(narrow).max(initial=1e-6))
    curved = np.sign(narrow) * np.log1p(255.0 * np.abs(narrow) / peak) / np.log(256.0)
    steps = np.rint(curved * 127.0) / 127.0
    return np.asarray(np.sign(steps) * (256.0 ** np.abs(steps) - 1.0) / 255.0 * peak, np.float32)


def under(
    rng: np.random.Generator, item: Utterance, strata: tuple[str, str, str], kitchen: Audio | None
) -> tuple[Audio, int]:
    """A clip under one combination of strata, two seconds of lead-in before it: samples and where the phrase ends."""
    noise, pace, channel = strata
    factor = PACE[pace]
    end = int(item.end * factor)
    audio = augment.stretch(item.audio, factor) if factor != 1.0 else item.audio
    lead, tail = 2 * RATE, RATE
    speech = np.concatenate([np.zeros(lead, np.float32), augment.level(audio), np.zeros(tail, np.float32)])
    if channel == "far":
        speech = augment.room(rng, speech) * np.float32(0.25)
    ratio = NOISE[noise]
    if ratio is not None and kitchen is not None:
        sound = augment.excerpt(rng, kitchen, len(speech))
        target = SPEECH_DBFS - ratio + (-12.0 if channel == "far" else 0.0)
        speech = speech + sound * np.float32(10.0 ** (target / 20.0) / (sound.std() + 1e-9))
    if channel == "telephone":
        speech = telephone(speech)
    return (speech + rng.standard_normal(len(speech)) * 1e-4).astype(np.float32), lead + end


def make(
    rng: np.random.Generator, items: Sequence[tuple[Utterance, str]], kitchen: Audio | None, embed: Embedder, count: int
) -> Guard:
    """Take ``count`` windows from the clips in turn, the strata cycling through all combinations."""
    combinations = list(itertools.product(NOISE, PACE, CHANNEL))
    taken: list[Array] = []
    labels: list[str] = []
    strata: dict[str, list[str]] = {"noise": [], "pace": [], "channel": []}
    for number in range(count):
        item, name = items[number % len(items)]
        noise, pace, channel = combinations[(number + number // len(items)) % len(combinations)]
        audio, end = under(rng, item, (noise, pace, channel), kitchen)
        newest = min((end + AFTER_END) // BLOCK - 1, len(audio) // BLOCK - 1)
        taken.append(embed(to_int16(audio))[newest + 1 - WINDOW : newest + 1])
        labels.append(name)
        for kind, value in (("noise", noise), ("pace", pace), ("channel", channel)):
            strata[kind].append(value)
    return Guard(np.stack(taken), labels, strata)


def files(guard: Guard, scale: float | None = None) -> dict[str, bytes]:
    """``guard.bin``: int8 windows; value = scale * stored. ``guard.json`` says which phrase and strata each has.

    Windows that were stored with ``scale`` before stay what they were with it; the rest is clipped to what it spans.
    """
    scale = scale or float(np.abs(guard.windows).max(initial=1e-6)) / 127.0
    stored = np.clip(np.rint(guard.windows / scale), -127, 127).astype(np.int8)
    names = sorted(set(guard.labels))
    described = {
        "format": 1,
        "shape": list(stored.shape),
        "scale": scale,
        "zero": 0,
        "classes": names,
        "labels": [names.index(label) for label in guard.labels],
        "strata": {
            kind: {"values": sorted(set(values)), "index": [sorted(set(values)).index(v) for v in values]}
            for kind, values in guard.strata.items()
        },
    }
    return {"guard.bin": stored.tobytes(), "guard.json": canonical(described)}
