"""From the end of a spoken phrase to its event, counted in samples, plus the time that processing the block took.

The chain hears single digits after a second and a half of a quiet room, at several paces, levels and offsets to the
block borders. An event can come before the end of its phrase, when the rest could change nothing any more; the
latency is then negative. What the sound card and the socket add, a few milliseconds, is not in here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from benchmark import speech
from benchmark.speech import BLOCK, RATE, Samples

PACES = (0.9, 1.0, 1.1)
GAINS_DB = (0, -6, -12, -18)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLIPS_PER_DIGIT = 12
"""Taken from the data folder where there is one, of every speaker alike."""
PHRASE_END_DB = 30.0
"""A phrase ends where its level last comes within so many dB of its loudest 10 ms."""


@dataclass(frozen=True)
class Utterance:
    """One digit on its own: ``samples`` holds it and a quiet room around it; ``end`` is its last sample's index."""

    digit: str
    samples: Samples
    end: int


@dataclass(frozen=True)
class Latencies:
    """Over the utterances whose event named the right digit, in ms; None when there was none."""

    p50: float | None
    p95: float | None
    utterances: int
    heard: int


def utterances(data: Path | None) -> list[Utterance]:
    """Digits of Debian's prompts at every pace and level and, where there is a data folder, its recordings."""
    rng = np.random.default_rng(0)
    return [_place(digit, clip, rng) for digit, clip in [*_prompts(), *_recordings(data)]]


def _prompts() -> Iterator[tuple[str, Samples]]:
    for number, digit in enumerate(DIGITS):
        path = speech.PROMPTS / "digits" / f"{number}.wav"
        if not path.exists():
            return
        clip = speech.read_wav(path).astype(np.float64)
        for pace in PACES:
            paced = soxr.resample(clip, RATE * pace, RATE)
            for gain in GAINS_DB:
                yield digit, np.clip(paced * 10 ** (gain / 20), -32768, 32767).astype(np.int16)


def _recordings(data: Path | None) -> Iterator[tuple[str, Samples]]:
    if data is None or not (data / "digits").is_dir():
        return
    import soundfile  # part of the test extra only

    for number, digit in enumerate(DIGITS):
        paths = sorted((data / "digits" / str(number)).glob("*.flac"))
        for path in paths[:: max(1, len(paths) // CLIPS_PER_DIGIT)]:
            clip, rate = soundfile.read(path, dtype="int16")
            yield digit, np.asarray(soxr.resample(clip, rate, RATE), dtype=np.int16)


def _place(digit: str, clip: Samples, rng: np.random.Generator) -> Utterance:
    lead = int(1.5 * RATE) + int(rng.integers(BLOCK))  # any offset to the block borders
    samples = speech.hiss((lead + len(clip)) / RATE + 1.5, -70.0, seed=int(rng.integers(1 << 30)))
    voice = samples[lead : lead + len(clip)]
    voice[:] = np.clip(voice.astype(np.int32) + clip, -32768, 32767)  # the room goes on under the voice
    spoken = np.flatnonzero(speech.loud(clip, PHRASE_END_DB))
    return Utterance(digit, samples, lead + (int(spoken[-1]) + 1) * 160 - 1)


def open_share(bundle: str, spoken: Samples) -> float:
    """For which part of the blocks the encoder ran, on the daemon's default configuration."""
    from idiolect.config.schema import load
    from idiolect.listening.recognizer import Recognizer, bundle_directory, listening_for, read_bundle

    model = read_bundle(bundle_directory(bundle))
    chain = Recognizer.from_bundle(model).chain(listening_for(load([]), model))
    awake = 0
    for first in range(0, len(spoken), BLOCK):
        chain.process(spoken[first : first + BLOCK])
        awake += chain.awake
    return awake / (len(spoken) // BLOCK)


def measure(bundle: str, spoken: list[Utterance]) -> Latencies:
    """Run every utterance through a fresh stream that listens for all phrases at any time."""
    from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle

    model = read_bundle(bundle_directory(bundle))
    chain = Recognizer.from_bundle(model).chain(listening(model, always=True))
    found: list[float] = []
    for utterance in spoken:
        chain.reset()
        start = chain.position
        for first in range(0, len(utterance.samples) - BLOCK + 1, BLOCK):
            began = time.perf_counter()
            detections = chain.process(utterance.samples[first : first + BLOCK])
            took = time.perf_counter() - began
            if any(d.phrase == utterance.digit for d in detections):
                heard_at = chain.position - start
                found.append(1000.0 * ((heard_at - 1 - utterance.end) / RATE + took))
                break
    if not found:
        return Latencies(None, None, len(spoken), 0)
    return Latencies(float(np.percentile(found, 50)), float(np.percentile(found, 95)), len(spoken), len(found))
