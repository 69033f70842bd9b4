"""The kinds of value a configuration key may hold: how a node of the file becomes one, and the same as JSON Schema.

A scalar is read as what its key expects: in a list of names `[yes, no, on, off, 1]` are five names, for a `Flag` yes is
true, and for a `Number` none of them but 1 will do. A kind that refuses notes the problem and returns None.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from idiolect.config.tree import FLAGS, NUMBER, Node, Place, Reading, describe, label
from idiolect.values import name_key, person_name

Schema = dict[str, object]
_LIKE_ANOTHER = 0.7
"""Likeness from which on a misspelt key may be another section's; rather too careful than too trustful."""


class Kind:
    """The values that a key may hold. ``word``, where a subclass has it, is one word more, such as ``all``."""

    word: str = ""

    def read(self, node: Node, key: str, reading: Reading) -> object:
        """Return the value of ``node``, or None with a problem noted; ``key`` is its dotted name."""
        if self.word and node.shape == "scalar" and node.text == self.word:
            return self.word
        value = self._value(node)
        if value is None:
            self.refuse(node, key, reading)
        return value

    def refuse(self, node: Node, key: str, reading: Reading) -> None:
        """Note the value that was given and the one that is expected."""
        also = f"{self.word} or " if self.word else ""
        message = f"is {describe(node)}, expected {also}{self._expected()}{self._hint(node)}"
        reading.add(node.line, key, message, certain=not node.swallowed())

    def schema(self) -> Schema:
        """Return the rules as JSON Schema 2020-12; where that is too weak for one, the schema is the more lenient."""
        return {"anyOf": [{"const": self.word}, self._rules()]} if self.word else self._rules()

    def _value(self, node: Node) -> object:
        raise NotImplementedError

    def _expected(self) -> str:
        raise NotImplementedError

    def _rules(self) -> Schema:
        raise NotImplementedError

    def _hint(self, node: Node) -> str:  # noqa: ARG002 - for subclasses
        return ""


