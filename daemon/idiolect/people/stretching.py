"""Makes a key of a passphrase, in a process of its own: scrypt takes 32 MiB, which the daemon does not have to spare.

The child is confined like the training worker (``worker.sandbox``), makes one key and ends; ``stretch`` starts it.
"""

from __future__ import annotations

import json
import os
from dataclasses import astuple

from idiolect.errors import NONSENSE, LearningError
from idiolect.learning.worker import frames, sandbox
from idiolect.learning.worker.main import read, write
from idiolect.people import stretch
from idiolect.trust.vault import passphrase


def main() -> int:
    """Read one request from standard input and answer with the key; return 0 with a key, 65 without."""
    held = sandbox.early(waited_for=True)
    passphrase.stretch("", b"", 2)  # OpenSSL opens files at its first use
    held += sandbox.enter()
    write(frames.pack(json.dumps([astuple(layer) for layer in held]).encode()))
    try:
        header = read(frames.HEADER)
        asked = frames.body(header, read(frames.size(header, stretch.REQUEST_CAP)))
        answer, code = passphrase.stretch(*stretch.asked(asked)), 0
    except (*NONSENSE, LearningError, MemoryError, EOFError):
        answer, code = b"", 65
    write(frames.pack(answer))
    return code


if __name__ == "__main__":
    code = main()
    os._exit(code)  # tidying up would ask for files that are out of reach now
