"""Reads a bundle's files, and the trusted keys, from a directory that is opened once."""

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
"""Entries of a directory that is read as a whole, at most."""


_IRREGULAR = {errno.ELOOP: "is a symbolic link", errno.ENXIO: "is a socket, or a device that is not there"}


class Directory:
    """The files of one directory, opened once: renaming it or putting a link in its place changes nothing any more.

    A ``bundle.source.Source`` and a context manager. Opening raises ``OSError``.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the directory's descriptor."""
        os.close(self._descriptor)

    def names(self) -> list[str]:
        """Return the names of everything in it, sorted, whatever its kind.

        Raises:
            BundleError: with check 1, for more than ``MAX_ENTRIES``.
        """
        with os.scandir(self._descriptor) as entries:
            found = [entry.name for entry in islice(entries, MAX_ENTRIES + 1)]
        if len(found) > MAX_ENTRIES:
            raise BundleError(".", f"the directory holds more than {MAX_ENTRIES} files: is it the right one?", SIZE)
        return sorted(found)

    def read(self, name: str, cap: int) -> bytes:
        """Return all bytes of a regular file in it.

        Raises:
            BundleError: with check 1 for more than ``cap`` bytes, with check 5 when it is no regular file.
        """
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
    """Return the keys that this device trusts, from its `keys.d`.

    Args:
        prefix: only files that begin with it count, as systemd names the copies it makes from a directory.

    Raises:
        BundleError: a file is wrong, or there is no such directory.
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
