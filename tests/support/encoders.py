"""Encoders that differ from the shipped one, and bundles around them, made with numpy while the tests run.

The new encoder is the shipped graph with its last convolution turned by a random rotation and quantized anew, after
noise on the weights of all its convolutions: 1 % of their spread, which leaves the shipped head fit to use once it is
turned the same way. A bundle for it has the shipped head, space and guard set in the turned coordinates; nothing is
trained. ``noise`` makes it differ more: an affine map then only comes near.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundlebuild import export
from idiolect.trust.bundle import bundle as bundles
from idiolect.trust.bundle import canonical, predecessors
from idiolect.trust.bundle.manifest import FILE
from idiolect.trust.bundle.predecessors import Affine
from idiolect.values import EMBEDDING, WINDOW
from tests.support.bundles import builtin, refit, unsigned

NOISE = 0.01
STEP = 0.75
"""Of the new encoder's int8 output."""


@cache
def rotation() -> NDArray[np.float64]:
    """(96, 96), orthogonal: an embedding of the new encoder is ``rotation() @`` one of the old, nearly."""
    return np.asarray(np.linalg.qr(np.random.default_rng(96).standard_normal((EMBEDDING, EMBEDDING)))[0])


def _tensor(model: Any, tensor: Any, dtype: type) -> NDArray[np.float64]:
    raw = np.frombuffer(bytes(model.buffers[tensor.buffer].data), dtype)
    return raw.reshape(tensor.shape).astype(np.float64)


def _store(model: Any, tensor: Any, values: NDArray[np.float64], dtype: type) -> None:
    model.buffers[tensor.buffer].data = np.frombuffer(np.rint(values).astype(dtype).tobytes(), np.uint8)


@cache
def turned(noise: float = NOISE) -> bytes:
    """The new encoder's graph."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(builtin()["encoder.tflite"], 0))
    graph, kind = model.subgraphs[0], schema.BuiltinOperator.CONV_2D
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    layers = [operator for operator in graph.operators if codes[operator.opcodeIndex] == kind]
    rng = np.random.default_rng(0)
    for operator in layers:
        weight = graph.tensors[operator.inputs[1]]
        steps = _tensor(model, weight, np.int8)
        steps += noise * steps.std() * rng.standard_normal(steps.shape)
        _store(model, weight, np.clip(steps, -127, 127), np.int8)
    source, weight, bias = (graph.tensors[layers[-1].inputs[i]] for i in range(3))
    step, scale = float(source.quantization.scale[0]), np.asarray(weight.quantization.scale, np.float64)
    real = np.einsum("ij,jabc->iabc", rotation(), _tensor(model, weight, np.int8) * scale[:, None, None, None])
    offset = rotation() @ (_tensor(model, bias, np.int32) * step * scale)
    scale = np.abs(real).max(axis=(1, 2, 3)) / 127
    _store(model, weight, real / scale[:, None, None, None], np.int8)
    _store(model, bias, offset / (step * scale), np.int32)
    weight.quantization.scale, bias.quantization.scale = scale.astype(np.float32), (step * scale).astype(np.float32)
    for index in (layers[-1].outputs[0], graph.outputs[0]):  # the same numbers in another shape
        out = graph.tensors[index].quantization
        out.scale, out.zeroPoint = np.array([STEP], np.float32), np.array([0], np.int64)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@cache
def files(noise: float = NOISE) -> Mapping[str, bytes]:
    """A bundle around the new encoder, unsigned."""
    old = bundles.load(unsigned(builtin()))
    described = json.loads(builtin()["head.json"])
    arrays = {name: np.array(array) for name, array in old.arrays.items()}
    # x' = x @ R^T, so W' = R W makes x' @ W' of what was x @ W.
    for name, rows in (("convolution", 3), ("space_projection", WINDOW)):
        blocks = arrays[name].astype(np.float64).reshape(rows, EMBEDDING, -1)
        arrays[name] = np.einsum("ij,rjk->rik", rotation(), blocks).reshape(rows * EMBEDDING, -1)
    arrays["embedding_mean"], arrays["embedding_std"] = (np.zeros(EMBEDDING), np.ones(EMBEDDING))
    guard = json.loads(builtin()["guard.json"])
    windows = old.guard.windows() @ rotation().T
    guard["scale"] = float(np.abs(windows).max()) / 127
    extra = {"language": described.get("language", "en")}
    changed = {
        "encoder.tflite": turned(noise),
        **export.head_files(arrays, old.classes, described["kinds"], extra),
        "guard.json": canonical.encode(guard),
        "guard.bin": np.rint(windows / guard["scale"]).astype(np.int8).tobytes(),
    }
    named = canonical.parse(builtin()[FILE]) | {"version": 2}
    base = {**builtin(), FILE: canonical.encode(named)}
    return refit(base, **{name.replace(".", "__"): data for name, data in changed.items()})


def old_id() -> str:
    """The shipped encoder's."""
    return hashlib.sha256(builtin()["encoder.tflite"]).hexdigest()


def exact() -> Affine:
    """The map that the rotation alone would need."""
    return Affine(rotation().T.astype(np.float32), np.zeros(EMBEDDING, np.float32))


def successor(*, affine: Affine | None = None, previous: bool = False, noise: float = NOISE) -> dict[str, bytes]:
    """The new bundle with a map from the shipped encoder, with the shipped bundle carried along, or with neither."""
    more = predecessors.map_files({old_id(): affine} if affine else {})
    more |= predecessors.previous_files(builtin()) if previous else {}
    return with_files(files(noise), more)


def with_files(base: Mapping[str, bytes], more: Mapping[str, bytes]) -> dict[str, bytes]:
    """A bundle with further payload files, under a manifest that lists them."""
    fields = canonical.parse(base[FILE])
    fields["files"] = {**fields["files"], **{n: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)}
                                             for n, d in more.items()}}  # fmt: skip
    return {**base, **more, FILE: canonical.encode(fields)}
