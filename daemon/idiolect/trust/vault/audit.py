"""The audit log: an append-only hash chain of entries that say what was done, and never what was said or by whom.

An entry has a number (from 1), a time (whole seconds since the epoch), a kind, and a body of the fields that ``KINDS``
allows: counts, digests, opaque ids and words of closed lists. Its canonical form is JSON with sorted keys, no spaces
and nothing beyond ASCII, of the object {body, kind, seq, time}. The chain:

    hash(0) = SHA-256("idiolect/audit/start/v1" || device id)
    hash(n) = SHA-256("idiolect/audit/entry/v1" || hash(n - 1) || canonical entry n)

Entries come in segments of 256. Old segments may be dropped as a whole; what stays is the *anchor*, number and hash of
the last entry dropped, from which the rest is still walked to the head. The vault keeps anchor and head under its root.

An export is checked elsewhere (``verify_export``) with the standard library alone:

1. it has at most 8 MiB, is JSON without double keys, floats or huge numbers, and has exactly the fields of its schema;
2. every entry has the shape of an entry; anchor, count and number of entries agree;
3. the entries are numbered without a gap from the anchor on (one is missing, or two were exchanged);
4. every entry's hash follows from the one before and its content (something was edited);
5. the chain ends in the head that the export names, and in the one that the caller knows from elsewhere, if any.
   A chain that was hashed anew from some entry on passes 4: only a head from a TPM quote or a former export tells.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from idiolect.errors import TrustError
from idiolect.host import structure

SCHEMA = "idiolect/audit/export/v1"
SEGMENT = 256
"""Entries in a segment."""
MAX_SEGMENTS = 16
"""Whole segments that a log keeps at most; the oldest goes when one more is full."""
MAX_ENTRIES = (MAX_SEGMENTS + 1) * SEGMENT
EXPORT_CAP, EXPORT_PARTS = 8 << 20, 1 << 17
"""Bytes, brackets and commas of the largest export that is read."""
BODY_CAP = 512
"""Bytes of the largest body."""
MAX_NUMBER = 2**53 - 1
"""The largest number that every JSON reader takes exactly."""
NONCE_CAP = 64

PURPOSES = (
    "enrol",
    "adapt_corrections",
    "adapt_confirmations",
    "usage",
    "voice_match",
    "household_phrases",
    "contribute",
    "device",
    "consent",
    "adapter",
)
"""The purposes for which data may be kept."""

NUMBER = re.compile(r"[0-9]{1,16}")
DIGEST = re.compile(r"[0-9a-f]{64}")
ID = re.compile(r"[0-9a-f]{0,64}")
PURPOSE = re.compile("|".join(PURPOSES))
HOW = re.compile("spoken|paired")
WHY = re.compile("bundle|encoder|expired|disuse")
CAUSE = re.compile("start|timeout|crash|oversize|garbled")
STATE = re.compile("shadow|canary|active|superseded|rolled-back|base")

KINDS: Mapping[str, Mapping[str, re.Pattern[str]]] = {
    "provisioned": {"generation": NUMBER},
    "keys-released": {"bundle": DIGEST, "version": NUMBER, "pcr": NUMBER},
    "bundle-good": {"bundle": DIGEST, "version": NUMBER},
    "key-added": {"profile": ID, "purpose": PURPOSE, "receipt": ID},
    "key-withdrawn": {"profile": ID, "purpose": PURPOSE, "receipt": ID, "count": NUMBER},
    "erased": {"profile": ID, "count": NUMBER},
    "forgot": {"profile": ID, "purpose": PURPOSE, "count": NUMBER},
    "put": {"profile": ID, "purpose": PURPOSE, "count": NUMBER},
    "consent-granted": {"profile": ID, "purpose": PURPOSE, "receipt": ID, "how": HOW},
    "consent-withdrawn": {"profile": ID, "purpose": PURPOSE, "receipt": ID, "count": NUMBER},
    "browser-paired": {"profile": ID},
    "browsers-forgotten": {"count": NUMBER},
    "certificate-made": {"digest": DIGEST},
    "learning-paused": {"seconds": NUMBER},
    "learning-resumed": {},
    "example-kept": {"profile": ID, "purpose": PURPOSE, "sequence": NUMBER, "count": NUMBER},
    "phrases-shared": {"profile": ID, "count": NUMBER},
    "quarantined": {"profile": ID, "sequence": NUMBER, "check": NUMBER},
    "adapter-made": {
        "profile": ID,
        "adapter": NUMBER,
        "digest": DIGEST,
        "examples": NUMBER,
        "state": STATE,
        "held_out": NUMBER,
        "wrong": NUMBER,
        "wrong_before": NUMBER,
        "guard_lost": NUMBER,
        "guard_won": NUMBER,
        "mapped": NUMBER,
    },
    "adapter-refused": {"profile": ID, "check": NUMBER, "examples": NUMBER},
    "adapter-moved": {
        "profile": ID,
        "adapter": NUMBER,
        "state": STATE,
        "uses": NUMBER,
        "corrections": NUMBER,
        "lost": NUMBER,
        "won": NUMBER,
    },
    "adapter-retired": {"profile": ID, "adapter": NUMBER, "why": WHY},
    "encoder-changed": {"profile": ID, "encoder": DIGEST, "mapped": NUMBER, "unmapped": NUMBER, "map": DIGEST},
    "self-tested": {
        "profile": ID,
        "adapter": NUMBER,
        "passed": NUMBER,
        "unseen": NUMBER,
        "lost": NUMBER,
        "won": NUMBER,
        "guard_lost": NUMBER,
        "guard_won": NUMBER,
    },
    "round-failed": {"profile": ID, "cause": CAUSE},
    "checkpoint": {"count": NUMBER, "head": DIGEST, "quoted": NUMBER},
    "adapters-purged": {"profile": ID, "count": NUMBER},
    "exported": {"profile": ID, "count": NUMBER},
    "imported": {"profile": ID, "count": NUMBER},
    "rotated": {"generation": NUMBER},
    "swept": {"count": NUMBER, "day": NUMBER},
    "pruned": {"count": NUMBER},
    "restored": {"version": NUMBER, "count": NUMBER},
}
"""The kinds of entries and the fields that each may have. A new kind is one line here."""

_KIND = re.compile(r"[a-z][a-z-]{0,31}")
_FIELD = re.compile(r"[a-z][a-z_]{0,31}")
_VALUE = re.compile(r"[0-9a-z_-]{0,64}")


class AuditError(TrustError):
    """Raised when a log or its export is not what was written; ``entry`` is the number of the first at fault, or 0."""

    exit_code = 65  # EX_DATAERR
    state = "damaged"

    def __init__(self, check: int, message: str, entry: int = 0) -> None:
        where = f"entry {entry} " if entry else ""
        fix = "do not rely on it from there on" if entry else "get the export again from the device"
        super().__init__(f"audit log refused ({check}): {where}{message}", fix)
        self.check = check
        self.entry = entry


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the chain: how many entries lie before it, and the hash of the last of them."""

    count: int
    head: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; ``body`` is canonical JSON, ``hash`` 32 bytes."""

    seq: int
    time: int
    kind: str
    body: str
    hash: bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as JSON carries it."""
        body = json.loads(self.body)
        return {"seq": self.seq, "time": self.time, "kind": self.kind, "body": body, "hash": self.hash.hex()}


