"""Finds out who is calling: the kernel's word about the other end of a Unix socket, mapped to a role.

Nothing here is a secret or a password: a role is membership in a Unix group, as the configuration says.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

_SO_PEERGROUPS = 59
"""Linux >= 4.13; the socket module does not name it."""
_GROUPS_BYTES = 1024
"""The most that socket.getsockopt takes: 256 groups of four bytes."""


class Role(IntEnum):
    """The roles of callers, the lowest first; each may do all that those before it may."""

    OBSERVER = 1
    USER = 2
    ADMIN = 3


class Roles(Protocol):
    """``control.roles`` of the configuration: names of Unix groups."""

    @property
    def observer(self) -> Sequence[str]:
        """Return the groups whose members may see status and events."""

    @property
    def user(self) -> Sequence[str]:
        """Return the groups whose members may also pause, teach, and ask about people."""

    @property
    def admin(self) -> Sequence[str]:
        """Return the groups whose members may do everything."""


class Credentials(Protocol):
    """The one thing needed from a socket, so that asyncio's wrapped sockets serve as well."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """Return a socket option's value, like ``socket.socket.getsockopt``."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A connected process as the kernel saw it when it connected."""

    uid: int
    gids: frozenset[int]


def peer_of(sock: Credentials) -> Peer:
    """Return the process at the other end of a connected Unix socket."""
    _pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Peer(uid, frozenset({gid, *_groups(sock, uid, gid)}))


def uid_of(sock: Credentials) -> int:
    """Return the user of the process at the other end; -1 where the kernel does not say."""
    try:
        return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
    except OSError:
        return -1


def _groups(sock: Credentials, uid: int, gid: int) -> Sequence[int]:
    """Return supplementary groups: of the process itself, or those of its user where the kernel cannot say."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
        return [value for (value,) in struct.iter_unpack("I", raw)]
    except OSError as error:
        # ENOPROTOOPT: an older kernel. ERANGE: more groups than Python's buffer takes.
        if error.errno not in (errno.ENOPROTOOPT, errno.ERANGE):
            raise
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return ()


def role_of(peer: Peer, roles: Roles) -> Role | None:
    """Return the highest role of ``peer``, None for a stranger.

    Root and our own user are admins, others have their role by group.
    """
    if peer.uid in (0, os.geteuid()):
        return Role.ADMIN
    for role in sorted(Role, reverse=True):
        if any(_gid(name) in peer.gids for name in groups_for(role, roles)):
            return role
    return None


def user_of(peer: Peer) -> str:
    """Return the name of a peer's user, "" when the system knows none."""
    try:
        return pwd.getpwuid(peer.uid).pw_name
    except KeyError:
        return ""


def groups_for(role: Role, roles: Roles) -> Sequence[str]:
    """Return the names of the groups that give exactly ``role``."""
    return {Role.OBSERVER: roles.observer, Role.USER: roles.user, Role.ADMIN: roles.admin}[role]


def missing_groups(roles: Roles) -> list[str]:
    """Return the groups that the configuration names and the system does not know."""
    return sorted({name for role in Role for name in groups_for(role, roles) if _gid(name) is None})


def how_to_get(role: Role, roles: Roles) -> str:
    """Return the next step for a caller who lacks ``role``: join the least powerful group that gives it."""
    for enough in (each for each in Role if each >= role):
        for name in groups_for(enough, roles):
            if _gid(name) is not None:
                return f"join the group {name} (sudo usermod -aG {name} $USER), then log in again"
    return f"create a group, name it under control.roles.{role.name.lower()} in the configuration, and join it"


def _gid(name: str) -> int | None:
    """Return a group's id. It is looked up at every request: a group made while the daemon runs counts at once."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
