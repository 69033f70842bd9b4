"""Reads what the kernel shows as files: values of a few bytes that may be absent, vanish, fail or lie.

Attributes are regular files of one value each, and the entries of a class are symbolic links to devices
(Documentation/filesystems/sysfs.rst), so links are followed here, unlike in ``host.files``. A driver may answer
EIO, ENODATA or EINVAL at any time, and a device may go between listing and reading. Nothing here raises, and nothing
waits for more than the driver itself does (a fuel gauge on I2C: milliseconds, a broken one up to a second or so).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

VALUE = 64
"""Bytes of one attribute's value at most."""
ENTRIES = 256
"""Entries of one directory that are looked at, at most."""
_WHOLE = re.compile(r"-?[0-9]{1,24}")
_SHOWN = 20
"""Characters of garbage that are quoted."""


class Look:
    """One look below ``root``. What cannot be had is None, and ``trouble`` says why, unless it is simply not there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.trouble: list[str] = []

    def entries(self, folder: str, *prefixes: str) -> tuple[str, ...] | None:
        """Return paths of what is in ``folder`` (below root) and begins with a prefix, sorted; None: unreadable."""
        try:
            with os.scandir(self._root / folder) as found:
                names = list(islice((entry.name for entry in found if entry.name.startswith(prefixes or "")), ENTRIES))
        except FileNotFoundError:
            return ()
        except OSError as error:
            self.blame(folder, error.strerror or "unreadable")
            return None
        return tuple(f"{folder}/{name}" for name in sorted(names))

    def text(self, path: str, cap: int = VALUE, quiet: Sequence[int] = ()) -> str | None:
        """Return a file's text without white space around it, never empty. ``quiet``: errors that are no trouble."""
        try:
            data = _read(self._root / path, cap + 1)
        except OSError as error:
            if error.errno not in (errno.ENOENT, *quiet):
                self.blame(path, error.strerror or "unreadable")
            return None
        fault = _fault(data, cap)
        if data is None or fault:
            self.blame(path, fault)
            return None
        text = data.decode("ascii").strip()
        if cap == VALUE and not text.isprintable():  # an attribute is one line; it is shown to people and to journals
            self.blame(path, "is more than a line of text")
            return None
        return text

    def word(self, path: str, known: Sequence[str]) -> str | None:
        """Return a file's text, if it is one of the ``known`` words."""
        text = self.text(path)
        if text is None or text in known:
            return text
        self.blame(path, f"says {text[:_SHOWN]!r}")
        return None

    def whole(self, path: str, lowest: int, highest: int, quiet: Sequence[int] = ()) -> int | None:
        """Return a whole number from ``lowest`` to ``highest``."""
        text = self.text(path, quiet=quiet)
        if text is None:
            return None
        if _WHOLE.fullmatch(text) and lowest <= int(text) <= highest:
            return int(text)
        self.blame(path, f"says {text[:_SHOWN]!r} and not a number from {lowest} to {highest}")
        return None

    def blame(self, path: str, what: str) -> None:
        """Add to ``trouble``, by the last two names of the path: ``BAT0/capacity: Input/output error``."""
        self.trouble.append(f"{'/'.join(path.split('/')[-2:])}: {what}")


def _fault(data: bytes | None, cap: int) -> str:
    if data is None:
        return "is not a file"
    if len(data) > cap:
        return f"holds more than {cap} bytes"
    if not data.isascii() or b"\0" in data:
        return "is not text"
    return "" if data.strip() else "is empty"


def _read(path: Path, size: int) -> bytes | None:
    """Return at most ``size`` bytes from the start of a regular file; None if it is none. Raises ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)  # a FIFO must not block
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        data = b""
        while len(data) < size and (more := os.read(descriptor, size - len(data))):
            data += more
        return data
    finally:
        os.close(descriptor)
