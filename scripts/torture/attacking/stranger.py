"""A second user of the machine, without the group: what he can read, reach and do beside an installed daemon.

``probe`` runs as that user, in a process of its own that was root's and gave everything up. It tries, and reports what
worked; it is told nothing that an ordinary user could not find out. The same probe as root, and the requests as a
member of the group, must work: else it would prove nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from idiolect.control.api import routes
from torture.attacking.installed import PERSON, Installed, become, children
from torture.attacking.session import Session, ask, attempt

PUBLIC = ("etc", "log")
"""Below the root of the installation: settings, which any user may read (mode 0644), and the harness's own log."""
SECRET_FILES = (
    "mem",
    "maps",
    "smaps",
    "environ",
    "pagemap",
    "auxv",
    "syscall",
    "stack",
    "io",
    "exe",
    "cwd",
    "root",
    "fd/0",
)
"""Of /proc/PID: what tells of memory, files and calls."""
_SEIZE, _DETACH = 0x4206, 17
"""ptrace(2)."""
_READV, _PIDFD_OPEN, _PIDFD_GETFD, _KCMP = 310, 434, 438, 312
SHARED = Path("/dev/shm")  # noqa: S108 - looked at, not used
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Report:
    """What one user tried and what worked: lines of "kind: what"."""

    attempts: int = 0
    worked: list[str] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    """How often by the kind of refusal: an errno's name or a status."""

    def attempt(self, what: str, how: Callable[[], object]) -> None:
        """Count it; a refusal is an ``OSError``."""
        self.attempts += 1
        try:
            answer = how()
        except OSError as error:
            name = type(error).__name__ if error.errno is None else os.strerror(error.errno)
            self.refused[name] = self.refused.get(name, 0) + 1
        else:
            if isinstance(answer, int) and not isinstance(answer, bool) and answer >= 400:
                self.refused[f"status {answer}"] = self.refused.get(f"status {answer}", 0) + 1
            else:
                self.worked.append(what)


