"""The recorded corpus: which clip says what, who said it, and which part of the work may see it.

Layout as in the data folder's README. Nothing here reads audio except ``speech_span``.

Who said it: Speech Commands names the speaker in the first eight hex digits, the digits in the file name. The phrase
recordings name nobody; their background noise shows that neighbouring numbers come from the same session
(correlation 0.6 at distance 1, down to chance at about 12), so a block of 25 consecutive numbers counts as one
speaker. Coffee orders carry random names: each counts as its own speaker, and they are used as negatives only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .audio import RATE, Audio
from .words import BACKGROUND, CLASSES, DIGITS, UNKNOWN

BLOCK_OF_IDS = 25
BLOCK_NAME = "-block"
FOLDS = 8
"""Speakers fall into eight folds by a hash of their name; fold 0 is held out: guard set and honest figures."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording. ``label``: a class of the head; ``source``: the folder it came from; ``running``: a sentence."""

    path: Path
    label: str
    speaker: str
    source: str
    running: bool = False

    @property
    def fold(self) -> int:
        """0..7, the same for all clips of a speaker (and, to be safe, for one block of numbers in every phrase)."""
        if BLOCK_NAME in self.speaker:
            return int(self.speaker.split(BLOCK_NAME)[1]) % FOLDS
        return int.from_bytes(hashlib.sha256(self.speaker.encode()).digest()[:4], "little") % FOLDS


def _block(path: Path) -> str:
    """The stand-in speaker of a phrase recording: its block of consecutive numbers, else its own name."""
    phrase = path.parent.name
    return f"{phrase}{BLOCK_NAME}{int(path.stem) // BLOCK_OF_IDS}" if path.stem.isdigit() else f"{phrase}-{path.stem}"


def _speech_commands(root: Path) -> list[Clip]:
    clips = []
    for path in sorted(root.glob("speech_commands/*/*.flac")):
        word = path.parent.name
        if word == "_silence_":
            clips.append(Clip(path, BACKGROUND, f"silence{path.stem}", "silence"))
        else:
            label = word if word in CLASSES else UNKNOWN
            clips.append(Clip(path, label, path.name[:8], "speech_commands"))
    return clips


def _digits(root: Path) -> list[Clip]:
    return [
        Clip(path, DIGITS[int(path.parent.name)], f"digits-{path.stem.split('_')[1]}", "digits")
        for path in sorted(root.glob("digits/[0-9]/*.flac"))
    ]


def _phrases(root: Path) -> list[Clip]:
    clips = []
    for path in sorted(root.glob("phrases/*/*.flac")):
        phrase = path.parent.name
        label = phrase if phrase in CLASSES else UNKNOWN
        clips.append(Clip(path, label, _block(path), "phrases"))
    return clips


def _orders(root: Path) -> list[Clip]:
    paths = sorted(root.glob("coffee_orders/clean/*.flac"))
    return [Clip(path, UNKNOWN, f"order-{path.stem}", "coffee_orders", running=True) for path in paths]


def recordings(root: Path) -> list[Clip]:
    """Every clip under a data folder, in a fixed order; parts that are missing give none."""
    return [*_speech_commands(root), *_digits(root), *_phrases(root), *_orders(root)]


def folder(root: Path, label: str, source: str, *, running: bool = False) -> list[Clip]:
    """All WAV and FLAC files under ``root`` as clips of one label, each file its own speaker."""
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in (".wav", ".flac"))
    return [Clip(p, label, f"{source}-{p.stem}", source, running) for p in paths]


def speech_span(audio: Audio) -> tuple[int, int]:
    """First and last sample of the speech in a clean clip, by energy; the whole clip when nothing stands out.

    A 25 ms frame counts as speech when it is within 33 dB of the loudest and, in clips with room around the word
    (over 0.9 s), 8 dB above the quietest tenth. Pauses up to 250 ms are bridged; of several islands the one with
    the most energy is the word.
    """
    size, hop = RATE // 40, RATE // 100
    if len(audio) < 2 * size:
        return 0, len(audio)
    frames = np.lib.stride_tricks.sliding_window_view(audio, size)[::hop]
    level = 10.0 * np.log10(np.square(frames, dtype=np.float32).mean(1) + 1e-10)
    floor = float(level.max()) - 33.0
    if len(audio) > RATE * 9 // 10:
        floor = max(floor, float(np.percentile(level, 10)) + 8.0)
    loud = np.flatnonzero(level > min(floor, float(level.max()) - 6.0))
    runs = np.split(loud, np.flatnonzero(np.diff(loud) > 25) + 1)
    best = max(runs, key=lambda run: float(np.sum(10.0 ** (level[run] / 10.0))))
    return int(best[0]) * hop, min(len(audio), int(best[-1]) * hop + size)
