"""Any bytes give a value or a refusal, soon: the parsers under Hypothesis, from scratch and from good files."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, feed

JSON_LIKE = st.text(alphabet='{}[]":,0123456789abefnrstu\\.-+ \u00e9\ud7ff', max_size=200).map(
    lambda text: text.encode("utf-8", "surrogatepass")
)


PIECES = [b'"', b"{", b"[" * 50, b"1e9", b"null", b"-", b"\\u0000", b"\xff", b"9" * 30, b"a" * 64, b"true"]


def mutated(good: bytes):
    """A good file with a few spans replaced, removed or repeated."""
    span = st.tuples(st.integers(0, len(good)), st.integers(0, 40), st.binary(max_size=8) | st.sampled_from(PIECES))

    def apply(edits):
        data = good
        for at, length, new in edits:
            data = data[:at] + new + data[at + length :]
        return data

    return st.lists(span, min_size=1, max_size=4).map(apply)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_bytes_give_a_value_or_a_refusal(name, data):
    raw = data.draw(st.binary(max_size=200) | JSON_LIKE | mutated(TARGETS[name][1]))
    start = time.perf_counter()
    feed(name, raw)
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("name", TARGETS)
def test_the_good_input_is_taken(name):
    """Or the fuzzers would start nowhere."""
    TARGETS[name][0](TARGETS[name][1])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("unit", [b"[", b"{", b'{"a":', b'"', b'\\"', b"[1,", b"-----BEGIN ", b"#\n", b"\x00", b"9"])
def test_a_megabyte_of_anything_is_refused_at_once(name, unit):
    start = time.perf_counter()
    feed(name, unit * (1_000_000 // len(unit)))
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("vault-row", b"v\x80"),  # a negative number where the AAD has unsigned ones
        ("vault-file", b"|\xfc\xfc" + bytes(20) + b"\xff"),  # a damaged page that reads as NULL where there is none
    ],
)
def test_what_fuzzing_found_stays_mended(name, found):
    TARGETS[name][0](found)
