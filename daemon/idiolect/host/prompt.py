"""Speaks prompts for a box without a screen: espeak-ng, which plays through ALSA itself."""

from __future__ import annotations

import shutil
import subprocess

from idiolect.errors import RequestError

LIMIT_S = 15.0


def say(text: str, language: str) -> None:
    """Speak, and return when it is over. Raises ``RequestError`` 409 where there is no espeak-ng."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise RequestError(409, "speak", "needs espeak-ng: apt install espeak-ng, or leave the spoken prompts out")
    command = [program, "-v", language, "--", text]
    try:
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise RequestError(409, "speak", "the loudspeaker is busy: leave the spoken prompts out") from None
