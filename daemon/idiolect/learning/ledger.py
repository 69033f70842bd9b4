"""The ledger holds one person's labelled examples in order of arrival, quarantined ones too, and the use of phrases.

An example is kept as a record of its own: four bytes with the length of a JSON header, the header, then float16
embeddings (copies, 18, 96), and those of the whole utterance where it is longer than that. The ledger's digest is the
SHA-256 over the digests of its records in order, so that "these examples and no others" can be signed.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from idiolect.errors import NONSENSE, LearningError
from idiolect.host import structure
from idiolect.listening.pipeline.space import SPAN
from idiolect.values import EMBEDDING

if TYPE_CHECKING:
    from numpy.typing import NDArray

Source = Literal["enrolment", "correction", "confirmation"]
PURPOSES: Mapping[Source, str] = {
    "enrolment": "enrol",
    "correction": "adapt_corrections",
    "confirmation": "adapt_confirmations",
}
WEIGHTS: Mapping[Source, float] = {"enrolment": 1.0, "correction": 0.5, "confirmation": 0.25}
MAX_COPIES = 8
MAX_EXAMPLES = 2000
"""Examples of one person that are kept: years of teaching."""
HALF_LIFE_DAYS = 14.0
"""Days after which a usage count is worth half."""
MAX_LENGTH = 64
"""Blocks of an utterance that an example may be of."""
MAX_CLEAR = 120
"""The highest ``Example.clear``, in dB."""
MAX_WHOLE = 64
"""Embeddings of an utterance that are kept at most."""
_HEADER_CAP = 2048
NOTHING: NDArray[np.float32] = np.zeros((0, EMBEDDING), np.float32)
"""No embeddings."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How an utterance was said, beside what is learnt from; see the fields of ``Example``."""

    length: int = 0
    clear: int = 0
    whole: NDArray[np.float32] = field(default_factory=lambda: NOTHING, repr=False)


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled utterance. ``spans`` float32 (copies, 18, 96): as spoken, then copies made while it was in RAM."""

    sequence: int
    phrase: str = field(repr=False)
    source: Source
    session: str
    """Opaque id of the sitting in which it came: weights are capped per session."""
    day: int
    """Days since the epoch."""
    receipt: str
    """Digest of the consent under which it is kept."""
    spans: NDArray[np.float32] = field(repr=False)
    heard: str = field(default="", repr=False)
    """The phrase that the device had understood, for a correction."""
    origin: str = ""
    """Id of the earlier encoder that ``spans`` were mapped from; "" as recorded. No record in the vault has one."""
    length: int = 0
    """Blocks of 80 ms that the utterance lasted; 0 where nobody knows, as in examples of old."""
    clear: int = 0
    """By how many dB it stood out from the room; 0 where nobody knows."""
    whole: NDArray[np.float32] = field(default_factory=lambda: NOTHING, repr=False)
    """All of an utterance that is too long for ``spans``, (n, 96): 2 blocks before, it, and 2 behind; else nothing."""

    @property
    def purpose(self) -> str:
        """Return the purpose of consent that covers it."""
        return PURPOSES[self.source]

    @property
    def ident(self) -> str:
        """Return the example's id as a record: its sequence number in 8 hex digits."""
        return f"{self.sequence:08x}"

    def encode(self) -> bytes:
        """Return the example as a record's bytes."""
        header = {
            "v": 1,
            "phrase": self.phrase,
            "source": self.source,
            "session": self.session,
            "day": self.day,
            "receipt": self.receipt,
            "heard": self.heard,
            "sequence": self.sequence,
            "copies": len(self.spans),
            **({"origin": self.origin} if self.origin else {}),
            **({"length": self.length} if self.length else {}),
            **({"clear": self.clear} if self.clear else {}),
            **({"whole": len(self.whole)} if len(self.whole) else {}),
        }
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        embeddings = (np.ascontiguousarray(each, "<f2").tobytes() for each in (self.spans, self.whole))
        return struct.pack("<I", len(text)) + text + b"".join(embeddings)

    def digest(self) -> bytes:
        """Return the SHA-256 of the record."""
        return hashlib.sha256(self.encode()).digest()


