"""Canonical JSON: a value has one spelling, so that equal content is equal bytes and a digest means one thing.

The form: keys sorted by code point, no spaces, UTF-8, text escaped no more than JSON demands, no
number that is not whole. ``encode`` writes it; ``parse`` takes nothing else, and names what it objects to.
``strict`` takes any spelling of the same values, for files that other programs write.

Both readers are bounded before they parse: by size, then by ``structure``, so that neither a deep nor a wide value
reaches the parser of the standard library.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from idiolect.errors import BundleError
from idiolect.host import structure
from idiolect.trust.bundle.source import FORM, SIZE

CAP = 64 << 10
"""Bytes of a file, unless it has a cap of its own."""
MAX_DEPTH = 8
"""Containers inside each other, the outermost included."""
MAX_ENTRIES = 4096
"""Brackets and commas together: no value holds more members than that."""
MAX_INTEGER = 2**63 - 1
"""Absolute value of whole numbers, which every language reads exactly in 64 bits."""
_MAX_DIGITS = 20


class NotCanonicalError(ValueError):
    """Raised for a value that is not allowed, or not in its one spelling; the message completes "the file ..."."""


def encode(value: object) -> bytes:
    """Return ``value`` as JSON in its one spelling.

    Payload such as `head.json` is written with it too, and may hold floats; what is signed and parsed may not.

    Raises:
        ValueError: for floats that are not finite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse(raw: bytes, cap: int = CAP) -> Any:
    """Return the value that ``raw``, of at most ``cap`` bytes, spells canonically. Raises ``NotCanonicalError``."""
    if len(raw) > cap:
        raise NotCanonicalError(f"has {len(raw)} bytes, more than the {cap} that it may have")
    value = strict(raw)
    try:
        again = encode(value)
    except UnicodeEncodeError:
        raise NotCanonicalError("holds half a surrogate pair, which is no text") from None
    if again != raw:
        raise NotCanonicalError("is not canonical JSON (keys sorted, no spaces, one spelling)")
    return value


def parse_object(file: str, raw: bytes, cap: int = CAP) -> dict[str, Any]:
    """Return the JSON object in a ``file`` of a bundle. Raises ``BundleError`` with check 1 (size) or 2 (form)."""
    try:
        value = parse(raw, cap)
    except NotCanonicalError as error:
        raise BundleError(file, str(error), SIZE if len(raw) > cap else FORM) from None
    if not isinstance(value, dict):
        raise BundleError(file, "must be a JSON object", FORM)
    return value


def strict(raw: bytes) -> Any:
    """Return the value in ``raw``, in any spelling: no key twice, no floats, bounded. Raises ``NotCanonicalError``.

    The caller has bounded the size of ``raw`` when reading it.
    """
    try:
        structure.check(raw, parts=MAX_ENTRIES, depth=MAX_DEPTH)
    except structure.StructureError as error:
        raise NotCanonicalError(str(error)) from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise NotCanonicalError("is not UTF-8") from None
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise NotCanonicalError(f"is not JSON, or is cut short (at character {error.pos})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise NotCanonicalError("has a key twice in one object")
    return value


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS or abs(number := int(digits)) > MAX_INTEGER:
        raise NotCanonicalError("holds a whole number of more than 63 bits")
    return number


def _no_float(text: str) -> NoReturn:  # noqa: ARG001  # the spelling may be long
    raise NotCanonicalError("holds a number that is not whole: write it as text")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_whole, parse_float=_no_float, parse_constant=_no_float
)
