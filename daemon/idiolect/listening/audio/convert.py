"""Converts what a device or a file gives into blocks of 1280 samples, 16 kHz, mono, int16.

Down-mix, gain, resampling and saturation happen here and nowhere else. A DC offset is left alone: the frontend's
filters start above it. Nothing is ever made up: where samples are missing the stream is cut, what was half-built is
thrown away, and the next block says how many samples of 16 kHz lie between it and the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from idiolect.values import BLOCK, SAMPLE_RATE, Captured

if TYPE_CHECKING:
    import soxr
    from numpy.typing import NDArray

Channel = Literal["mix"] | int
"""Which channel to hear: the mean of all, or one by its index from 0."""

MIN_RATE = 8_000
"""Hz. The frontend's highest filter ends at 3.8 kHz, so a telephone-band microphone (a Bluetooth headset) still
carries what the encoder hears; below that it does not."""

_FULL_SCALE = np.float32(32_768)


class AudioConverter:
    """Interleaved S16_LE frames in, in chunks of any size; ``Captured`` blocks out, the same for any chunking.

    16 kHz mono without gain passes through: a block is then a read-only view of the bytes that came in, unless it
    spans two chunks.
    """

    def __init__(self, rate: int, channels: int, *, channel: Channel = "mix", gain_db: float = 0.0) -> None:
        """Start a stream; ValueError for arguments that cannot be.

        Args:
            rate: in Hz, from ``MIN_RATE`` up.
            channel: "mix", or an index below ``channels``.
            gain_db: amplification; 0 leaves samples alone.
        """
        if rate < MIN_RATE or channels < 1 or (channel != "mix" and not 0 <= channel < channels):
            raise ValueError(f"cannot convert channel {channel} of {channels} at {rate} Hz")
        self._rate = rate
        self._channels = channels
        self._picked = range(channels) if channel == "mix" else range(channel, channel + 1)
        self._scale = np.float32(10.0 ** (gain_db / 20.0) / len(self._picked))
        self._resampler = _resampler(rate) if rate != SAMPLE_RATE else None
        self._plain = rate == SAMPLE_RATE and self._scale == 1  # samples stay as they are
        self._views = self._plain and channels == 1  # and so do the bytes
        self._scratch = np.empty(0, np.float32)
        self._partial = np.empty(BLOCK, np.int16)
        self._filled = 0
        self._frames = 0  # input frames since the last cut
        self._emitted = 0  # samples in finished blocks since the last cut
        self._lost = 0

    def feed(self, data: bytes) -> list[Captured]:
        """Return the blocks that ``data``, whole frames, completes: none, one or more."""
        frames = np.frombuffer(data, "<i2").reshape(-1, self._channels)
        self._frames += len(frames)
        if self._plain:
            return self._cut(frames[:, self._picked[0]])
        mono = self._mono(frames)
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(mono)
        return self._cut(_saturate(mono))

    def flush(self) -> list[Captured]:
        """Return the blocks still inside the resampler, at the end of a recording. An unfinished block is dropped."""
        if self._resampler is None:
            return []
        return self._cut(_saturate(self._resampler.resample_chunk(np.empty(0, np.float32), last=True)))

    def gap(self, seconds: float) -> int:
        """Cut the stream here, ``seconds`` (estimated) being missing; the next block is marked with what was lost.

        Returns that number of 16 kHz samples, at least 1: what was missing and what was held back unfinished.
        """
        held = self._frames * SAMPLE_RATE // self._rate - self._emitted
        lost = max(1, round(seconds * SAMPLE_RATE) + held)
        self._lost += lost
        self._frames = self._emitted = self._filled = 0
        if self._resampler is not None:
            self._resampler.clear()
        return lost

    def _mono(self, frames: NDArray[np.int16]) -> NDArray[np.float32]:
        """Return frames down-mixed and amplified, in the scratch buffer: valid until the next call."""
        if len(frames) > len(self._scratch):
            self._scratch = np.empty(len(frames), np.float32)
        mono = self._scratch[: len(frames)]
        mono[:] = frames[:, self._picked[0]]
        for index in self._picked[1:]:
            mono += frames[:, index]  # sums of int16 are exact in float32
        mono *= self._scale
        return mono

    def _cut(self, samples: NDArray[np.int16] | NDArray[np.float32]) -> list[Captured]:
        """Cut int16 samples, or float32 ones already rounded and within range, into blocks."""
        blocks = []
        block: NDArray[np.int16]
        start = 0
        while len(samples) - start >= BLOCK - self._filled:
            end = start + BLOCK - self._filled
            if self._filled or not self._views:
                self._partial[self._filled :] = samples[start:end]
                block, self._partial = self._partial, np.empty(BLOCK, np.int16)
            else:
                block = samples[start:end].astype(np.int16, copy=False)
            blocks.append(Captured(block, self._lost))
            self._lost = self._filled = 0
            self._emitted += BLOCK
            start = end
        rest = len(samples) - start
        self._partial[self._filled : self._filled + rest] = samples[start:]
        self._filled += rest
        return blocks


def level_dbfs(samples: NDArray[np.int16]) -> float:
    """Return the RMS of a block in dB below full scale, from -120 (silence) to 0."""
    scaled = samples.astype(np.float32) / _FULL_SCALE
    power = float(np.dot(scaled, scaled)) / max(1, len(scaled))
    return max(-120.0, round(10.0 * float(np.log10(power + 1e-12)), 1))


def _saturate(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round and clip to int16's range, in place."""
    np.rint(samples, out=samples)
    np.clip(samples, -32_768, 32_767, out=samples)
    return samples


def _resampler(rate: int) -> soxr.ResampleStream:
    """Make a float32 mono resampler to 16 kHz: with int16 libsoxr would add dither.

    From 16 kHz up "LQ" (16-bit accurate, flat to 5.8 kHz where the frontend's filters end at 3.8, aliases below
    -100 dB): it holds back 20 ms, "MQ" and "HQ" 40 ms, out of the 250 an event may take. Below, the band is so narrow
    that only "HQ" keeps it, at up to 115 ms. CPU decides nothing: 0.1 ms per second of audio in every quality.
    """
    import soxr  # half a mebibyte that a device with native 16 kHz never needs

    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="LQ" if rate >= SAMPLE_RATE else "HQ")
