"""The messages between the daemon and its training worker: one request, one answer, each the body of one frame.

A body is MessagePack (``frames`` brings length and digest). Both sides cap it before reading, and neither takes
anything but maps, lists, text, bytes and numbers: no code and no objects travel. The worker gets all it needs in the
request and opens nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgpack
import numpy as np
from numpy.typing import NDArray

from idiolect.errors import NONSENSE, LearningError
from idiolect.learning import adapter_file, gate, ledger, self_test, trainer
from idiolect.learning import round as rounds
from idiolect.learning.admission import REASONS, Verdict
from idiolect.learning.lived import Wish
from idiolect.learning.model import Model
from idiolect.listening.pipeline.head import Head
from idiolect.listening.pipeline.space import Space

VERSION = 3
REQUEST_CAP = 64 << 20
ANSWER_CAP = 4 << 20
ITEMS = 1 << 16
"""Values in one message, those inside of others included: one byte may be a list, which takes 64 in memory."""
_FIX = "restart idiolectd; if it happens again, report it"
"""The next step in the error for a message that is not as it should be."""

Task = Literal["round", "replay", "selftest"]


@dataclass(frozen=True, slots=True)
class Request:
    """All that a task depends on. ``others`` are spans (n, 18, 96) of the rest of the household."""

    model: Model
    ledger: ledger.Ledger
    when: trainer.When
    active: bytes = b""
    """The file of the adapter in use: what a round has to beat, and what a self-test tests."""
    others: NDArray[np.float32] | None = None
    owed: bool = False
    task: Task = "round"
    step: int = 0
    """Step of the ladder at which a replay makes the file again without judging."""
    last: int = 0
    """Number of the newest example that the adapter in use was made from; a self-test has all later ones unseen."""
    wish: Wish | None = None
    """The phrases that count in the household; None: all that the bundle has."""


def packed(message: Mapping[str, Any]) -> bytes:
    """Return a message as a frame's body."""
    body: bytes = msgpack.packb(dict(message), use_bin_type=True)
    return body


def unpack(body: bytes, cap: int) -> dict[str, Any]:
    """Return the message in a frame's body. Raises ``LearningError`` when it is no map in MessagePack."""
    try:
        _count(body)
        message = msgpack.unpackb(body, raw=False, max_bin_len=cap, max_str_len=cap)
    except ValueError:  # FormatError, StackError and ExtraData among them
        raise LearningError("a message is not MessagePack", _FIX) from None
    if not isinstance(message, dict):
        raise LearningError("a message is not a map", _FIX)
    return message


_FIXED = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), 0), 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,
    0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
"""Bytes that follow a first byte which says how many; below 0x80 and from 0xE0 on that byte is the number itself."""
_SIZED = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1),
    0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),
}  # fmt: skip
"""Bytes of the length that follows, and how many there are beyond that length: bin, ext, str."""
_HOLDING = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""Bytes of the number that follows, and values for each of that number: lists and maps."""


def _count(body: bytes) -> None:
    """Raise ``ValueError`` for more than ITEMS values, before any is built. What else is wrong, msgpack says."""
    at, due = 0, 1
    for _ in range(ITEMS):
        if not due or at >= len(body):
            return
        kind, at, due = body[at], at + 1, due - 1
        if kind in _HOLDING:
            size, each = _HOLDING[kind]
            due += int.from_bytes(body[at : at + size], "big") * each
            at += size
        elif kind in _SIZED:
            size, more = _SIZED[kind]
            at += size + int.from_bytes(body[at : at + size], "big") + more
        elif 0x80 <= kind < 0xA0:
            due += (kind & 0x0F) * (2 if kind < 0x90 else 1)
        else:
            at += kind & 0x1F if 0xA0 <= kind < 0xC0 else _FIXED.get(kind, 0)
        if due > ITEMS:
            break
    if due:
        raise ValueError("items")


def _array(values: NDArray[Any]) -> dict[str, Any]:
    return {"dtype": values.dtype.str, "shape": list(values.shape), "data": np.ascontiguousarray(values).tobytes()}


def _values(packed: Mapping[str, Any]) -> NDArray[Any]:
    if packed["dtype"] not in ("<f4", "<f2", "|i1"):
        raise ValueError("dtype")
    return np.frombuffer(packed["data"], packed["dtype"]).reshape(packed["shape"])


def _told(wish: Wish | None) -> dict[str, Any] | None:
    if wish is None:
        return None
    return {
        "limits": dict(wish.limits),
        "taught": wish.taught,
        "always_on": sorted(wish.always_on),
        "pause": wish.pause,
        "lent": [[adapter_file.encode(adapter), sorted(phrases)] for adapter, phrases in wish.lent],
    }


def _wish(said: Mapping[str, Any] | None) -> Wish | None:
    if said is None:
        return None
    limits = {str(name): float(limit) for name, limit in said["limits"].items()}
    taught, pause = float(said["taught"]), int(said["pause"])
    if not all(0.0 <= each <= 1.0 for each in (*limits.values(), taught)) or not 1 <= pause <= LONGEST_PAUSE:
        raise ValueError("wish")
    lent = tuple((adapter_file.decode(data), frozenset(map(str, names))) for data, names in said["lent"])
    return Wish(limits, taught, frozenset(map(str, said["always_on"])), pause, lent)


LONGEST_PAUSE = 64
"""Blocks; ``listening.pause_ms`` reaches to half of it."""
_HEAD = ("convolution", "convolution_bias", "projection", "projection_bias", "scores", "scores_bias")
_SPACE = ("projection", "offset", "prototypes", "cohort")


def ask(request: Request) -> bytes:
    """Return the body of the frame that carries the request to the worker."""
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
    return packed(
        {
            "v": VERSION,
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
            "task": request.task,
            "step": request.step,
            "last": request.last,
            "wish": _told(request.wish),
        }
    )


def read_request(message: Mapping[str, Any]) -> Request:
    """Read, in the worker, the message that ``ask`` wrote. Raises ``LearningError`` when it makes no sense."""
    try:
        if message["v"] != VERSION or message["task"] not in ("round", "replay", "selftest"):
            raise ValueError("version")
        if message["step"] not in range(len(trainer.LADDER)):
            raise ValueError("step")
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
            model, known, when, bytes(message["active"]), others, bool(message["owed"]),
            message["task"], int(message["step"]), int(message["last"]), _wish(message["wish"]),
        )  # fmt: skip
    except NONSENSE:
        raise LearningError("a request makes no sense", _FIX) from None


def work(request: Request) -> dict[str, Any]:
    """Do the task, and return the answer's message."""
    if request.task == "replay":
        data = rounds.replay(request.model, request.ledger, request.when, request.step)
        return {"v": VERSION, "data": data, "digest": hashlib.sha256(data).hexdigest()}
    if request.task == "selftest":
        active = adapter_file.decode(request.active)
        tested = self_test.run(request.model, request.ledger, active, request.last, request.wish)
        return {"v": VERSION, "slices": [[s.name, s.total, s.wrong, s.lost, s.won] for s in tested]}
    around = rounds.Circumstances(
        active=adapter_file.decode(request.active) if request.active else None,
        others=None if request.others is None else request.model.hear_examples(request.others),
        owed=request.owed,
        wish=request.wish,
    )
    outcome = rounds.run(request.model, request.ledger, request.when, around)
    return {
        "v": VERSION,
        "data": outcome.data,
        "digest": outcome.digest,
        "check": outcome.verdict.check,
        "numbers": {name: float(value) for name, value in outcome.verdict.numbers.items()},
        "admissions": [[v.check, v.weight] for v in outcome.admissions],
    }


