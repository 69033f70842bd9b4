"""Listening Unix sockets: made here with the right mode; the control API's may be inherited from systemd."""

from __future__ import annotations

import fcntl
import grp
import logging
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from idiolect.errors import IdiolectError

log = logging.getLogger(__name__)

CONTROL = "control"
"""FileDescriptorName= of our socket unit."""
BACKLOG = 512
"""Connections the kernel holds for us while the event loop is busy: half a second of the fastest who knocks."""
_MODE_MASK = 0o117
"""Umask by which 0777 becomes 0660: the owner and the group may connect, the roles decide the rest."""
_FIRST_FD = 3
"""The first of systemd's file descriptors, sd_listen_fds(3)."""


class ListenError(IdiolectError):
    """Raised when a socket cannot be opened; the message names the path and the next step."""

    exit_code = 73  # EX_CANTCREAT


class Listener:
    """A listening socket and, where we made one, its file."""

    def __init__(self, sock: socket.socket, path: Path | None) -> None:
        self.socket = sock
        self._path = path
        self._identity = _identity(path) if path else None

    def close(self) -> None:
        """Close, and remove the file if it is still ours: another daemon may have put its own there."""
        self.socket.close()
        if self._path and self._identity and _identity(self._path) == self._identity:
            self._path.unlink(missing_ok=True)


def open_listener(path: Path) -> Listener:
    """Open the control socket: systemd's if it passed one, else a new one at ``path``. Raises ``ListenError``."""
    given = inherited()
    if given is not None:
        return Listener(given, None)
    if os.environ.get("NOTIFY_SOCKET"):
        log.warning("systemd passed no control socket (is idiolectd.socket masked?): making %s", path)
    return make_listener(path, CONTROL)


def make_listener(path: Path, section: str, *, group: str = "") -> Listener:
    """Make a new socket at ``path``, for the ``section`` of the configuration; members of ``group`` may connect, too.

    Raises ``ListenError``. A group that there is not, or that is not ours to give, is a warning.
    """
    try:
        listener = Listener(_bind(path, section), path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ListenError(f"{section} socket {path}: {reason}: check {section}.socket in the configuration") from None
    if group:
        _give(path, section, group)
    return listener


def inherited() -> socket.socket | None:
    """Return the control socket among systemd's descriptors: the one of that name, else the first; None without any.

    All others are closed. A client of one that nobody serves is refused then, and does not wait; and from a socket of
    TCP, listening or not, whoever broke into this process could reach the network in spite of PrivateNetwork=
    (connect(2) to AF_UNSPEC, then anywhere).
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # no child of ours shall think they are its own
    ours: dict[str, socket.socket] = {}
    for index, fd in enumerate(range(_FIRST_FD, _FIRST_FD + count)):
        os.set_inheritable(fd, False)
        sock = _unix_listener(fd)
        if sock is not None:
            ours.setdefault(names[index] if index < len(names) else "", sock)
    chosen = ours.pop(CONTROL, None) or (ours.pop(next(iter(ours))) if ours else None)
    for unserved in ours.values():
        unserved.close()
    return chosen


def _give(path: Path, section: str, group: str) -> None:
    """Make ``group`` the socket's; where that fails it is said who is refused now, and what to mend.

    By ``fchownat(2)`` and no other call, as our unit's filter allows this one alone of its kind.
    """
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError:
        log.warning("there is no group %s: only our own may connect to the %s socket", group, section)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chown(path.name, -1, number, dir_fd=directory, follow_symlinks=False)
    except PermissionError:
        if number in (os.getegid(), *os.getgroups()):
            log.warning("group %s cannot connect to the %s socket: the unit's filter forbids fchownat", group, section)
        else:
            log.warning("group %s cannot connect to the %s socket: the daemon is no member of it", group, section)
    finally:
        os.close(directory)


def _unix_listener(fd: int) -> socket.socket | None:
    """Return the descriptor as a listening Unix socket; any other socket is closed, and what is no socket stays."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return None
    sock = socket.socket(fileno=fd)
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM) and listening:
        return sock
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        log.error("a TCP or UDP socket was passed to the daemon and is closed: use idiolect-tcp@.socket instead")
    sock.close()
    return None


def _bind(path: Path, section: str) -> socket.socket:
    _make_directory(path.parent)
    with _alone(path, section):
        _clear(path, section)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(_MODE_MASK)  # at bind, not after it: there is no moment with a wider mode
        try:
            sock.bind(str(path))
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        finally:
            os.umask(mask)
    return sock


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(mode=0o750, parents=True)
        directory.chmod(0o750)  # whatever the umask took from it, the group needs


@contextmanager
def _alone(path: Path, section: str) -> Iterator[None]:
    """Hold a lock: two daemons starting at once must not each remove the other's fresh socket as a stale one."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ListenError(f"{section} socket {path}: another daemon is starting there") from None
        yield
    finally:
        os.close(fd)  # and the lock with it


def _clear(path: Path, section: str) -> None:
    """Remove the socket of a daemon that is gone; refuse to touch a living one's, or anything but a socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{section} socket {path}: something else is there: move it, or change {section}.socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full: busy, not gone
    raise ListenError(f"{section} socket {path}: another idiolectd runs there: stop it, or change {section}.socket")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
