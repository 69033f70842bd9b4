"""Documents of a device: the record that it keeps, the copy that a person takes away, what a fleet is shown."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from idiolect.errors import KeystoreError, VaultError
from idiolect.trust.bundle import canonical
from idiolect.trust.bundle.public_keys import public_pem
from idiolect.trust.device import attestation, certificate, documents, identity
from idiolect.trust.device.attestation import AttestationError, Signed, attest_data
from idiolect.trust.device.identity import Device, SealedKey
from idiolect.trust.vault import audit, sealed_copy
from tests.attacks.test_quotes import PCR, SoftwareKey
from tests.support.bundles import key

PASSPHRASE = "eight ch"  # noqa: S105 -- a test's


# -- the sealed copy


@pytest.fixture(scope="module")
def sealed():
    return sealed_copy.seal(b"what was said", PASSPHRASE)


def test_a_sealed_copy_is_scrypt_and_aes_gcm_as_it_says(sealed):
    """RFC 7914 with N from the file, r 8, p 1; the schema is bound in."""
    assert set(sealed) == {"schema", "cost", "salt", "nonce", "box"}
    assert (sealed["schema"], sealed["cost"]) == ("idiolect/sealed/v1", 32_768)
    salt, nonce = bytes.fromhex(sealed["salt"]), bytes.fromhex(sealed["nonce"])
    assert (len(salt), len(nonce)) == (16, 12)
    secret = Scrypt(salt=salt, length=32, n=32_768, r=8, p=1).derive(PASSPHRASE.encode())
    opened = AESGCM(secret).decrypt(nonce, base64.b64decode(sealed["box"]), b"idiolect/sealed/v1")
    assert opened == b"what was said" == sealed_copy.open_(sealed, PASSPHRASE)
    again = sealed_copy.seal(b"what was said", PASSPHRASE)
    assert {sealed[n] for n in ("salt", "nonce", "box")}.isdisjoint({again[n] for n in ("salt", "nonce", "box")})


def test_a_passphrase_of_seven_characters_is_refused():
    with pytest.raises(VaultError, match="fewer than 8") as refusal:
        sealed_copy.seal(b"", "seven c")
    assert refusal.value.state == "failed"


def test_another_passphrase_does_not_open(sealed):
    with pytest.raises(VaultError, match="does not open") as refusal:
        sealed_copy.open_(sealed, PASSPHRASE + " ")
    assert refusal.value.state == "failed"


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "idiolect/sealed/v2"}, {"cost": 1}, {"cost": 0}, {"cost": -2}, {"cost": 1 << 16}, {"cost": 3},
        {"cost": 32_767}, {"cost": "much"}, {"salt": "00" * 15}, {"salt": "00" * 17}, {"salt": "zz"}, {"salt": ""},
        {"nonce": "00" * 11}, {"nonce": "00" * 13}, {"box": "?"}, {"box": None}, {"cost": float("inf")},
    ],
)  # fmt: skip
def test_a_damaged_copy_is_refused_before_any_work_is_done(sealed, change):
    with pytest.raises(VaultError, match="damaged") as refusal:
        sealed_copy.open_({**sealed, **change}, PASSPHRASE, lambda *_: pytest.fail("worked on it"))
    assert refusal.value.state == "damaged"


@pytest.mark.parametrize("field", ["schema", "cost", "salt", "nonce", "box"])
def test_a_copy_with_a_field_missing_is_refused(sealed, field):
    with pytest.raises(VaultError, match="damaged"):
        sealed_copy.open_({n: v for n, v in sealed.items() if n != field}, PASSPHRASE)


def test_costs_and_sizes_at_their_limits_are_tried(sealed, monkeypatch):
    tried = []
    for cost in (2, 1 << 15):
        with pytest.raises(VaultError, match="does not open"):
            sealed_copy.open_({**sealed, "cost": cost}, PASSPHRASE, lambda *_: tried.append(_[2]) or bytes(32))
    assert tried == [2, 1 << 15]
    monkeypatch.setattr(sealed_copy, "CAP", 40)
    for size, state in ((40, "failed"), (41, "damaged")):
        with pytest.raises(VaultError) as refusal:
            sealed_copy.open_({**sealed, "box": base64.b64encode(bytes(size)).decode()}, PASSPHRASE)
        assert refusal.value.state == state


# -- the device record

PEM = public_pem(key("policy").public_key())
SEALED = SealedKey(PEM, b"pub", b"priv")
RECORD = Device("ab" * 16, complete=True, srk=b"srk", ak=PEM, adapter_key=PEM, sealed=(SEALED, SEALED))


def record(**changes):
    return canonical.encode({**json.loads(RECORD.encode()), **changes})


def test_a_record_comes_back_and_says_whether_it_has_a_tpm():
    assert identity.parse(RECORD.encode()) == RECORD
    assert RECORD.uses_tpm
    bare = Device("ab" * 16)
    assert identity.parse(bare.encode()) == bare
    assert not bare.uses_tpm
    assert not bare.complete


@pytest.mark.parametrize(
    "change",
    [
        {"device": "ab" * 15}, {"device": "ab" * 17}, {"device": "zz" * 16}, {"device": 7}, {"complete": 1},
        {"complete": None}, {"schema": 2}, {"schema": "1"}, {"srk": "z"}, {"srk": None}, {"ak": "no key"}, {"ak": 1},
        {"adapter_key": "no key"}, {"extra": 1}, {"sealed": None}, {"sealed": {}},
        {"sealed": [{"policy_key": PEM.decode(), "private": "00", "public": "00"}] * 3},
        {"sealed": [{"policy_key": "no key", "private": "00", "public": "00"}]},
        {"sealed": [{"policy_key": PEM.decode(), "private": "0", "public": "00"}]},
        {"sealed": [{"policy_key": PEM.decode(), "private": "00", "public": "0"}]},
        {"sealed": [{"policy_key": PEM.decode(), "private": "00"}]}, {"sealed": [{"private": "00", "public": "00"}]},
        {"sealed": [{"policy_key": PEM.decode(), "private": "00", "public": "00", "more": 1}]},
    ],
)  # fmt: skip
def test_a_record_that_is_none_is_damaged(change):
    raw = record(**change)
    if change == {"sealed": {}}:  # a mapping without entries reads as none: nothing was sealed
        assert identity.parse(raw).sealed == ()
        return
    with pytest.raises(KeystoreError, match="damaged") as refusal:
        identity.parse(raw)
    assert refusal.value.state == "damaged"


def test_a_record_of_more_than_16_kib_is_damaged():
    with pytest.raises(KeystoreError, match="damaged"):
        identity.parse(record(srk="00" * (8 << 10)))


# -- attestation, by a key in software that signs as a TPM does

NONCE, DIGEST = bytes(range(16)), b"b" * 32
KEY = SoftwareKey()
AFTER = hashlib.sha256(bytes(32) + DIGEST).digest()


def shown(*, value=AFTER, attest=None, **changes):
    attest = KEY.attest(attest_data(NONCE, DIGEST), value=value) if attest is None else attest
    quote = {
        "attest": attest.hex(), "device": "d", "pcr": 14, "signature": KEY.sign(attest).hex(), "value": value.hex()
    }  # fmt: skip
    bundle = {"digest": DIGEST.hex(), "name": "default", "version": 2}
    return {"bundle": bundle, "nonce": NONCE.hex(), "quote": quote, "schema": "idiolect/attestation/v1", **changes}


def attested(document, **options):
    return documents.verify_attestation(json.dumps(document).encode(), KEY.pem, NONCE, **options)


def test_what_an_attestation_says():
    said = attested(shown())
    assert said == {
        "device": "d", "bundle": {"digest": DIGEST.hex(), "name": "default", "version": 2}, "pcr": 14,
        "value": AFTER.hex(), "resets": 2, "restarts": 3, "clock_safe": True,
    }  # fmt: skip


def test_6_a_pcr_that_went_elsewhere_is_refused_unless_it_was_approved():
    with pytest.raises(AttestationError) as refusal:
        attested(shown(value=PCR))
    assert refusal.value.check == 6
    assert attested(shown(value=PCR), approved=[PCR])["value"] == PCR.hex()


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"schema": "idiolect/attestation/v2"}, 0), ({"more": 1}, 0), ({"bundle": {"digest": DIGEST.hex()}}, 0),
        ({"bundle": {"digest": "00" * 31, "name": "default", "version": 2}}, 0), ({"bundle": 7}, 0),
        ({"quote": None}, 0), ({"quote": {}}, 0),
    ],
)  # fmt: skip
def test_0_a_document_of_another_form_is_refused(change, check):
    with pytest.raises(AttestationError) as refusal:
        attested(shown(**change))
    assert refusal.value.check == check


@pytest.mark.parametrize("curve", [ec.SECP384R1(), None])
def test_1_a_pinned_key_that_is_none(curve):
    pem = public_pem(ec.generate_private_key(curve).public_key()) if curve else b"no key"
    with pytest.raises(AttestationError) as refusal:
        documents.verify_attestation(json.dumps(shown()).encode(), pem, NONCE)
    assert refusal.value.check == 1


@pytest.mark.parametrize(("field", "wrong"), [("attest", "zz"), ("signature", 7), ("pcr", "many"), ("pcr", None)])
def test_2_a_quote_that_cannot_be_read_is_refused(field, wrong):
    document = shown()
    document["quote"][field] = wrong
    with pytest.raises(AttestationError) as refusal:
        attested(document)
    assert refusal.value.check == 2


def test_0_a_document_above_16_kib_is_refused():
    raw = json.dumps(shown()).encode()
    raw += b" " * ((16 << 10) - len(raw))
    assert documents.verify_attestation(raw, KEY.pem, NONCE)
    with pytest.raises(AttestationError, match="more than 16384 bytes"):
        documents.verify_attestation(raw + b" ", KEY.pem, NONCE)


def test_a_quote_over_two_pcrs_or_in_another_bank_is_refused():
    extra = attest_data(NONCE, DIGEST)
    good = KEY.attest(extra, value=AFTER)
    one = bytes.fromhex("00000001000b03004000")
    assert good.count(one) == 1
    for selection in ("00000002000b03004000", "00000001000403004000", "00000001000b03004001"):
        bad = good.replace(one, bytes.fromhex(selection))
        with pytest.raises(AttestationError) as refusal:
            attestation.verify_quote(KEY.pem, Signed(bad, KEY.sign(bad), 14, AFTER), extra)
        assert refusal.value.check == 3


def test_what_no_tpm_made_or_is_no_quote_is_refused_under_a_good_signature():
    extra = attest_data(NONCE, DIGEST)
    for wrong in ({"magic": 0xFF544348}, {"kind": 0x8017}, {"magic": 0, "kind": 0}):
        attest = KEY.attest(extra, value=AFTER, **wrong)
        with pytest.raises(AttestationError) as refusal:
            attestation.verify_quote(KEY.pem, Signed(attest, KEY.sign(attest), 14, AFTER), extra)
        assert refusal.value.check == 3


def test_a_quote_has_1024_bytes_at_most():
    """No TPM makes one of half that size, and who verifies need not read more."""
    rest = 1024 - len(KEY.attest(b"", value=AFTER))
    for more, good in ((rest, True), (rest + 1, False)):
        attest = KEY.attest(bytes(more), value=AFTER)
        signed = Signed(attest, KEY.sign(attest), 14, AFTER)
        if good:
            assert attestation.verify_quote(KEY.pem, signed, bytes(more)).pcr == 14
        else:
            with pytest.raises(AttestationError) as refusal:
                attestation.verify_quote(KEY.pem, signed, bytes(more))
            assert refusal.value.check == 3


def test_a_signature_in_another_scheme_or_with_more_behind_it_is_refused():
    extra = attest_data(NONCE, DIGEST)
    good = KEY.attest(extra, value=AFTER)
    signature = KEY.sign(good)
    for bad in (b"\x00\x14" + signature[2:], signature[:2] + b"\x00\x0c" + signature[4:], signature + b"\0"):
        with pytest.raises(AttestationError) as refusal:
            attestation.verify_quote(KEY.pem, Signed(good, bad, 14, AFTER), extra)
        assert refusal.value.check == 2


# -- the audit export

LOG = []
MARK = audit.start("d" * 16)
for number in range(3):
    LOG.append(audit.append(MARK, 100 + number, "rotated", {"generation": number}))
    MARK = audit.Mark(LOG[-1].seq, LOG[-1].hash)


def exported(nonce=NONCE, ask=True):
    export = audit.export("d" * 16, audit.start("d" * 16), LOG, nonce)
    attest = KEY.attest(audit.qualifying_data(MARK.head, MARK.count, nonce), value=AFTER)
    quote = {"attest": attest.hex(), "pcr": 14, "signature": KEY.sign(attest).hex(), "value": AFTER.hex()}
    return json.dumps({"export": export, "quote": quote if ask else None}).encode()


def test_what_an_export_says_with_and_without_a_quote():
    said = documents.verify_audit(exported())
    assert said == {
        "device": "d" * 16, "first": 1, "count": 3, "head": MARK.head.hex(), "kinds": {"rotated": 3}, "quoted": False
    }  # fmt: skip
    quoted = documents.verify_audit(exported(), KEY.pem, NONCE)
    assert quoted == {**said, "quoted": True, "pcr": 14, "resets": 2, "restarts": 3, "clock_safe": True}
    assert documents.verify_audit(exported(b""), KEY.pem)["quoted"] is True
    with pytest.raises(AttestationError) as refusal:
        documents.verify_audit(exported(), KEY.pem, NONCE[::-1])
    assert refusal.value.check == 4
    with pytest.raises(AttestationError) as refusal:
        documents.verify_audit(exported(ask=False), KEY.pem, NONCE)
    assert refusal.value.check == 2


@pytest.mark.parametrize("raw", [b"[]", b"{}", b'{"export":{},"quote":null,"more":1}'])
def test_what_is_no_export_is_refused(raw):
    with pytest.raises(AttestationError) as refusal:
        documents.verify_audit(raw)
    assert refusal.value.check == 0


@pytest.mark.parametrize("raw", [b"5", b"null", b'"x"', b"[]", b'["bundle","nonce","quote","schema"]'])
def test_what_is_no_map_is_no_attestation(raw):
    with pytest.raises(AttestationError) as refusal:
        documents.verify_attestation(raw, KEY.pem, NONCE)
    assert refusal.value.check == 0


def test_the_two_documents_are_told_apart():
    assert documents.is_audit(exported())
    assert not documents.is_audit(json.dumps(shown()).encode())
    assert not documents.is_audit(b"[]")


# -- the certificate


def test_a_certificate_is_for_the_host_under_its_three_names():
    from cryptography import x509

    pem = certificate.make("kitchen")
    made = x509.load_pem_x509_certificate(pem)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["kitchen", "kitchen.local", "localhost"]
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, False, None)
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert [use.dotted_string for use in usage.value] == ["1.3.6.1.5.5.7.3.1"]
    assert made.not_valid_before_utc.isoformat() == "2000-01-01T00:00:00+00:00"
    assert made.not_valid_after_utc.isoformat() == "9999-12-31T23:59:59+00:00"
    assert made.subject == made.issuer
    assert made.subject.rfc4514_string() == "CN=Idiolect on kitchen"
    assert made.signature_hash_algorithm.name == "sha256"
    made.verify_directly_issued_by(made)
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    shown = hashlib.sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest().upper()
    assert certificate.fingerprint(pem) == ":".join(shown[i : i + 2] for i in range(0, 64, 2))
    assert certificate.make("x" * 63) != certificate.make("x" * 63)
    assert len(x509.load_pem_x509_certificate(certificate.make("x" * 63)).subject.rfc4514_string()) == 3 + 64
