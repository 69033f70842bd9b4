"""Approvals: the numbers a TPM computes, a strict file, and which boots may have the keys."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from idiolect.errors import BundleError
from idiolect.trust.bundle import approvals, canonical
from idiolect.trust.bundle.approvals import (
    approve,
    check,
    extended,
    fit,
    for_boot,
    policy_authorize,
    policy_pcr,
    tpm_name,
)
from idiolect.trust.bundle.public_keys import fingerprint, public_pem
from tests.support.bundles import key

ZERO, M, N = bytes(32), b"m" * 32, b"n" * 32
POLICY = key("policy")
MINE = fingerprint(POLICY.public_key())
ONE = approve(POLICY, 14, ZERO, M)


# Read from a TPM (swtpm): PolicyGetDigest after PolicyPCR over a zero PCR 14, and after PolicyAuthorize by a key.
VECTOR_PCR_14 = "3c57f1e35e68f3c3e97edced5798da69bcb31f3297969bb7d5f15ef3022af069"
VECTOR_NAME = "000bf57427a4acb55869d8f68884aac25a622aa7d5ace54d0dde797cb8d866207e52"
VECTOR_AUTHORIZE = "432c977f7dcc96d9d1c92db5c7b8d7b010cf40d2b92fc2c0009a970649aee355"


def test_digests_that_a_tpm_computed():
    assert policy_pcr(14, ZERO).hex() == VECTOR_PCR_14
    assert policy_authorize(bytes.fromhex(VECTOR_NAME)).hex() == VECTOR_AUTHORIZE


def test_the_name_is_the_one_that_a_tpm_gives():
    tpm = pytest.importorskip("tpm2_pytss")
    attributes = tpm.TPMA_OBJECT.SIGN_ENCRYPT | tpm.TPMA_OBJECT.USERWITHAUTH
    short = 0
    for _ in range(600):  # one in 128 has a coordinate that begins with a zero byte
        public = ec.generate_private_key(ec.SECP256R1()).public_key()
        scheme = tpm.TPMT_ASYM_SCHEME(scheme=tpm.TPM2_ALG.NULL)
        made = tpm.TPM2B_PUBLIC.from_pem(public_pem(public), objectAttributes=attributes, scheme=scheme)
        numbers = public.public_numbers()
        # The library strips leading zeros, and a TPM refuses to load that: padded is what a TPM calls a key by.
        made.publicArea.unique.ecc.x.buffer = numbers.x.to_bytes(32, "big")
        made.publicArea.unique.ecc.y.buffer = numbers.y.to_bytes(32, "big")
        short += min(numbers.x, numbers.y) < 1 << 248
        assert tpm_name(public) == bytes(made.get_name())
    assert short


def test_an_approval_is_signed_and_fits():
    assert check(ONE, POLICY.public_key())
    assert fit(ONE, M)
    assert ONE.to == hashlib.sha256(ZERO + M).digest()
    assert not check(ONE, key("other").public_key())
    assert not fit(ONE, N)
    under_another_name = {field: getattr(ONE, field) for field in ONE.__slots__} | {"key": "0" * 64}
    assert not check(approvals.Approval(**under_another_name), POLICY.public_key())


@pytest.mark.parametrize("change", [{"pcr": 13}, {"from_": M}, {"to": M}, {"policy": M}])
def test_a_changed_approval_does_not_fit(change):
    changed = approvals.Approval(**{f: getattr(ONE, f) for f in ONE.__slots__} | change)
    assert not fit(changed, M)
    assert check(changed, POLICY.public_key()) == ("policy" not in change)


def test_an_approval_under_another_reference_is_none():
    from cryptography.hazmat.primitives import hashes

    signature = POLICY.sign(ONE.policy + b"idiolect/v2", ec.ECDSA(hashes.SHA256()))
    fields = {f: getattr(ONE, f) for f in ONE.__slots__}
    assert not check(approvals.Approval(**fields | {"signature": signature}), POLICY.public_key())


@pytest.mark.parametrize(("pcr", "value", "measured"), [(16, ZERO, M), (-1, ZERO, M), (14, b"", M), (14, ZERO, b"m")])
def test_nothing_else_can_be_approved(pcr, value, measured):
    with pytest.raises(ValueError, match="0 to 15"):
        approve(POLICY, pcr, value, measured)


def test_what_a_boot_may_have():
    after = approve(POLICY, 14, N, M)
    foreign = approve(key("other"), 14, b"f" * 32, M)
    all_ = (ONE, after, foreign)
    assert for_boot(all_, MINE, ZERO) == (ONE, True)
    assert for_boot(all_, MINE, extended(ZERO, M)) == (ONE, False)
    assert for_boot(all_, MINE, N) == (after, True)
    assert for_boot(all_, MINE, after.to) == (after, False)
    assert for_boot(all_, MINE, b"x" * 32) is None
    assert for_boot(all_, MINE, b"f" * 32) is None
    assert for_boot((), MINE, ZERO) is None
    assert for_boot(all_, MINE, ZERO, pcr=15) is None
    assert for_boot(all_, MINE, ZERO, pcr=14) == (ONE, True)


def test_a_restart_is_no_upgrade_even_where_both_are_approved():
    again = approve(POLICY, 14, ONE.to, M)
    assert for_boot((again, ONE), MINE, ONE.to) == (ONE, False)


@given(st.lists(st.tuples(st.integers(0, 15), st.binary(min_size=32, max_size=32)), unique=True, max_size=6))
def test_the_file_reads_as_it_was_written(starts):
    made = [approve(POLICY, pcr, value, M) for pcr, value in starts]
    assert set(approvals.parse(approvals.encode(made))) == set(made)
    assert approvals.encode(reversed(made)) == approvals.encode(made)


def test_256_approvals_fit_into_the_cap_and_257_are_refused():
    many = [approve(POLICY, 14, bytes([n]) * 32, M) for n in range(256)]
    raw = approvals.encode(many)
    assert len(raw) <= approvals.CAP
    assert len(approvals.parse(raw)) == 256
    fields = canonical.parse(raw, approvals.CAP)
    fields["approvals"] *= 2
    with pytest.raises(BundleError, match="at most 256"):
        approvals.parse(canonical.encode({**fields, "approvals": fields["approvals"][:257]}))
    with pytest.raises(ValueError, match="at most 256"):
        approvals.encode([*many, approve(POLICY, 13, ZERO, M)])


def test_two_approvals_of_the_same_boot_are_not_written():
    with pytest.raises(ValueError, match="another boot"):
        approvals.encode([ONE, approve(POLICY, 14, ZERO, M)])


def entry(**changes):
    return canonical.parse(approvals.encode([ONE]))["approvals"][0] | changes


def file(*entries, **more):
    return canonical.encode({"approvals": list(entries), "schema": 1} | more)


LATER = canonical.parse(approvals.encode([approve(POLICY, 14, N, M)]))["approvals"][0]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"[]", "JSON object"),
        (b"{}", "approvals and schema"),
        (file(schema=2), "schema 1"),
        (file(schema=True), "schema 1"),
        (file(more=1), "nothing else"),
        (canonical.encode({"approvals": {}, "schema": 1}), "at most 256"),
        (file(1), "exactly the fields"),
        (file(entry(more=1)), "exactly the fields"),
        (file({k: v for k, v in entry().items() if k != "to"}), "exactly the fields"),
        (file(entry(pcr=16)), "pcr must be 0 to 15"),
        (file(entry(pcr=23)), "pcr must be 0 to 15"),
        (file(entry(pcr=-1)), "pcr must be 0 to 15"),
        (file(entry(pcr=True)), "pcr must be 0 to 15"),
        (file(entry(pcr="14")), "pcr must be 0 to 15"),
        (file(entry(to="0" * 63)), "to must be 32 bytes"),
        (file(entry(to="A" * 64)), "to must be 32 bytes"),
        (file(entry(to=" " * 64)), "to must be 32 bytes"),
        (file(entry(to="g" * 64)), "to must be 32 bytes"),
        (file(entry(key=None)), "key must be 32 bytes"),
        (file(entry(signature="")), "base64"),
        (file(entry(signature="====")), "base64"),
        (file(entry(signature="é" * 20)), "base64"),
        (file(entry(signature=7)), "base64"),
        (file(entry(signature=base64.b64encode(bytes(73)).decode())), "at most 72"),
        (file(entry(signature=entry()["signature"] + "\n")), "base64"),
        (file(LATER, entry()), "not sorted"),
        (file(entry(), entry()), "twice"),
        (approvals.encode([ONE]) + b"\n", "not canonical"),
    ],
)
def test_a_file_that_says_otherwise_is_refused(raw, reason):
    with pytest.raises(BundleError, match=reason) as refusal:
        approvals.parse(raw)
    assert (refusal.value.file, refusal.value.check) == ("approvals.json", 2)


def test_a_file_above_its_cap_is_refused_for_its_size():
    with pytest.raises(BundleError) as refusal:
        approvals.parse(b" " * (approvals.CAP + 1))
    assert refusal.value.check == 1
