"""The two documents that a device hands to somebody who does not trust its disk: attestation and audit export.

`idiolect attest` and `idiolect audit export` write them; ``verify_attestation`` and ``verify_audit`` check them
anywhere with ``cryptography`` alone. The attestation key comes from the fleet's records, never from the document.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from idiolect.errors import NONSENSE
from idiolect.trust.bundle import canonical
from idiolect.trust.device.attestation import AttestationError, Quote, Signed, attest_data, verify_boot, verify_quote
from idiolect.trust.vault import audit

ATTESTATION = "idiolect/attestation/v1"
ATTESTATION_CAP = 16 << 10
_QUOTE_FIELDS = {"attest", "device", "pcr", "signature", "value"}


def is_audit(raw: bytes) -> bool:
    """Return True if a document is an audit export; any other may be an attestation.

    Raises:
        AuditError: it is not JSON.
    """
    document = audit.strict_json(raw)
    return isinstance(document, dict) and "export" in document


def verify_attestation(raw: bytes, ak: bytes, nonce: bytes, approved: Collection[bytes] = ()) -> dict[str, object]:
    """Return what a device's TPM vouches for: bundle, PCR, resets.

    Args:
        ak: the pinned attestation key (PEM).
        nonce: the one that was sent with the question.
        approved: the ``to`` values of the bundle's approvals, where the boot may have gone through an upgrade.

    Raises:
        AttestationError: it vouches for nothing.
    """
    document = _strict(raw, ATTESTATION_CAP, {"bundle", "nonce", "quote", "schema"})
    try:
        bundle, quote = document["bundle"], document["quote"]
        digest = bytes.fromhex(bundle["digest"])
        value = bytes.fromhex(quote["value"])
        known = document["schema"] == ATTESTATION and set(quote) == _QUOTE_FIELDS and len(digest) == len(value) == 32
        known = known and set(bundle) == {"digest", "name", "version"}
    except NONSENSE:
        known = False
    if not known:
        raise AttestationError(0, "the document is not an attestation of this version")
    quoted = _quote(quote, ak, attest_data(nonce, digest))
    verify_boot(value, digest, approved)
    return {"device": quote["device"], "bundle": bundle, "pcr": quoted.pcr, "value": value.hex(), **_resets(quoted)}


def verify_audit(raw: bytes, ak: bytes = b"", nonce: bytes | None = None) -> dict[str, object]:
    """Return a summary of an audit export whose chain holds, and whose head a TPM vouches for where ``ak`` is given.

    Args:
        ak: the pinned attestation key (PEM); empty: the quote is not looked at.
        nonce: the one that was sent with the question.

    Raises:
        AuditError: the chain does not hold.
        AttestationError: the TPM does not vouch for its head.
    """
    document = audit.strict_json(raw)
    if not isinstance(document, dict) or set(document) != {"export", "quote"}:
        raise AttestationError(0, "the document is not an audit export of this version")
    summary = audit.verify_value(document["export"])
    result: dict[str, object] = {
        "device": summary.device,
        "first": summary.anchor.count + 1,
        "count": summary.end.count,
        "head": summary.end.head.hex(),
        "kinds": dict(summary.kinds),
        "quoted": False,
    }
    if ak:
        extra = audit.qualifying_data(summary.end.head, summary.end.count, nonce or b"")
        quoted = _quote(document["quote"], ak, extra)
        result |= {"quoted": True, "pcr": quoted.pcr, **_resets(quoted)}
    return result


def _strict(raw: bytes, cap: int, fields: set[str]) -> dict[str, Any]:
    if len(raw) > cap:
        raise AttestationError(0, f"the document has more than {cap} bytes")
    try:
        document = canonical.strict(raw)
    except canonical.NotCanonicalError as error:
        raise AttestationError(0, f"the document {error}") from None
    if not isinstance(document, dict) or set(document) != fields:
        raise AttestationError(0, f"the document must hold {', '.join(sorted(fields))}")
    return document


def _quote(quote: Any, ak: bytes, extra: bytes) -> Quote:
    if not isinstance(quote, dict):
        raise AttestationError(2, "the document holds no quote: the device keeps its keys in a file")
    try:
        attest, signature, value = (bytes.fromhex(quote[name]) for name in ("attest", "signature", "value"))
        signed = Signed(attest, signature, int(quote["pcr"]), value)
    except NONSENSE:
        raise AttestationError(2, "the quote in the document cannot be read") from None
    return verify_quote(ak, signed, extra)


def _resets(quote: Quote) -> dict[str, object]:
    return {"resets": quote.resets, "restarts": quote.restarts, "clock_safe": quote.safe}
