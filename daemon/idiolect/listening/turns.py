"""Cuts turns out of what the microphone hears, for ``wyoming.handoff``: on the inference thread, and while asked.

Goes in: each block with what became certain with it. Comes out: messages with the sound of a turn, from the end of its
wake word to its end, LONGEST_S seconds at most. Nothing is kept but the last BEFORE blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from idiolect.values import BLOCK, SAMPLE_RATE, Detection

LONGEST_S = 15
"""Seconds of one turn's sound that are sent at most."""
BEFORE = 8
"""Blocks remembered while somebody is connected: a wake word may be certain only so long after its end."""

Tap = Callable[[NDArray[np.int16], Sequence[Detection], int, str], None]
"""Told of each block: its samples, what became certain with it, the position behind it, and the state of the
conversation then ("idle", "listening" or "always")."""


@dataclass(frozen=True, slots=True)
class Message:
    """Something that happened in the ``turn``-th turn, on its way to the event loop; ``position`` in samples."""

    kind: Literal["wake", "sound", "stop", "phrase"]
    turn: int
    position: int
    sound: bytes = b""
    detection: Detection | None = None


class TurnTap:
    """A ``Tap``, made for one client, which gets the sound from the end of each wake word to the end of its turn."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._before: deque[NDArray[np.int16]] = deque(maxlen=BEFORE)
        self._turn = 0
        self._left = 0  # samples that may still go out, 0: no turn is open

    def __call__(self, samples: NDArray[np.int16], detections: Sequence[Detection], position: int, state: str) -> None:
        """Take one block. A second wake word in a turn begins another."""
        self._before.append(samples)
        wake = next((each for each in detections if each.kind == "wake"), None)
        phrase = next((each for each in detections if each.kind == "phrase"), None)
        if wake is not None:
            self._stop(position)
            self._begin(wake, position)
        elif self._left:
            self._sound(samples, position - len(samples))
        if phrase is not None and self._left:
            self._stop(position)
            self._send(Message("phrase", self._turn, position, detection=phrase))
        elif state == "idle":
            self._stop(position)

    def _begin(self, detection: Detection, position: int) -> None:
        """Begin a turn, with what was heard since its wake word."""
        self._turn += 1
        self._left = LONGEST_S * SAMPLE_RATE
        self._send(Message("wake", self._turn, detection.end, detection=detection))
        since = min(position - detection.end, BEFORE * BLOCK)
        if since > 0:
            heard = np.concatenate(self._before)[-since:]
            self._sound(heard, position - len(heard))

    def _sound(self, samples: NDArray[np.int16], position: int) -> None:
        samples = samples[: self._left]
        self._send(Message("sound", self._turn, position, samples.astype("<i2").tobytes()))
        if len(samples) == self._left:
            self._stop(position + len(samples))
        else:
            self._left -= len(samples)

    def _stop(self, position: int) -> None:
        if self._left:
            self._left = 0
            self._send(Message("stop", self._turn, position))
