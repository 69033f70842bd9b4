"""What the device makes of a room where nobody speaks to it: music, and a radio that talks without a pause.

The sound goes through the whole chain as it runs on the device, gate included, in its default mode: every wake word,
and "stop", which needs none. Whatever is reported is a false accept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundlebuild.audio import RATE, read, to_int16
from bundlebuild.augment import level
from idiolect.listening.recognizer import Recognizer, listening

MUSIC = Path("/usr/share/asterisk/moh")
"""Debian's asterisk-moh-opsound-wav: five pieces of music, 8 kHz."""
RADIO_DBFS = -26.0


def music(data: Path) -> list[Path]:
    """Pieces of music: ``data``/music, or what Debian's package ships."""
    own = sorted(p for p in (data / "music").glob("*") if p.suffix in (".wav", ".flac"))
    return own or sorted(MUSIC.glob("*.wav"))


def radio(data: Path, orders: Sequence[Path]) -> list[Path]:
    """Talk: ``data``/radio, or else spoken orders, which are played back to back."""
    own = sorted(p for p in (data / "radio").glob("*") if p.suffix in (".wav", ".flac"))
    return own or list(orders)


def _sound(paths: Iterable[Path]) -> Iterator[NDArray[np.int16]]:
    for path in paths:
        yield to_int16(level(read(path), RADIO_DBFS))


def false_accepts(recognizer: Recognizer, paths: Sequence[Path]) -> tuple[float, Counter[str]]:
    """Play files back to back to one stream; hours played, and how often each phrase was reported."""
    always_on = [name for name in ("stop",) if name in recognizer.bundle.commands]
    # Back to rest after every wake word: a turn that nobody meant to open would hide what comes next.
    chain = recognizer.chain(listening(recognizer.bundle, phrases=(), always_on=always_on, timeout_s=0.1))
    found: Counter[str] = Counter()
    samples = 0
    for sound in _sound(paths):
        samples += len(sound)
        found.update(d.phrase for d in chain.process(sound) if d.kind != "rejected")
    return samples / RATE / 3600.0, found


def figures(recognizer: Recognizer, data: Path, orders: Sequence[Path]) -> dict[str, float | int | None]:
    """Rates per hour for both, summed and by phrase, under ``base.ambient``; None where there is nothing to play."""
    values: dict[str, float | int | None] = {}
    for name, paths in (("music", music(data)), ("radio", radio(data, orders))):
        hours, found = false_accepts(recognizer, paths)
        key = f"base.ambient.{name}"
        values[f"{key}.hours"] = round(hours, 4)
        values[f"{key}.false_accepts"] = sum(found.values())
        values[f"{key}.false_accepts_per_hour"] = round(sum(found.values()) / hours, 4) if hours else None
        values |= {f"{key}.{phrase}": count for phrase, count in sorted(found.items())}
    return values
