"""Keys: P-256 public keys are taken, everything else is refused with the file's name and the next step."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from idiolect.errors import BundleError
from idiolect.trust.bundle.directory import read_keys
from idiolect.trust.bundle.public_keys import KeyFileError, TrustedKeys, fingerprint, hint, load_public, public_pem
from idiolect.trust.bundle.signing import keygen
from idiolect.trust.bundle.source import Memory
from tests.support.bundles import key

PUBLIC = key("bundle").public_key()
PEM = public_pem(PUBLIC)


def pem_of(private):
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


BAD = {
    "another curve": (pem_of(ec.generate_private_key(ec.SECP384R1())), "not a P-256 key"),
    "secp256k1": (pem_of(ec.generate_private_key(ec.SECP256K1())), "not a P-256 key"),
    "Ed25519": (pem_of(ed25519.Ed25519PrivateKey.generate()), "not a P-256 key"),
    "RSA": (pem_of(rsa.generate_private_key(65537, 2048)), "not a P-256 key"),
    "RSA in its own format": (b"-----BEGIN RSA PUBLIC KEY-----\nAAAA\n-----END RSA PUBLIC KEY-----\n", "RSA key"),
    "private": (keygen()["bundle.key"], "holds a private key: remove it"),
    "private, encrypted": (keygen(b"secret")["bundle.key"], "holds a private key: remove it"),
    "private and public": (PEM + keygen()["bundle.key"], "holds a private key: remove it"),
    "certificate": (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "openssl x509 -pubkey"),
    "damaged": (PEM.replace(b"MFkw", b"MFkx"), "is damaged"),
    "cut short": (PEM[:-30], "is damaged"),
    "a point off the curve": (PEM[:-40] + b"AAAA" + PEM[-36:], "is damaged"),
    "empty": (b"", "one public key in PEM"),
    "DER": (
        PUBLIC.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        "one public key in PEM",
    ),
    "two keys": (PEM + PEM, "one public key in PEM"),
    "too large": (PEM + b" " * 8192, "more than 8192 bytes"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_bundle_key_is_refused_by_name(what):
    raw, reason = BAD[what]
    with pytest.raises(KeyFileError, match=reason) as refusal:
        load_public("vendor.pem", raw)
    assert str(refusal.value).startswith("key file vendor.pem: ")
    assert refusal.value.check == 3
    assert b"PRIVATE" not in str(refusal.value).encode()


def test_one_bad_file_refuses_the_whole_directory():
    with pytest.raises(KeyFileError, match=r"key file b\.pem"):
        TrustedKeys.parse({"a.pem": PEM, "b.pem": b"x"})


def test_a_key_has_a_fingerprint_and_a_hint():
    der = PUBLIC.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert fingerprint(PUBLIC) == hashlib.sha256(der).hexdigest()
    assert hint(PUBLIC) == hashlib.sha256(PEM).hexdigest()
    trusted = TrustedKeys.parse({"a.pem": PEM.replace(b"\n", b"\r\n")})
    assert trusted.signer(hint(PUBLIC)).fingerprint == fingerprint(PUBLIC)
    assert trusted.signer("0" * 64) is None


def test_the_list_of_revoked_keys():
    lines = f"# lost in 2026\n\n{'a' * 64}  # laptop\r\n  {'b' * 64}\n"
    assert TrustedKeys.parse({}, lines.encode()).revoked == {"a" * 64, "b" * 64}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"A" * 64, "line 1 is no fingerprint"),
        (b"#\n" + b"a" * 63, "line 2 is no fingerprint"),
        (b"a" * 64 + b" " + b"b" * 64, "line 1 is no fingerprint"),
        (b"\xff", "not UTF-8"),
        (b"#" * 65_537, "more than 65536 bytes"),
    ],
)
def test_a_list_that_cannot_be_read_revokes_loudly(raw, reason):
    with pytest.raises(KeyFileError, match=reason) as refusal:
        TrustedKeys.parse({"a.pem": PEM}, raw)
    assert (refusal.value.file, refusal.value.check) == ("revoked", 3)


def test_lists_and_files_at_their_limits():
    assert TrustedKeys.parse({}, b"#" * 65_536).revoked == frozenset()
    assert len(TrustedKeys.parse({f"{n}.pem": PEM for n in range(64)}).keys) == 1  # the same one
    assert len(TrustedKeys.read(Memory({f"{n}.pem": PEM for n in range(64)})).keys) == 1
    assert TrustedKeys.parse({"a.pem": PEM + b"\n" * (8192 - len(PEM))}).keys
    with pytest.raises(KeyFileError, match="more than 8192") as refusal:
        TrustedKeys.parse({"a.pem": PEM + b"\n" * (8193 - len(PEM))})
    assert (refusal.value.file, refusal.value.check) == ("a.pem", 3)


def test_of_too_many_keys_none_is_read():
    class Unread(Memory):
        def read(self, name, cap):
            pytest.fail(f"{name} was read, {cap}")

    with pytest.raises(KeyFileError, match="more than 64"):
        TrustedKeys.read(Unread({"revoked": b"", **{f"{n}.pem": PEM for n in range(65)}}))


def test_too_many_keys():
    with pytest.raises(KeyFileError, match="more than 64"):
        TrustedKeys.parse({f"{n}.pem": PEM for n in range(65)})
    with pytest.raises(KeyFileError, match="more than 64"):
        TrustedKeys.read(Memory({f"{n}.pem": PEM for n in range(65)}))
    with pytest.raises(KeyFileError) as refusal:
        TrustedKeys.read(Memory({f"{n}.pem": PEM for n in range(65)}))
    assert (refusal.value.file, refusal.value.check) == ("*.pem", 3)


def test_a_directory_of_keys(tmp_path):
    (tmp_path / "vendor.pem").write_bytes(PEM)
    (tmp_path / "README").write_text("not read")
    assert [each.file for each in read_keys(tmp_path).keys] == ["vendor.pem"]
    assert read_keys(tmp_path).revoked == frozenset()
    (tmp_path / "revoked").write_text(fingerprint(PUBLIC))
    assert read_keys(tmp_path).revoked == {fingerprint(PUBLIC)}


def test_a_directory_of_keys_that_is_not_there_or_holds_a_link(tmp_path):
    with pytest.raises(KeyFileError, match="create it"):
        read_keys(tmp_path / "none")
    (tmp_path / "a.pem").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match=r"a\.pem: refused \(5\): is a symbolic link"):
        read_keys(tmp_path)


def test_revoked_as_a_link_or_a_directory_is_not_skipped(tmp_path):
    (tmp_path / "a.pem").write_bytes(PEM)
    (tmp_path / "revoked").mkdir()
    with pytest.raises(BundleError, match="not a regular file"):
        read_keys(tmp_path)


def test_a_directory_with_a_thousand_other_files_is_refused_rather_than_read_in_part(tmp_path):
    for n in range(1025):
        (tmp_path / f"{n}.txt").touch()
    with pytest.raises(BundleError, match="more than 1024 files"):
        read_keys(tmp_path)
