"""Who may sign: what somebody with a key of their own, or with an old one, may try."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from idiolect.errors import BundleError
from idiolect.trust.bundle import approvals, canonical
from idiolect.trust.bundle import signature as oms
from idiolect.trust.bundle.public_keys import TrustedKeys, fingerprint, hint, public_pem
from idiolect.trust.bundle.source import Memory
from idiolect.trust.bundle.verify import verify
from tests.support.bundles import builtin, key, sign, signed, trusted

FILES = signed(2).files
# Order of P-256 (FIPS 186-4, D.1.2.3).
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def refused(files, keys=None):
    with pytest.raises(BundleError) as refusal:
        verify(Memory(files), keys or trusted())
    assert refusal.value.check == 3
    return str(refusal.value)


def changed_sig(change):
    bundle = json.loads(FILES["model.sig"])
    change(bundle)
    return {**FILES, "model.sig": json.dumps(bundle).encode()}


def test_a_stranger():
    assert "a key that is not in keys.d" in refused(signed(2, by="stranger").files)


def test_a_stranger_under_a_trusted_keys_name():
    def rename(bundle):
        bundle["verificationMaterial"]["publicKey"]["hint"] = hint(key("bundle").public_key())

    files = signed(2, by="stranger").files
    bundle = json.loads(files["model.sig"])
    rename(bundle)
    assert "is not a signature by key" in refused({**files, "model.sig": json.dumps(bundle).encode()})


def test_a_trusted_signature_under_another_trusted_keys_name():
    other = hint(key("other").public_key())
    files = changed_sig(lambda b: b["verificationMaterial"]["publicKey"].update(hint=other))
    assert "is not a signature by key" in refused(files, trusted("bundle", "other"))


def test_a_revoked_key_wherever_its_file_lies():
    line = fingerprint(key("bundle").public_key()).encode()
    assert "revoked key" in refused(FILES, trusted(revoked=line))
    pem = public_pem(key("bundle").public_key())
    assert "revoked key" in refused(FILES, TrustedKeys.parse({"a.pem": pem, "b.pem": pem}, b"# lost\n" + line))
    files = signed(2, by="other").files
    assert verify(Memory(files), trusted("bundle", "other", revoked=line)).signer == fingerprint(
        key("other").public_key()
    )


def test_the_policy_key_signs_no_bundle_unless_it_is_trusted_with_that():
    assert "not in keys.d" in refused(signed(2, by="policy").files)


def test_the_bundle_key_approves_nothing_for_a_device_with_another_policy_key():
    made = verify(Memory(signed(2, policy="bundle").files), trusted())
    mine = fingerprint(key("policy").public_key())
    assert approvals.for_boot(made.approvals, mine, bytes(32)) is None
    assert not any(approvals.check(each, key("policy").public_key()) for each in made.approvals)


def test_an_approval_that_borrows_the_policy_keys_name():
    """The file is vouched for by the bundle key, so it passes here; the signature is what a TPM would refuse."""
    forged = approvals.approve(key("stranger"), 14, bytes(32), hashlib.sha256(FILES["manifest.json"]).digest())
    fields = {field: getattr(forged, field) for field in approvals.Approval.__slots__}
    fields["key"] = fingerprint(key("policy").public_key())
    assert not approvals.check(approvals.Approval(**fields), key("policy").public_key())


def test_the_other_form_of_an_ecdsa_signature_says_the_same():
    """(r, n - s) verifies too, as in all of ECDSA: it vouches for the very same bytes, so nothing is gained."""

    def mirror(bundle):
        signature = bundle["dsseEnvelope"]["signatures"][0]
        r, s = utils.decode_dss_signature(base64.b64decode(signature["sig"]))
        signature["sig"] = base64.b64encode(utils.encode_dss_signature(r, ORDER - s)).decode()

    assert verify(Memory(changed_sig(mirror)), trusted()).digest == signed(2).digest


@pytest.mark.parametrize(("r", "s"), [(0, 0), (0, 1), (1, 0), (ORDER, 1), (1, ORDER), (1, 1)])
def test_signatures_of_trivial_numbers(r, s):
    raw = base64.b64encode(utils.encode_dss_signature(r, s)).decode()
    files = changed_sig(lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=raw))
    refused(files)


@pytest.mark.parametrize("raw", [b"\x30\x00", b"\x00" * 8, b"\x30\x80" + b"\x00" * 20, b"\xff" * 72])
def test_signatures_that_are_no_der(raw):
    text = base64.b64encode(raw).decode()
    refused(changed_sig(lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=text)))


def test_a_signature_over_the_payload_without_its_type():
    """Without DSSE's prefix a signature made for something else would pass."""
    payload = oms.parse(FILES["model.sig"]).payload
    compat = b"DSSEV1 28 application/vnd.in-toto+json %d %r" % (len(payload), payload)
    for encoded in (payload, compat, b"DSSEv1 10 text/plain %d " % len(payload) + payload):
        raw = base64.b64encode(key("bundle").sign(encoded, ec.ECDSA(hashes.SHA256()))).decode()
        refused(changed_sig(lambda b, raw=raw: b["dsseEnvelope"]["signatures"][0].update(sig=raw)))


def test_another_hash_with_the_same_key():
    payload = oms.parse(FILES["model.sig"]).payload
    encoded = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    raw = base64.b64encode(key("bundle").sign(encoded, ec.ECDSA(hashes.SHA384()))).decode()
    refused(changed_sig(lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=raw)))


def test_a_payload_changed_after_signing():
    """A statement of the attacker's files under the vendor's signature."""
    files = {**FILES, "head.bin": b"evil"}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != "model.sig"}
    mine = json.loads(oms.sign(key("stranger"), "x", digests))
    theirs = json.loads(FILES["model.sig"])
    theirs["dsseEnvelope"]["payload"] = mine["dsseEnvelope"]["payload"]
    refused({**files, "model.sig": json.dumps(theirs).encode()})


def test_a_key_twice_in_the_signature_file():
    """The checker and another parser must not see different payloads."""
    raw = FILES["model.sig"].replace(b'"payloadType"', b'"payload":"e30=","payloadType"')
    assert "key twice" in refused({**FILES, "model.sig": raw})


def test_parts_of_two_good_bundles_do_not_mix():
    one, two = signed(2).files, sign(builtin(), version=9, name="test").files
    for name in ("manifest.json", "approvals.json", "model.sig"):
        refused({**one, name: two[name]})


def test_approvals_of_another_bundle_do_not_pass_with_the_same_policy_key():
    """Not even when the bundle key signs them into the directory."""
    files = {**FILES, "approvals.json": signed(3).files["approvals.json"]}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != "model.sig"}
    files["model.sig"] = oms.sign(key("bundle"), "x", digests)
    with pytest.raises(BundleError) as refusal:
        verify(Memory(files), trusted())
    assert refusal.value.check == 7


def test_a_curve_in_the_signature_file_is_not_listened_to():
    """Nothing in the file names an algorithm that would be used: fields for it are refused."""
    refused(changed_sig(lambda b: b["verificationMaterial"]["publicKey"].update(keyDetails="PKIX_ECDSA_P521_SHA_512")))
    assert b"keyDetails" not in canonical.encode(json.loads(FILES["model.sig"]))
