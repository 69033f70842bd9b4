"""Power cuts: from the log of what a program did to a directory, what a disk may hold after one.

A disk keeps what was synced; what else it keeps is its own choice:

* of bytes written to a file since its last sync, any sectors (512 bytes), in any order: torn and reordered pages;
* of names made, moved and removed, and of files cut, the first so many, in order, as a journal of metadata has it; at
  least those in a directory up to its last sync.

Stricter than ext4, where syncing a file takes the journal along.
"""

from __future__ import annotations

import hashlib
import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
_HEAD = struct.Struct("<cQQI")
_FRESH = 1 << 60
NAMES = b"crlumxd"
"""Operations on names: create, rename, link, unlink, mkdir, exchange, rmdir."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the log: ``A`` is a promise, ``w`` bytes, ``t`` a cut, ``s`` a sync, the others are names."""

    operation: bytes
    inode: int
    offset: int
    data: bytes

    @property
    def paths(self) -> tuple[str, str]:
        """Of an operation on names."""
        one, _, other = self.data.partition(b"\0")
        return os.fsdecode(one), os.fsdecode(other)


def read(raw: bytes) -> list[Entry]:
    """The log. A file that is made gets a number of its own: file systems give those of removed ones again."""
    entries: list[Entry] = []
    at, fresh, known = 0, _FRESH, {}
    while at < len(raw):
        operation, inode, offset, length = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        if operation in (b"c", b"m"):
            known[inode] = fresh = fresh + 1
        inode = known.get(inode, inode) if operation != b"A" else inode
        entries.append(Entry(operation, inode, offset, raw[at : at + length]))
        at += length
    return entries


@dataclass
class Tree:
    """Files by number and their names; a directory is a number without bytes."""

    names: dict[str, int] = field(default_factory=dict)
    bytes: dict[int, bytearray] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Tree:
        """What lies in a directory."""
        tree = cls()
        for path in sorted(folder.rglob("*")):
            inode = path.stat().st_ino
            tree.names[str(path)] = inode
            if path.is_file():
                tree.bytes[inode] = bytearray(path.read_bytes())
        return tree

    def name(self, entry: Entry) -> None:
        """Apply an operation on names."""
        path, other = entry.paths
        if entry.operation in (b"c", b"m"):
            self.names[path] = entry.inode
            if entry.operation == b"c":
                self.bytes[entry.inode] = bytearray()
        elif entry.operation in (b"u", b"d"):
            self.names.pop(path, None)
        elif entry.operation == b"l":
            self.names[other] = self.names[path]
        else:
            moved, replaced = self._below(path), self._below(other)
            for old in (*moved, *replaced):
                del self.names[old]
            self.names |= {other + old[len(path) :]: inode for old, inode in moved.items()}
            if entry.operation == b"x":
                self.names |= {path + old[len(other) :]: inode for old, inode in replaced.items()}

    def _below(self, path: str) -> dict[str, int]:
        return {name: inode for name, inode in self.names.items() if name == path or name.startswith(f"{path}/")}

    def cut(self, inode: int, size: int) -> None:
        """Give a file another length."""
        content = self.bytes.setdefault(inode, bytearray())
        del content[size:]
        content.extend(bytes(size - len(content)))

    def write(self, inode: int, offset: int, data: bytes) -> None:
        """Give a file other bytes."""
        content = self.bytes.setdefault(inode, bytearray())
        content.extend(bytes(max(0, offset + len(data) - len(content))))
        content[offset : offset + len(data)] = data

    def digest(self) -> bytes:
        """Tells it from others."""
        found = hashlib.sha256()
        for name, inode in sorted(self.names.items()):
            found.update(name.encode() + b"\0" + hashlib.sha256(self.bytes.get(inode, b"/")).digest())
        return found.digest()

    def put(self, folder: Path, where: Path) -> None:
        """Lay it out in ``where``, as it was in ``folder``."""
        for name, inode in sorted(self.names.items()):
            path = where / Path(name).relative_to(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            if inode in self.bytes:
                path.write_bytes(self.bytes[inode])
                path.chmod(0o600)
            else:
                path.mkdir(exist_ok=True)


@dataclass(frozen=True, slots=True)
class Image:
    """What a disk may hold after a cut: how it was chosen, what had been promised, and the files."""

    how: str
    at: int
    promised: int
    tree: Tree


def images(before: Tree, entries: list[Entry], at: int, chance: random.Random, several: int) -> Iterator[Image]:
    """After the first ``at`` entries: all of it kept, as little as possible, and ``several`` times a choice."""
    done = entries[:at]
    promised = max((entry.inode for entry in done if entry.operation == b"A"), default=0)
    synced = _synced(before, done)
    named = sum(1 for entry in done if entry.operation in NAMES or entry.operation == b"t")
    for number in range(2 + several):
        how = ("all", "least")[number] if number < 2 else "some"
        keep = {"all": named, "least": synced.names}.get(how)
        if keep is None:
            keep = chance.randint(synced.names, named)
        yield Image(how, at, promised, _apply(before, done, _Synced(keep, synced.bytes), how, chance))


@dataclass(frozen=True, slots=True)
class _Synced:
    """How many operations on names are safe, and up to which entry the bytes of a file."""

    names: int
    bytes: dict[int, int]


def _synced(before: Tree, done: list[Entry]) -> _Synced:
    tree = Tree(dict(before.names), {inode: bytearray() for inode in before.bytes})
    named, safe, upto = 0, 0, {}
    last: dict[str, int] = {}
    cuts: dict[int, int] = {}
    for number, entry in enumerate(done):
        if entry.operation in NAMES:
            named += 1
            tree.name(entry)
            last |= {str(Path(path).parent): named for path in entry.paths if path}
        elif entry.operation == b"t":
            named += 1
            cuts[entry.inode] = named
        elif entry.operation == b"s":
            upto[entry.inode] = number
            safe = max(safe, cuts.get(entry.inode, 0))
            whose = next((name for name, inode in tree.names.items() if inode == entry.inode), None)
            if entry.inode not in tree.bytes:  # a directory
                safe = max(safe, last.get(whose or "", 0))
    return _Synced(safe, upto)


def _apply(before: Tree, done: list[Entry], kept: _Synced, how: str, chance: random.Random) -> Tree:
    tree = Tree(dict(before.names), {inode: bytearray(content) for inode, content in before.bytes.items()})
    named = 0
    for number, entry in enumerate(done):
        if entry.operation in NAMES or entry.operation == b"t":
            named += 1
            if named <= kept.names:
                tree.name(entry) if entry.operation in NAMES else tree.cut(entry.inode, entry.offset)
        elif entry.operation == b"w":
            if how == "all" or number <= kept.bytes.get(entry.inode, -1):
                tree.write(entry.inode, entry.offset, entry.data)
            elif how == "some":
                for at in range(0, len(entry.data), SECTOR):
                    if chance.random() < 0.5:
                        tree.write(entry.inode, entry.offset + at, entry.data[at : at + SECTOR])
    return tree
