"""Frozen values that cross module borders. Positions are counted in 16 kHz samples since the stream began."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the command line imports this module and must stay free of numpy
    import numpy as np
    from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Hz; everything behind the microphone is mono at this rate."""
BLOCK = 1_280
"""Samples per block (80 ms): one step of the encoder."""
HOP = 160
"""Samples between two log-mel frames (10 ms)."""
FRAMES = BLOCK // HOP
"""Log-mel frames per block."""
MELS = 32
"""Log-mel bins per frame."""
EMBEDDING = 96
"""Numbers per embedding."""
WINDOW = 16
"""Embeddings per window: what one spoken phrase looks like, shape (16, 96)."""

MAX_PAUSE_S = 604_800
"""A pause that ends by itself lasts a week at most."""

GUEST = "guest"
"""The profile that is nobody: base model, nothing stored."""

EventKind = Literal["wake", "phrase", "rejected"]


@dataclass(frozen=True, slots=True)
class Captured:
    """One block from a microphone.

    ``samples`` is int16, shape (1280,), 16 kHz mono. ``lost`` counts the samples (at 16 kHz) missing
    between the previous block and this one: 0 in an unbroken stream, more after an overrun or a re-open.
    """

    samples: NDArray[np.int16]
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Detection:
    """What the decoder decided, in samples and scores only: the pipeline knows no clock.

    ``score``, ``margin`` (score minus the runner-up's) and ``threshold`` lie in 0..1; ``start`` and ``end``
    are sample positions of the utterance as far as the pipeline can tell; ``phrase`` is "" when rejected.
    """

    kind: EventKind
    phrase: str
    score: float
    margin: float
    threshold: float
    start: int
    end: int
    profile: str = GUEST
    adapter: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """A detection as others see it: with an id that is unique across restarts and the wall time of its end."""

    id: str
    time: float
    detection: Detection

    def as_dict(self) -> dict[str, object]:
        """The event as JSON carries it; ``time`` in seconds since the Unix epoch."""
        d = self.detection
        return {
            "id": self.id,
            "time": round(self.time, 3),
            "kind": d.kind,
            "phrase": d.phrase,
            "score": round(d.score, 4),
            "margin": round(d.margin, 4),
            "threshold": round(d.threshold, 4),
            "profile": d.profile,
            "adapter": d.adapter,
            "start": d.start,
            "end": d.end,
        }


DEAF = ("absent", "busy", "stalled", "format", "failed")
"""States of the microphone in which nobody can be heard, though nobody wanted that."""


@dataclass(frozen=True, slots=True)
class MicrophoneHealth:
    """How capture is doing. ``state``: opening, running, absent, busy, stalled, format, failed, ended or paused."""

    state: str = "opening"
    reason: str = ""
    fix: str = ""
    device: str = ""
    rate: int = 0
    channels: int = 0
    overruns: int = 0
    reopened: int = 0
    dropped_blocks: int = 0
    level_dbfs: float = -120.0


def counted(number: object, one: str, many: str = "") -> str:
    """ "1 example", "2 examples": a number and its word; ``many`` is the plural where that is not ``one`` and an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def encodable(value: object) -> bool:
    """Whether all text in a JSON value can be written as UTF-8: JSON can spell half a character (RFC 8259, 8.2)."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
