"""From Google's speech embedding to a streaming int8 graph: the only part of the build that needs TensorFlow.

The source is ``embedding_model.tflite`` of the ``pyopen-wakeword`` wheel (Apache-2.0, Google's ``speech_embedding``
via openWakeWord): twenty convolutions and four max pools that turn 76 log-mel frames into one 96-d embedding.
Every convolution over time is VALID and every pool divides the block of eight frames evenly. So a graph that gets
8 frames and remembers the last two rows that went into each temporal convolution computes *exactly* what the
original computes on the window of 76 frames, at a sixth of the cost. The memory lives in the graph as resource
variables: no copies in Python, and ``reset_all_variables`` starts a new stream.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WHEEL = "pyopen_wakeword-1.1.0-py3-none-manylinux_2_35_x86_64.whl"
WHEEL_SHA256 = "754347a59de2b3d378a0cbc404a8b41164036e74fa1c185f88056974e4bfb6b4"
MODEL_IN_WHEEL = "pyopen_wakeword/models/embedding_model.tflite"
MODEL_SHA256 = "c0aea21eb84a4ce90a08c870da41b7a7173b45269e6a3207c71d67c40f3a59d8"

FRAMES, MELS = 8, 32
PERCENTILE = 99.99
"""Of the activations that int8 spans; the rest saturates."""


def original_model(wheel: Path) -> bytes:
    """The original encoder out of the pinned wheel; ValueError when wheel or model are other bytes than pinned."""
    packed = wheel.read_bytes()
    if hashlib.sha256(packed).hexdigest() != WHEEL_SHA256:
        raise ValueError(f"{wheel.name} is not the pinned wheel: expected sha256 {WHEEL_SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        model = archive.read(MODEL_IN_WHEEL)
    if hashlib.sha256(model).hexdigest() != MODEL_SHA256:
        raise ValueError(f"{MODEL_IN_WHEEL} is not the pinned model: expected sha256 {MODEL_SHA256}")
    return model


@dataclass(frozen=True)
class Conv:
    """A convolution; ``weight`` is (height = time, width = mel, in, out)."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    padding: str

    @property
    def over_time(self) -> bool:
        """Whether the kernel spans three rows of time, so that a stream has to remember two."""
        return bool(self.weight.shape[0] == 3)


