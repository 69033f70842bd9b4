"""Writes an example into a person's export, and reads one from an import.

Goes in and comes out: one row of the document's ``examples``. A row that is read comes from outside, so every field is
checked against its bounds. Nothing is kept here: ``review`` does that.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from idiolect.errors import NONSENSE, RequestError
from idiolect.host import structure
from idiolect.learning.ledger import MAX_CLEAR, MAX_COPIES, MAX_LENGTH, MAX_WHOLE, PURPOSES, Example, Manner, Source
from idiolect.listening.pipeline.space import SPAN
from idiolect.values import EMBEDDING, encodable

SCHEMA = "idiolect/person/v1"
IMPORT_CAP = 2000
_TEXTS = ("embeddings_float16", "utterance_float16")


@dataclass(frozen=True, slots=True)
class Group:
    """The fields that examples share which are kept together. ``encoder``: its id, "" for the one that runs here."""

    source: Source
    phrase: str = field(repr=False)
    session: str
    heard: str = field(repr=False)
    encoder: str


def row_of(example: Example, encoder: str) -> dict[str, object]:
    """Return an example as a row of an export. ``encoder`` is the id of the encoder that made its embeddings."""
    row: dict[str, object] = {
        "phrase": example.phrase, "source": example.source, "day": example.day, "session": example.session,
        "heard": example.heard, "copies": len(example.spans), "length": example.length, "encoder": encoder,
        "embeddings_float16": _text(example.spans),
    }  # fmt: skip
    if example.clear:
        row["clear"] = example.clear
    if len(example.whole):
        row["utterance_float16"] = _text(example.whole)
    return row


def read(row: Any) -> tuple[Group, np.ndarray, Manner]:
    """Return from a row of an import: its group, its embeddings (copies, 18, 96), and how it was said.

    Exports of old have no encoder (it is the one that runs here), no length and nothing of whole utterances.

    Raises:
        RequestError: 422, the row is no example.
    """
    try:
        if row["source"] not in PURPOSES or not 1 <= int(row["copies"]) <= MAX_COPIES:
            raise ValueError
        spans = _embeddings(row["embeddings_float16"]).reshape(int(row["copies"]), SPAN, EMBEDDING)
        whole = _embeddings(row.get("utterance_float16", ""))
        said = Manner(int(row.get("length", 0)), int(row.get("clear", 0)), whole)
        if not (0 <= said.length <= MAX_LENGTH and 0 <= said.clear <= MAX_CLEAR and len(whole) <= MAX_WHOLE):
            raise ValueError
        phrase, heard, session = str(row["phrase"]), str(row["heard"]), str(row["session"])
        encoder = str(row.get("encoder", ""))
        if not 1 <= len(phrase) <= 64 or len(heard) > 64 or len(session) > 32:
            raise ValueError
        if not re.fullmatch("([0-9a-f]{64})?", encoder) or not encodable((phrase, heard, session)):
            raise ValueError
    except NONSENSE:
        raise RequestError(422, "document", "holds an example that is none") from None
    return Group(row["source"], phrase, session, heard, encoder), spans, said


def release(rows: Sequence[Mapping[str, Any]]) -> None:
    """Free the bytes in which the rows' embeddings lie, before a round takes memory of its own."""
    for row in rows:
        for name in _TEXTS:
            if isinstance(text := row.get(name), structure.Text):
                text.release()


def _text(embeddings: np.ndarray) -> str:
    return base64.b64encode(embeddings.astype("<f2").tobytes()).decode()


def _embeddings(given: Any) -> np.ndarray:
    """Return embeddings (n, 96), float32, from their text; ``ValueError`` for text that holds none."""
    raw = given.base64() if isinstance(given, structure.Text) else base64.b64decode(given, validate=True)
    found = np.frombuffer(raw, "<f2").reshape(-1, EMBEDDING).astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError
    return found
