"""Files: bounded reads and durable writes. The only two ways in which anything here touches a disk."""

from __future__ import annotations

import os
from pathlib import Path


class TooLarge(Exception):
    """A file holds more than its cap."""


def read_capped(path: Path, cap: int) -> bytes:
    """All of a regular file of at most ``cap`` bytes. Raises ``OSError`` or ``TooLarge``; never follows a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(cap + 1)
    if len(data) > cap:
        raise TooLarge(f"{path.name} is larger than {cap} bytes")
    return data


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file so that after a crash at any instruction either the old or the new content is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # the rename itself is durable only with its directory
    finally:
        os.close(directory)
