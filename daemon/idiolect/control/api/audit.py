"""The part of the control API about keys, bundle and audit log; ``api.routes`` routes to it.

| request | role | answer |
| --- | --- | --- |
| GET /v1/audit?limit=1..1000 | user | {"entries": [...]}, the newest, oldest first |
| GET /v1/audit/verify | user | {"count", "head"} once the whole chain was walked |
| GET /v1/audit/export?nonce=HEX | admin | {"export", "quote"}: checked by `idiolect audit verify` elsewhere |
| GET /v1/attest?nonce=HEX | admin | a TPM's quote over what this boot measured |
| POST /v1/bundle/mark-good {} | admin | {"minimum"}: no older bundle gets the keys from now on |

A nonce has 8 to 64 bytes. While there are no keys these answer 503 with the reason; attest needs none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from idiolect.control.api.arguments import only
from idiolect.errors import RequestError

if TYPE_CHECKING:
    from idiolect.control.api.daemon import Daemon
    from idiolect.control.api.requests import Call

MAX_ENTRIES = 1000
STANDARD_ENTRIES = 50
NONCE_BYTES = range(8, 65)
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")


async def show(daemon: Daemon, call: Call) -> dict[str, object]:
    """Answer GET /v1/audit with the newest entries."""
    text = only(call.query, "limit").get("limit", str(STANDARD_ENTRIES))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_ENTRIES):
        raise RequestError(422, "limit", f"must be a whole number from 1 to {MAX_ENTRIES}")
    return await daemon.proofs.audit(int(text))


async def verify(daemon: Daemon, call: Call) -> dict[str, object]:
    """Answer GET /v1/audit/verify with where the chain ends."""
    only(call.query)
    return await daemon.proofs.audit_verify()


async def export(daemon: Daemon, call: Call) -> dict[str, object]:
    """Answer GET /v1/audit/export with the log and a quote over its head."""
    return await daemon.proofs.audit_export(_nonce(call.query))


async def attest(daemon: Daemon, call: Call) -> dict[str, object]:
    """Answer GET /v1/attest with a TPM's quote over this boot."""
    return await daemon.proofs.attest(_nonce(call.query))


async def mark_good(daemon: Daemon, call: Call) -> dict[str, object]:
    """Answer POST /v1/bundle/mark-good with the new minimum version."""
    only(call.query)
    for name in call.body:
        raise RequestError(422, name[:64], "unknown; nothing can be said here")
    return await daemon.proofs.mark_good()


def _nonce(query: Mapping[str, str]) -> bytes:
    text = only(query, "nonce").get("nonce", "")
    if not _HEX.fullmatch(text) or len(text) // 2 not in NONCE_BYTES:
        raise RequestError(422, "nonce", "must be 8 to 64 bytes in hex, fresh for every question")
    return bytes.fromhex(text)
