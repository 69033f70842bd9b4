"""Confines the training worker before it reads a byte, so that it could do no harm with it.

``early`` comes before any library is loaded, ``enter`` when all are and the first byte is still unread:

| layer | keeps it from | where it is missing |
| --- | --- | --- |
| idle, or nice | being felt: SCHED_IDLE and idle I/O, or low priority where somebody waits; OOM-killed first | never |
| parent | outliving the daemon: PR_SET_PDEATHSIG | never |
| limits | memory, CPU time, files, processes: setrlimit | never |
| undumpable | leaving a core, being traced by its own user: PR_SET_DUMPABLE | never |
| no_new_privs | gaining anything by an exec | never |
| namespaces | the host's network and IPC: unshare, in a user namespace of its own where it has to | refused by policy |
| capabilities | all that root may: capset to nothing | never |
| landlock | paths, TCP ports, abstract sockets and foreign processes, as the ABI has them | Linux before 5.13 |
| seccomp | every system call but those of arithmetic and two pipes; the hostile ones kill it | no libseccomp |

A layer that cannot be had is said (``Layer.held``) and the others hold. Sources: landlock(7), include/uapi/linux/
landlock.h, seccomp(2), capabilities(7), Documentation/userspace-api/no_new_privs.rst.

This is process isolation and no TEE: whoever owns the kernel, root included, looks into the worker as into any process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idiolect.host import process

DATA = 256 << 20
"""Bytes of private writable memory (RLIMIT_DATA): four times what a round with 500 examples has resident."""
ADDRESSES = 768 << 20
"""Bytes of address space: interpreter and libraries map far more than they touch."""
CPU_S = 60
NICE = 10
IDLE = "--idle"
"""Option of the worker: nobody waits for it, so that it runs when nobody else wants to."""
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "armv7l": 314, "riscv64": 30}
"""System call numbers (syscalls(2)); libc wraps none of the calls below."""
_IOPRIO_IDLE = 3 << 13
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_CAPSET = {"x86_64": 126, "aarch64": 91, "armv7l": 185, "riscv64": 91}
_PDEATHSIG, _NO_NEW_PRIVS, _CAP_AMBIENT, _CLEAR_ALL = 1, 38, 47, 4
"""prctl(2)."""
_NEWUSER, _NEWNET, _NEWIPC = 0x10000000, 0x40000000, 0x08000000
"""unshare(2)."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: if it holds, and what there is to know about it."""

    name: str
    held: bool
    detail: str = ""


