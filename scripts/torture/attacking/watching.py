"""A whole session under watch: every file that is opened for writing, every byte that is written, every socket.

Two watchers that know nothing of each other. strace(1) follows the daemon and its worker and shows each call with all
of its bytes. fanotify(7) is told by the kernel of every file that is closed after writing, or changed, anywhere on the
file systems that can be written, and by which process. The promises:

1. what is written lies in the state directory, and nowhere else;
2. nothing that is written to a file or to the log has sound in it, as samples, floats, base64 or log-mel frames, and
   no name or phrase in the clear;
3. sound goes out on the hand-off's socket, to the program it is meant for, and on no other;
4. sockets are Unix sockets; nothing is connected or sent to anything else; there is no interface in its network.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import shutil
import struct
import tempfile
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idiolect.listening.pipeline.frontend import Frontend
from idiolect.values import BLOCK, FRAMES
from torture.attacking.installed import PERSON, PHRASE, Installed, Lacking
from torture.attacking.memory_search import Sound
from torture.attacking.session import Session, attempt

CALLS = (
    "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,sendmmsg,socket,connect,bind,"
    "sendfile,splice,tee,vmsplice,copy_file_range,memfd_create,io_uring_setup,rename,renameat2,link,linkat,symlink,"
    "accept,accept4,mknod,mknodat,truncate,ftruncate,process_vm_writev,shmget,msgsnd,mq_open,execve"
)
OURS = re.compile(
    r"state/(vault\.db(-wal|-shm|-journal)?|[a-z]+\.json|\.[a-z.]+\.json\.[\w.-]+|\.?[\w.-]*vault[\w.-]*|bundles/.*)"
)
"""What the daemon keeps, below its installation."""
_HEX = re.compile(r"\\x([0-9a-f]{2})")
_LINE = re.compile(r"(\d+) +([a-z0-9_]+)\((.*)\) += (-?\d+|\?)(.*)", re.DOTALL)
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(r"^(\d+)<((?:[^<>]|->|<[^>]*>)*)>")


# -- strace ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: where it went ("" for no descriptor), and the bytes in it."""

    pid: int
    name: str
    target: str
    data: bytes = field(repr=False)
    text: str = field(repr=False)
    failed: bool
    gave: str = ""
    """What the descriptor is that it returned."""


