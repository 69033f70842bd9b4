#!/bin/sh
""":" # sh reads this first, and tells a machine without python3 what to do; for Python it is a text and nothing more
command -v python3 >/dev/null || {
    echo "verify_attestation: python3 is missing; run ./scripts/setup --demo-only first" >&2
    exit 1
}
exec python3 "$0" "$@"
":"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "daemon")]

import environment  # noqa: E402

__doc__ = """\
Checks what a device says of itself: an attestation (`idiolect attest`) or an audit export (`idiolect audit export`).

Needs this checkout and the `cryptography` package, no TPM and nothing of the device but the file and the attestation
key that its provisioning printed. Exit code 0: it holds; 1: refused, with the number of the check that failed.
"""


def parse() -> argparse.Namespace:
    """The command line, or its help; needs no library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the JSON that the device printed")
    parser.add_argument("--ak", type=Path, required=True, help="its attestation key, PEM, from the fleet's records")
    parser.add_argument("--nonce", type=bytes.fromhex, required=True, help="what it was asked with, hex")
    parser.add_argument("--approvals", type=Path, help="the bundle's approvals.json, where upgrades in a boot may pass")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def main() -> int:
    """Check one file."""
    options = parse()
    environment.enter("verify_attestation", "./scripts/setup --demo-only")
    from idiolect.errors import IdiolectError
    from idiolect.trust.bundle import approvals
    from idiolect.trust.device.documents import is_audit, verify_attestation, verify_audit
    from idiolect.trust.vault import audit

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
