"""`model.sig`: the same format as the package model-signing, both ways, and nothing but that."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from idiolect.errors import BundleError
from idiolect.trust.bundle import signature as oms
from idiolect.trust.bundle.public_keys import TrustedKeys, hint, public_pem
from idiolect.trust.bundle.verify import verify
from tests.conftest import absent
from tests.support.bundles import builtin, key, sign, signed, trusted, write

KEY = key("bundle")
DIGESTS = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("b.bin", "a.txt", "c/d")}
RAW = oms.sign(KEY, "model", DIGESTS)


@pytest.fixture
def package():
    """The package model-signing."""
    try:
        import model_signing
    except ImportError:
        absent("no model-signing: pip install model-signing pyopenssl")
    return model_signing


@pytest.fixture
def pair(tmp_path):
    """The bundle key as files."""
    private, public = tmp_path / "bundle.key", tmp_path / "bundle.pem"
    encryption = serialization.NoEncryption()
    private.write_bytes(KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    public.write_bytes(public_pem(KEY.public_key()))
    return private, public


def test_the_package_verifies_ours(package, pair, tmp_path):
    folder = write(signed().files, tmp_path / "model")
    checker = package.verifying.Config().use_elliptic_key_verifier(public_key=pair[1])
    checker.verify(folder, folder / "model.sig")
    with (folder / "head.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="mismatch"):
        checker.verify(folder, folder / "model.sig")


def test_we_verify_the_packages(package, pair, tmp_path):
    from idiolect.trust.bundle.directory import Directory

    folder = write({name: data for name, data in signed().files.items() if name != "model.sig"}, tmp_path / "model")
    hashing = package.hashing.Config().set_ignored_paths(paths=[folder / "model.sig"], ignore_git_paths=True)
    signer = package.signing.Config().use_elliptic_key_signer(private_key=pair[0]).set_hashing_config(hashing)
    signer.sign(folder, folder / "model.sig")
    with Directory(folder) as source:
        assert verify(source, trusted()).signer == trusted().keys[0].fingerprint


def test_what_the_package_leaves_out_is_not_covered(package, pair, tmp_path):
    """Its signers may name files to ignore; a bundle in which such a file is needed is not covered, and refused."""
    folder = write({name: data for name, data in signed().files.items() if name != "model.sig"}, tmp_path / "model")
    hashing = package.hashing.Config().set_ignored_paths(paths=[folder / "model.sig", folder / "head.bin"])
    signer = package.signing.Config().use_elliptic_key_signer(private_key=pair[0]).set_hashing_config(hashing)
    signer.sign(folder, folder / "model.sig")
    from idiolect.trust.bundle.directory import Directory

    with Directory(folder) as source, pytest.raises(BundleError, match=r"head\.bin: refused \(5\)"):
        verify(source, trusted())


def test_what_is_signed_reads_the_same():
    read = oms.parse(RAW)
    assert read.verify(KEY.public_key())
    assert not read.verify(key("other").public_key())
    assert (read.resources, read.subject, read.hint) == (DIGESTS, "model", hint(KEY.public_key()))


def statement():
    return json.loads(base64.b64decode(json.loads(RAW)["dsseEnvelope"]["payload"]))


def resigned(change):
    """A statement changed by who has the key: only the shape is left to object to."""
    changed = statement()
    change(changed)
    payload = json.dumps(changed).encode()
    bundle = json.loads(RAW)
    signature = KEY.sign(
        b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload, ec.ECDSA(hashes.SHA256())
    )
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return json.dumps(bundle).encode()


def test_a_statement_in_another_spelling_is_the_same():
    assert oms.parse(resigned(dict.items)).verify(KEY.public_key())


def with_subject(s):
    """A subject that is right for whatever the resources are now."""
    raw = b"".join(bytes.fromhex(r["digest"]) for r in s["predicate"]["resources"])
    s["subject"][0]["digest"]["sha256"] = hashlib.sha256(raw).hexdigest()


def reorder(s):
    s["predicate"]["resources"].reverse()
    with_subject(s)


def duplicate(s):
    s["predicate"]["resources"].append(s["predicate"]["resources"][-1])
    with_subject(s)


def serialization_(**values):
    return lambda s: s["predicate"]["serialization"].update(values)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "Statement v1"),
        (lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"), "model signature v1.0"),
        (lambda s: s.update(more=1), "the fields _type"),
        (lambda s: s["subject"].append(s["subject"][0]), "one subject"),
        (lambda s: s["subject"].clear(), "one subject"),
        (lambda s: s["subject"][0].update(uri="x"), "the fields name, digest"),
        (lambda s: s["subject"][0]["digest"].update(sha512="0"), "the fields sha256"),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "subject that is not its resources"),
        (lambda s: s["predicate"].update(more=1), "the fields serialization"),
        (lambda s: s["predicate"].update(serialization=None), "how files were hashed"),
        (serialization_(allow_symlinks=True), "another way"),
        (serialization_(allow_symlinks=0), "another way"),
        (serialization_(hash_type="blake2b"), "another way"),
        (serialization_(method="shards"), "another way"),
        (serialization_(shard_size=1), "another way"),
        (lambda s: s["predicate"].update(resources=[]), "1 to 64 files"),
        (lambda s: s["predicate"].update(resources=s["predicate"]["resources"] * 30), "1 to 64 files"),
        (lambda s: s["predicate"]["resources"][0].update(algorithm="blake2b"), "another digest"),
        (lambda s: s["predicate"]["resources"][0].update(more=1), "the fields algorithm"),
        (lambda s: s["predicate"]["resources"][0].update(name=1), "a name that is none"),
        (lambda s: s["predicate"]["resources"][0].update(digest="F" * 64), "64 lower-case hex"),
        (reorder, "out of order"),
        (duplicate, "one twice"),
    ],
)
def test_another_statement_is_refused_whoever_signed_it(change, reason):
    with pytest.raises(BundleError, match=reason) as refusal:
        oms.parse(resigned(change))
    assert (refusal.value.file, refusal.value.check) == ("model.sig", 3)


def envelope(**values):
    return lambda b: b["dsseEnvelope"].update(values)


def material(**values):
    return lambda b: b["verificationMaterial"].update(values)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"), "v0.3"),
        (lambda b: b.update(more=1), "the fields mediaType"),
        (lambda b: b.pop("dsseEnvelope"), "the fields mediaType"),
        (material(certificate={"rawBytes": ""}), "the fields publicKey"),
        (material(tlogEntries=[{}]), "transparency log"),
        (material(publicKey={"hint": None}), "64 lower-case hex"),
        (material(publicKey={}), "the fields hint"),
        (envelope(payloadType="text/plain"), "in-toto"),
        (envelope(signatures=[]), "one signature"),
        (envelope(signatures=json.loads(RAW)["dsseEnvelope"]["signatures"] * 2), "one signature"),
        (envelope(signatures=[{"sig": "AAAA", "keyid": "x"}]), "keyid"),
        (envelope(signatures=[{"sig": "", "keyid": ""}]), "base64"),
        (envelope(signatures=[{"sig": "A" * 100, "keyid": ""}]), "at most|1 to 72"),
        (envelope(payload="e30="), "the fields _type"),
        (envelope(payload="!"), "base64"),
        (envelope(payload=None), "base64"),
    ],
)
def test_another_envelope_is_refused(change, reason):
    bundle = json.loads(RAW)
    change(bundle)
    with pytest.raises(BundleError, match=reason) as refusal:
        oms.parse(json.dumps(bundle).encode())
    assert refusal.value.check == 3


def test_a_file_above_its_cap_is_refused_for_its_size():
    with pytest.raises(BundleError) as refusal:
        oms.parse(RAW + b" " * oms.CAP)
    assert refusal.value.check == 1


def test_an_ignore_list_of_ours_excuses_nothing():
    """Somebody with the key lists head.bin as ignored and leaves it out: it is required all the same."""
    bundle = sign(builtin())
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in bundle.files.items() if name != "model.sig"}
    del digests["head.bin"]
    from idiolect.trust.bundle.source import Memory

    raw = oms.sign(KEY, "x", digests)
    assert b"ignore_paths" in oms.parse(raw).payload
    with pytest.raises(BundleError) as refusal:
        verify(Memory({**bundle.files, "model.sig": raw}), TrustedKeys.of(KEY.public_key()))
    assert (refusal.value.file, refusal.value.check) == ("head.bin", 5)


def test_the_command_of_the_package_verifies_ours(package, pair, tmp_path):
    import subprocess
    import sys
    from pathlib import Path

    tool = shutil.which("model_signing") or str(Path(sys.executable).with_name("model_signing"))
    folder = write(signed().files, tmp_path / "model")
    arguments = ["verify", "key", folder, "--signature", folder / "model.sig", "--public_key", pair[1]]
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stdout