def _call(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


# -- the layers ----------------------------------------------------------------------------------------------------


def idle() -> str:
    """Run only when nobody else wants to."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError, KeyError):
        _call(_libc.syscall(_IOPRIO_SET[os.uname().machine], 1, 0, _IOPRIO_IDLE))
    _first_to_go()
    return "SCHED_IDLE"


def nice() -> str:
    """Run when others leave room, for somebody who waits: with SCHED_IDLE a busy board would never come to it."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.nice(NICE)
    _first_to_go()
    return f"SCHED_BATCH, nice {NICE}"


def _first_to_go() -> None:
    """Let the OOM killer take this process, and not the daemon, where memory gets short."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def parent() -> str:
    """Die with the thread that started this process, which lives as long as the daemon."""
    born_of = os.getppid()
    _call(_libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if os.getppid() != born_of:  # it was gone before the call
        os.kill(os.getpid(), signal.SIGKILL)
    return ""


def limits() -> str:
    """Limit memory, CPU and the rest; none of it can be raised again without privileges."""
    for kind, most in (
        (resource.RLIMIT_DATA, DATA),
        (resource.RLIMIT_AS, ADDRESSES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))
    return f"{DATA >> 20} MiB, {CPU_S} s"


def undumpable() -> str:
    """Leave no core, and let nobody of the same user look inside; as the daemon does itself."""
    process.harden()
    return ""


def no_new_privs() -> str:
    """Give up gaining privileges by an exec: the two layers below need this, and it is good by itself."""
    _call(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    return ""


def namespaces() -> str:
    """Move into an empty network and IPC namespace."""
    try:
        _call(_libc.unshare(_NEWUSER | _NEWNET | _NEWIPC))
    except OSError:
        _call(_libc.unshare(_NEWNET | _NEWIPC))  # root, where user namespaces are forbidden
        return "without a user namespace"
    return ""


def capabilities() -> str:
    """Drop every capability; in a user namespace of one's own there would be all of them."""
    _call(_libc.prctl(_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0))
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _call(_libc.syscall(_CAPSET[os.uname().machine], version_3, (ctypes.c_uint32 * 6)()))
    return ""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


def landlock() -> str:
    """Forbid that any path is opened, made, run or removed, any TCP port used, any process outside signalled."""
    abi = _call(_libc.syscall(_LANDLOCK_CREATE, None, 0, 1))  # LANDLOCK_CREATE_RULESET_VERSION
    rights = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)  # + refer, truncate, ioctl on devices
    rules = _Ruleset((1 << rights) - 1, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    handle = _call(_libc.syscall(_LANDLOCK_CREATE, ctypes.byref(rules), size, 0))
    try:
        _call(_libc.syscall(_LANDLOCK_RESTRICT, handle, 0))
    finally:
        os.close(handle)
    return f"ABI {abi}"


# -- seccomp -------------------------------------------------------------------------------------------------------

ALLOWED = (
    *("read", "write", "readv", "writev", "close", "fstat", "lseek", "poll", "ppoll"),
    *("brk", "munmap", "mremap", "madvise", "futex", "getrandom"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall"),
    *("getpid", "gettid", "clock_gettime", "clock_nanosleep", "gettimeofday", "getrusage", "sched_yield"),
    *("exit", "exit_group"),
)
"""System calls that arithmetic, two pipes and an interpreter that ends need. All others get EPERM."""
NOT_EXECUTABLE = ("mmap", "mprotect")
"""Allowed without PROT_EXEC."""
DEADLY = (
    *("execve", "execveat", "fork", "vfork", "clone", "clone3", "ptrace", "process_vm_readv", "process_vm_writev"),
    *("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "sendto", "sendmsg", "sendmmsg"),
    *("kill", "tkill", "tgkill", "pidfd_open", "pidfd_getfd", "pidfd_send_signal"),
    *("bpf", "io_uring_setup", "userfaultfd", "perf_event_open", "keyctl", "add_key", "request_key"),
    *("unshare", "setns", "mount", "umount2", "move_mount", "open_tree", "pivot_root", "chroot"),
    *("init_module", "finit_module", "kexec_load", "reboot", "memfd_create", "memfd_secret"),
)
"""System calls that nothing here ever needs: whoever tries is not the trainer any more, and is killed."""
_KILL, _ERRNO_EPERM, _ALLOW = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000
_MASKED_EQUAL = 7
_PROT_EXEC = 4


class _Argument(ctypes.Structure):
    _fields_ = (("number", ctypes.c_uint), ("how", ctypes.c_int), ("mask", ctypes.c_uint64), ("value", ctypes.c_uint64))


@functools.cache
def _libseccomp() -> ctypes.CDLL:
    """Load libseccomp, which systemd brings along, while files can still be opened."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
    ]  # fmt: skip
    library.seccomp_load.argtypes = library.seccomp_release.argtypes = [ctypes.c_void_p]
    return library


def seccomp() -> str:
    """Allow only a list of system calls, through libseccomp, which knows every architecture. Raises ``OSError``."""
    library = _libseccomp()
    context = library.seccomp_init(_ERRNO_EPERM)
    if not context:
        raise OSError(errno.ENOMEM, "libseccomp")
    not_executable = (_Argument * 1)(_Argument(2, _MASKED_EQUAL, _PROT_EXEC, 0))
    rules: list[tuple[str, int, int, Any]] = [(name, _ALLOW, 0, None) for name in ALLOWED]
    rules += [(name, _ALLOW, 1, ctypes.cast(not_executable, ctypes.c_void_p)) for name in NOT_EXECUTABLE]
    rules += [(name, _KILL, 0, None) for name in DEADLY]
    for name, action, count, arguments in rules:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # not every architecture has every call
            _negative(library.seccomp_rule_add_array(context, action, number, count, arguments))
    _negative(library.seccomp_load(context))
    library.seccomp_release(context)
    return f"{len(ALLOWED) + len(NOT_EXECUTABLE)} system calls"


def _negative(code: int) -> None:
    """Raise ``OSError`` for a negative result: libseccomp returns errors as they are, and not in errno."""
    if code < 0:
        raise OSError(-code, os.strerror(-code))


# -- putting them on -----------------------------------------------------------------------------------------------

Step = Callable[[], str]
EARLY: tuple[Step, ...] = (parent, limits, undumpable)
LATE: tuple[Step, ...] = (no_new_privs, namespaces, capabilities, landlock, seccomp)
ESSENTIAL = ("no_new_privs", "landlock", "seccomp")
"""Layers whose lack is worth a warning."""


def early(*, waited_for: bool) -> list[Layer]:
    """Put on the layers that can be had before the libraries are loaded, so that not even the loading is felt."""
    return put_on((nice if waited_for else idle, *EARLY))


def enter() -> list[Layer]:
    """Put on the other layers. Afterwards nothing can be opened, so everything that is needed has to be there."""
    with contextlib.suppress(OSError):
        _libseccomp()
    return put_on(LATE)


def put_on(steps: Sequence[Step]) -> list[Layer]:
    """Put on layers in order; one that cannot be had does not keep the next from being put on."""
    found = []
    for step in steps:
        name = step.__name__
        try:
            found.append(Layer(name, True, step()))
        except (OSError, KeyError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else None  # a library that is absent has none
            found.append(Layer(name, False, why or "not on this machine"))
    return found
