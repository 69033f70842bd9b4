"""The interface through which files that are to be checked are read, from a directory or from memory.

It is light to import, unlike the checks. The errors that both kinds of source raise are made here, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from idiolect.errors import BundleError

SIZE, FORM, SIGNER, VERSION, PATHS, DIGEST, APPROVED = range(1, 8)
"""The numbers of the checks of ``bundle.verify``, as ``BundleError.check`` gives them."""


class Source(Protocol):
    """The files of one directory, opened once (``bundle.directory.Directory``), or in memory."""

    def names(self) -> Sequence[str]:
        """Return the names of everything in it, whatever its kind."""

    def read(self, name: str, cap: int) -> bytes:
        """Return all bytes of a regular file.

        Raises:
            BundleError: with check 1 for more than ``cap`` bytes, with check 5 when it is no regular file.
        """


@dataclass(frozen=True, slots=True)
class Memory:
    """A source of files that are in memory already."""

    files: Mapping[str, bytes]

    def names(self) -> Sequence[str]:
        """Return the names of all files."""
        return tuple(self.files)

    def read(self, name: str, cap: int) -> bytes:
        """Return the bytes of one file. Raises ``BundleError`` when it is missing or has more than ``cap`` bytes."""
        if name not in self.files:
            raise missing(name)
        if len(self.files[name]) > cap:
            raise too_large(name, cap)
        return self.files[name]


def missing(name: str) -> BundleError:
    """Return the error for a file that is not there."""
    return BundleError(shown(name), "is missing: install the bundle again", PATHS)


def too_large(name: str, cap: int) -> BundleError:
    """Return the error for a file of more than ``cap`` bytes."""
    return BundleError(shown(name), f"is larger than the {cap} bytes that it may have: install the bundle again", SIZE)


def irregular(name: str, what: str) -> BundleError:
    """Return the error for something that is no regular file of this directory; ``what`` completes "the file ..."."""
    return BundleError(shown(name), f"{what}: only regular files are read; install the bundle again", PATHS)


def unreadable(name: str, why: str | None) -> BundleError:
    """Return the error for a file that the operating system does not let us read."""
    return BundleError(shown(name), f"cannot be read ({why}): check its owner and mode, and the disk", PATHS)


def shown(name: str) -> str:
    """Return a file's name, from anywhere, in a form that is harmless in a message: printable, and not long."""
    return name if name.isprintable() and len(name) <= 64 else ascii(name[:64])
