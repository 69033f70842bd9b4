"""Holds bytes that must not get out: locked in memory, out of core dumps and children, wiped after use, never printed.

As far as Python allows. What a library copies while it works (OpenSSL's key schedules, the immutable ``bytes`` that
some calls insist on) is out of reach; the process itself is kept from dumping core and from being traced
(``host.process.harden``).
"""

from __future__ import annotations

import contextlib
import ctypes
import hmac
import mmap
import os
from types import TracebackType

_PAGE = mmap.PAGESIZE
_MADV_DONTDUMP, _MADV_WIPEONFORK = 16, 18
"""madvise(2): not in core dumps, and zeros for a child."""
_libc = ctypes.CDLL(None)


class Secret:
    """A secret of a fixed length on a page of its own. A context manager that wipes it at the end."""

    __slots__ = ("_length", "_page")

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        """Take a copy of ``value``, 1 byte to a page; a ``bytearray`` given is zeroed."""
        length = len(value)
        if not 1 <= length <= _PAGE:
            raise ValueError("a secret has 1 byte to a page")
        self._length = length
        self._page = mmap.mmap(-1, _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        _protect(self._page)
        self._page[:length] = value
        if isinstance(value, bytearray):
            value[:] = bytes(length)

    @classmethod
    def random(cls, length: int = 32) -> Secret:
        """Return a fresh secret from the kernel's generator."""
        return cls(bytearray(os.urandom(length)))

    @property
    def view(self) -> memoryview:
        """Return the bytes in place, for calls that take a buffer. Release it before wiping.

        Raises ``ValueError`` once the secret was wiped.
        """
        if not self._length:
            raise ValueError("the secret was wiped")
        return memoryview(self._page)[: self._length].toreadonly()

    def wipe(self) -> None:
        """Overwrite and give back the memory; harmless when done twice."""
        if self._length:
            self._length = 0
            self._page[:] = bytes(_PAGE)
            with contextlib.suppress(BufferError):  # somebody still looks at the zeros
                self._page.close()

    def __len__(self) -> int:
        return self._length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self.view, other.view)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<Secret>"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")

    def __enter__(self) -> Secret:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()


def lockable() -> bool:
    """Return True if the kernel would lock one more page of this process."""
    with mmap.mmap(-1, _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        return _protect(page)


def _protect(page: mmap.mmap) -> bool:
    """Keep a page out of swap, core dumps and children; return True if it is locked.

    Where the kernel refuses (RLIMIT_MEMLOCK), the page is used without the lock.
    """
    buffer = (ctypes.c_char * _PAGE).from_buffer(page)
    address = ctypes.c_void_p(ctypes.addressof(buffer))
    locked: bool = _libc.mlock(address, ctypes.c_size_t(_PAGE)) == 0
    for advice in (_MADV_DONTDUMP, _MADV_WIPEONFORK):
        _libc.madvise(address, ctypes.c_size_t(_PAGE), advice)
    del buffer  # or the page could not be closed
    return locked
