"""From clips to streams: utterances in a row with pauses, at any level, pace and distance, in noise.

A stream is what a microphone would have heard. Speech is placed in streams because the encoder's window reaches
two seconds back: what came before a word (silence, noise, another word, a wake word) is part of its picture.
All randomness comes from the generator passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .audio import RATE, Audio, resample, to_int16

SPEECH_DBFS = -26.0
"""Level of the loudest tenth of every utterance before the stream's own gain."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A clip ready to be placed: samples, where its speech starts and ends in them, and what the head should say."""

    audio: Audio
    start: int
    end: int
    label: int
    running: bool


@dataclass(frozen=True, slots=True)
class Placed:
    """An utterance's place in a stream, in samples."""

    start: int
    end: int
    label: int
    running: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """How rough the streams are. Probabilities 0..1, levels in dB."""

    gain_db: tuple[float, float] = (-24.0, 10.0)
    noise: float = 0.7
    snr_db: tuple[float, float] = (0.0, 32.0)
    pace: float = 0.7
    pace_range: tuple[float, float] = (0.82, 1.22)
    slow: float = 0.06
    room: float = 0.4
    tilt: float = 0.5
    close: float = 0.55
    digital: float = 0.12
    """Streams without any noise of their own: a muted or idle converter gives exact zeros between words."""


