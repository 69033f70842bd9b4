"""Rewrites a configuration to the current schema: what the steps of `migrate` did to its tree is done to its text.

The steps keep every node that they do not change, so the difference of the two trees is what has to be edited; all
else is kept byte for byte. What was taken out of a block goes with the comments above and beside it; what was moved
from brackets into a block is written as a block. Nothing is believed that is not checked at the end:

1. the new text has no problem and is not outdated;
2. it means what the old text is understood to mean;
3. every comment of the old text is in it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from idiolect.config.migrate import instead, stamped, upgraded, written_for
from idiolect.config.schema import SCHEMA, parse
from idiolect.config.tree import Node, Reading, read_tree
from idiolect.errors import ConfigError, Problem

_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
"""The characters that end a line, and a comment, for PyYAML."""
_COMMENT = re.compile("#[^\r\n\x85\u2028\u2029]*")
_BOM = "\ufeff"


class _CannotError(Exception):
    """Raised where no rule here holds; the lines of the text it is about begin at ``line``."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line


@dataclass(frozen=True, slots=True)
class Migrated:
    """The new content of a file, and the schema that it was written for."""

    data: bytes
    schema: int


def migrate(data: bytes, source: str) -> Migrated | None:
    """Return the file's content in the current schema, None where it is that already. Raises ConfigError."""
    meant = parse(data, source)
    if not meant.outdated:
        return None
    text = data.decode()
    root = read_tree(text, Reading(source))
    if root is None:
        return None  # cannot be: what is outdated has keys
    line = meant.outdated[0].line
    try:
        new = _Editor(text, root).edited(stamped(upgraded(root, SCHEMA), SCHEMA))
        now = parse(new.encode(), source)  # 1
        if now == meant and not now.outdated and _comments(new) == _comments(text):  # 2, 3
            return Migrated(new.encode(), written_for(root, SCHEMA)[0])
    except _CannotError as cannot:
        line = cannot.line
    except ConfigError:
        pass
    message = f"cannot be rewritten safely: write {instead(root, SCHEMA)} by hand"
    raise ConfigError((Problem(meant.outdated[0].source, line, "file", message),))


def _comments(text: str) -> list[str]:
    """Return every comment, sorted: what stands between the scalars and begins with #."""
    root = read_tree(text, Reading(""))
    found, at = [], 0
    for node in sorted(_scalars(root) if root else (), key=lambda each: each.start):
        found += _COMMENT.findall(text, at, max(at, node.start))
        at = max(at, node.end)
    return sorted(found + _COMMENT.findall(text, at))


def _scalars(node: Node) -> Iterator[Node]:
    if node.shape == "scalar":
        yield node
    for child in node.children:
        yield from _scalars(child)


@dataclass(frozen=True, slots=True)
class _Edit:
    """An edit: ``text[start:stop]`` becomes ``new``; ``lines``: that begins on a line of its own."""

    start: int
    stop: int
    new: str
    lines: bool = False


@dataclass(frozen=True, slots=True)
class _Home:
    """The place of a key in the text: in which map, after what, with which value."""

    parent: Node
    floor: int
    value: Node


