"""Files: bounded reads and durable writes. The only two ways in which anything here touches a disk."""

from __future__ import annotations

import errno
import os
import stat
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from idiolect.errors import BundleError
from idiolect.trust.bundle.source import SIZE, irregular, missing, too_large, unreadable

if TYPE_CHECKING:
    from idiolect.trust.bundle.public_keys import TrustedKeys


MAX_ENTRIES = 1024
"""Of a directory that is read as a whole."""
_IRREGULAR = {errno.ELOOP: "is a symbolic link", errno.ENXIO: "is a socket, or a device that is not there"}


DISK_STATES = {errno.ENOSPC: "full", errno.EDQUOT: "full", errno.EROFS: "readonly", errno.EIO: "failed"}
"""What an errno says of the disk, as a state of the keys."""


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


class Directory:
    """The files of one directory, opened once: renaming it or putting a link in its place changes nothing any more.

    A ``trust.source.Source`` and a context manager. Opening raises ``OSError``.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let it go."""
        os.close(self._descriptor)

    def names(self) -> list[str]:
        """Everything in it, sorted, whatever its kind. Raises ``BundleError`` (check 1) above ``MAX_ENTRIES``."""
        with os.scandir(self._descriptor) as entries:
            found = [entry.name for entry in islice(entries, MAX_ENTRIES + 1)]
        if len(found) > MAX_ENTRIES:
            raise BundleError(".", f"the directory holds more than {MAX_ENTRIES} files: is it the right one?", SIZE)
        return sorted(found)

    def read(self, name: str, cap: int) -> bytes:
        """All bytes of a regular file in it. Raises ``BundleError``: check 1 above ``cap``, 5 when it is none."""
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise irregular(name, "is a path and not a name")
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not block
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except FileNotFoundError:
            raise missing(name) from None
        except OSError as error:
            if error.errno in _IRREGULAR:
                raise irregular(name, _IRREGULAR[error.errno]) from None
            raise unreadable(name, error.strerror) from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise irregular(name, "is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(cap + 1)
        except OSError as error:
            raise unreadable(name, error.strerror) from None
        finally:
            os.close(descriptor)
        if len(data) > cap:
            raise too_large(name, cap)
        return data

    def __enter__(self) -> Directory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_keys(directory: Path, prefix: str = "") -> TrustedKeys:
    """Whom this device trusts: `keys.d`. Raises ``BundleError``, also where there is no such directory.

    With a ``prefix`` only the files that begin with it count, as systemd names what it copied from a directory.
    """
    from idiolect.trust.bundle.public_keys import (  # cryptography: not for everybody who reads files
        KeyFileError,
        TrustedKeys,
    )

    try:
        with Directory(directory) as source:
            return TrustedKeys.read(source, prefix)
    except OSError as error:
        message = f"cannot be read ({error.strerror}): create it and put the vendor's bundle.pem into it"
        raise KeyFileError(str(directory), message) from None


def _draft_of(path: Path) -> Path:
    """Under which name the new content of a file is written first."""
    return path.with_name(f".{path.name}.new")


def remove_draft(path: Path) -> None:
    """What ``write_durably`` left when it was killed: for contents that must not lie about until the next write."""
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
    """A new file, durable, with owner and mode of ``like``. Raises ``FileExistsError``, and changes nothing then."""
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
