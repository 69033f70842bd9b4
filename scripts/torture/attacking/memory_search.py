"""Searching for bytes that should not be there: in the memory of a process, in a core, in what was written to a disk.

Keys are found as they are, backwards (as OpenSSL keeps numbers), as hexadecimal text and as base64. Sound is found by
any 32 bytes in a row of it, at any alignment: 16 samples of S16, or 8 of float32, plain or as base64. For that every
24th place of the haystack is looked up in an index of all places in the sound: fast enough for hundreds of megabytes.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RUN = 32
"""Bytes in a row that count as found."""
_KEY = 8
_STRIDE = RUN - _KEY
_BITS = 26
_ODD = np.uint64(0x9E3779B97F4A7C15)
_CHANGES = 5
"""From byte to byte, among eight, that make a place worth an entry: zeros and small numbers are everywhere."""


@dataclass(frozen=True, slots=True)
class Region:
    """One mapping of a process, with what it held at one moment. ``flags`` are those of smaps(5): "dd" is DONTDUMP."""

    start: int
    name: str
    flags: frozenset[str]
    data: bytes = field(repr=False)

    @property
    def kept_out_of_cores(self) -> bool:
        """Whether the kernel leaves it out of a core."""
        return "dd" in self.flags

    @property
    def locked(self) -> bool:
        """Whether it is never swapped."""
        return "lo" in self.flags


_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+) *(.*)")


def snapshot(pid: int) -> list[Region]:
    """Everything that a process may write to, as root sees it. ``OSError`` for who may not look."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end, mode, name, flags in list(_mappings(pid)):
            if "w" in mode and name not in ("[vvar]", "[vsyscall]"):
                found.append(Region(start, name, flags, _read(memory.fileno(), start, end)))
    return found


def _mappings(pid: int) -> Iterator[tuple[int, int, str, str, frozenset[str]]]:
    head: tuple[int, int, str, str] | None = None
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if fit := _HEADER.fullmatch(line):
            head = int(fit[1], 16), int(fit[2], 16), fit[3], fit[5]
        elif line.startswith("VmFlags:") and head is not None:
            yield *head, frozenset(line.split()[1:])


def _read(fd: int, start: int, end: int) -> bytes:
    """Page by page where it has to be: what was never touched, or went meanwhile, is not there."""
    parts, at = [], start
    while at < end:
        size = min(1 << 22, end - at)
        try:
            part = os.pread(fd, size, at)
        except OSError:
            part = b""
            if size > 4096:  # a hole in it
                part = b"".join(_page(fd, at + skip) for skip in range(0, size, 4096))
        parts.append(part or bytes(size))
        at += size
    return b"".join(parts)


def _page(fd: int, at: int) -> bytes:
    with contextlib.suppress(OSError):
        return os.pread(fd, 4096, at)
    return bytes(4096)


# -- keys --------------------------------------------------------------------------------------------------------------


def spellings(secret: bytes) -> dict[str, bytes]:
    """How a secret may lie there."""
    return {
        "raw": secret, "little-endian": secret[::-1], "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "base64": base64.b64encode(secret)[: len(secret) * 8 // 6],
    }  # fmt: skip


@dataclass(slots=True)
class Places:
    """Where a secret lies: copies in memory that no core has, copies elsewhere, by how they are spelled."""

    guarded: int = 0
    locked: int = 0
    loose: dict[str, int] = field(default_factory=dict)
    where: set[str] = field(default_factory=set)

    @property
    def total(self) -> int:
        """All copies."""
        return self.guarded + sum(self.loose.values())


def find_secret(secret: bytes, regions: Iterable[Region]) -> Places:
    """Every copy of it."""
    found = Places()
    for region in regions:
        for spelling, needle in spellings(secret).items():
            count = region.data.count(needle)
            if count and region.kept_out_of_cores:
                found.guarded += count
                found.locked += count * region.locked
            elif count:
                found.loose[spelling] = found.loose.get(spelling, 0) + count
                found.where.add(region.name or "anonymous")
    return found


# -- sound -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """Some sound: ``encoding``, the first sample of the run in what was played, where it lies."""

    encoding: str
    sample: int
    place: int