@dataclass(frozen=True)
class Pool:
    """A max pool, (time, mel) size and stride."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: str


@dataclass(frozen=True)
class Rectifier:
    """max(leaky(x), floor), where leaky(x) is x above zero and slope * x below."""

    slope: float
    floor: float


@dataclass(frozen=True)
class PadMel:
    """One zero bin on either side of the mel axis."""


Layer = Conv | Pool | Rectifier | PadMel


def read_layers(model: bytes) -> list[Layer]:  # noqa: C901  # one branch per operator, and there are five
    """The original graph as a list of layers with their weights."""
    import tflite  # the flatbuffer schema; build extra only

    names = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}
    root = tflite.Model.GetRootAsModel(model, 0)
    graph = root.Subgraphs(0)

    def constant(index: int) -> NDArray[Any] | None:
        tensor = graph.Tensors(index)
        raw = root.Buffers(tensor.Buffer()).DataAsNumpy()
        if isinstance(raw, int):
            return None
        dtype = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.INT32: np.int32}[tensor.Type()]
        return np.frombuffer(raw.tobytes(), dtype).reshape(tensor.ShapeAsNumpy() if tensor.ShapeLength() else ())

    def options(kind: Any, operator: Any) -> Any:
        table = operator.BuiltinOptions()
        made = kind()
        made.Init(table.Bytes, table.Pos)
        return made

    def padding(value: int) -> str:
        return "SAME" if value == tflite.Padding.SAME else "VALID"

    layers: list[Layer] = []
    slope = 0.0
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        code = root.OperatorCodes(operator.OpcodeIndex())
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs = [constant(j) for j in operator.InputsAsNumpy()]
        if name == "CONV_2D":
            o = options(tflite.Conv2DOptions, operator)
            weight, bias = inputs[1], inputs[2]
            if weight is None or bias is None:
                raise ValueError("a convolution without constant weights is not this encoder")
            layers.append(Conv(np.transpose(weight, (1, 2, 3, 0)), bias, padding(o.Padding())))
        elif name == "MAX_POOL_2D":
            o = options(tflite.Pool2DOptions, operator)
            size, stride = (o.FilterHeight(), o.FilterWidth()), (o.StrideH(), o.StrideW())
            layers.append(Pool(size, stride, padding(o.Padding())))
        elif name == "LEAKY_RELU":
            slope = options(tflite.LeakyReluOptions, operator).Alpha()
        elif name == "MAXIMUM":  # always right behind a LEAKY_RELU
            layers.append(Rectifier(slope, float(next(c for c in inputs if c is not None))))
        elif name == "PAD":
            layers.append(PadMel())
    return layers


@dataclass(frozen=True)
class Ranges:
    """What int8 has to span: the input, the top of each rectifier in order, and the embedding."""

    frames: tuple[float, float]
    tops: tuple[float, ...]
    embedding: tuple[float, float]


def _apply(
    tf: Any, layers: list[Layer], x: Any, states: list[Any] | None, ranges: Ranges | None = None
) -> tuple[Any, list[Any]]:
    """Run the layers on (1, time, mel, 1); with ``states`` prepend and collect two rows at each temporal conv.

    With ``ranges`` fix the int8 ranges, which also folds the floor in: max(leaky(x), floor) equals
    leaky(max(x, floor / slope)), and clipping at floor / slope is what a range that begins there does for
    nothing. It saves twenty MAXIMUM operations and gives the resolution to the values that survive.
    """
    kept: list[Any] = []
    rectifiers = 0
    if ranges:
        x = _span(tf, x, *ranges.frames)
    for layer in layers:
        if isinstance(layer, Conv):
            if layer.over_time and states is not None:
                x = tf.concat([states[len(kept)], x], 1)
                kept.append(x[:, -2:])
            x = tf.nn.conv2d(x, layer.weight, 1, "VALID" if layer.over_time else layer.padding)
            x = tf.nn.bias_add(x, layer.bias)
        elif isinstance(layer, Pool):
            x = tf.nn.max_pool2d(x, layer.size, layer.stride, layer.padding)
        elif isinstance(layer, PadMel):
            x = tf.pad(x, [[0, 0], [0, 0], [1, 1], [0, 0]])
        elif ranges:
            top = ranges.tops[rectifiers]
            rectifiers += 1
            x = tf.nn.leaky_relu(_span(tf, x, layer.floor / layer.slope, top), layer.slope)
            x = _span(tf, x, layer.floor, top)
        else:
            x = tf.maximum(tf.nn.leaky_relu(x, layer.slope), layer.floor)
    return (_span(tf, x, *ranges.embedding) if ranges else x), kept


def _span(tf: Any, x: Any, low: float, high: float) -> Any:
    return tf.quantization.fake_quant_with_min_max_args(x, low, high)


def measure_ranges(tf: Any, layers: list[Layer], sequences: list[NDArray[np.float32]], percentile: float) -> Ranges:
    """Ranges that hold ``percentile`` of what each rectifier and the embedding put out on real log-mel sequences."""
    tops: list[list[NDArray[np.float32]]] = [[] for layer in layers if isinstance(layer, Rectifier)]
    embeddings = []
    for frames in sequences:
        x, seen = tf.constant(frames[None, :, :, None]), 0
        for layer in layers:
            x, _ = _apply(tf, [layer], x, None)
            if isinstance(layer, Rectifier):
                tops[seen].append(x.numpy().ravel()[::7])  # one in seven is plenty, and fits in memory
                seen += 1
        embeddings.append(x.numpy().ravel())
    low, high = np.percentile(np.concatenate(embeddings), [100.0 - percentile, percentile])
    every = np.concatenate([frames.ravel() for frames in sequences])
    return Ranges(
        frames=(0.0, float(every.max())),
        tops=tuple(float(np.percentile(np.concatenate(values), percentile)) for values in tops),
        embedding=(float(low), float(high)),
    )


def _state_shapes(tf: Any, layers: list[Layer]) -> list[tuple[int, ...]]:
    """The shape of the two remembered rows of each temporal convolution, found by running the window once."""
    shapes: list[tuple[int, ...]] = []
    x = tf.zeros((1, 76, MELS, 1))
    for layer in layers:
        if isinstance(layer, Conv) and layer.over_time:
            shapes.append((1, 2, int(x.shape[2]), int(x.shape[3])))
        x, _ = _apply(tf, [layer], x, None)
    return shapes


def _streaming_module(tf: Any, layers: list[Layer], ranges: Ranges | None) -> Any:
    block = tf.TensorSpec((1, FRAMES, MELS, 1), name="frames")

    class Streaming(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.rows = [tf.Variable(tf.zeros(s), trainable=False) for s in _state_shapes(tf, layers)]

        @tf.function(input_signature=[block])  # type: ignore[untyped-decorator]
        def step(self, frames: Any) -> dict[str, Any]:
            embedding, kept = _apply(tf, layers, frames, [row.read_value() for row in self.rows], ranges)
            for row, new in zip(self.rows, kept, strict=True):
                row.assign(new)
            return {"embedding": tf.reshape(embedding, (1, 96))}

    return Streaming()


def convert(model: bytes, calibration: list[NDArray[np.float32]], workdir: Path, *, quantize: bool) -> bytes:
    """The streaming graph as a TFLite flatbuffer; ``calibration`` holds log-mel sequences, each (frames, 32).

    With ``quantize`` weights (per channel) and activations are int8, input and output too. Resource variables need
    the converter's experimental switch to be quantized with the rest.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    layers = read_layers(model)
    ranges = measure_ranges(tf, layers, calibration, PERCENTILE) if quantize else None
    module = _streaming_module(tf, layers, ranges)
    tf.saved_model.save(module, str(workdir), signatures={"serving_default": module.step})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(workdir))
    converter.experimental_enable_resource_variables = True
    if quantize:

        def representative() -> Iterator[dict[str, NDArray[np.float32]]]:
            for frames in calibration:
                for i in range(0, len(frames) - FRAMES + 1, FRAMES):
                    yield {"frames": frames[None, i : i + FRAMES, :, None]}

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter._experimental_variable_quantization = True
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def calibration_sequences(data: Path) -> list[NDArray[np.float32]]:
    """Log-mel sequences that the int8 ranges are measured on: forty spoken orders, loud and quiet, and a kitchen.

    No recording of the phrases that the base head knows is among them, so nothing is tuned on what is evaluated.
    """
    import soundfile

    from idiolect.listening.pipeline.frontend import Frontend

    orders = sorted((data / "coffee_orders" / "clean").glob("*.flac"))[::9][:40]
    sequences = []
    for path, gain in [*((p, g) for p in orders for g in (1.0, 0.1)), (data / "noise" / "kitchen.flac", 1.0)]:
        audio, rate = soundfile.read(path, dtype="float32")
        if rate != 16_000:
            raise ValueError(f"{path.name}: calibration audio must be at 16 kHz, not {rate}")
        samples = np.rint(audio * gain * 32767.0).astype(np.int16)[: 16_000 * 20]
        frontend = Frontend()
        blocks = samples[: len(samples) // 1280 * 1280].reshape(-1, 1280)
        sequences.append(np.concatenate([frontend.frames(block) for block in blocks]))
    return sequences