@dataclass(frozen=True)
class Number(Kind):
    """A finite number in ``low``..``high``, both included."""

    low: float
    high: float
    unit: str = ""
    whole: bool = False
    word: str = ""

    def _value(self, node: Node) -> float | None:
        if not node.plain or not NUMBER.fullmatch(node.text):
            return None
        value = float(node.text)  # too many digits give inf, which is out of every range
        if not self.low <= value <= self.high or (self.whole and not value.is_integer()):
            return None
        return int(value) if self.whole else value

    def _expected(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        unit = f" {self.unit}" if self.unit else ""
        return f"a {'whole ' if self.whole else ''}number from {self.low:g} to {self.high:g}{unit}"

    def _rules(self) -> Schema:
        return {"type": "integer" if self.whole else "number", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Flag(Kind):
    """True or false, in any of YAML's spellings."""

    def _value(self, node: Node) -> bool | None:
        return FLAGS.get(node.text.lower()) if node.plain else None

    def _expected(self) -> str:
        return "true or false"

    def _rules(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Choice(Kind):
    """One of ``options``; ``answers`` explains the refusal of words that someone may well try."""

    options: tuple[str, ...]
    answers: Mapping[str, str] = field(default_factory=dict)

    def _value(self, node: Node) -> str | None:
        return node.text if node.shape == "scalar" and node.text in self.options else None

    def _expected(self) -> str:
        return " or ".join(self.options)

    def _hint(self, node: Node) -> str:
        answer = self.answers.get(node.text)
        return f"; {answer}" if answer else nearest(node.text, self.options)

    def _rules(self) -> Schema:
        return {"enum": list(self.options)}


@dataclass(frozen=True)
class Text(Kind):
    """Printable text of at most ``limit`` UTF-8 bytes that ``pattern`` matches as a whole, given to ``make``.

    The pattern must mean the same to Python and to JSON Schema (ECMA-262).
    """

    what: str
    pattern: str
    limit: int
    make: Callable[[str], object] = str

    def _value(self, node: Node) -> object:
        if node.shape != "scalar" or (node.plain and self._other(node)):
            return None
        return self.make(node.text) if self._fits(node.text) else None

    @staticmethod
    def _other(node: Node) -> bool:
        """Return True if YAML takes the unquoted text for a number, true/false or nothing."""
        return node.empty() or node.text.lower() in FLAGS or NUMBER.fullmatch(node.text) is not None

    def _fits(self, text: str) -> bool:
        # isprintable first: it refuses the lone surrogates that encode would choke on
        return text.isprintable() and len(text.encode()) <= self.limit and bool(re.fullmatch(self.pattern, text))

    def _expected(self) -> str:
        return self.what

    def _rules(self) -> Schema:
        return {"type": "string", "pattern": f"^(?:{self.pattern})$", "maxLength": self.limit}


@dataclass(frozen=True)
class Name(Text):
    """A text that needs no quotes even where YAML 1.1 sees a number or true/false in it: ``no``, ``1``.

    Beyond ASCII any letter, mark or number will do, in Unicode's composed form (NFC), however it was typed.
    """

    def _value(self, node: Node) -> str | None:
        text = composed(node.text)
        if node.shape != "scalar" or node.empty() or not self._fits(text):
            return None
        return text if all(c.isascii() or unicodedata.category(c)[0] in "LMN" for c in text) else None

    def key(self, text: str) -> str:
        """Return what all spellings of a name have in common."""
        return composed(text)

    def _rules(self) -> Schema:
        numbers = ["integer"] if self._fits("1") else []
        return super()._rules() | {"type": ["string", "boolean", *numbers]}


@dataclass(frozen=True)
class PersonName(Name):
    """A person's name, by the rule that holds everywhere (``values.person_name``)."""

    def _value(self, node: Node) -> str | None:
        try:
            return person_name(node.text) if node.shape == "scalar" else None
        except ValueError:
            return None

    def _hint(self, node: Node) -> str:
        try:
            person_name(node.text)
        except ValueError as error:
            return f"; it {error}"
        return ""

    def key(self, text: str) -> str:
        """Return what all spellings of a name have in common."""
        return name_key(text)

    def _fits(self, text: str) -> bool:
        return text.isascii()  # asked by the schema only, whether an unquoted number can be one


@dataclass(frozen=True)
class Names(Kind):
    """A list of names without repetition; the value is a tuple."""

    item: Name
    example: str
    word: str = ""

    def read(self, node: Node, key: str, reading: Reading) -> object:
        """Return the names, or the word; each wrong item is noted as a problem of its own."""
        if node.shape != "list":
            return super().read(node, key, reading)
        lines: dict[object, int] = {}
        for index, child in enumerate(node.children):
            name = self.item.read(child, f"{key}[{index}]", reading)
            if name in lines:
                reading.add(child.line, f"{key}[{index}]", f"is listed twice, first on line {lines[name]}")
            elif name is not None:
                lines[name] = child.line
        return tuple(lines)

    def _value(self, node: Node) -> None:  # noqa: ARG002 - lists are read above; nothing else will do
        return None

    def _expected(self) -> str:
        return f"a list such as {self.example}"

    def _rules(self) -> Schema:
        return {"type": "array", "items": self.item.schema(), "uniqueItems": True}


class Mapped(Kind):
    """A mapping. Its entries are stored in the reading one by one under dotted keys; the mapping itself is no value."""

    def read(self, node: Node, key: str, reading: Reading) -> None:
        """Store the entries one by one; a mapping left empty, its entries commented out perhaps, sets nothing."""
        if node.shape != "map":
            if not node.empty():
                self.refuse(node, key or "file", reading)
            return
        lines: dict[str, int] = {}
        for name, child in node.entries():
            given = self._same(name.text)
            if name.shape != "scalar":
                reading.add(name.line, key or "file", f"has {describe(name)} as a key, expected a name", certain=False)
            elif given in lines:
                first, again = sorted((lines[given], name.line))  # a translated file need not be in order
                message = f"is given twice, first on line {first}"
                twice = dotted(key, label(composed(name.text)))
                reading.add(again, twice, message, certain=not child.swallowed())
            else:
                lines[given] = name.line
                outer, reading.section = reading.section, self._section_of(given, child, key, reading)
                self._entry(name, child, key, reading)
                reading.section = outer

    def _section_of(self, name: str, child: Node, key: str, reading: Reading) -> str:
        """Return the section in which a mistake in this entry certainly lies, "" where it may belong to another."""
        if not key:
            return name if self._knows(name) else ""
        certain = self._knows(name) or not (child.swallowed() or elsewhere(name, reading))
        return reading.section if certain else ""

    def _knows(self, name: str) -> bool:  # noqa: ARG002 - for subclasses
        """Return True if it is a key of this mapping and of none that one may have meant instead."""
        return False

    def _same(self, name: str) -> str:
        """Return the text that all spellings of one entry's name have in common."""
        return composed(name)

    def _entry(self, name: Node, child: Node, key: str, reading: Reading) -> None:
        """Read one entry of the mapping ``key``."""
        raise NotImplementedError

    @staticmethod
    def _store(kind: Kind, name: Node, child: Node, key: str, reading: Reading) -> None:
        given = composed(name.text)
        value = kind.read(child, dotted(key, label(given)), reading)
        if value is not None:
            place = Place(reading.source, name.line, tuple(item.line for item in child.children))
            reading.values[dotted(key, given)] = value
            reading.places[dotted(key, given)] = place


@dataclass(frozen=True)
class Table(Mapped):
    """A mapping from names of one's own to values of one kind.

    Where that is a section, the name alone is stored, too: whoever is named is there, with nothing more said of them.
    """

    name: Name
    value: Kind

    def _same(self, name: str) -> str:
        return self.name.key(name)

    def _entry(self, name: Node, child: Node, key: str, reading: Reading) -> None:
        read = self.name.read(name, dotted(key, label(name.text)), reading)
        if read is None:
            return
        given = escaped(str(read))
        reading.spellings[dotted(key, given)] = dotted(key, self._same(name.text))
        if isinstance(self.value, Mapped):
            reading.values[dotted(key, given)] = None
            reading.places[dotted(key, given)] = Place(reading.source, name.line)
            self.value.read(child, dotted(key, given), reading)
        else:
            self._store(self.value, name, child, key, reading)

    def _expected(self) -> str:
        return "a mapping from names to values"

    def _rules(self) -> Schema:
        names = self.name.schema() | {"type": "string"}
        return {"type": ["object", "null"], "propertyNames": names, "additionalProperties": self.value.schema()}


@dataclass(frozen=True)
class Section(Mapped):
    """A mapping with known keys, any of which may be left out; it becomes an instance of the dataclass ``of``."""

    keys: Mapping[str, Kind]
    of: type[Any]

    def _knows(self, name: str) -> bool:
        return name in self.keys

    def _entry(self, name: Node, child: Node, key: str, reading: Reading) -> None:
        kind = self.keys.get(name.text)
        if kind is None:
            instead = "" if reading.full else self._instead(name.text, reading)
            reading.add(name.line, dotted(key, label(name.text)), f"unknown key{instead}")
        elif isinstance(kind, Mapped):
            kind.read(child, dotted(key, name.text), reading)
        else:
            self._store(kind, name, child, key, reading)

    def _instead(self, name: str, reading: Reading) -> str:
        here = tuple(self.keys)
        home = reading.homes.get(name)
        if home:
            return nearest(name, here, 0.85) or f'; did you mean "{home}"?'
        return nearest(name, here) or f"; known here: {', '.join(here)}"

    def _expected(self) -> str:
        return "keys such as " + ", ".join(f"{key}:" for key in tuple(self.keys)[:3])

    def _rules(self) -> Schema:
        properties = {key: kind.schema() for key, kind in self.keys.items()}
        return {"type": ["object", "null"], "additionalProperties": False, "properties": properties}


def dotted(key: str, name: str) -> str:
    """Return the name of an entry of the mapping ``key``, which is "" for the outermost."""
    return f"{key}.{name}" if key else name


_PART = r"(?:[^.\\]|\\.)+"
"""One name in a dotted key, as ``escaped`` leaves it."""


def escaped(name: str) -> str:
    """Return a name of somebody's own as a part of a dotted key, where its full stops are no borders."""
    return name.replace("\\", r"\\").replace(".", r"\.")


def unescaped(part: str) -> str:
    """Return the name that ``escaped`` was given."""
    return re.sub(r"\\(.)", r"\1", part)


def parts(key: str) -> list[str]:
    """Return the names in a dotted key."""
    return [unescaped(part) for part in re.findall(_PART, key)]


def prefixes(key: str) -> list[str]:
    """Return a dotted key's beginnings, each a key itself, the shortest first."""
    return [key[: part.end()] for part in re.finditer(_PART, key)]


def composed(text: str) -> str:
    """Return Unicode's composed form, so that the two ways of typing a name are one name."""
    return unicodedata.normalize("NFC", text)


def elsewhere(name: str, reading: Reading) -> bool:
    """Return True if an unknown key resembles one of another section, and may have been meant for it."""
    inside = f"{reading.section}."
    others = [last for last, home in reading.homes.items() if home != reading.section and not home.startswith(inside)]
    return nearest(name, others, _LIKE_ANOTHER) != ""


def nearest(word: str, options: Sequence[str], likeness: float = 0.6) -> str:
    """Return ``; did you mean "x"?`` for the option most like ``word``, or nothing."""
    if len(word) > 64:  # the comparison is quadratic
        return ""
    by_fold = {option.casefold(): option for option in options}
    found = get_close_matches(word.casefold(), list(by_fold), n=1, cutoff=likeness)
    return f'; did you mean "{by_fold[found[0]]}"?' if found else ""