class Sound:
    """What was played, made searchable; ``more`` are other traces of it, as bytes with the samples in each of them.

    ``aligned``: it is looked for where arrays may begin, as in memory, which is quicker; else at any byte.
    """

    def __init__(
        self,
        samples: NDArray[np.int16],
        more: Mapping[str, tuple[bytes, float]] | None = None,
        *,
        aligned: bool = False,
    ) -> None:
        plain = samples.astype("<i2")
        self._made: dict[str, tuple[_Index, float]] = {}
        self._encoded: dict[str, tuple[Callable[[], bytes], float, int]] = {
            "s16": (plain.tobytes, 1 / 2, 2),
            "float32": (partial(_as_float32, plain, 1), 1 / 4, 4),
            "float32/32768": (partial(_as_float32, plain, 32_768), 1 / 4, 4),
        }
        for skip in () if aligned else range(3):  # base64 of bytes from any place on has one of three spellings
            encode = partial(_as_base64, plain.tobytes(), skip)
            self._encoded[f"base64+{skip}"] = encode, 3 / 8, 1
        for name, (data, rate) in (more or {}).items():
            self._encoded[name] = partial(bytes, data), rate, 4
        self._aligned = aligned

    def _index(self, name: str) -> tuple[_Index, float]:
        if name not in self._made:
            encode, rate, step = self._encoded[name]
            self._made[name] = _Index(encode(), step if self._aligned else 1), rate
        return self._made[name]

    def search(self, haystack: bytes, encodings: Iterable[str] = ()) -> list[Found]:
        """All runs of it, or of some ``encodings`` of it; each place in the haystack once."""
        found = []
        for name in encodings or self._encoded:
            index, rate = self._index(name)
            found += [Found(name, int(at * rate), place) for at, place in index.search(haystack)]
        return found

    def in_regions(self, regions: Iterable[Region], encodings: Iterable[str] = ()) -> dict[str, list[Found]]:
        """The same by the kind of region: "guarded" where no core has it, else "loose"."""
        found: dict[str, list[Found]] = {"guarded": [], "loose": []}
        for region in regions:
            hits = self.search(region.data, encodings)
            found["guarded" if region.kept_out_of_cores else "loose"] += hits
        return found


def _as_float32(samples: NDArray[np.int16], scale: int) -> bytes:
    return (samples.astype("<f4") / np.float32(scale)).tobytes()


def _as_base64(data: bytes, skip: int) -> bytes:
    return base64.b64encode(data[skip:])[:-4]


class _Index:
    """Every place in some bytes by the eight bytes there."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data = data
        count = max(0, len(data) - RUN)
        shifted = np.frombuffer(data, np.uint8)
        places = np.flatnonzero(_varied(shifted, count))
        places = places[places % step == 0]
        words = np.zeros(len(places), np.uint64)
        for byte in range(_KEY):
            words |= shifted[places + byte].astype(np.uint64) << np.uint64(8 * byte)
        order = np.argsort(words)
        self._words, self._places = words[order], places[order]
        self._seen = np.zeros(1 << (_BITS - 3), np.uint8)
        hashed = _hash(self._words)
        np.bitwise_or.at(self._seen, hashed >> np.uint64(3), np.uint8(1) << (hashed & np.uint64(7)).astype(np.uint8))

    def search(self, haystack: bytes) -> list[tuple[int, int]]:
        """(place in the sound, place in the haystack) of each run of RUN bytes or more, one for each _STRIDE."""
        if len(haystack) < RUN or not len(self._words):
            return []
        count = len(haystack) // _STRIDE
        lines = np.frombuffer(haystack[: count * _STRIDE], np.uint8).reshape(count, _STRIDE)
        words = np.ascontiguousarray(lines[:, :_KEY]).view("<u8").ravel()
        hashed = _hash(words)
        maybe = np.flatnonzero(self._seen[hashed >> np.uint64(3)] >> (hashed & np.uint64(7)).astype(np.uint8) & 1)
        first = np.searchsorted(self._words, words[maybe], "left")
        last = np.searchsorted(self._words, words[maybe], "right")
        found = []
        for line, low, high in zip(maybe.tolist(), first.tolist(), last.tolist(), strict=True):
            for at in self._places[low : min(high, low + 64)].tolist():
                if self._same(haystack, line * _STRIDE, at) >= RUN:
                    found.append((at, line * _STRIDE))
                    break
        return found

    def _same(self, haystack: bytes, place: int, at: int) -> int:
        """Bytes in a row that agree around two places."""
        ahead = _agree(haystack[place : place + RUN], self._data[at : at + RUN])
        behind = _agree(haystack[max(0, place - _STRIDE) : place][::-1], self._data[max(0, at - _STRIDE) : at][::-1])
        return ahead + behind


def _agree(a: bytes, b: bytes) -> int:
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def _hash(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return (words * _ODD) >> np.uint64(64 - _BITS)


def _varied(data: NDArray[np.uint8], count: int) -> NDArray[np.bool_]:
    """Where the eight bytes change often enough: silence is no find."""
    if not count:
        return np.zeros(0, np.bool_)
    changes = np.concatenate([[0], np.cumsum(data[1:] != data[:-1])])
    return np.asarray(changes[_KEY - 1 : _KEY - 1 + count] - changes[:count] >= _CHANGES)
