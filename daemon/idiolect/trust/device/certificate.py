"""The device's own TLS certificate, for the page in a network: self-signed, known by its fingerprint.

No authority vouches for it: `idiolect pair` prints the fingerprint at the device, and people compare it once with what
their browser shows. The clock of a board is not to be trusted when it is made, so it is valid from 2000 on and does not
expire (notAfter 99991231235959Z, RFC 5280, 4.1.2.5).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_FROM = datetime(2000, 1, 1, tzinfo=UTC)
_UNTIL = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def make(host: str) -> bytes:
    """Make a fresh P-256 key and a certificate for ``host`` and ``host.local``: PEM, the key (PKCS #8) first."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Idiolect on {host}"[:64])])
    names = [x509.DNSName(each) for each in (host, f"{host}.local", "localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint(pem: bytes) -> str:
    """Return the SHA-256 over the DER of the certificate in ``pem``.

    It is written as browsers show it: upper-case hex pairs with colons.
    """
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    return hashlib.sha256(der).digest().hex(":").upper()
