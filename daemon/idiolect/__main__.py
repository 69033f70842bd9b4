"""`idiolectd`: the daemon's command line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from idiolect.config.files import MAIN, VENDOR, installed_files
from idiolect.config.schema import MAY_FALL_BACK, load
from idiolect.errors import IdiolectError


def main() -> int:
    """Parse the command line and serve.

    Exit codes follow sysexits(3): 0, 70 (a bug), 73 (no socket), 78 (configuration or bundle).
    """
    about = "Voice daemon: wake words and phrases, recognised on the device."
    parser = argparse.ArgumentParser(prog="idiolectd", description=about)
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        metavar="FILE",
        help=f"YAML configuration; may be given several times, later ones win (default: {VENDOR}, {MAIN} and "
        "conf.d/*.yaml beside it, as far as they are there)",
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format=_format(), stream=sys.stderr)
    # One thread suffices for vectors this small, and each further one would cost memory. Must precede numpy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # On Unix sockets asyncio does without TLS, and without the 4 MiB of it, where there is no ssl when it is imported.
    if not _speaks_tls(options.config):
        sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]
    from idiolect.service.service import start

    return start(options.config)


def _speaks_tls(given: list[Path] | None) -> bool:
    """Whether the configuration wants the page in the network; what is wrong with it, ``start`` says."""
    try:
        page = load(given or installed_files(), MAY_FALL_BACK).page
    except IdiolectError:
        return False
    return page.enabled and page.access == "lan"


def _format() -> str:
    # journald keeps the time of each line by itself
    return "%(message)s" if "JOURNAL_STREAM" in os.environ else "%(asctime)s %(levelname)s %(message)s"


if __name__ == "__main__":
    sys.exit(main())
