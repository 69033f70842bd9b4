"""Makes what the machines of hw-tests are made of, before pytest counts anybody's time: prepare.py local | board

Minutes the first time (debootstrap, and for the board a kernel); a moment when it is there. Without it the first test
makes them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from targets import roots
from targets.base import TargetError


def main() -> int:
    """Exit status 1, and why, where something cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=("local", "board"))
    parser.add_argument("--release", choices=roots.RELEASES, default=roots.RELEASES[0], help="Debian's, %(default)s")
    options = parser.parse_args()
    try:
        roots.debian(options.release)
        if options.target == "board":
            roots.initramfs()
    except TargetError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    for name, seconds in roots.TIMES.items():
        print(f"prepare: {name} made in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
