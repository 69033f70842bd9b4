"""The failing disk of ``faultfs.c`` from Python: compiled when needed, loaded before the C library, armed by ctypes."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().with_name("faultfs.c")
GROW, CHANGE, SYNC, REMOVE, READ = 1, 2, 4, 8, 16
"""What a call does, as in the C file."""
_LOADED = "IDIOLECT_FAULTFS"


@dataclass(frozen=True, slots=True)
class Fault:
    """How a disk fails: which calls, with which error, from then on or once. ``promised``: nobody needs a restart."""

    name: str
    mask: int
    number: int
    lasting: bool = True
    torn: bool = False
    promised: bool = True


FAULTS = (
    Fault("full", GROW, errno.ENOSPC),
    Fault("full-late", GROW | SYNC, errno.ENOSPC),  # as where space is only reserved when it is synced
    Fault("torn", GROW, errno.ENOSPC, torn=True),
    Fault("read-only", GROW | CHANGE | REMOVE, errno.EROFS),
    Fault("eio-once", GROW | CHANGE | SYNC | REMOVE, errno.EIO, lasting=False, promised=False),
    Fault("eio-dead", GROW | CHANGE | SYNC | REMOVE, errno.EIO, promised=False),
    Fault("eio-read", READ, errno.EIO, lasting=False, promised=False),
)


def missing() -> str:
    """Why there can be no such disk here, "" if there can."""
    if not sys.platform.startswith("linux"):
        return "LD_PRELOAD works on Linux only"
    return "" if compiler() else "needs a C compiler (apt install gcc)"


def compiler() -> str:
    """The one that is here."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), "")


def reenter(arguments: Sequence[str]) -> None:
    """Become the same program with the shim below it; within that, nothing."""
    if library := os.environ.pop(_LOADED, ""):
        shutil.rmtree(Path(library).parent)  # it is mapped
        del os.environ["LD_PRELOAD"]  # it is not for programs that we start
        return
    library = str(Path(tempfile.mkdtemp(prefix="faultfs-")) / "faultfs.so")
    command = [compiler(), "-shared", "-fPIC", "-O1", "-o", library, str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True)
    # Writing no bytecode: a child that fails must not fail at that.
    environment = os.environ | {"LD_PRELOAD": library, _LOADED: library, "PYTHONDONTWRITEBYTECODE": "1"}
    os.execve(sys.executable, [sys.executable, *arguments], environment)  # noqa: S606 - ourselves


class Disk:
    """The shim in this process; a forked child inherits what is set."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        for name in ("count", "reads", "hits"):
            getattr(self._library, f"faultfs_{name}").restype = ctypes.c_long
        self._library.faultfs_kind.argtypes = [ctypes.c_long]
        self._library.faultfs_mark.argtypes = [ctypes.c_long]
        self._library.faultfs_arm.argtypes = [ctypes.c_int] * 4 + [ctypes.c_long]

    def watch(self, folder: Path) -> None:
        """Paths below ``folder`` are on it from now on: for files that are opened after this."""
        self._library.faultfs_watch(os.fsencode(folder))

    def arm(self, fault: Fault | None, call: int = 0) -> None:
        """Begin to count, and fail from that call on; ``None`` counts only."""
        if fault is None:
            self._library.faultfs_arm(0, 0, 0, 0, 0)
        else:
            self._library.faultfs_arm(fault.mask, fault.number, fault.lasting, fault.torn, call)

    def mend(self) -> None:
        """It fails no more."""
        self._library.faultfs_clear()

    def log(self, descriptor: int) -> None:
        """Write down every change, -1 for not any more."""
        self._library.faultfs_log(descriptor)

    def mark(self, number: int) -> None:
        """Note in the log that something has been promised."""
        self._library.faultfs_mark(number)

    @property
    def kinds(self) -> list[int]:
        """What each call did that changed something since ``arm``, from the first on."""
        return [self._library.faultfs_kind(call) for call in range(1, self._library.faultfs_count() + 1)]

    @property
    def reads(self) -> int:
        """Reads since ``arm``."""
        return int(self._library.faultfs_reads())

    @property
    def hits(self) -> int:
        """Calls that failed since ``arm``."""
        return int(self._library.faultfs_hits())


def fast() -> str | None:
    """Where a file system in memory is, for what a real disk's syncs would only make slow."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - below a name of its own