@dataclass(frozen=True, slots=True)
class Summary:
    """A verified export. ``kinds`` counts its entries by kind; ``nonce`` is the one the verifier had asked with."""

    device: str
    anchor: Mark
    end: Mark
    nonce: bytes
    kinds: Mapping[str, int]

    @property
    def qualifying_data(self) -> bytes:
        """Return the data that a TPM quote for this export has to carry, 32 bytes."""
        return qualifying_data(self.end.head, self.end.count, self.nonce)


def canonical(value: object) -> str:
    """Return ``value`` as JSON in one form: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def start(device: str) -> Mark:
    """Return where a device's chain begins."""
    return Mark(0, hashlib.sha256(b"idiolect/audit/start/v1" + device.encode()).digest())


def append(mark: Mark, time: int, kind: str, fields: Mapping[str, int | str]) -> Entry:
    """Make the entry that follows ``mark``; fields may be left out.

    ``ValueError`` where kind or fields are not in ``KINDS`` (a programming error) names no value: it may be private.
    """
    allowed = KINDS.get(kind)
    if allowed is None:
        raise ValueError("no such kind of audit entry")
    for name, value in fields.items():
        pattern = allowed.get(name)
        number = pattern is NUMBER
        fits = isinstance(value, int if number else str) and not isinstance(value, bool)
        if not pattern or not fits or not pattern.fullmatch(str(value)) or (number and int(value) > MAX_NUMBER):
            raise ValueError(f"an audit entry {kind} has no such field, or not with such a value")
    body = canonical(dict(fields))
    if len(body) > BODY_CAP:
        raise ValueError("an audit entry's body is too long")
    bare = Entry(mark.count + 1, max(0, min(int(time), MAX_NUMBER)), kind, body, b"")
    return Entry(bare.seq, bare.time, kind, body, chained(mark.head, bare))


