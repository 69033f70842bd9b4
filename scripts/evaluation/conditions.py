"""How a clip is presented to the pipeline: as a microphone would hear it.

The encoder and the window remember two seconds, so every clip comes after 2.1 s and before 1 s of a near-silent room
(white noise of 2.5 S16 steps RMS, seeded by the clip's own content). Noise is added over the whole presentation, the
second half of the kitchen recording only; rooms and paces are ``bundlebuild.augment``'s, with draws of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bundlebuild.audio import RATE, Audio, to_int16
from bundlebuild.augment import room, stretch
from bundlebuild.corpus import speech_span
from idiolect.values import BLOCK

LEAD, TAIL = 26 * BLOCK, 13 * BLOCK
ROOM = 2.5 / 32_768.0


@dataclass(frozen=True, slots=True)
class Condition:
    """A way of presenting clips. ``snr_db``: kitchen noise under the speech; ``speech_dbfs``: level of the speech."""

    name: str
    graph: str = "int8"
    snr_db: float | None = None
    speech_dbfs: float | None = None
    speed: float = 1.0
    """Of the speech, its pitch unchanged (WSOLA)."""
    room: bool = False
    """With the diffuse tail of a simulated room."""


CONDITIONS = (
    Condition("clean"),
    Condition("float", graph="float"),
    Condition("snr10", snr_db=10.0),
    Condition("snr5", snr_db=5.0),
    Condition("quiet", speech_dbfs=-50.0),
    Condition("snr10_float", graph="float", snr_db=10.0),
    Condition("snr5_float", graph="float", snr_db=5.0),
    Condition("quiet_float", graph="float", speech_dbfs=-50.0),
    Condition("snr20", snr_db=20.0),
    Condition("slow", speed=0.8),
    Condition("fast", speed=1.25),
    Condition("room", room=True),
)
SLICES = ("snr20", "slow", "fast", "room")
"""Wanted for the people who are adapted to, and for nobody else."""


def present(audio: Audio, seed: bytes, condition: Condition, kitchen: Audio | None) -> NDArray[np.int16]:
    """The samples the microphone delivers, a whole number of blocks. ``seed`` stands for the clip;
    ``kitchen`` is needed where ``snr_db`` is set."""
    rng = np.random.default_rng(list(seed))
    start, end = speech_span(audio)
    loudness = float(np.sqrt(np.mean(np.square(audio[start:end])) + 1e-12))
    if condition.speech_dbfs is not None:
        gain = 10.0 ** (condition.speech_dbfs / 20.0) / loudness
        audio, loudness = (audio * np.float32(gain)).astype(np.float32), loudness * gain
    if condition.speed != 1.0:
        audio = stretch(audio, 1.0 / condition.speed)
    size = -(-(LEAD + len(audio) + TAIL) // BLOCK) * BLOCK
    heard = rng.standard_normal(size).astype(np.float32) * np.float32(ROOM)
    heard[LEAD : LEAD + len(audio)] += audio
    if condition.room:
        heard = room(rng, heard)
    if condition.snr_db is not None and kitchen is not None:
        at = int(rng.integers(max(1, len(kitchen) - size)))
        noise = np.resize(kitchen[at:], size)
        heard += noise * np.float32(loudness / 10.0 ** (condition.snr_db / 20.0) / (noise.std() + 1e-9))
    return to_int16(heard)


def kitchen_for_tests(kitchen: Audio) -> Audio:
    """The second half: training takes its kitchen noise from the first."""
    return kitchen[len(kitchen) // 2 :]


def seconds(audio: Audio) -> float:
    """Length of a clip."""
    return len(audio) / RATE
