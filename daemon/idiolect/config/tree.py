"""Turns YAML into a tree that remembers its lines. This file knows no key and no value (`kinds`, `schema` do).

1. `read_file`: a path becomes bytes, at most MAX_BYTES of them, from a regular file only.
2. `read_tree`: bytes become `Node`s. Depth and number are capped; anchors, aliases and tags are refused, so nothing
   can expand and no object is ever constructed. After a syntax error the tree holds what stands above it.

Scalars stay text here: what an unquoted `no` or `1` means is for the key to say, not for YAML 1.1 to guess.
Problems are collected in a `Reading`, so that one run reports all of them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from idiolect.errors import Problem

MAX_BYTES = 256 * 1024
"""Bytes read from one file."""
MAX_DEPTH = 8
"""Lists and mappings inside one another."""
MAX_NODES = 10_000
"""Keys, values and list items in one file."""
MAX_PROBLEMS = 100
"""Problems reported for one file: a person fixes no more at once, and each costs a search for a suggestion."""
MAX_SHOWN = 40
"""Characters of the file's own text that a message repeats."""

NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
"""An unquoted number; 010, 0x10, 1_000 and 1:30 are none, as YAML 1.1 and 1.2 disagree about them."""
FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""Unquoted, in lower case."""
_NOT_FINITE = re.compile(r"[-+]?\.?(?:nan|inf|infinity)", re.IGNORECASE)
_EMPTY = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key was given: file and line (from 1); ``items`` are the lines of a list's items."""

    source: str
    line: int
    items: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """A remark about a file that is understood all the same: where (file, line from 1), and what."""

    source: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.what}"


@dataclass(slots=True)
class Reading:
    """One file while it is read: ``values`` and ``places`` by dotted key, and every problem so far.

    ``unreliable_from`` is the first line that a syntax error may have garbled: problems from there on would mislead.
    ``spellings`` maps the dotted key of what has a name of somebody's own to the same for every spelling of that name.
    ``homes`` maps the last part of each known key to the whole, to say where a misplaced key belongs. ``section`` is
    the key at the top of the file whose value is being read.
    """

    source: str
    homes: Mapping[str, str] = field(default_factory=dict)
    values: dict[str, object] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    spellings: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    outdated: Note | None = None
    unreliable_from: int | None = None
    section: str = ""

    @property
    def full(self) -> bool:
        """Return True if further problems are left out, so that a search for suggestions is wasted time."""
        return len(self.problems) > MAX_PROBLEMS

    def add(self, line: int, key: str, message: str, *, certain: bool = True) -> None:
        """Note one problem; beyond the cap, once, that there are more.

        ``certain`` says whether the mistake lies in the section being read and nowhere else.
        """
        if self.full or (self.unreliable_from is not None and line >= self.unreliable_from):
            return
        section = self.section if certain else ""
        if len(self.problems) == MAX_PROBLEMS:
            key, message, section = "file", "has more problems from here on; fix those above first", ""
        self.problems.append(Problem(self.source, line, key, message, section))


@dataclass(slots=True)
class Node:
    """A piece of the file. ``plain``: a scalar without quotes. A map's children are key, value, key, value...

    ``start`` and ``end`` are its place in the text, in characters, and -1 for what is in no file. ``flow``: a list or
    map in brackets.
    """

    line: int
    shape: Literal["scalar", "list", "map"]
    text: str = ""
    plain: bool = False
    children: list[Node] = field(default_factory=list)
    start: int = -1
    end: int = -1
    flow: bool = False

    def empty(self) -> bool:
        """Return True if nothing was given, as after a bare ``audio:``."""
        return self.plain and self.text in _EMPTY

    def swallowed(self) -> bool:
        """Return True if keys of another section may have ended up in here: it holds a mapping, or text like one.

        So it is after a slip of the indentation, or with a quote in the wrong place.
        """
        if self.shape == "scalar":
            return ": " in self.text or self.text.endswith(":") or ":\n" in self.text
        return self.shape == "map" or any(child.swallowed() for child in self.children)

    def entries(self) -> list[tuple[Node, Node]]:
        """Return a map's keys and values; a key that a syntax error parted from its value is left out."""
        return list(zip(self.children[::2], self.children[1::2], strict=False))