def chained(before: bytes, entry: Entry) -> bytes:
    """Return the hash of an entry after one with the hash ``before``."""
    text = f'{{"body":{entry.body},"kind":"{entry.kind}","seq":{entry.seq},"time":{entry.time}}}'
    return hashlib.sha256(b"idiolect/audit/entry/v1" + before + text.encode()).digest()


def walk(mark: Mark, entries: Iterable[Entry]) -> Mark:
    """Follow the chain from ``mark`` over all entries, and return where it ends. ``AuditError``: checks 3 and 4."""
    for entry in entries:
        if entry.seq != mark.count + 1:
            raise AuditError(3, "is missing, or not in its place", mark.count + 1)
        if chained(mark.head, entry) != entry.hash:
            raise AuditError(4, "is not what was written", entry.seq)
        mark = Mark(entry.seq, entry.hash)
    return mark


def qualifying_data(head: bytes, count: int, nonce: bytes) -> bytes:
    """Return the 32 bytes that a TPM quote over the log signs: they name head (32 bytes), count and nonce."""
    label = b"idiolect/audit/quote/v1"
    return hashlib.sha256(label + head + count.to_bytes(8, "big") + nonce).digest()


def export(device: str, anchor: Mark, entries: Iterable[Entry], nonce: bytes = b"") -> dict[str, Any]:
    """Return a log as others may check it, ready for JSON. ``ValueError``: ``nonce`` has more than 64 bytes."""
    if len(nonce) > NONCE_CAP:
        raise ValueError(f"a nonce has at most {NONCE_CAP} bytes")
    listed = list(entries)
    end = Mark(listed[-1].seq, listed[-1].hash) if listed else anchor
    return {
        "schema": SCHEMA,
        "device": device,
        "anchor": {"count": anchor.count, "head": anchor.head.hex()},
        "entries": [entry.as_dict() for entry in listed],
        "count": end.count,
        "head": end.head.hex(),
        "nonce": nonce.hex(),
    }


def verify_export(raw: bytes, expected: Mark | None = None) -> Summary:
    """Make the checks above, and return a summary. The chain has to end in ``expected``, a head known from elsewhere.

    Raises ``AuditError``, which names the check and the entry at fault.
    """
    return verify_value(strict_json(raw), expected)


def verify_value(value: object, expected: Mark | None = None) -> Summary:
    """Check an export, as ``verify_export`` does, that ``strict_json`` has read as part of a larger document."""
    value = _export(value)
    anchor = _mark(value["anchor"], "anchor")
    end = _mark({"count": value["count"], "head": value["head"]}, "head")
    listed = value["entries"]
    if not isinstance(listed, list) or len(listed) > MAX_ENTRIES:
        raise AuditError(2, "entries must be a list, and not longer than a device keeps")
    entries = [_entry(item, anchor.count + n) for n, item in enumerate(listed, 1)]
    if anchor.count == 0 and anchor != start(value["device"]):
        raise AuditError(2, "the anchor is not the beginning of this device's chain")
    reached = walk(anchor, entries)
    if reached.count < end.count:
        raise AuditError(3, f"and all after it to {end.count} are missing", reached.count + 1)
    if reached != end or (expected is not None and reached != expected):
        raise AuditError(5, "the chain does not end in the head that is known: it was cut or written anew")
    kinds: dict[str, int] = {}
    for entry in entries:
        kinds[entry.kind] = kinds.get(entry.kind, 0) + 1
    return Summary(value["device"], anchor, end, bytes.fromhex(value["nonce"]), kinds)