def level(audio: Audio, decibels: float = SPEECH_DBFS) -> Audio:
    """Scale so that the loudest tenth of 25 ms frames has this RMS level in dBFS."""
    size = RATE // 40
    usable = audio[: len(audio) // size * size].reshape(-1, size) if len(audio) >= size else audio[None]
    power = np.sort(np.square(usable).mean(1))
    loud = float(np.mean(power[-max(1, len(power) // 10) :]))
    return (audio * np.float32(10.0 ** (decibels / 20.0) / np.sqrt(loud + 1e-10))).astype(np.float32)


def repace(item: Utterance, factor: float) -> Utterance:
    """Play slower (factor > 1) or faster: pitch and formants move along, as with larger and smaller speakers."""
    audio = resample(item.audio, RATE, RATE * factor)
    return Utterance(audio, int(item.start * factor), int(item.end * factor), item.label, item.running)


def stretch(audio: Audio, factor: float) -> Audio:
    """Change the pace and leave the pitch: overlap-add with the best-matching offset (WSOLA), factor > 1 is slower."""
    size, search = RATE * 32 // 1000, RATE * 8 // 1000
    hop = size // 2
    fade = np.hanning(size + 1)[:size].astype(np.float32)
    steps = max(1, int(len(audio) * factor) // hop - 1)
    source = np.pad(audio, (search, size * 2 + search))
    out = np.zeros(steps * hop + size, np.float32)
    position = 0
    for step in range(steps):
        target = int(step * hop / factor)
        if step:
            follow = source[position + hop + search : position + hop + search + size]
            area = source[target : target + size + 2 * search]
            position = target - search + int(np.argmax(np.correlate(area, follow, "valid")))
            position = max(-search, min(position, len(audio)))
        out[step * hop : step * hop + size] += source[position + search : position + search + size] * fade
    return out


def coloured(rng: np.random.Generator, samples: int) -> Audio:
    """Noise with a random spectral slope from white to brown, RMS about 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples).astype(np.float32))
    hertz = np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 20.0)
    spectrum *= hertz ** -rng.uniform(0.0, 1.1)
    noise = np.fft.irfft(spectrum, samples)
    return np.asarray(noise / (noise.std() + 1e-9), np.float32)


def excerpt(rng: np.random.Generator, audio: Audio, samples: int) -> Audio:
    """A random stretch of a recording, repeated where it is too short."""
    if len(audio) < samples:
        audio = np.tile(audio, samples // max(1, len(audio)) + 1)
    start = int(rng.integers(len(audio) - samples + 1))
    return audio[start : start + samples]


def room(rng: np.random.Generator, audio: Audio) -> Audio:
    """A plain synthetic room: the direct sound and an exponentially decaying diffuse tail (RT60 0.1 to 0.6 s)."""
    rt60, wet = rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.6)
    tail = int(rt60 * RATE)
    response = rng.standard_normal(tail) * 10.0 ** (-3.0 * np.arange(tail) / tail)
    response[: RATE // 200] = 0.0
    response *= wet / np.sqrt(np.square(response).sum() + 1e-9)
    response[0] += 1.0
    size = 1 << (len(audio) + tail - 1).bit_length()
    out = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(response, size), size)
    return out[: len(audio)].astype(np.float32)


def tilt(rng: np.random.Generator, audio: Audio) -> Audio:
    """A random smooth equalizer (+-6 dB between 100 Hz and 4 kHz): other microphones, cases and cables."""
    knots = np.log(np.array([50.0, 200.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0]))
    gains = np.clip(rng.normal(0.0, 3.0, len(knots)), -8.0, 8.0)
    spectrum = np.fft.rfft(audio)
    hertz = np.maximum(np.fft.rfftfreq(len(audio), 1 / RATE), 30.0)
    spectrum *= 10.0 ** (np.interp(np.log(hertz), knots, gains) / 20.0)
    return np.fft.irfft(spectrum, len(audio)).astype(np.float32)


def _noise(rng: np.random.Generator, noises: list[Audio], speech: list[Audio], samples: int) -> Audio:
    kind = rng.random()
    if kind < 0.35 and noises:
        return excerpt(rng, noises[int(rng.integers(len(noises)))], samples)
    if kind < 0.6 and speech:
        voices = [excerpt(rng, speech[int(rng.integers(len(speech)))], samples) for _ in range(int(rng.integers(3, 7)))]
        return np.asarray(np.sum(voices, axis=0), np.float32)
    return coloured(rng, samples)


def _pause(rng: np.random.Generator, close: float) -> int:
    seconds = rng.uniform(0.05, 0.6) if rng.random() < close else rng.uniform(0.6, 2.2)
    return int(seconds * RATE)


def stream(
    rng: np.random.Generator, items: list[Utterance], noises: list[Audio], babble: list[Audio], how: Settings
) -> tuple[NDArray[np.int16], list[Placed]]:
    """Place utterances one after the other and treat the whole as one recording: int16 samples and the places."""
    digital = rng.random() < how.digital
    lead = rng.uniform(2.0, 4.0) if digital else rng.uniform(0.3, 1.6)
    parts: list[Audio] = [np.zeros(int(lead * RATE), np.float32)]
    places: list[Placed] = []
    at = len(parts[0])
    for original in items:
        item = original
        if rng.random() < how.pace:
            item = repace(item, float(rng.uniform(*how.pace_range)))
        if not item.running and rng.random() < how.slow:
            factor = float(rng.uniform(1.3, 2.6))
            item = Utterance(
                stretch(item.audio, factor), int(item.start * factor), int(item.end * factor), item.label, item.running
            )
        audio = level(item.audio, SPEECH_DBFS + float(rng.normal(0.0, 2.0)))
        places.append(Placed(at + item.start, at + item.end, item.label, item.running))
        pause = np.zeros(_pause(rng, how.close), np.float32)
        parts += [audio, pause]
        at += len(audio) + len(pause)
    audio = np.concatenate([*parts, np.zeros(RATE // 2, np.float32)])
    if rng.random() < how.room:
        audio = room(rng, audio)
    if rng.random() < how.noise and not digital:
        noise = _noise(rng, noises, babble, len(audio))
        target = SPEECH_DBFS - float(rng.uniform(*how.snr_db))
        audio = audio + noise * np.float32(10.0 ** (target / 20.0) / (noise.std() + 1e-9))
    if rng.random() < how.tilt:
        audio = tilt(rng, audio)
    audio = audio * np.float32(10.0 ** (rng.uniform(*how.gain_db) / 20.0))
    if digital:
        return to_int16(audio), places
    dither = rng.standard_normal(len(audio)).astype(np.float32) * np.float32(10.0 ** (rng.uniform(-96, -70) / 20.0))
    return to_int16(audio + dither), places