def shown(text: str) -> str:
    """Return ``text`` in quotes, escaped so that no terminal obeys it, at most MAX_SHOWN characters in all."""
    whole = repr(text[:MAX_SHOWN])
    return whole if len(text) <= MAX_SHOWN and len(whole) <= MAX_SHOWN else whole[: MAX_SHOWN - 2] + "…" + whole[0]


def label(key: str) -> str:
    """Return a key as part of a problem's field: as written where that is short and printable."""
    return key if key.isprintable() and 0 < len(key) <= MAX_SHOWN else shown(key)


def named(path: object) -> str:
    """Return a file as the source of problems: as it is where that is printable."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def describe(node: Node) -> str:
    """Return what was given, for a message: ``the number 5``, ``a list``, ``the quoted text '5'``."""
    if node.shape != "scalar":
        return "a list" if node.shape == "list" else "a mapping"
    if not node.plain:
        return f"the quoted text {shown(node.text)}"
    if node.empty():
        return "empty"
    if node.text.lower() in FLAGS:
        return f"the true/false value {node.text}"
    if _NOT_FINITE.fullmatch(node.text):
        return f"not a finite number ({node.text})"
    return f"the number {shown(node.text)[1:-1]}" if NUMBER.fullmatch(node.text) else f"the text {shown(node.text)}"


def read_file(path: Path, reading: Reading) -> bytes:
    """Return the file's bytes, or b"" with a problem noted. Never blocks: only regular files are read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISREG(mode):
                with open(fd, "rb", closefd=False) as file:
                    return file.read(MAX_BYTES + 1)
        finally:
            os.close(fd)
        problem = f"is {'a directory' if stat.S_ISDIR(mode) else 'a device, pipe or socket'}; give a regular file"
    except FileNotFoundError:
        problem = "there is no such file"
    except PermissionError:
        problem = "may not be read by this user; see its owner and mode"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = f"cannot be read: {getattr(error, 'strerror', None) or 'not a valid path'}"
    reading.add(1, "file", problem)
    return b""


class _TextError(Exception):
    """Raised when the text cannot be understood from ``line`` on."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_tree(data: bytes | str, reading: Reading) -> Node | None:
    """Return the file's tree, or None where there is none; what cannot be understood is noted in ``reading``."""
    try:
        text = _decode(data)
    except _TextError as refused:
        reading.add(refused.line, "file", str(refused))
        return None
    tree, refused_at = _compose(text)
    if refused_at is not None:
        reading.add(refused_at.line, "yaml", str(refused_at))
        reading.unreliable_from = refused_at.line
    return tree


def _decode(data: bytes | str) -> str:
    if len(data) > MAX_BYTES:
        raise _TextError(1, f"is larger than {MAX_BYTES // 1024} KiB, too large for a configuration")
    if isinstance(data, str):
        return data
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _TextError(data.count(b"\n", 0, error.start) + 1, "is not UTF-8 text from this line on") from None


def _compose(text: str) -> tuple[Node | None, _TextError | None]:
    """Return the tree as far as it could be read, and why not further."""
    builder = _Builder()
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_event():
            builder.feed(loader.get_event())  # type: ignore[no-untyped-call]
    except _TextError as refused:
        return builder.root, refused
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, _TextError(line, f"the character U+{ord(text[error.position]):04X} is not allowed in YAML")
    except yaml.MarkedYAMLError as error:
        return builder.root, _syntax(error)
    except (ValueError, OverflowError):  # PyYAML lets these through for absurd escapes and version directives
        return builder.root, _TextError(loader.line + 1 if loader else 1, "an escape or directive is out of range")
    return builder.root, None


