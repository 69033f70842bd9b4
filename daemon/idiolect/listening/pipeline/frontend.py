"""Log-mel front-end: 80 ms of audio in, eight frames of 32 bins out, as the encoder was trained to see them.

The constants are those of the graph that ships with the encoder (`melspectrogram.tflite` of openWakeWord, itself
torchlibrosa's ``Spectrogram`` and ``LogmelFilterBank``), measured from its weights:

* a periodic Hann window of 400 samples every 160 (the graph centres it in a 512-point transform, which changes
  the phase only), power spectrum at 16 kHz, on samples in units of S16 steps;
* 32 triangular mel bands of equal area from 60 to 3800 Hz on Slaney's scale (M. Slaney, "Auditory Toolbox",
  Interval Research technical report 1998-010);
* 10 log10, then openWakeWord's ``x / 10 + 2``.

Everything is computed in float64 and rounded to float32 at the end. That costs a few per cent more than float32, and
makes the features the same to the bit on every processor: float32 sums differ in their last bit between x86 and arm64,
which now and then tips a feature over the border between two of the encoder's int8 steps.

The one thing replaced is that graph's ``top_db`` clipping, which depends on how the caller cuts the audio: a fixed
floor of -20 dB (0.0 after scaling) stands for it. The rounding noise of 16-bit audio alone lies above -5 dB, so
the floor is reached by digital silence only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from idiolect.values import BLOCK, FRAMES, HOP, MELS, SAMPLE_RATE

FRAME_LENGTH = 400
"""Samples under one analysis window (25 ms)."""
CONTEXT = FRAME_LENGTH - HOP
"""Samples of the past that the first frame of a block reaches back to."""
FFT_LENGTH = 512
MEL_LOW_HZ, MEL_HIGH_HZ = 60.0, 3800.0
POWER_FLOOR = 1e-2
"""-20 dB re one S16 step squared, before the logarithm."""


def _slaney_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Hz on Slaney's mel scale: linear (200/3 Hz a mel) up to 1 kHz, then 27 logarithmic steps to 6.4 kHz."""
    return np.where(mel < 15.0, mel * (200.0 / 3.0), 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0))


def _hz_to_slaney(hz: float) -> float:
    return hz * 3.0 / 200.0 if hz < 1000.0 else 15.0 + float(np.log(hz / 1000.0)) * 27.0 / float(np.log(6.4))


def mel_filters() -> NDArray[np.float64]:
    """Return the filter bank, shape (257, 32): each column a triangle of unit area (in Hz) over the power spectrum."""
    bins = np.linspace(0.0, SAMPLE_RATE / 2, FFT_LENGTH // 2 + 1)[:, None]
    edges = _slaney_to_hz(np.linspace(_hz_to_slaney(MEL_LOW_HZ), _hz_to_slaney(MEL_HIGH_HZ), MELS + 2))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    return np.asarray(np.maximum(triangles, 0.0) * 2.0 / (high - low), np.float64)


class Frontend:
    """Streaming log-mel features; holds the 240 samples that windows share with the next block."""

    def __init__(self) -> None:
        self._window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(FRAME_LENGTH) / FRAME_LENGTH)
        filters = mel_filters()
        # Above 3.8 kHz every filter is zero: multiply only the half of the spectrum that counts.
        self._bins = int(np.flatnonzero(filters.any(axis=1))[-1]) + 1
        self._filters = filters[: self._bins]
        self._audio = np.zeros(CONTEXT + BLOCK, np.float32)
        view = np.lib.stride_tricks.sliding_window_view(self._audio, FRAME_LENGTH)
        self._windows = view[::HOP]
        # Padded once here: rfft would allocate and pad anew for each block.
        self._padded = np.zeros((FRAMES, FFT_LENGTH))
        self._framed = self._padded[:, :FRAME_LENGTH]
        spectrum = np.empty((FRAMES, FFT_LENGTH // 2 + 1), np.complex128)
        # numpy 2 transforms into a given array, numpy 1 (for tflite-runtime) does not.
        self._rfft: Callable[[NDArray[np.float64]], NDArray[np.complex128]] = np.fft.rfft
        if np.__version__ >= "2":
            self._rfft = partial(np.fft.rfft, out=spectrum)
        self._power = np.empty((FRAMES, self._bins))
        self._square = np.empty((FRAMES, self._bins))

    def reset(self) -> None:
        """Forget the past: the next block is preceded by digital silence."""
        self._audio[:] = 0.0
        self._padded[:] = 0.0  # windows of it

    def frames(self, block: NDArray[np.int16]) -> NDArray[np.float32]:
        """Return the features of one block, float32 (8, 32), scaled ``dB / 10 + 2``, 0.0 to about 13.

        The last frame ends with the block's last sample.

        Args:
            block: int16 samples, shape (1280,), at 16 kHz.
        """
        audio = self._audio
        audio[:CONTEXT] = audio[BLOCK:]
        audio[CONTEXT:] = block
        np.multiply(self._windows, self._window, out=self._framed)
        spectrum = self._rfft(self._padded)[:, : self._bins]
        np.square(spectrum.real, out=self._power)
        np.square(spectrum.imag, out=self._square)
        np.add(self._power, self._square, out=self._power)
        mel = self._power @ self._filters
        np.maximum(mel, POWER_FLOOR, out=mel)
        np.log10(mel, out=mel)
        mel += 2.0
        return mel.astype(np.float32)
