"""Verification: a directory's bytes in, ``Verified`` or a refusal out. No I/O: ``Source`` brings the bytes.

The checks, in the order in which they are made; ``BundleError.check`` is the number of the one that failed:

1. no more files than ``MAX_FILES``, and none larger than its cap;
2. `manifest.json` and `approvals.json` are canonical JSON and hold exactly the fields they should;
3. `model.sig` is well-formed, signed by a key in `keys.d` that is not revoked, and it vouches for exactly the bytes of
   these two files that were read;
4. the bundle's version is not below the minimum;
5. the directory holds what the signature and the manifest name: nothing extra, nothing missing, no link, no
   directory, no name with a path in it;
6. every payload file has the size and the digest that the manifest gives, and the digest that the signature gives.
   Returned are *the bytes that were digested*: no path is read twice;
7. every approval is for this very manifest.

An unsigned bundle skips 3 and 7, and of 5 and 6 what is about the signature. It may be read where the caller allows
it, which is for development: nothing vouches for it, and its approvals are not even read. Where there are keys, a
signature that is there must be good, allowed or not.

What the caller must still do: decide which keys and which minimum hold, and load nothing but ``Verified.files``.
What is not checked: an approval's signature. The policy key is the TPM's to check (``approvals.check`` does it too).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from idiolect.errors import BundleError
from idiolect.trust.bundle import approvals as approvals_
from idiolect.trust.bundle import manifest as manifest_
from idiolect.trust.bundle import signature as oms
from idiolect.trust.bundle.approvals import Approval
from idiolect.trust.bundle.manifest import PAYLOAD_CAPS, File, Manifest
from idiolect.trust.bundle.public_keys import TrustedKeys
from idiolect.trust.bundle.source import APPROVED, DIGEST, FORM, PATHS, SIGNER, SIZE, VERSION, Source, missing, shown

MAX_FILES = 32
"""Files in a bundle's directory, at most; there are at most 21 to be read."""
CHECKS: Mapping[int, str] = {
    SIZE: "sizes and number of files",
    FORM: "canonical manifest and approvals",
    SIGNER: "signed by a trusted key",
    VERSION: "version not below the minimum",
    PATHS: "no extra, missing or linked file",
    DIGEST: "digest of every file",
    APPROVED: "approvals are for this manifest",
}
"""The subject of each check, in a few words."""
_AGAIN = "install the bundle again"
_META = frozenset({manifest_.FILE, approvals_.FILE, oms.FILE})


@dataclass(frozen=True, slots=True)
class Verified:
    """The contents of a bundle that passed every check. Only ``verify`` makes one."""

    files: Mapping[str, bytes]
    """Every file of the bundle, `model.sig` and `approvals.json` included where they counted."""
    manifest: Manifest
    digest: str
    """sha256 of `manifest.json`, hex: the measurement."""
    approvals: tuple[Approval, ...]
    signer: str
    """Fingerprint of the bundle key, hex; "" when unsigned."""


def verify(
    source: Source,
    keys: TrustedKeys | None,
    *,
    minimum: int = 0,
    allow_unsigned: bool = False,
    passed: Callable[[int], object] = lambda _: None,
) -> Verified:
    """Make the checks that the module's docstring numbers, and return the bundle's contents.

    Args:
        keys: the keys trusted to sign; None: nobody is trusted, so the bundle can only pass as unsigned.
        minimum: the lowest version that passes.
        allow_unsigned: let a bundle without a signature pass.
        passed: called with the number of each check that was made, as it passes.

    Raises:
        BundleError: with the number of the first check that failed.
    """
    names = _names(source)  # 1
    files = {manifest_.FILE: source.read(manifest_.FILE, manifest_.CAP)}  # 1
    manifest = manifest_.parse(files[manifest_.FILE])  # 2
    vouched = _UNSIGNED
    if not (allow_unsigned and (keys is None or oms.FILE not in names)):
        files[oms.FILE] = _signature_file(source, names)  # 1
        files[approvals_.FILE] = source.read(approvals_.FILE, approvals_.CAP)  # 1
        approvals = approvals_.parse(files[approvals_.FILE])  # 2
        passed(FORM)
        vouched = _vouched(files, keys, approvals)  # 3
        passed(SIGNER)
    else:
        passed(FORM)
    _check_version(manifest.version, minimum)  # 4
    passed(VERSION)
    _check_paths(names, manifest, vouched.digests)  # 5
    for name, entry in manifest.files.items():
        files[name] = source.read(name, PAYLOAD_CAPS[name])  # 1, 5
        _check_digest(name, files[name], entry, vouched.digests)  # 6
    for number in (SIZE, PATHS, DIGEST):
        passed(number)
    if vouched.digests is not None:
        approvals_.check_fit(vouched.approvals, bytes.fromhex(manifest.digest))  # 7
        passed(APPROVED)
    return Verified(files, manifest, manifest.digest, vouched.approvals, vouched.signer)