def decode(record: bytes) -> Example:
    """Read a record. Raises ``LearningError`` when it is none."""
    try:
        (size,) = struct.unpack_from("<I", record)
        if size > _HEADER_CAP:
            raise ValueError
        header = structure.load(record[4 : 4 + size])
        if header["v"] != 1 or header["source"] not in PURPOSES or not 1 <= header["copies"] <= MAX_COPIES:
            raise ValueError
        rows = np.frombuffer(record, "<f2", offset=4 + size).astype(np.float32).reshape(-1, EMBEDDING)
        more = int(header.get("whole", 0))
        if not 0 <= more <= MAX_WHOLE or not np.isfinite(rows).all():
            raise ValueError
        spans = rows[: len(rows) - more].reshape(header["copies"], SPAN, EMBEDDING)
        words = {name: str(header[name]) for name in ("phrase", "session", "receipt", "heard")}
        words["origin"] = str(header.get("origin", ""))
        numbers = {name: int(header[name]) for name in ("sequence", "day")}
        numbers["length"] = int(header.get("length", 0))
        numbers["clear"] = int(header.get("clear", 0))
        if not (0 <= numbers["length"] <= MAX_LENGTH and 0 <= numbers["clear"] <= MAX_CLEAR):
            raise ValueError
    except NONSENSE:
        raise LearningError("an example is not what was written", "forget it, or erase the profile") from None
    whole = rows[len(rows) - more :]
    return Example(source=header["source"], spans=spans, whole=whole, **words, **numbers)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Ledger:
    """All that is known of one person. ``usage``: (phrase, day) -> how often it was said and not corrected."""

    profile: str
    examples: tuple[Example, ...] = ()
    usage: Mapping[tuple[str, int], int] = field(default_factory=dict, repr=False)
    voice: bool = False
    """True if the consent ``voice_match`` is there."""

    def digest(self) -> str:
        """Return the SHA-256, in hex, over everything that the adapter is made from."""
        digest = hashlib.sha256(f"idiolect/ledger/v1/{self.profile}/{int(self.voice)}/".encode())
        for example in self.examples:
            digest.update(example.digest())
        for (phrase, day), count in sorted(self.usage.items()):
            digest.update(json.dumps([phrase, day, count]).encode())
        return digest.hexdigest()

    def material(self) -> str:
        """Return the SHA-256, in hex, over what a person did on purpose: all but the usage, which changes daily."""
        digest = hashlib.sha256(f"idiolect/material/v1/{int(self.voice)}/".encode())
        for example in self.examples:
            digest.update(example.digest())
        return digest.hexdigest()

    def receipts(self) -> tuple[str, ...]:
        """Return the consent receipts of all examples."""
        return tuple(sorted({example.receipt for example in self.examples}))

    def without(self, gone: Iterable[int]) -> Ledger:
        """Return the ledger as if the examples with these numbers had never been."""
        away = set(gone)
        kept = tuple(e for e in self.examples if e.sequence not in away)
        return Ledger(self.profile, kept, self.usage, self.voice)


def weights(examples: Sequence[Example]) -> NDArray[np.float64]:
    """Return how far each example may move anything, (n,), capped in order of arrival.

    Enrolment is what the person set out to do and counts in full. All else together counts at most SESSION_CAP in one
    session and DAY_CAP in one day: nobody reaches far by insisting.
    """
    spent: dict[object, float] = {}
    found = np.zeros(len(examples))
    for i, example in enumerate(examples):
        wish = WEIGHTS[example.source]
        if example.source != "enrolment":
            session, day = ("session", example.session), ("day", example.day)
            wish = min(wish, SESSION_CAP - spent.get(session, 0.0), DAY_CAP - spent.get(day, 0.0))
            spent[session] = spent.get(session, 0.0) + wish
            spent[day] = spent.get(day, 0.0) + wish
        found[i] = max(0.0, wish)
    return found


SESSION_CAP = 3.0
DAY_CAP = 6.0


def decayed(usage: Mapping[tuple[str, int], int], day: int) -> dict[str, float]:
    """Return counts by phrase as they weigh on ``day``: halved every HALF_LIFE_DAYS; the future counts as today."""
    found: dict[str, float] = {}
    for (phrase, then), count in sorted(usage.items()):
        found[phrase] = found.get(phrase, 0.0) + count * math.exp2(-max(0, day - then) / HALF_LIFE_DAYS)
    return found
