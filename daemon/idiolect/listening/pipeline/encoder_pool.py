"""Lends a few encoders to many streams: the stream that has not stepped for longest gives its encoder up.

The graph's state lies inside it and cannot be taken out, 0.8 MiB for each interpreter. But an embedding depends on 76
frames only, 68 of them before its own block (``encoder``), so a stream that keeps the features of its last nine blocks
(9 KiB) can bring any encoder into the very state that one of its own would have: by replaying them. The embeddings are
the same to the bit, and a stream that finds its encoder as it left it pays nothing.

All streams of a pool belong to one thread.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from idiolect.listening.pipeline.encoder import WARM_UP, Encoder
from idiolect.values import FRAMES, MELS

REPLAYED = WARM_UP - 1
"""Blocks before the newest one that an encoder remembers anything of."""
SIZE = 4
"""Encoders. A stream that finds another's costs ``REPLAYED`` steps more, 0.3 ms on a server's core; more encoders cost
memory, and save little where more streams than encoders take turns one after another."""


class EncoderPool:
    """Encoders of one model, made when they are first needed."""

    def __init__(self, model: bytes, size: int = SIZE, *, name: str = "encoder.tflite") -> None:
        """Make a pool without encoders yet.

        Args:
            model: the .tflite file.
            size: encoders at most, 1 or more.
            name: what the file is called in errors.
        """
        self._model, self._size, self._name = model, size, name
        self._lent: OrderedDict[PooledEncoder, Encoder] = OrderedDict()  # who used his longest ago comes first
        self._free: list[Encoder] = []
        self.switches = 0
        """Times that an encoder went from one stream to another, or to its first."""
        self.steps = 0
        """Steps that encoders have done: blocks, and those that were replayed."""

    @property
    def made(self) -> int:
        """Return how many encoders there are."""
        return len(self._lent) + len(self._free)

    def stream(self) -> PooledEncoder:
        """Return a new stream, preceded by digital silence. ``BundleError`` when the model is damaged."""
        return PooledEncoder(self, *self._kind())

    def lend(self, stream: PooledEncoder) -> tuple[Encoder, bool]:
        """Return an encoder for ``stream``, and whether it is still in the state in which that left it."""
        if stream in self._lent:
            self._lent.move_to_end(stream)
            return self._lent[stream], True
        if self._free:
            encoder = self._free.pop()
        elif len(self._lent) < self._size:
            encoder = Encoder(self._model, name=self._name)
        else:
            _, encoder = self._lent.popitem(last=False)
        self._lent[stream] = encoder
        self.switches += 1
        return encoder, False

    def give_back(self, stream: PooledEncoder) -> None:
        """Take back the encoder of ``stream``, which needs none until it steps again."""
        encoder = self._lent.pop(stream, None)
        if encoder is not None:
            self._free.append(encoder)

    def _kind(self) -> tuple[str, bool]:
        """Return runtime and quantization; make the first encoder where there is none to ask."""
        if not self.made:
            self._free.append(Encoder(self._model, name=self._name))
        one = self._free[0] if self._free else next(iter(self._lent.values()))
        return one.runtime, one.quantized


class PooledEncoder:
    """One audio stream through whichever encoder of the pool it gets; an ``Embedder`` like ``encoder.Encoder``."""

    def __init__(self, pool: EncoderPool, runtime: str, quantized: bool) -> None:
        self._pool = pool
        self.runtime, self.quantized = runtime, quantized
        self._frames = np.zeros((REPLAYED, FRAMES, MELS), np.float32)  # a ring: 0 is the front-end's floor, silence
        self._next = 0

    def reset(self) -> None:
        """Start a new stream, preceded by digital silence."""
        self._pool.give_back(self)
        self._frames[:] = 0.0

    def step(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take one block's features, float32 (8, 32); return its embedding, float32 (96,)."""
        encoder, mine = self._pool.lend(self)
        self._pool.steps += 1 if mine else 1 + REPLAYED
        if not mine:
            for i in range(REPLAYED):
                encoder.step(self._frames[(self._next + i) % REPLAYED])
        self._frames[self._next] = frames
        self._next = (self._next + 1) % REPLAYED
        return encoder.step(frames)

    def close(self) -> None:
        """Let another stream have the encoder: this one has ended."""
        self._pool.give_back(self)