def _call(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


# -- what is tried -----------------------------------------------------------------------------------------------------


def files(report: Report, root: Path) -> None:
    """Every file and directory of the installation that he comes upon: read it, write to it, put something there."""
    for folder, names, plain in os.walk(root):
        here = Path(folder)
        if here != root and here.relative_to(root).parts[0] in PUBLIC:
            continue
        for name in plain:
            path = here / name
            if not path.is_socket() and name not in PUBLIC:
                report.attempt(f"read: {path.relative_to(root)}", lambda path=path: path.open("rb").read(1))
                report.attempt(f"write: {path.relative_to(root)}", lambda path=path: path.open("ab").close())
        for name in names:
            if name not in PUBLIC:
                report.attempt(f"put into: {name}", lambda name=name, here=here: _put(here / name))
                if name != "run":  # everybody may see which sockets there are
                    report.attempt(f"list: {name}", lambda name=name, here=here: list((here / name).iterdir()))
    for known in ("state/vault.db", "state/vault.db-wal", "state/keystore.json", "state/device.json", "mic/audio.raw"):
        report.attempt(f"read: {known}", lambda known=known: (root / known).open("rb").read(1))


def _put(folder: Path) -> None:
    path = folder / f"stranger-{os.getpid()}"
    path.touch()
    path.unlink()


def sockets(report: Report, folder: Path, wide: bool) -> None:
    """Every socket, and on it every request that there is. ``wide``: their modes let everybody connect."""
    for path in sorted(folder.glob("*.sock")):
        report.attempt(f"connect: {path.name}", lambda path=path: _connect(path) and 0)
    if wide:
        control = str(folder / "control.sock")
        for where, methods in routes.ROUTES.items():
            for method in methods:
                body = {} if method == "POST" else None
                report.attempt(f"ask: {method} {where}", lambda m=method, w=where, b=body: ask(control, m, w, b)[0])


def _connect(path: Path) -> socket.socket:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(5)
        caller.connect(str(path))
        return caller


def process(report: Report, pid: int, what: str) -> None:
    """A process: its files in /proc, its memory, signals, tracing, descriptors, limits."""
    proc = Path(f"/proc/{pid}")
    for name in SECRET_FILES:
        path = proc / name
        linked = name in ("exe", "cwd", "root", "fd/0")
        how = (lambda path=path: path.readlink()) if linked else (lambda path=path: _first(path))
        report.attempt(f"{what}: /proc/PID/{name}", how)
    report.attempt(f"{what}: /proc/PID/fd", lambda: list((proc / "fd").iterdir()))
    report.attempt(f"{what}: /proc/PID/mem, to write", lambda: (proc / "mem").open("r+b").close())
    report.attempt(f"{what}: signal", lambda: os.kill(pid, 0))
    report.attempt(f"{what}: ptrace", lambda: _trace(pid))
    report.attempt(f"{what}: process_vm_readv", lambda: _peek(pid))
    report.attempt(f"{what}: pidfd_getfd", lambda: _take_descriptor(pid))
    report.attempt(f"{what}: kcmp", lambda: _call(_libc.syscall(_KCMP, pid, os.getpid(), 1, 0, 0)) and 0)
    report.attempt(f"{what}: prlimit", lambda: _limit(pid))
    report.attempt(
        f"{what}: priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid) + 1)
    )
    report.attempt(f"{what}: affinity", lambda: os.sched_setaffinity(pid, os.sched_getaffinity(pid)))


def _first(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        if path.name != "mem":
            file.read(1)


def _trace(pid: int) -> None:
    _call(_libc.ptrace(_SEIZE, pid, None, None))
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, 0x40000000)
    os.kill(pid, signal.SIGCONT)
    _libc.ptrace(_DETACH, pid, None, None)


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _peek(pid: int) -> None:
    """Read a byte at an address that every process of this interpreter has; EFAULT would mean that we may."""
    buffer = ctypes.create_string_buffer(1)
    mine = _Vector(ctypes.addressof(buffer), 1)
    theirs = _Vector(0x1000, 1)
    if _libc.syscall(_READV, pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0) < 0 and ctypes.get_errno() != 14:
        raise OSError(ctypes.get_errno(), "refused")


def _take_descriptor(pid: int) -> None:
    handle = _call(_libc.syscall(_PIDFD_OPEN, pid, 0))
    try:
        os.close(_call(_libc.syscall(_PIDFD_GETFD, handle, 2, 0)))
    finally:
        os.close(handle)


def _limit(pid: int) -> None:
    import resource

    resource.prlimit(pid, resource.RLIMIT_NOFILE)


@contextlib.contextmanager
def training(home: Installed) -> Iterator[int]:
    """A worker that has confined itself and is held fast before it answers; 0 where none could be caught."""
    session = Session(home)
    session.agree("enrol")
    session.teach()
    asking = threading.Thread(target=lambda: attempt(lambda: _prove(session)), daemon=True)
    asking.start()
    worker, ends = 0, time.monotonic() + 60
    while not worker and time.monotonic() < ends and asking.is_alive():
        worker = next((pid for pid in children(home.pid) if _confined(pid)), 0)
    if worker:
        os.kill(worker, signal.SIGSTOP)
    try:
        yield worker
    finally:
        if worker:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
        asking.join(60)


def _prove(session: Session) -> None:
    """Have the worker make an adapter anew, again and again."""
    for _ in range(200):
        session.client.get(f"/v1/adapters/verify?profile={PERSON}&adapter=1")


def _confined(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "\nSeccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text()
    return False


# -- as whom -----------------------------------------------------------------------------------------------------------


def as_user(uid: int, gid: int, groups: tuple[int, ...], probe: Callable[[Report], None]) -> Report:
    """Run ``probe`` in a process that has become that user."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            become(uid, gid, groups, cores=False)
            report = Report()
            probe(report)
            os.write(writer, json.dumps(asdict(report)).encode())
            code = 0
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        text = said.read()
    os.waitpid(child, 0)
    return Report(**json.loads(text)) if text else Report(0, ["the probe itself failed"])


def public(pid: int) -> dict[str, str]:
    """What the kernel tells everybody about a process, unless /proc is mounted with hidepid."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return {"cmdline": command.strip(), "comm": Path(f"/proc/{pid}/comm").read_text().strip()}


def shared(home: Installed) -> dict[str, list[str]]:
    """What root sees the daemon offer to everybody by name: abstract sockets, ports, shared memory."""
    pid, uid = home.pid, home.uid
    mine = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            mine.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    unix = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
    ports = [line.split() for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "packet")
             for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]]  # fmt: skip
    memory = [line.split() for kind in ("shm", "sem", "msg")
              for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]]  # fmt: skip
    return {
        "abstract sockets": [row[7] for row in unix if len(row) > 7 and row[7].startswith("@") and row[6] in mine],
        "ports": [" ".join(row[:4]) for row in ports],
        "System V": [" ".join(row[:2]) for row in memory if str(uid) in row[7:9]],
        "shared memory": [path.name for path in SHARED.iterdir() if path.lstat().st_uid == uid],
    }


