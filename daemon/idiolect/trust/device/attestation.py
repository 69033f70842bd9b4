"""Checks a TPM's quotes on another machine: bytes in, a verdict out, with ``cryptography`` alone and no TPM.

A quote is a TPMS_ATTEST that the attestation key (AK) signed inside the TPM. What makes it worth anything:

1. the AK is the one pinned at provisioning, from the fleet's records, not from the document;
2. the signature is ECDSA P-256 with SHA-256 over exactly these bytes;
3. the bytes begin with TPM_GENERATED, which a restricted key signs only for what the TPM itself made, and are a quote
   that names this AK as its signer;
4. its extra data is what the verifier asked for: its own fresh nonce, bound to what the document claims;
5. it covers one PCR in the SHA-256 bank, and that PCR's value is the one given;
6. that value is what the bundle's digest extends a fresh boot to, or an approved ``to`` that the verifier supplies.

Structures: TPM 2.0 Library part 2, 10.12 (attestation), 11.3.4 (signatures), 12.2.4 (public areas).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idiolect.errors import IdiolectError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

GENERATED, QUOTE = 0xFF544347, 0x8018
_SHA256, _ECDSA, _ECC, _NULL, _P256 = 0x000B, 0x0018, 0x0023, 0x0010, 0x0003
_ENDORSEMENT = 0x4000000B
AK_ATTRIBUTES = 0x0005_0472
"""restricted, sign, fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA: what makes a key an AK."""
NONCE_BYTES = range(8, 65)
_ATTEST_CAP = 1024


class AttestationError(IdiolectError):
    """Raised when a quote proves nothing; ``check`` is the number of the check above that it failed."""

    exit_code = 1

    def __init__(self, check: int, message: str) -> None:
        super().__init__(f"refused ({check}): {message}")
        self.check = check


@dataclass(frozen=True, slots=True)
class Quote:
    """The facts that a quote states: a parsed TPMS_ATTEST."""

    signer: bytes
    extra: bytes
    resets: int
    restarts: int
    safe: bool
    pcr: int
    pcr_digest: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """A quote as it came: TPMS_ATTEST and TPMT_SIGNATURE, marshalled, and the PCR that it is said to cover."""

    attest: bytes
    signature: bytes
    pcr: int
    value: bytes


def attest_data(nonce: bytes, bundle_digest: bytes) -> bytes:
    """Return the qualifying data of `idiolect attest`: the verifier's nonce, bound to the bundle claimed to run."""
    return hashlib.sha256(b"idiolect/attest/v1" + struct.pack(">H", len(nonce)) + nonce + bundle_digest).digest()


def verify_quote(ak_pem: bytes, signed: Signed, extra: bytes) -> Quote:
    """Make the checks 1 to 5, and return what the quote says.

    Args:
        ak_pem: the pinned attestation key.
        extra: the data that the quote has to carry.

    Raises:
        AttestationError: with the number of the check that failed.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = _attestation_key(ak_pem)  # 1
    try:
        key.verify(_signature(signed.signature), signed.attest, ec.ECDSA(hashes.SHA256()))  # 2
    except (InvalidSignature, ValueError, struct.error):
        raise AttestationError(2, "the quote is not signed by the pinned attestation key") from None
    try:
        quote = parse_quote(signed.attest)  # 3
    except (ValueError, struct.error):
        raise AttestationError(3, "the signed bytes are not a quote that a TPM made") from None
    if quote.signer != _qualified_name(key_name(ak_pem)):
        raise AttestationError(3, "the quote names another key as its signer")
    if not hmac.compare_digest(quote.extra, extra):  # 4
        raise AttestationError(4, "the quote answers another question: an old nonce, or other contents")
    if quote.pcr != signed.pcr or quote.pcr_digest != hashlib.sha256(signed.value).digest():  # 5
        raise AttestationError(5, f"the quote does not cover PCR {signed.pcr} with the value given")
    return quote


def verify_boot(value: bytes, bundle_digest: bytes, approved: Collection[bytes] = ()) -> None:
    """Compare a PCR's value with what this bundle's boot leaves there (check 6).

    Args:
        approved: the ``to`` values of the bundle's approvals, beyond the one after a fresh boot.

    Raises:
        AttestationError: with check 6.
    """
    fresh = hashlib.sha256(bytes(32) + bundle_digest).digest()
    if value != fresh and value not in approved:
        raise AttestationError(6, "the PCR is not what this bundle leads to: something else was measured as well")


def parse_quote(attest: bytes) -> Quote:
    """Read a TPMS_ATTEST. Raises ``ValueError`` or ``struct.error`` when it is no quote over one SHA-256 PCR."""
    if len(attest) > _ATTEST_CAP:
        raise ValueError("too large")
    magic, kind = struct.unpack_from(">IH", attest)
    if magic != GENERATED or kind != QUOTE:
        raise ValueError("no quote")
    signer, at = _sized(attest, 6)
    extra, at = _sized(attest, at)
    _clock, resets, restarts, safe, _firmware = struct.unpack_from(">QIIBQ", attest, at)
    count, bank, size = struct.unpack_from(">IHB", attest, at + 25)
    bits = attest[at + 32 : at + 32 + size]
    digest, end = _sized(attest, at + 32 + size)
    chosen = [n for n in range(size * 8) if bits[n // 8] >> (n % 8) & 1] if len(bits) == size else []
    if count != 1 or bank != _SHA256 or len(chosen) != 1 or end != len(attest):
        raise ValueError("another selection")
    return Quote(signer, extra, resets, restarts, bool(safe), chosen[0], digest)


def key_name(pem: bytes) -> bytes:
    """Return the TPM Name of an attestation key with this public point: nameAlg, then the digest of its TPMT_PUBLIC."""
    numbers = _attestation_key(pem).public_numbers()
    point = b"".join(struct.pack(">H", 32) + n.to_bytes(32, "big") for n in (numbers.x, numbers.y))
    scheme = struct.pack(">HHHHH", _NULL, _ECDSA, _SHA256, _P256, _NULL)
    area = struct.pack(">HHIH", _ECC, _SHA256, AK_ATTRIBUTES, 0) + scheme + point
    return struct.pack(">H", _SHA256) + hashlib.sha256(area).digest()


def _qualified_name(name: bytes) -> bytes:
    """Return the qualified name of a primary key in the endorsement hierarchy (part 1, 26.5).

    It is nameAlg, then H(TPM_RH_ENDORSEMENT | Name).
    """
    return struct.pack(">H", _SHA256) + hashlib.sha256(struct.pack(">I", _ENDORSEMENT) + name).digest()


def _attestation_key(pem: bytes) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key: Any = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError):
        raise AttestationError(1, "the attestation key is not a public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise AttestationError(1, "the attestation key is not on P-256")
    return key


def _signature(raw: bytes) -> bytes:
    """Return the signature in a TPMT_SIGNATURE, in DER."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    scheme, digest = struct.unpack_from(">HH", raw)
    r, at = _sized(raw, 4)
    s, end = _sized(raw, at)
    if (scheme, digest) != (_ECDSA, _SHA256) or end != len(raw):
        raise ValueError("no ECDSA signature with SHA-256")
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the content of the TPM2B at an offset, and the offset behind it."""
    (size,) = struct.unpack_from(">H", data, at)
    end = at + 2 + size
    if end > len(data):
        raise ValueError("cut short")
    return data[at + 2 : end], end
