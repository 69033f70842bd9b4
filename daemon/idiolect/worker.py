"""The training worker: one request on standard input, one answer on standard output, and that is all it does.

It opens no file, no socket and no device, and its messages carry no name: the host confines it to just that.
"""

from __future__ import annotations

import os
import sys
from typing import BinaryIO


def main() -> int:
    """Exit status 0 with an answer, 65 with none."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # a threaded sum may come out otherwise, and listening needs the other cores
    from idiolect.errors import LearningError
    from idiolect.learning import protocol

    taken, given = sys.stdin.buffer, sys.stdout.buffer
    try:
        size = protocol.length(_read(taken, 4), protocol.REQUEST_CAP)
        request = protocol.read_request(protocol.unpack(_read(taken, size), protocol.REQUEST_CAP))
        answer = protocol.frame(protocol.work(request))
    except (LearningError, MemoryError, EOFError) as error:
        given.write(protocol.frame({"v": 1, "error": type(error).__name__}))
        return 65
    given.write(answer)
    return 0


def _read(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


if __name__ == "__main__":
    sys.exit(main())
