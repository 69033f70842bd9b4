"""Signs bundles and makes the keys for it: on a vendor's machine, never on a device. No I/O: bytes in, bytes out.

Two pairs of keys, P-256: the *bundle key* signs `model.sig`, by which a device knows whose bundle it is; the *policy
key* signs approvals, by which its TPM releases the keys. A device may trust several bundle keys; its secrets are
bound to one policy key, or two while that is replaced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from idiolect.errors import BundleError
from idiolect.trust.bundle import approvals as approvals_
from idiolect.trust.bundle import manifest as manifest_
from idiolect.trust.bundle import signature as oms
from idiolect.trust.bundle.approvals import DEFAULT_PCR, MAX_APPROVALS, Approval, approve
from idiolect.trust.bundle.public_keys import FILE_CAP, KeyFileError, TrustedKeys, fingerprint, public_pem
from idiolect.trust.bundle.source import APPROVED, Memory
from idiolect.trust.bundle.verify import Verified, verify

FRESH_BOOT = bytes(32)
"""The value of PCR 14 on a machine whose firmware and loader leave it alone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Says how to sign. ``policy_keys`` has one key, or two while a device's is replaced."""

    bundle_key: ec.EllipticCurvePrivateKey
    policy_keys: Sequence[ec.EllipticCurvePrivateKey]
    name: str | None = None
    """Written into the manifest; None keeps what is there."""
    version: int | None = None
    pcr: int = DEFAULT_PCR
    pcr_start: bytes = FRESH_BOOT
    """The value of that PCR when the daemon starts after a boot, 32 bytes."""
    upgrades: Sequence[Approval] = ()
    """Approvals of the bundles that may be replaced by this one without a reboot."""


def keygen(password: bytes | None = None) -> dict[str, bytes]:
    """Make two fresh pairs, with private keys encrypted if asked.

    Returns {"bundle.key", "bundle.pem", "policy.key", "policy.pem"}: the content by file name.
    """
    files = {}
    for name in ("bundle", "policy"):
        key = _fresh()
        files[f"{name}.key"] = _private_pem(key, password)
        files[f"{name}.pem"] = public_pem(key.public_key())
    return files


def _fresh() -> ec.EllipticCurvePrivateKey:
    """Make a key without a coordinate that begins with a zero byte, as one in 128 has.

    Libraries write such a coordinate in two ways, of which a TPM takes one.
    """
    while True:
        key = ec.generate_private_key(ec.SECP256R1())
        point = key.public_key().public_numbers()
        if min(point.x, point.y) >= 1 << 248:
            return key


def load_private(name: str, pem: bytes, password: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 private key in ``pem``, the content of the file ``name``. Raises ``KeyFileError``."""
    if len(pem) > FILE_CAP or b"PRIVATE KEY-----" not in pem:
        raise KeyFileError(name, "holds no private key: name the *.key file that 'idiolect bundle keygen' made")
    encrypted = b"ENCRYPTED" in pem
    if encrypted and not password:
        raise KeyFileError(name, "is encrypted: give its password with --password-file")
    try:
        key = serialization.load_pem_private_key(pem, password if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        why = "is damaged, or the password is wrong" if encrypted else "is damaged"
        raise KeyFileError(name, f"{why}: check --password-file, or restore the key from a backup") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyFileError(name, "is not a P-256 key: make one with 'idiolect bundle keygen'")
    return key


def sign(files: Mapping[str, bytes], plan: Plan) -> Verified:
    """Return the signed bundle of these ``files``, as any device that trusts the bundle key will find it.

    An old signature and old approvals among ``files`` are replaced.

    Raises:
        BundleError: the payload does not fit its manifest, or something else is there.
        ValueError: the plan makes no sense.
    """
    payload = {name: data for name, data in files.items() if name not in (oms.FILE, approvals_.FILE)}
    raw = manifest_.with_label(
        verify(Memory(payload), None, allow_unsigned=True).files[manifest_.FILE], plan.name, plan.version
    )
    measurement = hashlib.sha256(raw).digest()
    approvals = approvals_.encode(_approvals(plan, measurement))
    signed = payload | {manifest_.FILE: raw, approvals_.FILE: approvals}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in signed.items()}
    signature = oms.sign(plan.bundle_key, manifest_.parse(raw).name, digests)
    return verify(Memory(signed | {oms.FILE: signature}), TrustedKeys.of(plan.bundle_key.public_key()))


def _approvals(plan: Plan, measurement: bytes) -> list[Approval]:
    """Approve, for each policy key, a fresh boot and each state that an approved predecessor leaves behind."""
    found: dict[tuple[str, int, bytes], Approval] = {}
    for key in plan.policy_keys:
        before = [(plan.pcr, plan.pcr_start), *_reached(plan.upgrades, key)]
        if len(found) + len(before) > MAX_APPROVALS:
            message = f"would hold more than {MAX_APPROVALS} approvals: name fewer bundles to upgrade from"
            raise BundleError(approvals_.FILE, message, APPROVED)
        for pcr, value in before:
            approval = approve(key, pcr, value, measurement)
            found[approval.key, pcr, value] = approval
    return list(found.values())


def _reached(approvals: Iterable[Approval], key: ec.EllipticCurvePrivateKey) -> list[tuple[int, bytes]]:
    """Return where the PCR stands after boots that this very key approved; approvals by anybody else lead nowhere."""
    public = key.public_key()
    mine = (each for each in approvals if each.key == fingerprint(public))
    return [(each.pcr, each.to) for each in mine if approvals_.check(each, public)]


def _private_pem(key: ec.EllipticCurvePrivateKey, password: bytes | None) -> bytes:
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        protection = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
