"""Receipts: one spelling, an id that stands for every byte of it, and no reading of anything else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect.errors import VaultError
from idiolect.people import notices
from idiolect.people.receipt import HOW, Receipt, parse
from idiolect.values import CATEGORIES, RETENTION

SAMPLE = Receipt(
    record="0f" * 16,
    principal="aa" * 8,
    purpose="enrol",
    notice="ab" * 32,
    notice_version=1,
    language="en",
    state="granted",
    time=1_800_000_000,
    how="paired",
    agent=1001,
    retention_days=365,
    categories=CATEGORIES["enrol"],
)
NAMES = [field.name for field in fields(Receipt)]

receipts = st.builds(
    replace,
    st.just(SAMPLE),
    record=st.text("0123456789abcdef", min_size=32, max_size=32),
    principal=st.text("0123456789abcdef", min_size=16, max_size=16),
    purpose=st.sampled_from(list(RETENTION)),
    language=st.sampled_from(notices.LANGUAGES),
    state=st.sampled_from(["granted", "withdrawn"]),
    time=st.integers(0, 2**40),
    how=st.sampled_from(HOW),
    agent=st.integers(-1, 2**31),
    retention_days=st.integers(1, 3650),
)


def spelled(**changes: object) -> bytes:
    """The sample with other members, canonical in every other way."""
    return json.dumps(asdict(SAMPLE) | changes, sort_keys=True, separators=(",", ":")).encode()


@given(receipts)
def test_what_is_written_is_read_and_its_id_is_the_digest_of_it(receipt):
    raw = receipt.encode()
    assert raw == json.dumps(asdict(receipt), sort_keys=True, separators=(",", ":")).encode()
    assert parse(raw) == receipt
    assert parse(raw).encode() == raw
    assert receipt.ident == hashlib.sha256(raw).hexdigest()


@given(receipts, receipts)
def test_ids_are_equal_only_where_receipts_are(one, other):
    assert (one.ident == other.ident) == (one == other)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_field_is_named(name):
    left = {key: value for key, value in asdict(SAMPLE).items() if key != name}
    with pytest.raises(VaultError) as caught:
        parse(json.dumps(left, sort_keys=True, separators=(",", ":")).encode())
    assert str(caught.value).endswith(f": {name}")
    assert caught.value.fix


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [None, True, 1.5, {}, "type"])
def test_a_field_of_another_type_is_named(name, wrong):
    value: object = wrong
    if wrong == "type":
        value = "7" if isinstance(getattr(SAMPLE, name), int) else 7
    with pytest.raises(VaultError, match=f"damaged: {name}"):
        parse(spelled(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"), [("purpose", "marketing"), ("state", "GRANTED"), ("how", "assumed"), ("how", "")]
)
def test_a_value_that_consent_does_not_know_is_refused(name, value):
    with pytest.raises(VaultError, match=name):
        parse(spelled(**{name: value}))


def test_another_spelling_of_the_same_is_refused():
    value = asdict(SAMPLE)
    for raw in (
        json.dumps(value, sort_keys=True).encode(),
        json.dumps(dict(reversed(value.items())), separators=(",", ":")).encode(),
        SAMPLE.encode() + b"\n",
        SAMPLE.encode().decode().encode("utf-16"),
        SAMPLE.encode().replace(b'"agent":1001', b'"agent":1,"agent":1001'),
        spelled(extra=1),
    ):
        with pytest.raises(VaultError, match="form"):
            parse(raw)


def test_every_truncation_is_refused():
    raw = SAMPLE.encode()
    for length in range(len(raw)):
        with pytest.raises(VaultError):
            parse(raw[:length])


@given(st.integers(0, len(SAMPLE.encode()) - 1), st.integers(1, 255))
def test_a_changed_byte_never_passes_for_the_same_receipt(place, flip):
    raw = bytearray(SAMPLE.encode())
    raw[place] ^= flip
    try:
        found = parse(bytes(raw))
    except VaultError:
        return
    assert found.ident != SAMPLE.ident
    assert found.encode() == raw


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_junk_is_refused_as_damage(raw):
    with pytest.raises(VaultError) as caught:
        parse(raw)
    assert caught.value.state == "damaged"


@pytest.mark.parametrize("raw", [b"[" * 8000, b'{"a":' * 1500, b"9" * 8000, b" " * 9000, b"NaN", b"[]", b'"x"'])
def test_what_is_built_to_hurt_is_refused(raw):
    with pytest.raises(VaultError, match="form"):
        parse(raw)


def test_an_error_repeats_nothing_of_what_was_read():
    with pytest.raises(VaultError) as caught:
        parse(spelled(purpose="told in confidence"))
    assert "confidence" not in str(caught.value) + caught.value.fix


def test_what_a_receipt_says_unless_told_otherwise():
    given = {name: getattr(SAMPLE, name) for name in NAMES[:9]}
    plain = Receipt(**given)
    assert (plain.agent, plain.retention_days, plain.basis, plain.categories, plain.recipients) == (
        -1, 0, "consent", "", ()
    )  # fmt: skip
    assert (plain.schema, plain.controller) == (
        "ISO/IEC TS 27560:2023 idiolect/1", "the household that runs this device"
    )  # fmt: skip
    assert (plain.storage, plain.withdrawal) == ("on this device, encrypted", "idiolect consent withdraw, at any time")
    assert HOW == ("spoken", "paired")


def test_every_purpose_says_what_and_for_how_long():
    assert dict(RETENTION) == {
        "enrol": 365,
        "adapt_corrections": 365,
        "adapt_confirmations": 90,
        "usage": 90,
        "voice_match": 365,
        "household_phrases": 365,
        "contribute": 30,
    }
    assert set(CATEGORIES) == set(RETENTION)


@pytest.mark.parametrize("language", notices.LANGUAGES)
def test_a_notice_says_the_days_of_each_purpose_and_how_to_withdraw(language):
    for purpose, days in RETENTION.items():
        text = notices.notice([purpose], language, RETENTION)
        assert str(days) in text
        assert "idiolect" in text
        assert "withdraw" in text
    every = notices.notice(list(RETENTION), language, RETENTION)
    assert len(every.splitlines()) == len(RETENTION) + 2
    assert notices.digest(every) == hashlib.sha256(every.encode()).hexdigest()


def test_a_receipt_has_8192_bytes_at_most():
    room = 8192 - len(spelled(withdrawal=""))
    assert len(parse(spelled(withdrawal="x" * room)).encode()) == 8192
    with pytest.raises(VaultError, match="form"):
        parse(spelled(withdrawal="x" * (room + 1)))


def test_what_it_says_of_its_own_form():
    assert SAMPLE.schema == "ISO/IEC TS 27560:2023 idiolect/1"
    assert SAMPLE.basis == "consent"