def run(home: Installed, strangers: dict[str, tuple[int, int]], worker: int = 0) -> tuple[dict[str, Any], list[str]]:
    """Every stranger against it, then root, and a member of the group. ``worker``: a training process, if one runs."""
    found: list[str] = []
    pids = {
        "daemon": home.pid,
        **{f"child {n}": pid for n, pid in enumerate([worker] if worker else [*children(home.pid)])},
    }

    def everything(report: Report) -> None:
        files(report, home.root)
        sockets(report, home.run, wide=False)
        for what, pid in pids.items():
            process(report, pid, what)

    figures: dict[str, Any] = {"public": public(home.pid), "shared": shared(home), "strangers": {}}
    for name, (uid, gid) in strangers.items():
        report = as_user(uid, gid, (), everything)
        wide = _with_wide_sockets(home, uid, gid)
        figures["strangers"][name] = {"narrow": asdict(report), "wide": asdict(wide)}
        reached = [what for what in report.worked if what != "connect: handoff.sock"]
        found += [f"{name} could: {what}" for what in reached]
        found += [f"{name} could, with a socket open to all: {what}" for what in wide.worked if "ask:" in what]
    # The daemon's own user, in another process: memory and descriptors are closed to him, too (not dumpable).
    own = as_user(home.uid, home.gid, (), lambda report: process(report, home.pid, "daemon"))
    figures["own user"] = asdict(own)
    allowed = ("signal", "prlimit", "priority", "affinity")
    found += [f"another process of its own user could: {w}" for w in own.worked if not w.endswith(allowed)]
    found += [f"offered to everybody: {kind}: {what}" for kind, what in figures["shared"].items() if what]
    root = as_user(0, 0, (), everything)
    member = as_user(strangers["nobody"][0], strangers["nobody"][1], (home.gid,), _as_member(home))
    figures["controls"] = {"root": {"attempts": root.attempts, "worked": len(root.worked)}, "member": asdict(member)}
    if worker:
        own = as_user(home.uid, home.gid, (), lambda report: process(report, worker, "worker"))
        figures["own user, worker"] = asdict(own)
        found += [f"another process of its own user could: {w}" for w in own.worked if not w.endswith(allowed)]
    for needed in ("read: state/vault.db", "daemon: /proc/PID/mem", "daemon: ptrace", "connect: control.sock"):
        found += [] if needed in root.worked else [f"control: root could not: {needed}"]
    if "ask: GET /v1/status" not in member.worked:
        found.append("control: a member of the group could not ask")
    return figures, found


def _as_member(home: Installed) -> Callable[[Report], None]:
    control = str(home.run / "control.sock")
    return lambda report: report.attempt("ask: GET /v1/status", lambda: ask(control, "GET", "/v1/status")[0])


def _with_wide_sockets(home: Installed, uid: int, gid: int) -> Report:
    """The same requests with a control socket that a drop-in opened to all: what the roles are for."""
    control = home.run / "control.sock"
    control.chmod(0o666)
    try:
        return as_user(uid, gid, (), lambda report: sockets(report, home.run, wide=True))
    finally:
        control.chmod(0o660)
