"""Signed copies of the default bundle, and the keys that signed them: made once per run, as signing takes a while."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from idiolect.listening.recognizer import bundle_directory
from idiolect.trust.bundle import canonical, manifest, signing
from idiolect.trust.bundle.approvals import Approval
from idiolect.trust.bundle.public_keys import TrustedKeys, public_pem
from idiolect.trust.bundle.source import Memory
from idiolect.trust.bundle.verify import Verified, verify

BUILTIN = bundle_directory("builtin")


@cache
def builtin() -> Mapping[str, bytes]:
    """The default bundle's files."""
    return {path.name: path.read_bytes() for path in BUILTIN.iterdir()}


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """A key by name: "bundle" and "policy" sign unless a test says otherwise."""
    assert name
    return ec.generate_private_key(ec.SECP256R1())


def trusted(*names: str, revoked: bytes = b"") -> TrustedKeys:
    """What a device makes of a `keys.d` with these keys in it."""
    return TrustedKeys.parse({f"{n}.pem": public_pem(key(n).public_key()) for n in names or ("bundle",)}, revoked)


@cache
def signed(
    version: int = 1, *, name: str = "test", by: str = "bundle", policy: str = "policy", after: tuple[int, ...] = ()
) -> Verified:
    """The default bundle as version ``version``, signed; ``after`` names versions that it may follow in one boot."""
    upgrades = [approval for before in after for approval in signed(before, name=name, policy=policy).approvals]
    return sign(builtin(), version=version, name=name, by=by, policy=(policy,), upgrades=upgrades)


def sign(
    files: Mapping[str, bytes],
    *,
    version: int | None = None,
    name: str | None = None,
    by: str = "bundle",
    policy: Sequence[str] = ("policy",),
    upgrades: Sequence[Approval] = (),
) -> Verified:
    """Any files, signed."""
    plan = signing.Plan(key(by), [key(each) for each in policy], name, version, upgrades=upgrades)
    return signing.sign(files, plan)


def unsigned(files: Mapping[str, bytes]) -> Verified:
    """Files that nobody signed, verified as far as that goes."""
    return verify(Memory(files), None, allow_unsigned=True)


def refit(files: Mapping[str, bytes], **changes: bytes) -> dict[str, bytes]:
    """Other file contents (``head__json=...``) under a manifest that fits them; signatures are as they were."""
    changed = {**files, **{name.replace("__", "."): data for name, data in changes.items()}}
    fields = canonical.parse(changed[manifest.FILE])
    for name in fields["files"]:
        fields["files"][name] = {"sha256": hashlib.sha256(changed[name]).hexdigest(), "size": len(changed[name])}
    fields["encoder"] = fields["files"]["encoder.tflite"]["sha256"]
    return changed | {manifest.FILE: canonical.encode(fields)}


def write(files: Mapping[str, bytes], directory: Path) -> Path:
    """The files in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory
