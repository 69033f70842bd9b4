"""Tells if the unit may use the files that the configuration names, by its directives and their owners and modes.

Whoever checks a configuration is root or somebody else; the daemon is user `idiolect`, for whom the unit hides home
directories, has a /tmp of its own and leaves nearly everything read-only. systemd is asked for the directives in force,
drop-ins included; where it is not running, those of the packaged unit are taken for granted.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from idiolect.cli import systemctl
from idiolect.cli.files import CommandError

HOMES = tuple(map(Path, ("/home", "/root", "/run/user")))
TEMPORARY = tuple(map(Path, ("/tmp", "/var/tmp")))  # noqa: S108 - named, not used
_SYSTEM = {
    "yes": ("/usr", "/boot", "/efi"),
    "full": ("/usr", "/boot", "/efi", "/etc"),
    "strict": ("/",),
}
"""The paths that ProtectSystem= makes read-only (systemd.exec(5))."""
_FREE = tuple(map(Path, ("/dev", "/proc", "/sys")))
"""The paths that ProtectSystem= never makes read-only."""
_WANTED = (
    "User", "Group", "SupplementaryGroups", "ProtectHome", "ProtectSystem", "PrivateTmp", "InaccessiblePaths",
    "ReadWritePaths", "ReadOnlyPaths", "BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem", "StateDirectory",
    "RuntimeDirectory", "CacheDirectory", "LogsDirectory",
)  # fmt: skip
_PACKAGED = {
    "User": "idiolect", "Group": "idiolect", "SupplementaryGroups": "audio tss idiolect-tcp", "ProtectHome": "yes",
    "ProtectSystem": "strict", "PrivateTmp": "yes", "InaccessiblePaths": "/dev/shm",  # noqa: S108 - named, not used
    "StateDirectory": "idiolect", "RuntimeDirectory": "idiolect",
}  # fmt: skip
"""The directives of systemd/idiolectd.service; a test holds the two together."""
_BASES = {
    "StateDirectory": "/var/lib", "RuntimeDirectory": "/run", "CacheDirectory": "/var/cache",
    "LogsDirectory": "/var/log",
}  # fmt: skip
_UNITS = tuple(Path(f"{base}/systemd/system") / systemctl.SERVICE for base in ("/etc", "/run", "/usr/lib", "/lib"))
MAX_FILES = 64
"""Files of a directory that are looked at one by one, at most."""
_ACL, _ACL_VERSION = "system.posix_acl_access", 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
"""Tags of an access control list's entries, acl(5)."""


@dataclass(frozen=True, slots=True)
class Who:
    """A user with all groups, by number, as the kernel checks permissions."""

    user: str
    uid: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Unit:
    """The directives that keep the daemon from files. ``who`` is None where its user does not exist yet."""

    who: Who | None
    home: str
    system: str
    private_tmp: bool
    hidden: tuple[Path, ...]
    readonly: tuple[Path, ...]
    writable: tuple[Path, ...]
    bound: tuple[Path, ...]
    own: tuple[Path, ...]
    """Directories that systemd makes for it."""


def installed() -> bool:
    """Return True if this machine has the unit at all."""
    return any(path.exists() for path in _UNITS)


def unit() -> Unit:
    """Return the unit in force, or the packaged one where systemd cannot be asked."""
    try:
        found = systemctl.state(systemctl.SERVICE, _WANTED)
    except CommandError:
        found = None
    return parsed(_PACKAGED if found is None else found)


def parsed(said: dict[str, str]) -> Unit:
    """Return the directives as `systemctl show` prints them."""

    def paths(name: str) -> tuple[Path, ...]:
        return tuple(Path(each.lstrip("-+")) for each in shlex.split(said.get(name, "")))

    def bound(name: str) -> list[Path]:
        pairs = [each.lstrip("-+").split(":") for each in shlex.split(said.get(name, ""))]
        return [Path(pair[1] if len(pair) > 1 and pair[1] else pair[0]) for pair in pairs]

    own = [Path(base) / each for name, base in _BASES.items() for each in said.get(name, "").split()]
    temporary = [Path(each.split(":")[0]) for each in shlex.split(said.get("TemporaryFileSystem", ""))]
    return Unit(
        who=_who(said.get("User", ""), said.get("Group", ""), said.get("SupplementaryGroups", "").split()),
        home=said.get("ProtectHome", "no"),
        system=said.get("ProtectSystem", "no"),
        private_tmp=said.get("PrivateTmp", "no") not in ("no", ""),
        hidden=(*paths("InaccessiblePaths"), *temporary),
        readonly=(*paths("ReadOnlyPaths"), *bound("BindReadOnlyPaths")),
        writable=(*paths("ReadWritePaths"), *bound("BindPaths")),
        bound=(*bound("BindPaths"), *bound("BindReadOnlyPaths")),
        own=tuple(own),
    )


def _who(user: str, group: str, more: Sequence[str]) -> Who | None:
    """Return who a process of the unit is; an empty ``user`` is root."""
    try:
        entry = pwd.getpwnam(user or "root")
        groups = set(os.getgrouplist(entry.pw_name, entry.pw_gid))
        groups |= {grp.getgrnam(group).gr_gid} if group else set()
    except KeyError:
        return None
    for name in more:
        try:
            groups.add(grp.getgrnam(name).gr_gid)
        except KeyError:
            continue
    return Who(entry.pw_name, entry.pw_uid, frozenset(groups))


# -- what is asked -------------------------------------------------------------------------------------------------


def unreadable(unit: Unit, path: Path) -> str:
    """Return why the unit cannot read a file, or a directory with its files; "" where it can."""
    if why := hidden(unit, path):
        return why
    if unit.who is None:
        return ""
    return _walk(unit.who, path) or next(filter(None, _contents(unit.who, path)), "")


def unwritable(unit: Unit, path: Path) -> str:
    """Return why the unit cannot make and change files in a directory, "" where it can.

    The directory need not be there yet.
    """
    if any(_inside(path, each) for each in unit.own):
        return ""
    if why := hidden(unit, path):
        return why
    if why := _readonly(unit, path):
        return why
    there = next(each for each in (path, *path.parents) if each.exists())
    if unit.who is None:
        return ""
    return _walk(unit.who, there) or _lacks(unit.who, there, os.W_OK | os.X_OK, "written to")


def hidden(unit: Unit, path: Path) -> str:
    """Return why the unit does not even see a path; "" where it does."""
    for each in dict.fromkeys((path, Path(os.path.realpath(path)))):
        if unit.home in ("yes", "tmpfs") and (home := _under(each, HOMES)):
            if unit.home == "yes" or not _under(each, unit.bound):
                return f"{each} is hidden from the unit, which sees nothing below {home} (ProtectHome={unit.home})"
        elif unit.private_tmp and (base := _under(each, TEMPORARY)) and not _under(each, unit.bound):
            return f"{each} is hidden from the unit, which has a {base} of its own (PrivateTmp=yes)"
        elif (base := _under(each, unit.hidden)) and not _deeper(each, base, unit.bound):
            return f"{each} is hidden from the unit (InaccessiblePaths= or TemporaryFileSystem= of {base})"
    return ""


def _readonly(unit: Unit, path: Path) -> str:
    """Return why a path is read-only for the unit, "" where it is not: the most specific directive decides."""
    real = Path(os.path.realpath(path))
    closed = [*unit.readonly, *map(Path, _SYSTEM.get(unit.system, ()))]
    closed += HOMES if unit.home == "read-only" else ()
    base = max((each for each in closed if _inside(real, each)), key=_depth, default=None)
    if base is None:
        return ""
    free = max((each for each in (*unit.writable, *_FREE) if _inside(real, each)), key=_depth, default=None)
    if free is not None and _depth(free) >= _depth(base):
        return ""
    return f"{path} cannot be written to by the unit (ProtectSystem={unit.system}, ReadWritePaths= does not name it)"


def _walk(who: Who, path: Path) -> str:
    """Return why somebody does not get as far as ``path``."""
    real = Path(os.path.realpath(path))
    for each in reversed(real.parents):
        if why := _lacks(who, each, os.X_OK, "entered"):
            return why
    return ""


def _contents(who: Who, path: Path) -> Iterator[str]:
    """Yield why somebody cannot read a file, or a directory and the files in it."""
    if not path.is_dir():
        yield _lacks(who, path, os.R_OK, "read")
        return
    yield _lacks(who, path, os.R_OK | os.X_OK, "read")
    try:
        files = sorted(path.iterdir())[:MAX_FILES]
    except OSError:
        return
    for file in files:
        yield _lacks(who, file, os.R_OK, "read")


def _lacks(who: Who, path: Path, wanted: int, what: str) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""  # not there: that is said elsewhere
    if who.uid == 0 or _permissions(who, path, status) & wanted == wanted:
        return ""
    owner = f"{_name(status.st_uid)}, mode {stat.S_IMODE(status.st_mode):04o}"
    return f"{path} cannot be {what} by user {who.user} (it belongs to {owner})"


def _permissions(who: Who, path: Path, status: os.stat_result) -> int:
    """Return the bits r, w and x that somebody has, by the access control list where there is one."""
    mode = status.st_mode
    try:
        listed = os.getxattr(path, _ACL)
    except OSError:
        listed = b""
    if len(listed) >= 4 and struct.unpack_from("<I", listed)[0] == _ACL_VERSION:
        return _listed(who, list(struct.iter_unpack("<HHI", listed[4 : 4 + (len(listed) - 4) // 8 * 8])), status)
    if status.st_uid == who.uid:
        return mode >> 6 & 7
    return (mode >> 3 & 7) if status.st_gid in who.groups else mode & 7


def _listed(who: Who, entries: Sequence[tuple[int, int, int]], status: os.stat_result) -> int:
    """Return the bits that acl(5)'s algorithm gives: the owner, named users, groups, others.

    All but the first and last are under the mask.
    """
    by_tag = {tag: bits for tag, bits, _ in entries if tag in (_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER)}
    mask = by_tag.get(_MASK, 7)
    if status.st_uid == who.uid:
        return by_tag.get(_USER_OBJ, 0)
    for tag, bits, ident in entries:
        if tag == _USER and ident == who.uid:
            return bits & mask
    mine = [bits for tag, bits, ident in entries if tag == _GROUP and ident in who.groups]
    mine += [by_tag.get(_GROUP_OBJ, 0)] if status.st_gid in who.groups else []
    if mine:
        together = 0
        for bits in mine:
            together |= bits
        return together & mask
    return by_tag.get(_OTHER, 0)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _inside(path: Path, base: Path) -> bool:
    return path == base or base in path.parents


def _under(path: Path, bases: Sequence[Path]) -> Path | None:
    return next((base for base in bases if _inside(path, base)), None)


def _deeper(path: Path, base: Path, bound: Sequence[Path]) -> bool:
    """Return True if something below ``base`` is shown again, and ``path`` in it."""
    return any(_inside(path, each) and base in each.parents for each in bound)


def _depth(path: Path) -> int:
    return len(path.parts)
