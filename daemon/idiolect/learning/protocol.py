"""What the daemon and its training worker say to each other: one request, one answer, each one frame.

A frame is a length (four bytes, little-endian) and so many bytes of MessagePack. Both sides cap it before reading, and
neither takes anything but maps, lists, text, bytes and numbers: no code and no objects travel. The worker gets all it
needs in the request and opens nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from idiolect.errors import LearningError
from idiolect.learning import adapterfile, guard, ledger, rounds, trainer
from idiolect.learning.admission import Verdict
from idiolect.learning.model import Model
from idiolect.pipeline.adapter import Head
from idiolect.pipeline.space import Space, offset_windows

REQUEST_CAP = 64 << 20
ANSWER_CAP = 1 << 20
_FIX = "restart idiolectd; if it happens again, report it"


@dataclass(frozen=True, slots=True)
class Request:
    """All that a round depends on. ``others`` are spans (n, 18, 96) of the rest of the household."""

    model: Model
    ledger: ledger.Ledger
    when: trainer.When
    active: bytes = b""
    others: NDArray[np.float32] | None = None
    owed: bool = False
    replay: int = -1
    """Step of the ladder at which to make the file again, without judging; -1 for a round."""


def frame(message: Mapping[str, Any]) -> bytes:
    """A message as it goes over the pipe."""
    body: bytes = msgpack.packb(dict(message), use_bin_type=True)
    return struct.pack("<I", len(body)) + body


def length(header: bytes, cap: int) -> int:
    """How many bytes follow these four; ``LearningError`` beyond ``cap``."""
    if len(header) != 4:
        raise LearningError("a message was cut short", _FIX)
    (size,) = struct.unpack("<I", header)
    if size > cap:
        raise LearningError("a message is longer than allowed", _FIX)
    return int(size)


def unpack(body: bytes, cap: int) -> dict[str, Any]:
    """The message in a frame's body."""
    try:
        message = msgpack.unpackb(body, raw=False, max_bin_len=cap, max_str_len=cap, max_array_len=cap)
    except (ValueError, msgpack.UnpackException):  # FormatError and StackError among them
        raise LearningError("a message is not MessagePack", _FIX) from None
    if not isinstance(message, dict):
        raise LearningError("a message is not a map", _FIX)
    return message


def _array(values: NDArray[Any]) -> dict[str, Any]:
    return {"dtype": values.dtype.str, "shape": list(values.shape), "data": np.ascontiguousarray(values).tobytes()}


def _values(packed: Mapping[str, Any]) -> NDArray[Any]:
    if packed["dtype"] not in ("<f4", "<f2", "|i1"):
        raise ValueError("dtype")
    return np.frombuffer(packed["data"], packed["dtype"]).reshape(packed["shape"])


_HEAD = ("convolution", "convolution_bias", "projection", "projection_bias", "scores", "scores_bias")
_SPACE = ("projection", "offset", "prototypes", "cohort")


def ask(request: Request) -> bytes:
    """The request's frame."""
    model, known = request.model, request.ledger
    described = {
        "digest": model.digest,
        "classes": list(model.classes),
        "head": {name: _array(getattr(model.head, name)) for name in _HEAD},
        "space": {name: _array(getattr(model.space, name)) for name in _SPACE},
        "wake_words": list(model.wake_words),
        "thresholds": dict(model.thresholds),
        "guard": _array(model.guard_stored),
        "guard_scale": model.guard_scale,
        "guard_labels": list(model.guard_labels),
        "guard_strata": {kind: list(values) for kind, values in model.guard_strata.items()},
    }
    return frame(
        {
            "v": 1,
            "model": described,
            "profile": known.profile,
            "voice": known.voice,
            "examples": [example.encode() for example in known.examples],
            "usage": [[phrase, day, count] for (phrase, day), count in sorted(known.usage.items())],
            "day": request.when.day,
            "number": request.when.number,
            "active": request.active,
            "others": None if request.others is None else _array(request.others.astype("<f2")),
            "owed": request.owed,
            "replay": request.replay,
        }
    )


def read_request(message: Mapping[str, Any]) -> Request:
    """The worker's side of ``ask``; ``LearningError`` when it makes no sense."""
    try:
        if message["v"] != 1:
            raise ValueError("version")
        said = message["model"]
        arrays = {name: _values(said["head"][name]) for name in _HEAD}
        head = Head.from_arrays(tuple(said["classes"]), arrays)
        space = Space.from_arrays(len(head.classes), {f"space_{n}": _values(said["space"][n]) for n in _SPACE})
        if space is None:
            raise ValueError("space")
        model = Model(
            digest=said["digest"],
            head=head,
            space=space,
            wake_words=tuple(said["wake_words"]),
            thresholds=dict(said["thresholds"]),
            guard_stored=_values(said["guard"]).astype(np.int8),
            guard_scale=float(said["guard_scale"]),
            guard_labels=tuple(said["guard_labels"]),
            guard_strata={kind: tuple(values) for kind, values in said["guard_strata"].items()},
        )
        usage = {(str(phrase), int(day)): int(count) for phrase, day, count in message["usage"]}
        examples = tuple(ledger.decode(record) for record in message["examples"])
        others = None if message["others"] is None else _values(message["others"]).astype(np.float32)
        known = ledger.Ledger(str(message["profile"]), examples, usage, bool(message["voice"]))
        when = trainer.When(int(message["day"]), int(message["number"]))
        return Request(
            model, known, when, bytes(message["active"]), others, bool(message["owed"]), int(message["replay"])
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise LearningError("a request makes no sense", _FIX) from None


def work(request: Request) -> dict[str, Any]:
    """Run the round, or make a file again; the answer's message."""
    if 0 <= request.replay < len(trainer.LADDER):
        return {"v": 1, "data": rounds.replay(request.model, request.ledger, request.when, request.replay)}
    around = rounds.Circumstances(
        active=adapterfile.decode(request.active) if request.active else None,
        others=None if request.others is None else request.model.hear(offset_windows(request.others)),
        owed=request.owed,
    )
    outcome = rounds.run(request.model, request.ledger, request.when, around)
    return {
        "v": 1,
        "data": outcome.data,
        "check": outcome.verdict.check,
        "numbers": {name: float(value) for name, value in outcome.verdict.numbers.items()},
        "admissions": [[v.check, v.weight] for v in outcome.admissions],
    }


def read_answer(message: Mapping[str, Any], examples: int) -> rounds.Outcome:
    """The daemon's side: the worker is not trusted to be right, only its frame is taken for what it says."""
    import hashlib

    try:
        if "error" in message:
            raise LearningError("the training worker gave up", _FIX)
        data = bytes(message["data"])
        adapterfile.decode(data)
        numbers = {str(name): float(value) for name, value in message["numbers"].items()}
        admissions = tuple(Verdict(int(check), float(weight)) for check, weight in message["admissions"])
        if len(admissions) != examples:
            raise ValueError("admissions")
        verdict = guard.Verdict(int(message["check"]), numbers)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise LearningError("the training worker's answer makes no sense", _FIX) from None
    return rounds.Outcome(data, hashlib.sha256(data).hexdigest(), verdict, admissions)
