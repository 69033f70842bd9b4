"""The streaming encoder: eight log-mel frames in, one embedding out. The only file that imports a TFLite runtime.

The graph keeps two rows of the past per temporal convolution inside itself (resource variables), so one
``Encoder`` is one audio stream. Its embedding after step n (counted from 0) is exactly what the original windowed
model gives for frames [8n - 68, 8n + 8), frames before 0 being digital silence.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from idiolect.errors import BundleError
from idiolect.values import EMBEDDING, FRAMES, MELS

WARM_UP = 10
"""Steps of 8 frames that fill the receptive field of 76."""
_INPUT_SHAPE = (1, FRAMES, MELS, 1)
_OUTPUT_SHAPE = (1, EMBEDDING)


def _load(runtime: str) -> tuple[Any, str]:
    """Return the interpreter class and its name.

    Args:
        runtime: "litert", "tflite" or "auto" (LiteRT where installed).
    """
    if runtime in ("auto", "litert"):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            if runtime == "litert":
                raise
        else:
            return Interpreter, "litert"
    from tflite_runtime.interpreter import Interpreter as LegacyInterpreter

    return LegacyInterpreter, "tflite-runtime"


class Embedder(Protocol):
    """One stream through an encoder, whether that serves this stream alone (``Encoder``) or others too."""

    @property
    def runtime(self) -> str:
        """Return the name of the TFLite runtime in use."""

    def reset(self) -> None:
        """Start a new stream, preceded by digital silence."""

    def step(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take one block's features, float32 (8, 32) from ``Frontend``; return its embedding, float32 (96,)."""


class Encoder:
    """One stream through the encoder graph.

    ``model`` is the whole .tflite file. Raises ``BundleError`` naming ``name`` when it is damaged or has other
    tensors than (1, 8, 32, 1) -> (1, 96), int8 or float32.
    """

    def __init__(self, model: bytes, *, name: str = "encoder.tflite", runtime: str = "auto") -> None:
        interpreter, self.runtime = _load(runtime)
        self._model = model  # the interpreter reads it in place and does not keep it alive by itself
        # A flatbuffer names its kind in bytes 4..8; the runtime itself would only say "could not open".
        if model[4:8] != b"TFL3":
            raise BundleError(name, "is not a TFLite model, or is cut short: install the bundle again")
        try:
            self._run = interpreter(model_content=model, num_threads=1)
            self._run.allocate_tensors()
            source, target = self._run.get_input_details()[0], self._run.get_output_details()[0]
        except (ValueError, RuntimeError, IndexError) as error:
            raise BundleError(name, f"cannot be loaded by {self.runtime} ({type(error).__name__})") from None
        for what, shape, want in (
            ("input", source["shape"], _INPUT_SHAPE),
            ("output", target["shape"], _OUTPUT_SHAPE),
        ):
            if tuple(int(n) for n in shape) != want:
                raise BundleError(name, f"{what} has shape {tuple(map(int, shape))}, expected {want}")
        self._source, self._target = source["index"], target["index"]
        self._in_scale, self._in_zero = source["quantization"]
        self._out_scale, self._out_zero = target["quantization"]
        self.quantized = bool(source["dtype"] is np.int8)
        self._scaled = np.empty((FRAMES, MELS), np.float32)
        self._input = np.empty(_INPUT_SHAPE, source["dtype"])
        self._run.invoke()  # variables exist from the first run on; only then does a reset give them a value
        self.reset()

    def reset(self) -> None:
        """Start a new stream, preceded by digital silence."""
        self._run.reset_all_variables()
        silence = np.zeros((FRAMES, MELS), np.float32)  # the front-end's floor
        for _ in range(WARM_UP):
            self.step(silence)

    def step(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take one block's features, float32 (8, 32) from ``Frontend``; return its embedding, float32 (96,)."""
        if self.quantized:
            scaled = self._scaled
            np.multiply(frames, 1.0 / self._in_scale, out=scaled)
            scaled += self._in_zero
            np.rint(scaled, out=scaled)
            np.minimum(scaled, 127, out=scaled)  # two calls cost half of one np.clip
            np.maximum(scaled, -128, out=scaled)
            self._input[0, :, :, 0] = scaled
        else:
            self._input[0, :, :, 0] = frames
        self._run.set_tensor(self._source, self._input)
        self._run.invoke()
        embedding: NDArray[np.float32] = self._run.get_tensor(self._target)[0].astype(np.float32)
        if self.quantized:
            embedding -= self._out_zero
            embedding *= self._out_scale
        return embedding