def strict_json(raw: bytes) -> object:
    """Return the value in a document that passes check 1 as far as any document does. Raises ``AuditError``.

    It has to be JSON in ASCII of at most 8 MiB, without double keys, floats or huge numbers.
    """
    if len(raw) > EXPORT_CAP:
        raise AuditError(1, f"is larger than {EXPORT_CAP} bytes")
    try:
        structure.check(raw, parts=EXPORT_PARTS)
        return json.loads(
            raw.decode("ascii"),
            object_pairs_hook=_once,
            parse_float=_no_float,
            parse_constant=_no_float,
            parse_int=_small,
        )
    except structure.StructureError as error:
        raise AuditError(1, str(error)) from None
    except (ValueError, RecursionError):
        raise AuditError(1, "is not JSON, is cut short, or holds double keys or floats") from None


def _export(value: object) -> dict[str, Any]:
    """Return ``value`` as an export, if it has the fields of the schema (the rest of check 1)."""
    names = {"schema", "device", "anchor", "entries", "count", "head", "nonce"}
    if not isinstance(value, dict) or value.get("schema") != SCHEMA or set(value) != names:
        raise AuditError(1, f"is not of the schema {SCHEMA}")
    nonce = value["nonce"]
    if not _is_hex(value["device"], 64) or not _is_hex(nonce, 2 * NONCE_CAP) or len(nonce) % 2:
        raise AuditError(1, "device and nonce must be hexadecimal")
    return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("double key")
    return value


def _no_float(_: str) -> float:
    raise ValueError("float")


def _small(text: str) -> int:
    if len(text) > 16 or not 0 <= int(text) <= MAX_NUMBER:
        raise ValueError("number out of range")
    return int(text)


def _is_hex(value: object, cap: int) -> bool:
    return isinstance(value, str) and len(value) <= cap and re.fullmatch("[0-9a-f]*", value) is not None


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def _mark(value: object, what: str) -> Mark:
    """Check 2 for a place in the chain."""
    if isinstance(value, dict) and set(value) == {"count", "head"}:
        count, head = value["count"], value["head"]
        if type(count) is int and _is_hash(head):
            return Mark(count, bytes.fromhex(head))
    raise AuditError(2, f"{what} must have a count and a hash of 64 hexadecimal digits")


def _entry(value: object, seq: int) -> Entry:
    """Check 2 for an entry: its shape only, so that an older reader takes the kinds of a newer device."""
    if isinstance(value, dict) and set(value) == {"seq", "time", "kind", "body", "hash"}:
        kind, body, digest = value["kind"], value["body"], value["hash"]
        whole = type(value["seq"]) is int and type(value["time"]) is int
        if whole and isinstance(kind, str) and _KIND.fullmatch(kind) and _is_hash(digest) and _is_body(body):
            return Entry(value["seq"], value["time"], kind, canonical(body), bytes.fromhex(digest))
    raise AuditError(2, "does not have the shape of an entry", seq)


def _is_body(body: object) -> bool:
    return (
        isinstance(body, dict)
        and all(_FIELD.fullmatch(name) for name in body)
        and all(type(v) is int or (isinstance(v, str) and _VALUE.fullmatch(v)) for v in body.values())
        and len(canonical(body)) <= BODY_CAP
    )


def last_to_drop(anchor: Mark, end: Mark, keep: int) -> int:
    """Return the number of the last entry that goes when ``keep`` whole segments stay; the anchor's when none goes."""
    return max(anchor.count, (end.count // SEGMENT - max(0, keep)) * SEGMENT)
