#!/usr/bin/env python3
"""Checks what a device says of itself: an attestation (`idiolect attest`) or an audit export (`idiolect audit export`).

Needs this checkout and the `cryptography` package, no TPM and nothing of the device but the file and the attestation
key that its provisioning printed. Exit code 0: it holds; 1: refused, with the number of the check that failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "daemon"))

from idiolect.errors import IdiolectError
from idiolect.trust import approvals, audit
from idiolect.trust.documents import is_audit, verify_attestation, verify_audit


def main() -> int:
    """Check one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the JSON that the device printed")
    parser.add_argument("--ak", type=Path, required=True, help="its attestation key, PEM, from the fleet's records")
    parser.add_argument("--nonce", type=bytes.fromhex, required=True, help="what it was asked with, hex")
    parser.add_argument("--approvals", type=Path, help="the bundle's approvals.json, where upgrades in a boot may pass")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    try:
        with options.file.open("rb") as file:
            raw = file.read(audit.EXPORT_CAP + 1)
        ak = options.ak.read_bytes()
        if is_audit(raw):
            found = verify_audit(raw, ak, options.nonce)
        else:
            approved = approvals.parse(options.approvals.read_bytes()) if options.approvals else ()
            found = verify_attestation(raw, ak, options.nonce, [each.to for each in approved])
    except (IdiolectError, OSError) as error:
        print(f"{options.file}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2) if options.json else "OK: " + ", ".join(f"{k} {v}" for k, v in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
