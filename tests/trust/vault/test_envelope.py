from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect.trust.vault import envelope
from idiolect.trust.vault.secret import Secret

KEY = Secret(b"k" * 32)
part = st.one_of(st.binary(max_size=8), st.text(max_size=4), st.integers(0, 2**64 - 1))


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_a_box_opens_to_what_was_sealed(plaintext, aad):
    box = envelope.seal(KEY, plaintext, aad)
    assert len(box) == len(plaintext) + envelope.OVERHEAD
    assert envelope.open_(KEY, box, aad) == plaintext


@given(st.binary(min_size=1, max_size=64), st.data())
def test_no_changed_bit_opens(plaintext, data):
    box = bytearray(envelope.seal(KEY, plaintext, b"place"))
    box[data.draw(st.integers(0, len(box) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(envelope.Unopened):
        envelope.open_(KEY, bytes(box), b"place")


@pytest.mark.parametrize("length", [0, 1, 11, 12, 27, 28, 59])
def test_a_short_box_does_not_open(length):
    box = envelope.seal(KEY, bytes(32), b"")[:length]
    with pytest.raises(envelope.Unopened):
        envelope.open_(KEY, box, b"")
    with pytest.raises(envelope.Unopened):
        envelope.open_key(KEY, box, b"")


def test_another_key_or_place_does_not_open():
    box = envelope.seal(KEY, bytes(32), b"place")
    for key, aad in ((Secret.random(), b"place"), (KEY, b"place "), (KEY, b"")):
        with pytest.raises(envelope.Unopened):
            envelope.open_(key, box, aad)
        with pytest.raises(envelope.Unopened):
            envelope.open_key(key, box, aad)


def test_a_refusal_carries_nothing():
    box = envelope.seal(KEY, b"something said", b"place")
    with pytest.raises(envelope.Unopened) as refusal:
        envelope.open_(KEY, box, b"elsewhere")
    assert refusal.value.__cause__ is None
    assert "said" not in repr(refusal.value)


def test_a_key_goes_through_a_box():
    inner = Secret.random()
    with envelope.open_key(KEY, envelope.seal(KEY, inner.view, b"a"), b"a") as opened:
        assert opened == inner


@given(st.lists(part, max_size=4), st.lists(part, max_size=4))
def test_fields_of_two_kinds_or_splits_never_read_alike(one, two):
    same = [(type(a), a) for a in one] == [(type(b), b) for b in two]
    assert (envelope.fields(*one) == envelope.fields(*two)) == same


def test_fields_are_lists_and_not_text():
    assert envelope.fields("ab", "c") != envelope.fields("a", "bc")
    assert envelope.fields("") != envelope.fields()
    assert envelope.fields("1") != envelope.fields(b"1") != envelope.fields(1)


def test_derive_is_hkdf_sha256():
    """RFC 5869: extract with a salt of zeros, expand one block."""
    a, b = Secret(b"a" * 32), Secret(b"b" * 32)
    pseudorandom = hmac.digest(bytes(32), b"a" * 32 + b"b" * 32, hashlib.sha256)
    expected = hmac.digest(pseudorandom, b"label\x01", hashlib.sha256)
    assert envelope.derive([a, b], b"label").view == expected
    assert envelope.derive([b, a], b"label").view != expected
    assert envelope.derive([a, b], b"labem").view != expected
    assert envelope.derive(a, b"x") == envelope.derive([a], b"x")
