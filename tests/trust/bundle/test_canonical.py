"""Canonical JSON: one spelling is taken, every other refused by name, and no input takes long or goes deep."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect.errors import BundleError
from idiolect.trust.bundle import canonical
from idiolect.trust.bundle.canonical import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_INTEGER,
    NotCanonicalError,
    encode,
    parse,
    strict,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(VALUES.filter(lambda value: depth(value) <= MAX_DEPTH))
def test_what_is_written_reads_the_same(value):
    assert parse(encode(value)) == value


@given(VALUES.filter(lambda value: depth(value) <= MAX_DEPTH))
def test_every_other_spelling_is_refused_and_read_by_strict(value):
    other = json.dumps(value, indent=1).encode()
    assert strict(other) == value
    if other != encode(value):
        with pytest.raises(NotCanonicalError, match="is not canonical"):
            parse(other)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"a":1,"a":1}', "key twice"),
        (b'{"a":{"b":1,"b":2}}', "key twice"),
        (b"1.0", "not whole"),
        (b"1e2", "not whole"),
        (b"NaN", "not whole"),
        (b"-Infinity", "not whole"),
        (b"9223372036854775808", "63 bits"),
        (b"-9223372036854775808", "63 bits"),
        (b"9" * 60_000, "63 bits"),
        (b"[" * 9 + b"]" * 9, "nested deeper"),
        (b"[" * 60_000, "nested deeper"),
        (b'{"a":' * 10_000, "nested deeper"),
        (b"[" + b"1," * 4096 + b"1]", "parts"),
        (b'"\xff"', "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b'"\\ud800"', "surrogate"),
        ('{"a":1}'.encode("utf-16"), "UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', "JSON"),
        (b"", "cut short"),
        (b'{"a":', "cut short"),
        (b'"a', "cut short"),
        (b'"\\', "cut short"),
        (b"{} {}", "JSON"),
        (b'"\x00"', "JSON"),
        (b'{"b":1,"a":1}', "not canonical"),
        (b'{"a": 1}', "not canonical"),
        (b'{"a":1}\n', "not canonical"),
        (b'"\\u0041"', "not canonical"),
        (b'"\\/"', "not canonical"),
        (b"-0", "not canonical"),
    ],
)
def test_refusals_by_name(raw, why):
    with pytest.raises(NotCanonicalError, match=why):
        parse(raw)


def test_the_limits_themselves_are_allowed():
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert len(parse(encode([1] * (MAX_ENTRIES - 1)))) == MAX_ENTRIES - 1  # and one for the brackets' opening
    assert parse(str(MAX_INTEGER).encode()) == MAX_INTEGER


def test_brackets_in_text_are_no_brackets():
    value = ["[{" * 500, '"[[[[[[[[[[[', "\\"]
    assert parse(encode(value)) == value


@pytest.mark.parametrize("raw", [b'"\\"' * 20_000, b'"' * 60_000, b"[" * 60_000, b"\\" * 60_000, b'{"' * 30_000])
def test_no_input_takes_long(raw):
    start = time.process_time()
    with pytest.raises(NotCanonicalError):
        parse(raw)
    assert time.process_time() - start < 0.2


def test_objects_of_a_file_are_refused_by_its_name_and_check():
    for raw, check in ((b"{}" + b" " * 100, 1), (b"[]", 2), (b"x", 2)):
        with pytest.raises(BundleError, match=r"bundle file f\.json") as refusal:
            canonical.parse_object("f.json", raw, 50)
        assert (refusal.value.file, refusal.value.check) == ("f.json", check)


def test_a_number_that_is_not_finite_is_never_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode({"a": float("nan")})
