"""Somebody else in the machine's network: a network namespace of this machine's, with a cable to the container's.

It has nothing but the two ends of that cable. Sockets are made in it by a thread that enters it, and are used anywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import roots
from .base import TargetError

HERE, THERE = "192.168.1.30", "192.168.1.20"
"""Its own address, and the machine's: the one that the documentation uses."""
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Neighbour:
    """Plugged in from ``__enter__`` to ``__exit__``."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._holder: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Neighbour:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "-n", "sleep", "infinity"]
        self._holder = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            self._await_namespace(self._holder.pid)
            ends = ((self._leader, THERE), (self._holder.pid, HERE))
            cable = f"hw0 netns {self._leader} type veth peer name hw0 netns {self._holder.pid}"
            roots.shell("ip", "link", "add", *cable.split())
            for pid, address in ends:
                inside = ("nsenter", "-t", str(pid), "-n", "ip")
                roots.shell(*inside, "address", "add", f"{address}/24", "dev", "hw0")
                for link in ("lo", "hw0"):
                    roots.shell(*inside, "link", "set", link, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _await_namespace(self, pid: int) -> None:
        ends = time.monotonic() + 30
        while Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            if time.monotonic() > ends:
                raise TargetError("no network namespace is made")
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        """The cable goes with the namespace; the kernel takes its time, so it is pulled out first."""
        with contextlib.suppress(TargetError):
            roots.shell("nsenter", "-t", str(self._leader), "-n", "ip", "link", "delete", "hw0")
        if self._holder:
            self._holder.kill()
            self._holder.wait()

    def connect(self, port: int, seconds: float = 10) -> socket.socket:
        """From here to a port of the machine's. Raises ``OSError``."""
        assert self._holder
        return connect(self._holder.pid, THERE, port, seconds)


def connect(pid: int, address: str, port: int, seconds: float = 10) -> socket.socket:
    """A TCP connection that is made in the network of a process. Raises ``OSError``."""

    def enter() -> socket.socket:
        space = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(space, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(space)
        return socket.create_connection((address, port), seconds)

    if not Path(f"/proc/{pid}").exists():
        raise TargetError("the machine is off")
    with ThreadPoolExecutor(1) as alone:  # a thread that ends with it: its network is another one from then on
        return alone.submit(enter).result()