@dataclass(frozen=True, slots=True)
class _Vouched:
    """A good signature's statement: who signed, and the digest of every file.

    ``digests`` is None where nobody signed.
    """

    signer: str
    digests: Mapping[str, str] | None
    approvals: tuple[Approval, ...]


_UNSIGNED = _Vouched("", None, ())


def _names(source: Source) -> frozenset[str]:
    names = source.names()
    if len(names) > MAX_FILES:
        message = f"the directory holds {len(names)} entries, at most {MAX_FILES} can belong to it: {_AGAIN}"
        raise BundleError(manifest_.FILE, message, SIZE)
    return frozenset(names)


def _signature_file(source: Source, names: Collection[str]) -> bytes:
    if oms.FILE not in names:
        message = "is missing: this bundle is unsigned; sign it with 'idiolect bundle sign', or install one that is"
        raise BundleError(oms.FILE, message, SIGNER)
    return source.read(oms.FILE, oms.CAP)


def _vouched(files: Mapping[str, bytes], keys: TrustedKeys | None, approvals: tuple[Approval, ...]) -> _Vouched:
    """Check the signature, and return its statement (check 3)."""
    signature = oms.parse(files[oms.FILE])
    if keys is None or not keys.keys:
        raise BundleError(oms.FILE, "there is no key to check it with: put the vendor's into keys.d", SIGNER)
    key = keys.signer(signature.hint)
    if key is None:
        message = "is by a key that is not in keys.d: install a bundle of your vendor's, or put its key there"
        raise BundleError(oms.FILE, message, SIGNER)
    if key.fingerprint in keys.revoked:
        message = f"is by the revoked key {key.fingerprint[:16]}: install a bundle that is signed by another"
        raise BundleError(oms.FILE, message, SIGNER)
    if not signature.verify(key.key):
        raise BundleError(oms.FILE, f"is not a signature by key {key.fingerprint[:16]}: {_AGAIN}", SIGNER)
    for name in (manifest_.FILE, approvals_.FILE):
        if signature.resources.get(name) != hashlib.sha256(files[name]).hexdigest():
            raise BundleError(name, f"is not what was signed: {_AGAIN}", SIGNER)
    return _Vouched(key.fingerprint, signature.resources, approvals)


def _check_version(version: int, minimum: int) -> None:
    """Refuse a version below the minimum (check 4)."""
    if version < minimum:
        message = f"version {version} is below the minimum {minimum}: install a newer bundle"
        raise BundleError(manifest_.FILE, message, VERSION)


def _check_paths(names: Collection[str], manifest: Manifest, signed: Mapping[str, str] | None) -> None:
    """Compare the names in the directory with the signed ones (check 5); irregular files fail when they are read."""
    for name in sorted(set(names) - _META - set(manifest.files)):
        raise BundleError(shown(name), f"is not part of the bundle: remove it, or {_AGAIN}", PATHS)
    for name in sorted(set(manifest.files) - set(names)):
        raise missing(name)
    if signed is not None:
        for name in sorted(set(signed) ^ (set(manifest.files) | _META - {oms.FILE})):
            message = "is in the manifest or in the signature, and not in both: sign the bundle again"
            raise BundleError(shown(name), message, PATHS)


def _check_digest(name: str, data: bytes, entry: File, signed: Mapping[str, str] | None) -> None:
    """Compare a file with both digests: the signature may name another than the manifest (check 6)."""
    if len(data) != entry.size:
        raise BundleError(name, f"has {len(data)} bytes and not {entry.size}, as the manifest says: {_AGAIN}", DIGEST)
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry.sha256:
        raise BundleError(name, f"is not what the manifest says (sha256 differs): {_AGAIN}", DIGEST)
    if signed is not None and digest != signed[name]:
        raise BundleError(name, f"is not what was signed (sha256 differs): {_AGAIN}", DIGEST)
