"""Quotes that prove nothing: of another key, another question, another time, or of no TPM at all."""

from __future__ import annotations

import contextlib
import json
import struct

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.trust.bundle.public_keys import public_pem
from idiolect.trust.device import attestation
from idiolect.trust.device.attestation import AttestationError, Signed, attest_data, parse_quote, verify_quote
from idiolect.trust.device.documents import verify_attestation, verify_audit
from idiolect.trust.device.provisioning import read_record
from idiolect.trust.vault.audit import AuditError
from tests.support import bundles
from tests.support.devices import TestDevice, needs_tpm
from tests.support.swtpm import Swtpm

NONCE = bytes(range(16))
PCR = b"\x11" * 32


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


class SoftwareKey:
    """An attestation key that is not in a TPM: it signs what its owner likes."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.pem = public_pem(self.key.public_key())

    def attest(self, extra: bytes, *, magic=attestation.GENERATED, kind=attestation.QUOTE, pcr=14, value=PCR) -> bytes:
        signer = sized(attestation._qualified_name(attestation.key_name(self.pem)))
        clock = struct.pack(">QIIBQ", 1, 2, 3, 1, 4)
        selection = struct.pack(">IHB", 1, 0x000B, 3) + (1 << pcr).to_bytes(3, "little")
        digest = hashes.Hash(hashes.SHA256())
        digest.update(value)
        return struct.pack(">IH", magic, kind) + signer + sized(extra) + clock + selection + sized(digest.finalize())

    def sign(self, attest: bytes) -> bytes:
        r, s = decode_dss_signature(self.key.sign(attest, ec.ECDSA(hashes.SHA256())))
        return struct.pack(">HH", 0x18, 0x0B) + sized(r.to_bytes(32, "big")) + sized(s.to_bytes(32, "big"))


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """An attestation and an audit export by a real (software) TPM, and the key that it was provisioned with."""
    with Swtpm() as tpm:
        device = TestDevice(tmp_path_factory.mktemp("device"), tpm)
        device.provision()
        with device.boot(bundles.signed()) as custody:
            yield {
                "attest": custody.attest(NONCE),
                "export": custody.audit_export(NONCE),
                "ak": read_record(device.state).ak,
                "second": custody.audit_export(NONCE[::-1]),
            }


def changed(document, *path, value):
    copy = json.loads(json.dumps(document))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return json.dumps(copy).encode()


@needs_tpm
def test_another_devices_key_vouches_for_nothing(documents):
    raw = json.dumps(documents["attest"]).encode()
    with pytest.raises(AttestationError, match=r"refused \(2\)"):
        verify_attestation(raw, SoftwareKey().pem, NONCE)
    with pytest.raises(AttestationError, match=r"refused \(2\)"):
        verify_audit(json.dumps(documents["export"]).encode(), SoftwareKey().pem, NONCE)


@needs_tpm
@pytest.mark.parametrize(
    ("path", "value", "check"),
    [
        (("quote", "value"), "00" * 32, 5),
        (("quote", "pcr"), 15, 5),
        (("bundle", "digest"), "00" * 32, 4),
        (("quote", "attest"), "00", 2),
        (("quote", "signature"), "00", 2),
        (("quote",), None, 0),
        (("schema",), "idiolect/attestation/v2", 0),
    ],
)
def test_a_changed_attestation_is_refused_by_number(documents, path, value, check):
    with pytest.raises(AttestationError) as refusal:
        verify_attestation(changed(documents["attest"], *path, value=value), documents["ak"], NONCE)
    assert refusal.value.check == check


@needs_tpm
def test_an_old_answer_and_a_quote_over_something_else_are_refused(documents):
    old = json.dumps(documents["second"]).encode()
    with pytest.raises(AttestationError, match=r"refused \(4\)"):
        verify_audit(old, documents["ak"], NONCE)
    crossed = {**documents["attest"], "quote": documents["export"]["quote"]}
    with pytest.raises(AttestationError, match=r"refused \(4\)"):
        verify_attestation(json.dumps(crossed).encode(), documents["ak"], NONCE)


@needs_tpm
def test_a_log_cut_after_it_was_quoted_is_refused(documents):
    export = json.loads(json.dumps(documents["export"]))
    entries = export["export"]["entries"]
    del entries[-1]
    export["export"]["count"] = len(entries)
    with pytest.raises(AuditError):
        verify_audit(json.dumps(export).encode(), documents["ak"], NONCE)
    export["export"]["head"] = entries[-1]["hash"]  # a consistent, shorter chain
    raw = json.dumps(export).encode()
    assert verify_audit(raw)["quoted"] is False
    with pytest.raises(AttestationError, match=r"refused \(4\)"):
        verify_audit(raw, documents["ak"], NONCE)


def test_only_what_a_tpm_made_counts_even_under_the_right_signature():
    """A restricted key never signs bytes that begin with TPM_GENERATED and are not its TPM's; others it may."""
    key, extra = SoftwareKey(), attest_data(NONCE, PCR)
    good = key.attest(extra)
    verify_quote(key.pem, Signed(good, key.sign(good), 14, PCR), extra)  # the positive control
    for attest in (key.attest(extra, magic=0), key.attest(extra, kind=0x8014), good + b"\0", good[:-1]):
        with pytest.raises(AttestationError, match=r"refused \(3\)"):
            verify_quote(key.pem, Signed(attest, key.sign(attest), 14, PCR), extra)
    other = SoftwareKey()
    attest = other.attest(extra)  # names the other key as its signer
    with pytest.raises(AttestationError, match=r"refused \(3\)"):
        verify_quote(key.pem, Signed(attest, key.sign(attest), 14, PCR), extra)
    attest = key.attest(extra, pcr=16)
    with pytest.raises(AttestationError, match=r"refused \(5\)"):
        verify_quote(key.pem, Signed(attest, key.sign(attest), 14, PCR), extra)


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_a_key_on_another_curve_is_no_attestation_key(curve):
    pem = public_pem(ec.generate_private_key(curve).public_key())
    with pytest.raises(AttestationError, match="not on P-256"):
        verify_quote(pem, Signed(b"", b"", 14, PCR), b"")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 140), st.binary(min_size=1, max_size=4))
def test_no_bytes_break_the_readers(noise, at, patch):
    key = SoftwareKey.__new__(SoftwareKey)
    key.key, key.pem = KEY.key, KEY.pem
    attest = key.attest(b"x" * 32)
    for candidate in (noise, attest[:at] + patch + attest[at + len(patch) :], attest[:at]):
        with contextlib.suppress(ValueError, struct.error):
            parse_quote(candidate)
        with pytest.raises(AttestationError):
            verify_quote(key.pem, Signed(candidate, noise, 14, PCR), b"y" * 32)
        with pytest.raises(AttestationError):
            verify_attestation(noise, key.pem, NONCE)


KEY = SoftwareKey()
