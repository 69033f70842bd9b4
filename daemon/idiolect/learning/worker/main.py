"""The training worker: one request on standard input, one answer on standard output, and that is all it does.

Before it reads a byte it confines itself (``worker.sandbox``) and says on standard output which layers hold; the daemon
sends examples only after that. Its messages carry no name.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import astuple

from idiolect.learning.worker import frames, sandbox

IN, OUT = 0, 1


def main() -> int:
    """Do the one request; return exit status 0 with an answer, 65 with none."""
    held = sandbox.early(waited_for=sandbox.IDLE not in sys.argv)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # a threaded sum may come out otherwise, and listening needs the other cores
    from idiolect.errors import LearningError
    from idiolect.learning import messages

    messages.load()
    held += sandbox.enter()
    write(frames.pack(json.dumps([astuple(layer) for layer in held]).encode()))
    try:
        header = read(frames.HEADER)
        asked = frames.body(header, read(frames.size(header, messages.REQUEST_CAP)))
        answer, code = messages.work(messages.read_request(messages.unpack(asked, messages.REQUEST_CAP))), 0
    except (LearningError, MemoryError, EOFError) as error:
        answer, code = {"v": messages.VERSION, "error": type(error).__name__}, 65
    write(frames.pack(messages.packed(answer)))
    return code


def read(size: int) -> bytes:
    """Return ``size`` bytes from standard input. Raises ``EOFError`` when there are fewer."""
    data = bytearray()
    while len(data) < size:
        part = os.read(IN, min(size - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def write(data: bytes) -> None:
    """Write all of ``data`` to standard output, however many calls that takes."""
    left = memoryview(data)
    while left:
        left = left[os.write(OUT, left) :]


if __name__ == "__main__":
    code = main()
    os._exit(code)  # tidying up would ask for files that are out of reach now
