"""Where files that are to be checked come from: a directory, or memory. Light to import, unlike the checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from idiolect.errors import BundleError

SIZE, FORM, SIGNER, VERSION, PATHS, DIGEST, APPROVED = range(1, 8)
"""The numbers of the checks of ``bundle.verify``, as ``BundleError.check`` gives them."""


class Source(Protocol):
    """The files of one directory, opened once (``host.files.Directory``), or in memory."""

    def names(self) -> Sequence[str]:
        """Everything in it, whatever its kind."""

    def read(self, name: str, cap: int) -> bytes:
        """All bytes of a regular file. Raises ``BundleError``: check 1 above ``cap`` bytes, 5 when it is none."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Files that are in memory already."""

    files: Mapping[str, bytes]

    def names(self) -> Sequence[str]:
        """Their names."""
        return tuple(self.files)

    def read(self, name: str, cap: int) -> bytes:
        """One of them."""
        if name not in self.files:
            raise missing(name)
        if len(self.files[name]) > cap:
            raise too_large(name, cap)
        return self.files[name]


def missing(name: str) -> BundleError:
    """There is no such file."""
    return BundleError(shown(name), "is missing: install the bundle again", PATHS)


def too_large(name: str, cap: int) -> BundleError:
    """A file has more than ``cap`` bytes."""
    return BundleError(shown(name), f"is larger than the {cap} bytes that it may have: install the bundle again", SIZE)


def irregular(name: str, what: str) -> BundleError:
    """Something is no regular file of this directory; ``what`` completes "the file ..."."""
    return BundleError(shown(name), f"{what}: only regular files are read; install the bundle again", PATHS)


def unreadable(name: str, why: str | None) -> BundleError:
    """The operating system does not let us read it."""
    return BundleError(shown(name), f"cannot be read ({why}): check its owner and mode, and the disk", PATHS)


def shown(name: str) -> str:
    """A file's name, from anywhere, harmless in a message: printable, and not long."""
    return name if name.isprintable() and len(name) <= 64 else ascii(name[:64])