class _Text:
    """A text, its lines and its tree."""

    def __init__(self, text: str, root: Node) -> None:
        self.text, self.root = text, root
        first = _BREAK.search(text)
        self.eol = first[0] if first else "\n"
        self._starts = [len(_BOM) if text.startswith(_BOM) else 0, *(each.end() for each in _BREAK.finditer(text))]
        self._homes: dict[int, _Home] = {}
        self._note_homes(root, 0)

    def _note_homes(self, parent: Node, floor: int) -> None:
        for key, value in parent.entries() if parent.shape == "map" else ():
            self._homes[id(key)] = _Home(parent, floor, value)
            self._note_homes(value, key.end)
            floor = value.end

    def home(self, key: Node) -> _Home:
        """Return the place of a key that is in the text."""
        return self._homes[id(key)]

    def of(self, node: Node) -> str:
        """Return the text from which a node was read."""
        return self.text[node.start : node.end]

    def line_start(self, at: int) -> int:
        """Return where the line of that character begins."""
        return self._starts[max(0, bisect_right(self._starts, at) - 1)]

    def next_line(self, at: int) -> int:
        """Return where the line after it begins."""
        number = bisect_right(self._starts, at)
        return self._starts[number] if number < len(self._starts) else len(self.text)

    def column(self, at: int) -> int:
        """Return the column of a character, counted from 0."""
        return at - self.line_start(at)

    def indent(self, at: int) -> int:
        """Return how many spaces begin the line that begins there."""
        line = self.text[at : self.next_line(at)]
        return len(line) - len(line.lstrip(" "))

    def blank(self, at: int) -> bool:
        """Return True if nothing is on that line."""
        return not self.text[self.line_start(at) : self.next_line(at)].strip()

    def blank_above(self, at: int) -> bool:
        """Return True if there is a line above, with nothing on it."""
        return at > self._starts[0] and self.blank(at - 1)

    def extent(self, key: Node) -> tuple[int, int]:
        """Return the lines of a block's entry.

        They include the comments above at its own column, and the comments below that stand deeper.
        """
        home = self.home(key)
        start, column = self.line_start(key.start), self.column(key.start)
        if self.text[start : key.start].strip(" "):
            raise _CannotError(key.line)
        while start > self._starts[0]:
            above = self.line_start(start - 1)
            if above < home.floor or not self.text.startswith(" " * column + "#", above):
                break
            start = above
        end = home.value.end
        return start, self._below(end if end == self.line_start(end) else self.next_line(end), column)

    def _below(self, stop: int, column: int) -> int:
        """Return where the comments end that stand deeper than ``column`` from the line ``stop`` on, else that line."""
        ahead = stop
        while ahead < len(self.text):
            following = self.next_line(ahead)
            indent = self.indent(ahead)
            if self.text.startswith("#", ahead + indent) and indent > column:
                stop = following
            elif not self.blank(ahead):
                break
            ahead = following
        return stop

    def between_commas(self, key: Node) -> tuple[int, int]:
        """Return an entry in brackets with the comma that goes with it; comments are left where they are."""
        stop = self.home(key).value.end
        after = self._past_space(stop)
        if self.text.startswith(",", after):
            further = self._past_space(after + 1)
            return key.start, after + 1 if self.text.startswith("#", further) else further
        before = len(self.text[: key.start].rstrip())
        line = self.text[self.line_start(before - 1) : before]
        if "#" in line or not line.endswith(("{", ",")):
            return key.start, stop
        if line.endswith(","):
            return before - 1, stop
        return before, after if self.text.startswith("}", after) else stop

    def _past_space(self, at: int) -> int:
        return at + len(self.text[at:]) - len(self.text[at:].lstrip())


class _Editor:
    """Edits one text; ``edited`` returns the new one."""

    def __init__(self, text: str, root: Node) -> None:
        self._source = _Text(text, root)
        self._edits: list[_Edit] = []
        self._gone: set[int] = set()

    def edited(self, new: Node) -> str:
        """Return the text of the tree ``new``, whose nodes are those of the old tree wherever nothing changes."""
        self._compare(self._source.root, new)
        out, at = "", 0
        for edit in sorted(self._edits, key=lambda each: (each.start, each.stop)):
            out += self._source.text[at : edit.start]
            if edit.lines and out not in ("", _BOM) and not _BREAK.search(out, len(out) - 1):
                out += self._source.eol
            out, at = out + edit.new, edit.stop
        return out + self._source.text[at:]

    def _compare(self, old: Node, new: Node) -> None:
        kept = {id(key): value for key, value in new.entries()}
        for key, value in old.entries():
            if id(key) not in kept:
                self._cut(key)
            elif kept[id(key)] is not value:
                self._change(key, value, kept[id(key)])
        known = {id(key) for key, _ in old.entries()}
        after: Node | None = None
        for key, value in new.entries():
            if id(key) in known:
                after = key
            elif old.flow:
                self._add_inside(old, after, key, value)
            else:
                self._add_lines(old, after, key, value)

    def _change(self, key: Node, old: Node, new: Node) -> None:
        if old.shape == new.shape == "scalar":
            self._edits.append(_Edit(old.start, old.end, new.text))
        elif old.shape != "map" or new.shape != "map":
            raise _CannotError(key.line)
        elif new.children or not self._cut_whole(key, old):
            self._compare(old, new)

    def _cut(self, key: Node) -> None:
        inside = self._source.home(key).parent.flow
        start, stop = self._source.between_commas(key) if inside else self._source.extent(key)
        self._edits.append(_Edit(start, stop, ""))

    def _cut_whole(self, key: Node, section: Node) -> bool:
        """Cut a section as a whole whose only key goes, where no comment about anything else is in it."""
        if self._source.home(key).parent.flow or len(section.children) != 2:
            return False
        (only, value), (start, stop) = section.entries()[0], self._source.extent(key)
        first, last = (only.start, value.end) if section.flow else self._source.extent(only)
        if "#" in self._source.text[start:first] + self._source.text[last:stop]:
            return False
        self._edits.append(_Edit(start, stop, ""))
        self._gone.add(id(key))
        return True

    def _add_lines(self, parent: Node, after: Node | None, key: Node, value: Node) -> None:
        source = self._source
        lines = _Writer(source).written(key, value, " " * source.column(parent.start))
        first, last = source.extent(after or parent.children[0])
        at = last if after else first
        apart = source.blank(at) if at < len(source.text) else source.blank_above(first)
        if apart and after and id(after) not in self._gone and parent is source.root:
            lines.insert(0, "")  # as other sections are set apart
        self._edits.append(_Edit(at, at, "".join(line + source.eol for line in lines), lines=True))

    def _add_inside(self, parent: Node, after: Node | None, key: Node, value: Node) -> None:
        piece = self._inside(key, value)
        if after:
            at, piece = self._source.home(after).value.end, f", {piece}"
        elif parent.children:
            at, piece = parent.children[0].start, f"{piece}, "
        else:
            at = parent.end - 1
        self._edits.append(_Edit(at, at, piece))

    def _inside(self, key: Node, value: Node) -> str:
        """Return an entry as it is written in brackets; new names are quoted, as JSON wants them."""
        name = self._source.of(key) if key.start >= 0 else json.dumps(key.text)
        if value.shape == "map" and value.children:
            return f"{name}: {{{', '.join(self._inside(*each) for each in value.entries())}}}"
        return f"{name}: {self._source.of(value) if value.start >= 0 else value.text}"