def tracer(out: Path, uid: int, gid: int) -> tuple[str, ...]:
    """A command that runs the rest of its line as that user, and writes down what it does."""
    drop = ("setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups", "--no-new-privs")
    options = ("-f", "-qq", "-yy", "-xx", "-s", "1048576", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o", str(out))
    return ("strace", *options, *drop)


def calls(trace: Path) -> Iterator[Call]:
    """What was written down. A call that was interrupted by another thread's is put together again."""
    begun: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        pid, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            begun[pid] = rest.removesuffix("<unfinished ...>").rstrip()
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>", rest):
            rest = begun.pop(pid, "") + rest[resumed.end() :].lstrip()
        fit = _LINE.match(f"{pid} {rest}")
        if fit:
            yield _call(fit)


def _call(fit: re.Match[str]) -> Call:
    arguments = fit[3]
    where = _FD.match(arguments)
    data = b"".join(bytes.fromhex(text.replace("\\x", "")) for text in _STRING.findall(arguments))
    target = _plain(where[2]) if where else ""
    gave = re.match(r"<(.*)>", _plain(fit[5][:600]))
    failed = fit[4].startswith("-")
    return Call(int(fit[1]), fit[2], target, data, _plain(arguments[:600]), failed, gave[1] if gave else "")


def _plain(text: str) -> str:
    return _HEX.sub(lambda found: chr(int(found[1], 16)), text)


# -- fanotify ----------------------------------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
_CLOSE_WRITE, _MODIFY, _ADD, _FILESYSTEM, _UNLIMITED = 0x8, 0x2, 0x1, 0x100, 0x10
_EVENT = struct.Struct("=IBBHQii")


class Watch:
    """``with Watch(pids) as watch``: ``watch.changed`` are the files that these processes changed, by path."""

    def __init__(self, mine: Callable[[int], bool]) -> None:
        self._mine = mine
        self.changed: Counter[str] = Counter()
        self.events = 0
        self._ending = threading.Event()

    def __enter__(self) -> Watch:
        self._fd = _libc.fanotify_init(_UNLIMITED, os.O_RDONLY | os.O_LARGEFILE | os.O_CLOEXEC)
        if self._fd < 0:
            raise Lacking(f"no fanotify: {os.strerror(ctypes.get_errno())}")
        self.watched = [place for place in _writable() if self._mark(place)]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def _mark(self, place: str) -> bool:
        mask = ctypes.c_uint64(_CLOSE_WRITE | _MODIFY)
        return _libc.fanotify_mark(self._fd, _ADD | _FILESYSTEM, mask, -100, place.encode()) == 0

    def __exit__(self, *_: object) -> None:
        time.sleep(0.2)
        self._ending.set()
        self._thread.join(5)
        os.close(self._fd)

    def _run(self) -> None:
        while not self._ending.is_set():
            if select.select([self._fd], [], [], 0.1)[0]:
                self._take(os.read(self._fd, 1 << 16))

    def _take(self, events: bytes) -> None:
        while len(events) >= _EVENT.size:
            length, _, _, _, _, fd, pid = _EVENT.unpack_from(events)
            events = events[length:]
            self.events += 1
            if fd >= 0:
                with contextlib.suppress(OSError):
                    if self._mine(pid):
                        self.changed[str(Path(f"/proc/self/fd/{fd}").readlink()).removesuffix(" (deleted)")] += 1
                os.close(fd)


def _writable() -> list[str]:
    """Mount points of file systems that hold files and can be written."""
    found = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, place, kind, options = line.split()[:4]
        if kind in ("ext4", "ext3", "xfs", "btrfs", "tmpfs", "overlay", "f2fs", "vfat") and "rw" in options.split(","):
            found.setdefault(Path(place).stat().st_dev if Path(place).exists() else device, place)
    return list(found.values())


# -- what is looked for ------------------------------------------------------------------------------------------------


def mels(samples: NDArray[np.int16]) -> bytes:
    """Log-mel frames of all that was played, cut as the daemon cuts it."""
    frontend = Frontend()
    whole = samples[: len(samples) // BLOCK * BLOCK].reshape(-1, BLOCK)
    return np.concatenate([frontend.frames(block) for block in whole]).astype("<f4").tobytes()


def traces(heard: NDArray[np.int16], sent: Iterable[NDArray[np.int16]]) -> Sound:
    """Everything there is of the sound of a session, made searchable."""
    every = np.concatenate([heard, *sent])
    return Sound(every, {"log-mel": (mels(heard), BLOCK / FRAMES / 32 / 4)})


def words(more: Iterable[str] = ()) -> dict[str, bytes]:
    """What must not be read anywhere in the clear."""
    texts = {"a name": PERSON, "a phrase": PHRASE, **{f"a secret {n}": text for n, text in enumerate(more)}}
    return {what: text.encode() for what, text in texts.items()}


@dataclass
class Seen:
    """What came of a trace."""

    files: Counter[str] = field(default_factory=Counter)
    bytes_written: int = 0
    sockets: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)
    handed: int = 0
    """Pieces of sound on the hand-off's socket."""


def judge(seen: Iterable[Call], root: Path, sound: Sound, secrets: Mapping[str, bytes]) -> Seen:
    """All promises, call by call; what went to one place is joined before it is searched."""
    result = Seen()
    places: dict[str, list[bytes]] = {}
    served: dict[str, str] = {}
    for call in seen:
        if call.failed:
            continue
        _follow(call, served)
        if call.name in ("socket", "connect", "bind", "sendto", "sendmsg", "sendmmsg"):
            _judge_socket(call, result)
        if call.name in (
            "memfd_create",
            "io_uring_setup",
            "shmget",
            "mq_open",
            "process_vm_writev",
            "mknod",
            "mknodat",
        ):
            result.found.append(f"an unexpected call: {call.name}")
        if call.name.startswith("open") or call.name == "creat":
            _judge_opening(call, root, result)
        if call.name.startswith(("write", "pwrite", "send", "splice")) and call.data:
            result.bytes_written += len(call.data)
            place = served.get(call.target) or _kind(call.target, root)
            places.setdefault(place, []).append(call.data)
    for place, parts in places.items():
        _judge_bytes(place, b"".join(parts), sound, secrets, result)
    return result


def _follow(call: Call, served: dict[str, str]) -> None:
    """Which connection belongs to which of our sockets: bind names the listener, accept what comes of it."""
    if call.name == "bind" and (named := re.search(rb"(\w+\.sock)", call.data)):
        served[_inode(call.target)] = f"socket {named[1].decode()}"
    if call.name.startswith("accept") and _inode(call.target) in served:
        served[call.gave] = served[_inode(call.target)]


def _inode(target: str) -> str:
    """A socket's number, which stays while it gets a name and a state."""
    number = re.search(r"\[(\d+)", target)
    return number[1] if number else target


def _judge_socket(call: Call, result: Seen) -> None:
    family = re.search(r"AF_[A-Z0-9]+", call.text)
    if family:
        result.sockets[f"{call.name} {family[0]}"] += 1
        if family[0] not in ("AF_UNIX", "AF_UNSPEC"):
            result.found.append(f"a socket that leaves the machine: {call.name} {family[0]}")
    if call.target.startswith(("TCP", "UDP", "RAW", "PACKET", "NETLINK")) and call.name.startswith("send"):
        result.found.append(f"sent on {call.target[:40]}")


def _judge_opening(call: Call, root: Path, result: Seen) -> None:
    if not re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND", call.text):
        return
    path = Path(os.path.normpath(call.data.decode(errors="replace")))
    place = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    result.files[place] += 1
    if not allowed(place):
        result.found.append(f"opened for writing: {place}")


def allowed(place: str) -> bool:
    """Whether a file is the daemon's to write: state, the tests' microphone, devices and /proc/self."""
    return bool(OURS.fullmatch(place)) or place.startswith(("mic/", "/dev/null", "/proc/self/", "/dev/tty", "run/"))


def _kind(target: str, root: Path) -> str:
    """A descriptor's name without its numbers."""
    if target.startswith(("UNIX", "socket:")):
        return "socket that is not ours"
    return target.replace(f"{root}/", "") if target else "no descriptor"


def _judge_bytes(place: str, data: bytes, sound: Sound, secrets: Mapping[str, bytes], result: Seen) -> None:
    hits = sound.search(data)
    if place == "socket handoff.sock":
        result.handed += len(hits)
    elif hits and not place.startswith("pipe:") and not place.startswith("mic/"):
        result.found.append(f"sound in {place}: {len(hits)} pieces as {sorted({hit.encoding for hit in hits})}")
    if not place.startswith(("socket", "pipe:")):
        result.found += [f"{what} in the clear in {place}" for what, text in secrets.items() if text in data]


# -- the session -------------------------------------------------------------------------------------------------------


def whole_session(session: Session) -> list[str]:
    """Everything that a household does; what could not be done."""
    steps: list[Callable[[], None]] = [
        lambda: session.agree("enrol", "adapt_corrections", "adapt_confirmations", "usage"), session.teach,
        lambda: session.speak(4, 2), session.correct, session.learn, session.handoff, session.wyoming, session.page,
        session.metrics, session.rights, lambda: session.pause(1.0), lambda: session.withdraw("usage"), session.erase,
    ]  # fmt: skip
    return [why for step in steps if (why := attempt(step))]


def run(*, tpm: bool = False, breach: str = "") -> tuple[dict[str, Any], list[str]]:
    """A session under both watchers. ``breach`` has the daemon break one promise (see ``BREACHES``): a control."""
    if not all(map(shutil.which, ("strace", "setpriv"))):
        raise Lacking("no strace or setpriv here")
    with tempfile.TemporaryDirectory() as name:
        out, hook = Path(name) / "trace", Path(name) / "hook"
        home = Installed(tpm=tpm)
        home._before = tracer(out, home.uid, home.gid)
        if breach:
            hook.mkdir()
            (hook / "sitecustomize.py").write_text(HOOK)
            for path in (Path(name), hook):
                path.chmod(0o755)
            home._paths, home._more = (hook,), {"BREACH": breach, "BREACH_FOLDER": str(home.state)}
        with Watch(lambda pid: _is_users(pid, home.uid)) as watch, home:
            session = Session(home)
            if breach:
                time.sleep(1.0)
                skipped: list[str] = []
            else:
                skipped = whole_session(session)
            heard = home.heard()
            home.stop()
            told = session.told
            seen = judge(calls(out), home.root, traces(heard, told.sent), words([*told.codes, *told.cookies]))
        changed = {path.replace(f"{home.root}/", ""): count for path, count in watch.changed.items()}
        seen.found += [f"fanotify: changed {path}" for path in changed if not allowed(path) and path != "log"]
        figures = {
            "steps": told.done, "skipped": skipped, "opened_for_writing": dict(seen.files), "changed": changed,
            "watched": watch.watched, "bytes_written": seen.bytes_written, "sockets": dict(seen.sockets),
            "handed_over_pieces": seen.handed, "handed_over_bytes": told.handed,
        }  # fmt: skip
        return figures, seen.found


def _is_users(pid: int, uid: int) -> bool:
    return Path(f"/proc/{pid}").stat().st_uid == uid or f"\nUid:\t{uid}\t" in Path(f"/proc/{pid}/status").read_text()


BREACHES = {
    "samples": "sound in state/", "floats": "sound in state/", "base64": "sound in state/", "mel": "sound in state/",
    "elsewhere": "opened for writing", "inet": "leaves the machine", "log": "in the clear",
}  # fmt: skip
"""What the daemon can be made to do, and words of what must be found then."""

HOOK = textwrap.dedent('''
    """Breaks one promise of the daemon, to see whether that is noticed."""
    import base64, importlib.abc, os, socket, sys

    def break_it(process):
        from pathlib import Path
        kind, folder = os.environ["BREACH"], Path(os.environ["BREACH_FOLDER"])
        def hear(self, block):
            samples = block.samples
            data = {"samples": samples.tobytes(), "floats": (samples.astype("f4") / 32768).tobytes(),
                    "base64": base64.b64encode(samples.tobytes())}.get(kind)
            if kind == "elsewhere":
                Path("/tmp", f"breach-{os.getpid()}").write_bytes(b"x")
                Path("/tmp", f"breach-{os.getpid()}").unlink()
            if kind == "inet":
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way_out:
                    try:
                        way_out.connect(("192.0.2.1", 9))
                    except OSError:
                        pass
            if kind == "log":
                print("heard: Wilhelmine", file=sys.stderr, flush=True)
            process(self, block)
            if kind == "mel":
                from idiolect.listening.pipeline.frontend import Frontend
                self.ear = getattr(self, "ear", None) or Frontend()
                data = self.ear.frames(samples).tobytes()
            if data:
                with (folder / "notes.json").open("ab") as file:
                    file.write(data)
        return hear

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name != "idiolect.listening.inference":
                return None
            sys.meta_path.remove(self)
            import importlib.util
            spec = importlib.util.find_spec(name)
            run = spec.loader.exec_module
            def execute(module):
                run(module)
                module.Inference._process = break_it(module.Inference._process)
            spec.loader.exec_module = execute
            return spec

    if os.environ.get("BREACH"):
        sys.meta_path.insert(0, Finder())
''')


def controls(breaches: Iterable[str] = tuple(BREACHES)) -> tuple[dict[str, str], list[str]]:
    """A daemon that breaks a promise, once for each: what was found of it, and what was not."""
    figures, missed = {}, []
    for breach in breaches:
        _, found = run(breach=breach)
        hits = [what for what in found if BREACHES[breach] in what]
        figures[breach] = hits[0] if hits else "not noticed"
        missed += [] if hits else [f"control: a daemon that leaks ({breach}) is not noticed"]
    return figures, missed
