"""Files: bounded reads and durable writes. The only two ways in which anything here touches a disk."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

DISK_STATES = {errno.ENOSPC: "full", errno.EDQUOT: "full", errno.EROFS: "readonly", errno.EIO: "failed"}
"""The state of the disk for an errno, as a state of the keys."""


class TooLarge(Exception):
    """Raised when a file holds more than its cap."""


def read_capped(path: Path, cap: int) -> bytes:
    """Return all of a regular file of at most ``cap`` bytes, never by a link. Raises ``OSError`` or ``TooLarge``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(cap + 1)
    if len(data) > cap:
        raise TooLarge(f"{path.name} is larger than {cap} bytes")
    return data


def _draft_of(path: Path) -> Path:
    """Return the name under which the new content of a file is written first."""
    return path.with_name(f".{path.name}.new")


def remove_draft(path: Path) -> None:
    """Remove the draft of a killed ``write_durably``, for contents that must not lie about until the next write."""
    _draft_of(path).unlink(missing_ok=True)


def write_durably(path: Path, data: bytes, mode: int = 0o600, like: os.stat_result | None = None) -> None:
    """Replace a file so that after a crash at any instruction either the old or the new content is there.

    It gets owner and mode of ``like``, where that is given.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = _draft_of(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        _fill(temporary, descriptor, data, like)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)  # the rename itself is durable only with its directory


def write_beside(path: Path, data: bytes, like: os.stat_result) -> None:
    """Write a new, durable file with owner and mode of ``like``.

    Raises ``FileExistsError``, and changes nothing then.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _fill(path, descriptor, data, like)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _fill(path: Path, descriptor: int, data: bytes, like: os.stat_result | None) -> None:
    try:
        with os.fdopen(descriptor, "wb") as file:
            if like is not None:  # before there is anything to read in it
                os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        error.filename = error.filename or str(path)  # what works on a descriptor names no file
        raise


def sync_directory(path: Path) -> None:
    """Make what was created, renamed and removed in a directory durable."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
