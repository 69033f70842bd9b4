"""What a device must hold: told by who changes it, before and after each operation, and kept by who kills it.

Everything in it is made here, and not read back: what is found later is compared with it byte by byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idiolect.learning import ledger
from idiolect.learning.ledger import PURPOSES, Source
from tests.support import encoders
from tests.support.learners import invented, span

MARK = "zwpqj"
"""Begins every name and phrase that is used: it must be in no file."""
UNKNOWN = "?"
"""A receipt that was not told before the process died."""
TAKES = 4
WORDS = ("yes", "no", "stop", "left")
TURNED = "turned"


@cache
def take(key: str) -> NDArray[np.float32]:
    """One utterance (1, 18, 96) by its key: "3/1" is take 1 of phrase 3, "yes/1" of a word, "... turned" is how the
    other encoder hears it.
    """
    name, _, turned = key.partition(" ")
    what, _, number = name.partition("/")
    heard = invented(int(what), int(number)) if what.isdigit() else span(what, int(number))
    if turned:
        heard = heard @ encoders.rotation().T.astype(np.float32)
    return np.asarray(heard.astype(np.float16), np.float32)


def keys(turned: bool = False) -> list[str]:
    """Every take that is used."""
    names = [*map(str, range(1, 7)), *WORDS]
    return [f"{name}/{number}" + f" {TURNED}" * turned for name in names for number in range(TAKES)]


def markers() -> list[bytes]:
    """What must not be in any file: the mark as it may be written, and a part of every take in both widths."""
    found = [MARK.encode(code) for code in ("utf-8", "utf-16-le", "utf-32-le")] + [MARK.upper().encode()]
    for key in [*keys(), *keys(turned=True)]:
        row = take(key).ravel()[400:412]
        found += [row.astype("<f2").tobytes(), row.astype("<f4").tobytes()]
    return found


@dataclass(frozen=True)
class Example:
    """An example as it was given to the device; ``encoder`` is the id of the one that heard it."""

    sequence: int
    phrase: str
    source: Source
    session: str
    day: int
    receipt: str
    take: str
    encoder: str
    heard: str = ""

    @property
    def purpose(self) -> str:
        """The purpose of consent that covers it."""
        return PURPOSES[self.source]

    def made(self) -> ledger.Example:
        """As the trainer wants it."""
        return ledger.Example(
            self.sequence, self.phrase, self.source, self.session, self.day, self.receipt, take(self.take), self.heard
        )

    @property
    def digest(self) -> str:
        """SHA-256 of its record."""
        return _digest(self)


@cache
def _digest(example: Example) -> str:
    return hashlib.sha256(example.made().encode()).hexdigest()


Table = tuple[tuple[int, str], ...]
"""Versions of an adapter: number and state."""


@dataclass(frozen=True)
class Person:
    """Somebody. ``table`` None: a round was under way, and any of ``versions`` may have come of it."""

    name: str
    receipts: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    usage: Mapping[tuple[str, int], int] = field(default_factory=dict)
    table: Table | None = ()
    versions: frozenset[int] = frozenset()
    counter: int = 0
    """The number of the newest version there ever was, or fewer."""

    def known(self, *purposes: str) -> bool:
        """Whether all of these were agreed to."""
        return all(purpose in self.receipts for purpose in purposes)

    @property
    def next_sequence(self) -> int:
        """What the next example will be called."""
        return 1 + max((e.sequence for e in self.examples), default=0)

    def kept(self, examples: Sequence[Example]) -> Person:
        """With these examples instead."""
        return replace(self, examples=tuple(sorted(examples, key=lambda e: e.sequence)))

    def after_round(self, rounds: int = 1) -> Person:
        """After rounds, whatever the gate said."""
        old = {n for n, _ in self.table} if self.table is not None else set(self.versions)
        fresh = range(self.counter + 1, self.counter + rounds + 1)
        return replace(self, table=None, versions=frozenset({*old, *fresh}))

    def after_boot(self) -> Person:
        """After a start under any bundle: what was set aside may be back, and two models may have made a version."""
        return replace(self, table=None, versions=frozenset(range(1, self.counter + 3)))

    def purged(self, rounds: int = 2) -> Person:
        """Without a version that there was before; perhaps with new ones."""
        fresh = range(self.counter + 1, self.counter + rounds + 1)
        return replace(self, table=None, versions=frozenset(fresh))

    def without_versions(self) -> Person:
        """Between the two."""
        return replace(self, table=(), versions=frozenset())


State = dict[str, Person]
"""By profile."""


@dataclass(frozen=True)
class Found:
    """What the vault has of somebody."""

    name: str
    receipts: Mapping[str, str]
    examples: tuple[tuple[int, str, str, str], ...]
    """Number, SHA-256 of the record, encoder, purpose."""
    usage: Mapping[tuple[str, int], int]
    table: Table
    counter: int


Finding = dict[str, Found]


def differences(found: Finding, wanted: State) -> list[str]:
    """Why this is not that; nothing when it is. No names: which part, of which profile."""
    if set(found) != set(wanted):
        more, less = len(set(found) - set(wanted)), len(set(wanted) - set(found))
        return [f"{more} people who should not be there, {less} who should"]
    return [
        f"{what} of {profile[:6]}" for profile in sorted(found) for what in _differ(found[profile], wanted[profile])
    ]


def _differ(found: Found, wanted: Person) -> list[str]:
    receipts = {p: found.receipts.get(p, "") if r == UNKNOWN else r for p, r in wanted.receipts.items()}
    examples = tuple((e.sequence, e.digest, e.encoder, e.purpose) for e in wanted.examples)
    numbers = {n for n, _ in found.table}
    table = found.table == wanted.table if wanted.table is not None else numbers <= wanted.versions
    said = {
        "the name": found.name == wanted.name,
        f"consent ({sorted(found.receipts)} for {sorted(receipts)})": dict(found.receipts) == receipts,
        f"examples ({_numbers(found.examples)} for {_numbers(examples)})": found.examples == examples,
        f"usage ({len(found.usage)} for {len(wanted.usage)} days)": dict(found.usage) == dict(wanted.usage),
        f"versions ({found.table} for {wanted.table or sorted(wanted.versions)})": table,
        f"the counter of versions ({found.counter} after {wanted.counter})": found.counter >= wanted.counter,
    }
    return [what for what, same in said.items() if not same]


def _numbers(examples: Sequence[tuple[int, str, str, str]]) -> str:
    """Number, beginning of the digest, and purpose of each."""
    return " ".join(f"{number}:{digest[:4]}:{purpose[-5:]}" for number, digest, _, purpose in examples) or "none"


def resolved(wanted: State, found: Finding) -> State:
    """What was expected, with what could not be known before."""
    return {
        profile: replace(
            person, receipts=dict(found[profile].receipts), table=found[profile].table, versions=frozenset(),
            counter=found[profile].counter,
        )
        for profile, person in wanted.items()
    }  # fmt: skip


@dataclass
class Story:
    """``kept`` surely; ``after`` what follows step by step from the operation in course, of which any may be there."""

    kept: State = field(default_factory=dict)
    after: list[State] = field(default_factory=list)
    operation: str = "start"
    erased: set[str] = field(default_factory=set)
    minimum: int = 0
    """The highest version that was, or may have been, marked good."""
    count: int = 0
    head: str = ""
    """Where the audit log ended when an operation last returned."""
    proven: set[tuple[Any, ...]] = field(default_factory=set)
    """Versions that were made again already, and out came the same bytes."""

    def match(self, found: Finding) -> tuple[State | None, list[str]]:
        """The state that was found, or what differs from the nearest."""
        tried = [(differences(found, wanted), wanted) for wanted in [self.kept, *self.after]]
        fewest, wanted = min(tried, key=lambda each: len(each[0]))
        return (None, fewest) if fewest else (resolved(wanted, found), [])