def _answered(message: Mapping[str, Any]) -> None:
    if "error" in message:
        raise LearningError("the training worker gave up", _FIX)
    if message["v"] != VERSION:
        raise ValueError("version")


def _numbers(said: Mapping[str, Any]) -> dict[str, float]:
    numbers = {str(name): float(value) for name, value in said.items()}
    if len(numbers) > 64 or not all(math.isfinite(value) for value in numbers.values()):
        raise ValueError("numbers")
    if int(numbers["step"]) not in range(len(trainer.LADDER)) or min(numbers[name] for name in _COUNTS) < 0:
        raise ValueError("counts")
    return numbers


_COUNTS = ("own_held_out", "own_wrong", "own_wrong_before")
"""Numbers that every verdict has."""


def read_answer(message: Mapping[str, Any], request: Request) -> rounds.Outcome:
    """Read, in the daemon, the answer to a round.

    The worker is believed in what only it can know, and in nothing else: that the adapter is the one that was asked
    for, for this person, and within its bounds (check 1 of the gate), is looked at again here.

    Raises:
        LearningError: the answer makes no sense.
    """
    try:
        _answered(message)
        data = bytes(message["data"])
        adapter = adapter_file.accept(data, message["digest"])
        if (adapter.profile, adapter.number) != (request.ledger.profile, request.when.number):
            raise ValueError("adapter")
        admissions = tuple(Verdict(int(check), float(weight)) for check, weight in message["admissions"])
        if len(admissions) != len(request.ledger.examples) or any(
            v.check not in REASONS or not 0.0 <= v.weight <= 1.0 for v in admissions
        ):
            raise ValueError("admissions")
        verdict = gate.Verdict(int(message["check"]), _numbers(message["numbers"]))
        if verdict.check not in (0, *gate.CHECKS) or (verdict.passed and not gate.bounded(adapter, len(data))):
            raise ValueError("check")
    except NONSENSE:
        raise LearningError("the training worker's answer makes no sense", _FIX) from None
    return rounds.Outcome(data, message["digest"], verdict, admissions)


def read_replay(message: Mapping[str, Any]) -> bytes:
    """Read, in the daemon, the answer to a replay, and return the adapter's file.

    Raises:
        LearningError: the answer makes no sense, or the file has not the digest that came with it.
    """
    try:
        _answered(message)
        data = bytes(message["data"])
        adapter_file.accept(data, message["digest"])
        return data
    except NONSENSE:
        raise LearningError("the training worker's answer makes no sense", _FIX) from None


def read_selftest(message: Mapping[str, Any]) -> tuple[self_test.Slice, ...]:
    """Read, in the daemon, the answer to a self-test, and return its slices.

    Raises:
        LearningError: the answer makes no sense.
    """
    try:
        _answered(message)
        rows = [self_test.Slice(str(name)[:64], *map(int, counts)) for name, *counts in message["slices"][:256]]
        if any(min(s.lost, s.won, s.wrong) < 0 or max(s.lost + s.won, s.wrong) > s.total for s in rows):
            raise ValueError("slices")
    except NONSENSE:
        raise LearningError("the training worker's answer makes no sense", _FIX) from None
    return tuple(rows)


def load() -> None:
    """Load what numpy loads at its first use only, so that the worker can be shut off from all files."""
    np.quantile(np.setdiff1d(np.arange(4.0), np.ones(1)), [0.5])