class _Builder:
    """Builds a tree from events, without recursion; ``root`` is valid, if incomplete, after every event."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[Node] = []
        self._count = 0
        self._documents = 0

    def feed(self, event: yaml.Event) -> None:
        """Take one event; raises _TextError for what configurations do not use and for the caps."""
        line = event.start_mark.line + 1 if event.start_mark else 1  # there always is one; its type does not say so
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _TextError(line, "a second document begins here; keep one per file")
        elif isinstance(event, yaml.AliasEvent):
            raise _TextError(line, "aliases (*) are not used here; repeat the value, or quote text that begins with *")
        elif isinstance(event, yaml.NodeEvent):
            self._refuse_decorated(event, line)
            self._add(self._node(event, line))
        elif isinstance(event, yaml.CollectionEndEvent):
            node = self._open.pop()
            if node.flow and event.end_mark:
                node.end = event.end_mark.index
            elif node.children:  # a block has no end of its own: its mark is where the next thing begins
                node.end = node.children[-1].end

    @staticmethod
    def _refuse_decorated(event: yaml.NodeEvent, line: int) -> None:
        if event.anchor is not None:
            raise _TextError(line, "anchors (&) are not used here; quote text that begins with &")
        if getattr(event, "tag", None) is not None:
            raise _TextError(line, "tags (!) are not used here; quote text that begins with !")

    @staticmethod
    def _node(event: yaml.NodeEvent, line: int) -> Node:
        start = event.start_mark.index if event.start_mark else -1
        end = event.end_mark.index if event.end_mark else -1
        if isinstance(event, yaml.ScalarEvent):
            return Node(line, "scalar", event.value, plain=event.implicit[0], start=start, end=end)
        shape: Literal["list", "map"] = "list" if isinstance(event, yaml.SequenceStartEvent) else "map"
        return Node(line, shape, start=start, end=end, flow=bool(getattr(event, "flow_style", False)))

    def _add(self, node: Node) -> None:
        self._count += 1
        if self._count > MAX_NODES:
            raise _TextError(node.line, f"has more than {MAX_NODES} values, too many for a configuration")
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node
        if node.shape != "scalar":
            if len(self._open) == MAX_DEPTH:
                raise _TextError(node.line, f"is nested deeper than {MAX_DEPTH} levels")
            self._open.append(node)


_SYNTAX = (  # what PyYAML says, what a person needs to know; the first match counts
    ("'\\t'", "a tab stands where only spaces are allowed; indent and separate with spaces"),
    ("mapping values are not", 'a ":" too many here or missing above, or wrong indentation; quote text holding ": "'),
    ("could not find expected ':'", 'this line is neither "key: value" nor "- item"'),
    ("but found '<block mapping start>'", "wrong indentation; line this key up with its neighbours"),
    ("expected <block end>", "wrong indentation, or a list item among keys; line it up with its neighbours"),
    ("expected ',' or", 'a "[" or "{" opened here lacks a comma or its closing bracket'),
    ("unexpected end of stream", "a quote opened here is never closed"),
    ("unexpected document separator", "a quote opened here is never closed"),
    ("cannot start any token", "text that begins with this character needs quotes"),
    ("expected the node content", "a value or a closing bracket is missing before this"),
    ("unknown escape character", 'unknown "\\" escape; use single quotes to keep a backslash as it is'),
    ("tag", "tags (!) are not used here; quote text that begins with !"),
    ("incompatible YAML", "needs a later YAML than is understood here; remove the %YAML line"),
)
_BEGINS = ("while parsing a flow", "while scanning a quoted", "while scanning a simple key", "while scanning a double")
"""Contexts whose own place says more than the place where the error was noticed, perhaps many lines later."""


def _syntax(error: yaml.MarkedYAMLError) -> _TextError:
    problem = error.problem or ""
    message = next((ours for theirs, ours in _SYNTAX if theirs in problem), "not valid YAML")
    begins = error.context_mark is not None and (error.context or "").startswith(_BEGINS) and "escape" not in problem
    mark = error.context_mark if begins else error.problem_mark
    return _TextError(mark.line + 1, f"column {mark.column + 1}: {message}") if mark else _TextError(1, message)
