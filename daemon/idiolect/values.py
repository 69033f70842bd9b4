"""Frozen values that cross module borders. Positions are counted in 16 kHz samples since the stream began."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the command line imports this module and must stay free of numpy
    import numpy as np
    from numpy.typing import NDArray
from collections.abc import Mapping

SAMPLE_RATE = 16_000
"""Hz; everything behind the microphone is mono at this rate."""
BLOCK = 1_280
"""Samples per block (80 ms): one step of the encoder."""
HOP = 160
"""Samples between two log-mel frames (10 ms)."""
FRAMES = BLOCK // HOP
"""Log-mel frames per block."""
MELS = 32
"""Log-mel bins per frame."""
EMBEDDING = 96
"""Numbers per embedding."""
WINDOW = 16
"""Embeddings per window: what one spoken phrase looks like, shape (16, 96)."""

MAX_PAUSE_S = 604_800
"""A pause that ends by itself lasts a week at most."""

GUEST = "guest"
"""The profile that is nobody: base model, nothing stored."""

EventKind = Literal["wake", "phrase", "rejected"]


@dataclass(frozen=True, slots=True)
class Captured:
    """One block from a microphone.

    ``samples`` is int16, shape (1280,), 16 kHz mono. ``lost`` counts the samples (at 16 kHz) missing
    between the previous block and this one: 0 in an unbroken stream, more after an overrun or a re-open.
    """

    samples: NDArray[np.int16]
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Detection:
    """What the decoder decided, in samples and scores only: the pipeline knows no clock.

    ``score``, ``margin`` (score minus the runner-up's) and ``threshold`` lie in 0..1; ``start`` and ``end``
    are sample positions of the utterance as far as the pipeline can tell; ``phrase`` is "" when rejected. With the
    ``reason`` "ambiguous" it was one of two phrases, ``between`` which nobody can tell.
    """

    kind: EventKind
    phrase: str
    score: float
    margin: float
    threshold: float
    start: int
    end: int
    profile: str = GUEST
    adapter: int = 0
    reason: Literal["", "ambiguous"] = ""
    between: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """A detection as others see it: with an id that is unique across restarts and the wall time of its end."""

    id: str
    time: float
    detection: Detection

    def as_dict(self) -> dict[str, object]:
        """The event as JSON carries it; ``time`` in seconds since the Unix epoch."""
        d = self.detection
        unclear = {"reason": d.reason, "between": list(d.between)} if d.reason else {}
        return {
            "id": self.id,
            "time": round(self.time, 3),
            "kind": d.kind,
            "phrase": d.phrase,
            "score": round(d.score, 4),
            "margin": round(d.margin, 4),
            "threshold": round(d.threshold, 4),
            "profile": d.profile,
            "adapter": d.adapter,
            "start": d.start,
            "end": d.end,
            **unclear,
        }


DEAF = ("absent", "busy", "stalled", "format", "failed")
"""States of the microphone in which nobody can be heard, though nobody wanted that."""


@dataclass(frozen=True, slots=True)
class MicrophoneHealth:
    """How capture is doing. ``state``: opening, running, absent, busy, stalled, format, failed, ended or paused."""

    state: str = "opening"
    reason: str = ""
    fix: str = ""
    device: str = ""
    rate: int = 0
    channels: int = 0
    overruns: int = 0
    reopened: int = 0
    dropped_blocks: int = 0
    level_dbfs: float = -120.0


def counted(number: object, one: str, many: str = "") -> str:
    """ "1 example", "2 examples": a number and its word; ``many`` is the plural where that is not ``one`` and an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def encodable(value: object) -> bool:
    """Whether all text in a JSON value can be written as UTF-8: JSON can spell half a character (RFC 8259, 8.2)."""
    try:
        json.dumps(value, ensure_ascii=False, default=lambda _: None).encode()
    except UnicodeEncodeError:
        return False
    return True


# -- people's names: one rule for consent, configuration, page and command line ---------------------------------------

NAME_LENGTH = 64
"""Characters that a person's name, or a phrase, may have."""
NOBODY = frozenset({GUEST, "nobody"})
"""Words that stand for no person at all."""
RESERVED_NAMES = NOBODY | {"everybody", "other"}
"""Names that no person may have: commands, answers and the page mean something else by them."""
_ID = re.compile("[0-9a-f]{16,}")
"""How ids look that we give to people, browsers and receipts: so a name must not."""
_JOINERS = "\u200c\u200d"
"""They make letters of some scripts, and emoji, what they are."""
_SELECTORS = "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
"""Variation selectors: the form of an emoji or of a Han character."""
_BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\U0001d159"
"""Letters, marks and symbols by their category, and nothing to be seen (Unicode, Default_Ignorable_Code_Point)."""
_ALIKE = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201b\u2032\u02bc\u02bb\u00b4`", "'"),
        **dict.fromkeys("\u2010\u2011\u2012\u2013", "-"),
    }
)
"""The apostrophes and hyphens that keyboards put in each other's place."""


def visible_text(text: str) -> str:
    """Return a name or a phrase in the form in which it is kept: NFC, with single spaces.

    Raises:
        ValueError: It is empty, too long, or holds what cannot be seen; the message says which.
    """
    kept = re.sub(" {2,}", " ", unicodedata.normalize("NFC", text).strip())
    shown = [c for c in kept if c not in _JOINERS and c not in _SELECTORS]
    if any(c in _BLANK or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in shown):
        raise ValueError("holds characters that cannot be seen: type it anew")
    if len(kept) > NAME_LENGTH or not any(unicodedata.category(c)[0] in "LN" or _pictured(c) for c in shown):
        raise ValueError(f"must have 1 to {NAME_LENGTH} visible characters, a letter, digit or emoji among them")
    return kept


def _pictured(character: str) -> bool:
    return unicodedata.category(character) == "So"


def person_name(text: str) -> str:
    """Return a person's name in the form in which it is kept.

    Raises:
        ValueError: Nobody may have this name; the message says why, and goes on after the name of a field.
    """
    kept = visible_text(text)
    key = name_key(kept)
    if kept.startswith("-"):
        raise ValueError("begins with a hyphen, which commands take for an option: choose another")
    if key in RESERVED_NAMES:
        raise ValueError(
            f"is a word with a meaning of its own here ({', '.join(sorted(RESERVED_NAMES))}): choose another"
        )
    if is_id(key):
        raise ValueError("looks like one of the ids that this device gives: choose another")
    return kept


def name_key(text: str) -> str:
    """Return what two spellings of one name have in common; people are told apart by it, and by nothing else.

    That is Unicode's compatibility form (NFKC) in folded case, without what cannot be seen (UAX 31, NFKC_Casefold),
    with one apostrophe, one hyphen and single spaces.
    """
    folded = unicodedata.normalize("NFKC", _seen(text).translate(_ALIKE)).casefold()
    return " ".join(_seen(unicodedata.normalize("NFKC", folded)).translate(_ALIKE).split())


def _seen(text: str) -> str:
    return "".join(c for c in text if not (c in _BLANK or c in _SELECTORS or unicodedata.category(c) == "Cf"))


def is_id(text: str) -> bool:
    """Return whether text has the form of an id: it is looked up among ids, and never among names."""
    return _ID.fullmatch(text) is not None


RETENTION: Mapping[str, int] = {
    "enrol": 365,
    "adapt_corrections": 365,
    "adapt_confirmations": 90,
    "usage": 90,
    "voice_match": 365,
    "household_phrases": 365,
    "contribute": 30,
}
"""Purposes that one can agree to, with the days after which each thing kept for them goes."""


CATEGORIES: Mapping[str, str] = {
    "enrol": "numbers that describe how the person says a phrase, and the phrase",
    "adapt_corrections": "numbers that describe an utterance the person corrected, and what was meant",
    "adapt_confirmations": "numbers that describe an utterance the person confirmed, and what was understood",
    "usage": "how often each phrase was said, by day",
    "voice_match": "one vector that tells this voice from others",
    "household_phrases": "which phrases of the person everybody may say",
    "contribute": "numbers that describe utterances, until the person exports them",
}
