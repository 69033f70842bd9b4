"""The gate: tells from each block whether there is any sound, and so whether the encoder has to run.

Four numpy calls a block decide it.

Energy is taken on the first difference of the samples, which is blind to DC and nearly so to hum and lifts the
consonants that words begin and end with. The noise floor follows minima at once and rises slowly (R. Martin, "Noise
power spectral density estimation based on optimal smoothing and minimum statistics", IEEE Transactions on Speech and
Audio Processing 9(5), 2001, is the full-grown form). Words dip to the floor several times a second, so speech cannot
lift it; a fan that starts is absorbed within seconds.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from idiolect.values import BLOCK, SAMPLE_RATE

OPEN_RATIO = 2.0
"""A block is active when its energy is 3 dB above the floor; 1280 samples of steady noise vary by 0.2 dB."""
QUIETEST = 9.0
"""Mean square of the difference, in S16 steps: 3 steps RMS. A floor below it is rounding noise, not a room."""
RISE = 10.0 ** (2.0 / 10.0 * BLOCK / SAMPLE_RATE)
"""The floor rises by 2 dB a second."""
HANG = 16
"""Blocks (1.28 s) that the gate stays open behind the last active one: a phrase is decided well before."""


LOUD = 100.0
NEWEST, RECENT = 16, 80
"""Blocks (1.3 s, 6.4 s) of which the loudest, and the quietest tenth, tell how clearly somebody is heard: within a long
sentence nothing is as quiet as the room, so the room is that of before it."""


class Gate:
    """Tells, block by block, whether there is sound (``active``) and whether to process it (``open``)."""

    def __init__(self) -> None:
        self._samples = np.zeros(BLOCK + 1, np.float32)
        self._difference = np.empty(BLOCK, np.float32)
        self._floor = QUIETEST
        self._energies: deque[float] = deque(maxlen=RECENT)
        self.reset()

    def reset(self, *, same_room: bool = False) -> None:
        """Start anew and open: the floor starts at its lowest, so nothing can be missed.

        In the ``same_room`` it stays. Should the room be quieter by now, it sinks with the first pause.
        """
        self._samples[:] = 0.0
        self._difference[:] = 0.0
        if not same_room:
            self._floor = QUIETEST
        self._hang = HANG
        self._energies.clear()
        self.active = False

    def clearness(self) -> float:
        """Return by how many dB the loudest of the NEWEST blocks stands out from the quietest tenth of RECENT ones."""
        if not self._energies:
            return 0.0
        quietest = sorted(self._energies)[len(self._energies) // 10]
        return 10.0 * math.log10(max(self._loudest(), QUIETEST) / max(quietest, QUIETEST))

    def loud(self) -> bool:
        """Return whether the newest block is as loud as speech is, and no echo of it: within 20 dB of the loudest."""
        return bool(self._energies) and self._energies[-1] * LOUD >= self._loudest()

    def _loudest(self) -> float:
        """Return the energy of the loudest of the NEWEST blocks, of which there is one at least."""
        return max(list(self._energies)[-NEWEST:])

    @property
    def open(self) -> bool:
        """Return whether blocks have to be processed now."""
        return self._hang > 0

    def hear(self, block: NDArray[np.int16]) -> bool:
        """Take one block, int16 (1280,); return whether the gate is open for it."""
        samples = self._samples
        samples[0] = samples[BLOCK]
        samples[1:] = block
        np.subtract(samples[1:], samples[:-1], out=self._difference)
        energy = float(np.dot(self._difference, self._difference)) / BLOCK
        self._energies.append(energy)
        self._floor = max(QUIETEST, min(energy, self._floor * RISE))
        self.active = energy > self._floor * OPEN_RATIO
        if self.active:
            self._hang = HANG
        elif self._hang:
            self._hang -= 1
        return self._hang > 0
