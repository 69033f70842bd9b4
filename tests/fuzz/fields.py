"""Inputs that are right but for a few values: what a liar would send who knows the format and computes the digests.

Bytes at random seldom get past a digest, a length or a brace. Here an input's first byte chooses a format, and each
three bytes that follow change one value of a good message somewhere inside; then lengths and digests are made to fit.
"""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import msgpack

from idiolect.learning.worker import frames
from tests.fuzz import ends, kept, learnt
from tests.fuzz.engine import MARK

VALUES = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63 - 1, 2**64 - 1, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan"),
    "", MARK, "x" * 70, "\ud800", "a\0b", "ab" * 32, "00" * 8, "enrolment", "1e999", [], {}, [[]], [0] * 9, {"": None},
    b"", b"\xff" * 9, 1e-320, -(2**31), 65_536,
)  # fmt: skip


def altered(message: Any, data: bytes) -> Any:
    """``message`` with a change for each three bytes: where, how and with what."""
    message = [copy.deepcopy(message)]
    for where, how, what in zip(data[::3], data[1::3], data[2::3], strict=False):
        places = list(_places(message))
        holder, key = places[(where | (how >> 3) << 8) % len(places)]
        value = copy.deepcopy(VALUES[what % len(VALUES)])
        match how % 8:
            case 0 if message is not holder:
                del holder[key]
            case 1 if isinstance(holder[key], list) and holder[key]:
                holder[key] += copy.deepcopy(holder[key]) * (1 + what % 5)
            case 2 if isinstance(holder[key], list | str | bytes):
                holder[key] = holder[key][: what % (1 + len(holder[key]))]
            case 3 if isinstance(holder, dict):
                holder[str(value)[:70]] = holder.pop(key)
            case 4 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                holder[key] = -holder[key] + what - 8
            case _:
                holder[key] = value
    return message[0] if message else None


def _places(part: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(part) if isinstance(part, dict) else range(len(part))
    for key in keys:
        yield part, key
        if isinstance(part[key], dict | list):
            yield from _places(part[key])


def _text(value: Any) -> bytes:
    """JSON with whatever Python's reader takes; bytes become text."""
    return json.dumps(value, default=lambda raw: raw.hex(), ensure_ascii=True).encode()


def _packed(value: Any) -> bytes:
    """MessagePack; what that cannot hold becomes what it can."""

    def fit(part: Any) -> Any:
        if isinstance(part, dict):
            return {name.encode(errors="replace").decode(): fit(each) for name, each in part.items()}
        if isinstance(part, list):
            return [fit(each) for each in part]
        if isinstance(part, str):
            return part.encode(errors="replace").decode()
        return max(-(2**63), min(part, 2**64 - 1)) if isinstance(part, int) and not isinstance(part, bool) else part

    return msgpack.packb(fit(value), use_bin_type=True)


def _headed(raw: bytes) -> tuple[Any, bytes]:
    (size,) = struct.unpack_from("<I", raw)
    return json.loads(raw[4 : 4 + size]), raw[4 + size :]


def _with_header(header: Any, rest: bytes) -> bytes:
    text = _text(header)
    return struct.pack("<I", len(text)) + text + rest


def _adapter(data: bytes) -> bytes:
    header, rest = _headed(learnt.good_adapter())
    return _with_header(altered(header, data), rest)


def _example(data: bytes) -> bytes:
    header, rest = _headed(learnt.good_example())
    return _with_header(altered(header, data), rest)


@cache
def _answer() -> dict[str, Any]:
    message: dict[str, Any] = msgpack.unpackb(learnt.good_answer()[frames.HEADER :])
    return message


def _answered(data: bytes) -> bytes:
    """The adapter in it is altered by the first half, the message by the second, and the digest is right."""
    half = len(data) // 6 * 3
    message = dict(_answer())
    message["data"] = _adapter(data[:half])
    message["digest"] = hashlib.sha256(message["data"]).hexdigest()
    return bytes(frames.HEADER) + _packed(altered(message, data[half:]))


def _selftested(data: bytes) -> bytes:
    return bytes(frames.HEADER) + _packed(altered(msgpack.unpackb(learnt.good_selftest()[frames.HEADER :]), data))


@cache
def _asked() -> dict[str, Any]:
    message: dict[str, Any] = msgpack.unpackb(ends.cut_requests()[0])
    return message


def _sealed(data: bytes) -> bytes:
    parts, at = [], 0
    raw = kept.good_sealed_adapter()
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        parts.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    record = altered(json.loads(parts[0]), data)
    parts[0] = json.dumps(record, sort_keys=True, separators=(",", ":"), default=repr).encode()
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def _contents(which: int) -> Callable[[bytes], bytes]:
    def made(data: bytes) -> bytes:
        good = kept.good_contents()[which]
        return good[:1] + _text(altered(json.loads(good[1:]), data))

    return made


def _json(good: Callable[[], bytes], prefix: bytes = b"") -> Callable[[bytes], bytes]:
    return lambda data: prefix + _text(altered(json.loads(good()[len(prefix) :]), data))


def formats() -> Sequence[tuple[Callable[[bytes], object], Callable[[bytes], bytes]]]:
    """Target and how its input is made."""
    from tests.fuzz import stored

    return (
        (learnt.answer, _answered),
        (learnt.answer, _answered),
        (learnt.tested, _selftested),
        (ends.request, lambda data: _packed(altered(_asked(), data))),
        (learnt.adapter, _adapter),
        (learnt.example, _example),
        (kept.sealed_adapter, _sealed),
        *((kept.contents, _contents(which)) for which in range(3)),
        (kept.copy, _json(lambda: kept.good_copies()[0])),
        (kept.copy, _json(lambda: kept.good_copies()[1])),
        (kept.consent_receipt, _json(kept.good_receipt)),
        (kept.tables, _json(lambda: kept.good_tables()[0], b"\1")),
        (kept.tables, _json(lambda: kept.good_tables()[1], b"\0")),
        (stored.audit_export, _json(stored.good_export)),
        (stored.device_record, _json(stored.good_record)),
        (
            kept.personal,
            _json(lambda: b'{"profile": "guest", "paused_until": null, "day": 20000, "waiting_since": 1.5}'),
        ),
        (kept.pause, _json(lambda: b'{"paused": true, "until": 1700000000.5}')),
        (kept.key_file, _json(lambda: kept.good_key_files()[0])),
        (kept.slot_file, _json(lambda: b'{"current": "0123456789abcdef", "previous": null, "minimum": 3}')),
    )


@cache
def _formats() -> Sequence[tuple[Callable[[bytes], object], Callable[[bytes], bytes]]]:
    return formats()


def fields(data: bytes) -> None:
    """See the module."""
    if data:
        run, make = _formats()[data[0] % len(_formats())]
        run(make(data[1:25]))


def goods() -> list[bytes]:
    """Each format as it is, and with a change."""
    return [bytes([n]) + change for n in range(len(_formats())) for change in (b"", b"\5\7\16")]
