"""Keeps one known line of a library off standard error, and no other.

LiteRT says once per process, when its first interpreter is made, that it made a delegate. It has no setting for that
(the severity of its log is compiled in), and nobody who reads a journal can use it. Meanwhile standard error goes to
memory; whatever else was written to it follows as soon as the interpreter is there, or was refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

DELEGATE = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
_STDERR = 2


@contextmanager
def without(line: bytes = DELEGATE) -> Iterator[None]:
    """Drop ``line`` from what the block writes to standard error. Only for a process that has one thread as yet."""
    try:
        kept, memory = os.dup(_STDERR), os.memfd_create("stderr", os.MFD_CLOEXEC)
    except OSError:  # without standard error there is nothing to keep clean
        yield
        return
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(memory, _STDERR)
        yield
    finally:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(kept, _STDERR)
        os.close(kept)
        _pass_on(memory, line)


def _pass_on(memory: int, line: bytes) -> None:
    with os.fdopen(memory, "rb") as file:
        file.seek(0)
        rest = b"".join(each for each in file if each.rstrip(b"\r\n") != line)
    while rest:
        try:
            rest = rest[os.write(_STDERR, rest) :]
        except OSError:  # nobody reads it
            return
