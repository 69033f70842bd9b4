"""Bounds JSON from outside before anything is built of it: how many parts it has, and how deep they lie.

A few bytes of JSON become many of memory: 16 MiB of ``[{},{},...]`` would be half a gigabyte of objects, and one emoji
makes four bytes of every character beside it. So whatever others wrote is looked through first, in one pass over its
bytes that builds nothing and ends at the first part too many. Each bracket and each comma is a part; what stands
inside of texts is none.

``load`` is for whatever is small. ``load_apart`` is for a person's copy, of megabytes that are a few long texts: these
stay where they lie (``Text``), and only what is around them is built.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

PARTS, DEPTH = 4096, 16
"""Bounds where a caller names no others."""
LONG = 1024
"""Bytes of a text from which on ``load_apart`` leaves it where it is."""
_ESCAPED = 1 << 16
"""The longest text with escapes in it; texts without any are as long as they like."""
_STEP = 1 << 16
"""Bytes between two parts that are looked through at once."""

# What lies between two parts, at most _STEP of it, and the part that follows.
_NEXT = re.compile(rb'[^"\[\]{},]{0,%d}+([\["\]{},]?)' % _STEP)
_REST_OF_TEXT = re.compile(rb'(?:[^"\\]|\\.){0,%d}+"' % _ESCAPED, re.DOTALL)
_BACKSLASH = ord("\\")

Pairs = Callable[[list[tuple[str, Any]]], Any] | None
Constant = Callable[[str], Any] | None


class StructureError(ValueError):
    """Raised for more than is allowed, or a text cut short; the message completes the sentence "the document ..."."""


class Source:
    """Bytes that ``Text`` points into. ``release`` gives their memory back, whoever still holds a ``Text``."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes | bytearray) -> None:
        self.raw = raw

    def release(self) -> None:
        """Give the memory back: no ``Text`` of it can be read any more.

        An error that remembers who worked on it holds no memory then.
        """
        if isinstance(self.raw, bytearray):
            with suppress(BufferError):  # somebody reads it at this moment
                self.raw.clear()
        self.raw = b""


class Text:
    """A long text, still in the bytes in which it came."""

    __slots__ = ("_end", "_source", "_start")

    def __init__(self, source: Source, start: int, end: int) -> None:
        self._source, self._start, self._end = source, start, end

    def __str__(self) -> str:
        raise ValueError("a text that is too long to be built")

    def base64(self) -> bytes:
        """Return the bytes for which the text stands in base64. Raises ``ValueError`` where it is no base64."""
        with memoryview(self._source.raw) as raw, raw[self._start : self._end] as text:
            if len(text) <= _ESCAPED and _BACKSLASH in bytes(text):  # some write a slash as \\/
                return binascii.a2b_base64(json.loads(b'"%b"' % bytes(text)).encode(), strict_mode=True)
            return binascii.a2b_base64(text, strict_mode=True)

    def release(self) -> None:
        """Give back the bytes that it and its neighbours lie in."""
        self._source.release()


def load(
    raw: bytes | bytearray, *, parts: int = PARTS, depth: int = DEPTH, pairs: Pairs = None, constant: Constant = None
) -> Any:
    """Return the value in ``raw``. Raises ``ValueError`` where it is no JSON, and ``StructureError`` beyond bounds.

    ``StructureError`` is a ``ValueError``. ``pairs`` and ``constant`` are the hooks of ``json.loads`` for objects and
    for NaN. Whoever read ``raw`` has bounded its size.
    """
    check(raw, parts=parts, depth=depth)
    return json.loads(_as_text(raw), object_pairs_hook=pairs, parse_constant=constant)


def check(raw: bytes | bytearray, *, parts: int = PARTS, depth: int = DEPTH) -> None:
    """Raise ``StructureError`` for more than so many parts, or deeper ones."""
    for _ in _texts(raw, parts, depth):
        pass


def load_apart(source: Source, *, parts: int, depth: int, around: int, pairs: Pairs = None) -> Any:
    """Return the value in ``source``, its long texts left where they are, at most ``around`` bytes beside them.

    Raises ``ValueError`` where it is no JSON, and ``StructureError`` beyond bounds.
    """
    raw, apart, cut, kept = source.raw, [], 0, bytearray()
    for start, end in _texts(raw, parts, depth, around):
        if end - start > LONG:
            kept += raw[cut : start - 1] + b"NaN"  # no JSON, so nothing else in there means the same
            apart.append(Text(source, start, end))
            cut = end + 1
    kept += raw[cut:]
    texts = iter(apart)

    def placed(name: str) -> Text:
        found = next(texts, None)
        if found is None or name != "NaN":
            raise ValueError
        return found

    value = json.loads(_as_text(kept), object_pairs_hook=pairs, parse_constant=placed)
    if next(texts, None) is not None:
        raise ValueError("constants")
    return value


def _as_text(raw: bytes | bytearray) -> str:
    """Decode UTF-8: of bytes json would guess the encoding, and in UTF-16 a quote may be half of another character.

    Without the codec utf-8-sig, which Python loads from a file: a confined child has no files.
    """
    return raw.removeprefix(b"\xef\xbb\xbf").decode()


def _texts(raw: bytes | bytearray, parts: int, depth: int, around: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield where each text begins and ends, without its quotes; ``around`` bounds the bytes outside of long ones."""
    at = seen = level = apart = texts = 0
    while at < len(raw):
        found = _NEXT.match(raw, at)
        begin, at = at, found.end() if found else len(raw)
        part = found[1] if found else b""
        texts += part == b'"'
        seen += part not in (b"", b'"')
        level += (part in (b"[", b"{")) - (part in (b"]", b"}"))
        if seen > parts or texts > 2 * parts + 1:  # a name and a value to each part is what JSON can have
            raise StructureError(f"has more than {parts} parts")
        if level > depth:
            raise StructureError(f"is nested deeper than {depth} levels")
        if part == b'"':
            end = _end_of_text(raw, at)
            yield at, end
            apart += end - at if end - at > LONG else 0
            at = end + 1
        if around is not None and at - apart > around:
            raise StructureError(f"has more than {around} bytes beside its long texts")
        if at == begin:
            break


def _end_of_text(raw: bytes | bytearray, start: int) -> int:
    """Return where the quote is that ends the text which begins at ``start``."""
    end = raw.find(b'"', start)
    if end < 0:
        raise StructureError("is cut short in the middle of a text")
    if raw[end - 1] != _BACKSLASH:
        return end
    found = _REST_OF_TEXT.match(raw, start)
    if found is None:
        raise StructureError(f"holds a text that does not end, or one of more than {_ESCAPED} characters with escapes")
    return found.end() - 1