class _Writer:
    """Writes one entry as a block, with the comments that stood in and around it."""

    def __init__(self, source: _Text) -> None:
        self._source = source
        self._lines: list[str] = []
        self._commented = 0
        """Lines up to the last one with a comment in it."""
        self._at = -1
        """End of the text that was written again; -1 before anything of it was."""

    def written(self, key: Node, value: Node, indent: str) -> list[str]:
        """Return its lines, without their ends."""
        if key.start < 0:
            self._entry(key, value, indent)
            return self._lines
        home = self._source.home(key)
        self._at, stop = (key.start, home.value.end) if home.parent.flow else self._source.extent(key)
        self._entry(key, value, indent)
        self._comments(stop, indent + "  ")
        return self._lines

    def _entry(self, key: Node, value: Node, indent: str) -> None:
        name = key.text
        if key.start >= 0:
            self._comments(key.start, indent)
            name, self._at = self._source.of(key), key.end
        if value.shape != "map" or not value.children:
            self._leaf(f"{indent}{name}:", value, indent)
            return
        self._lines.append(f"{indent}{name}:")
        for each in value.entries():
            self._entry(*each, indent + "  ")
        if value.start >= 0 and value.flow:
            self._comments(value.end, indent + "  ")

    def _leaf(self, head: str, value: Node, indent: str) -> None:
        """Write a list or a scalar as the old text has it, its further lines moved with it."""
        if value.start < 0:
            self._lines.append(f"{head} {value.text}")
            return
        first, *more = _BREAK.split(self._source.of(value))
        if value.shape == "scalar" and first[:1] in ("|", ">"):
            raise _CannotError(value.line)
        self._comments(value.start, indent)
        self._at = value.end
        line = self._source.line_start(value.start)
        block = value.shape == "list" and not value.flow
        old = self._source.column(value.start) if block else self._source.indent(line)
        by = len(indent) + 2 * block - old
        self._lines += [head, _moved(" " * old + first, by)] if block else [f"{head} {first}".rstrip(" ")]
        self._lines += [_moved(each, by) for each in more]

    def _comments(self, upto: int, indent: str) -> None:
        """Write the comments from where we are: beside the line before, where they were so, else on own lines."""
        if self._at < 0:
            return
        for number, line in enumerate(_BREAK.split(self._source.text[self._at : upto])):
            found = _COMMENT.search(line)
            if not found:
                continue
            if number == 0 and len(self._lines) > self._commented:
                code = line[: found.start()]
                self._lines[-1] += (code[len(code.rstrip()) :] or "  ") + found[0]
            else:
                self._lines.append(indent + found[0])
            self._commented = len(self._lines)
        self._at = upto


def _moved(line: str, by: int) -> str:
    """Return the line with so many more spaces before it, or fewer, as far as it has them."""
    if by >= 0 or not line.strip():
        return " " * by + line if line.strip() else line
    return line[min(-by, len(line) - len(line.lstrip(" "))) :]
