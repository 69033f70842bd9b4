"""Signing: what was signed verifies, approvals follow from predecessors, and nothing unloadable is signed."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from idiolect.errors import BundleError
from idiolect.trust.bundle import approvals, signing
from idiolect.trust.bundle.approvals import check, extended, for_boot
from idiolect.trust.bundle.public_keys import KeyFileError, fingerprint, load_public
from idiolect.trust.bundle.signing import Plan, keygen, load_private
from idiolect.trust.bundle.source import Memory
from idiolect.trust.bundle.verify import verify
from tests.support.bundles import builtin, key, refit, sign, signed, trusted


def print_of(name):
    return fingerprint(key(name).public_key())


def measured(verified):
    return bytes.fromhex(verified.digest)


def test_a_signed_bundle_verifies_and_approves_a_fresh_boot():
    verified = signed(5, name="acme")
    assert verify(Memory(verified.files), trusted(), minimum=5) == verified
    assert (verified.manifest.name, verified.manifest.version) == ("acme", 5)
    (approval,) = verified.approvals
    assert (approval.pcr, approval.from_, approval.key) == (14, bytes(32), print_of("policy"))
    assert approval.to == extended(bytes(32), measured(verified))
    assert check(approval, key("policy").public_key())


def test_the_payload_stays_and_old_signatures_are_replaced():
    again = sign(signed(5).files, version=6, policy=("other",))
    assert {each.key for each in again.approvals} == {print_of("other")}
    assert all(again.files[name] == data for name, data in builtin().items() if name != "manifest.json")
    assert sign(builtin()).files["manifest.json"] == builtin()["manifest.json"]


def test_an_upgrade_leads_from_every_state_that_its_predecessor_may_be_in():
    first, second = signed(1), signed(2, after=(1,))
    third = sign(builtin(), name="test", version=3, upgrades=second.approvals)
    reached = extended(bytes(32), measured(first)), extended(bytes(32), measured(second))
    both = extended(reached[0], measured(second))
    assert {each.from_ for each in third.approvals} == {bytes(32), reached[1], both}
    approval, extend = for_boot(third.approvals, print_of("policy"), both)
    assert (approval.to, extend) == (extended(both, measured(third)), True)
    assert for_boot(third.approvals, print_of("policy"), reached[0]) is None  # nobody approved 1 -> 3


def test_an_approval_by_somebody_else_leads_nowhere():
    mine = {field: getattr(signed(1).approvals[0], field) for field in approvals.Approval.__slots__}
    forged = approvals.Approval(**mine | {"to": b"x" * 32, "policy": b"y" * 32})
    for upgrades in (signed(1, policy="other").approvals, [forged]):
        made = sign(builtin(), version=2, upgrades=upgrades)
        assert [each.from_ for each in made.approvals] == [bytes(32)]


def test_two_policy_keys_approve_the_same_boots():
    made = sign(builtin(), version=2, policy=("policy", "other"), upgrades=signed(1).approvals)
    assert len([a for a in made.approvals if a.key == print_of("policy")]) == 2
    assert [a.from_ for a in made.approvals if a.key == print_of("other")] == [bytes(32)]


def test_another_pcr_and_start():
    plan = Plan(key("bundle"), [key("policy")], pcr=7, pcr_start=b"s" * 32)
    (approval,) = signing.sign(builtin(), plan).approvals
    assert (approval.pcr, approval.from_) == (7, b"s" * 32)
    for wrong in ({"pcr": 16}, {"pcr_start": b"s"}):
        with pytest.raises(ValueError, match="0 to 15"):
            signing.sign(builtin(), Plan(key("bundle"), [key("policy")], **wrong))


def test_too_many_predecessors_are_refused():
    many = [approvals.approve(key("policy"), 14, n.to_bytes(32, "big"), bytes(32)) for n in range(256)]
    with pytest.raises(BundleError, match="more than 256 approvals") as refusal:
        sign(builtin(), upgrades=many)
    assert (refusal.value.file, refusal.value.check) == ("approvals.json", 7)
    assert len(sign(builtin(), upgrades=many[:255]).approvals) == 256


@pytest.mark.parametrize(
    ("change", "check_"),
    [
        ({"head.bin": b"x"}, 6),
        ({"extra.txt": b"x"}, 5),
        ({"manifest.json": b"{}"}, 2),
        ({"guard.bin": bytes(5 << 20)}, 1),
    ],
)
def test_what_no_device_would_load_is_not_signed(change, check_):
    with pytest.raises(BundleError) as refusal:
        sign({**builtin(), **change})
    assert refusal.value.check == check_
    with pytest.raises(BundleError, match="version must be"):
        sign(builtin(), version=0)


def test_signing_does_not_look_into_the_payload():
    assert sign(refit(builtin(), phrases__json=b"[]")).files["phrases.json"] == b"[]"


@pytest.mark.parametrize("password", [None, b"correct horse"])
def test_fresh_keys(password):
    files = keygen(password)
    assert sorted(files) == ["bundle.key", "bundle.pem", "policy.key", "policy.pem"]
    pairs = {load_public(n, files[f"{n}.pem"]).public_numbers() for n in ("bundle", "policy")}
    private = [load_private(n, files[f"{n}.key"], password) for n in ("bundle", "policy")]
    assert {each.public_key().public_numbers() for each in private} == pairs
    assert len(pairs) == 2
    assert all(min(each.x, each.y) >> 248 for each in pairs)
    assert all((b"ENCRYPTED" in files[f"{n}.key"]) == (password is not None) for n in ("bundle", "policy"))


def pem(private, password=None):
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


SOME = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("raw", "password", "reason"),
    [
        (keygen()["bundle.pem"], None, "no private key"),
        (b"", None, "no private key"),
        (b"x" * 9000, None, "no private key"),
        (pem(SOME, b"right"), None, "--password-file"),
        (pem(SOME, b"right"), b"wrong", "password is wrong"),
        (pem(SOME).replace(b"MIGH", b"MIGX"), None, "is damaged"),
        (pem(ec.generate_private_key(ec.SECP384R1())), None, "not a P-256 key"),
        (pem(ed25519.Ed25519PrivateKey.generate()), None, "not a P-256 key"),
    ],
)
def test_what_is_no_private_key_is_refused_by_name(raw, password, reason):
    with pytest.raises(KeyFileError, match=reason) as refusal:
        load_private("bundle.key", raw, password)
    assert "key file bundle.key: " in str(refusal.value)


def test_a_password_for_a_key_that_has_none_is_not_needed():
    assert load_private("k", pem(SOME), b"unused").private_numbers() == SOME.private_numbers()


def test_a_key_in_the_format_of_openssl_ecparam_loads_too():
    raw = SOME.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    assert load_private("k", raw).private_numbers() == SOME.private_numbers()
