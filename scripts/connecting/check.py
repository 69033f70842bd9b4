"""A daemon, a TCP port, and Home Assistant's own code in an environment of its own against them.

python -m connecting.check PYTHON      (of an environment with Home Assistant in it)
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from connecting.running import daemon
from tests.support.proxies import Proxy
from tests.support.speech import DIGITS, digit
from tests.support.wyoming_talk import spoken


def main(python: str) -> int:
    """The exit code of what ran there."""
    script = Path(__file__).with_name("in_homeassistant.py")
    with tempfile.TemporaryDirectory() as name, daemon() as running, Proxy(running.wyoming) as proxy:
        wake, phrase = Path(name) / "wake.raw", Path(name) / "phrase.raw"
        wake.write_bytes(spoken("computer").astype("<i2").tobytes())
        phrase.write_bytes(digit(7).astype("<i2").tobytes())
        return subprocess.run([python, script, str(proxy.port), wake, phrase, DIGITS[7]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
