"""An event loop in which time passes as soon as nothing else is left to do: who waits for seconds costs none.

And a connection on it that sends bytes as bad clients do: in any pieces, slowly, half-closed, cut off in the middle.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

FOR_EVER_S = 100_000.0
"""What is not over by then never is."""
MOST = 4 << 20
"""Bytes of all answers on one connection, above which somebody talks without end."""


class _Selector(selectors.EpollSelector):
    """Skips waiting, unless a thread is at work for us."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0
        self.jobs = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.jobs:
            return super().select(0.05 if timeout is None else min(timeout, 0.05))
        if timeout is None:
            raise AssertionError("everybody waits for somebody else")
        self.skipped += timeout
        return ready


class Loop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._skipping = _Selector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return super().time() + self._skipping.skipped

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        self._skipping.jobs += 1
        job = super().run_in_executor(executor, func, *args)
        job.add_done_callback(self._ended)
        return job

    def _ended(self, _: object) -> None:
        self._skipping.jobs -= 1


def pieces(data: bytes) -> tuple[list[bytes], int]:
    """How a client sends: the first byte says where ``data`` is cut (low bits) and how it leaves (the top two)."""
    mode, rest = (data[0], data[1:]) if data else (0, b"")
    cut = mode & 0x3F
    if cut == 0 or not rest:
        return ([rest] if rest else []), mode >> 6
    step = max(cut * cut // 4, 1, len(rest) // 64)
    return [rest[at : at + step] for at in range(0, len(rest), step)], mode >> 6


async def converse(
    protocol: Callable[[], asyncio.Protocol], data: bytes, meanwhile: Callable[[int], None] = lambda _: None
) -> bytes:
    """Send ``data`` to what serves connections through ``protocol``; all that it answers. ``meanwhile`` is told of
    each piece that is out.
    """
    loop = asyncio.get_running_loop()
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    await loop.connect_accepted_socket(protocol, theirs)
    parts, leaving = pieces(data)
    hearing = asyncio.ensure_future(_hear(loop, ours))
    try:
        async with asyncio.timeout(FOR_EVER_S):
            with suppress(ConnectionError):  # it hung up first
                for number, part in enumerate(parts):
                    await loop.sock_sendall(ours, part)
                    await asyncio.sleep(0.4 if leaving == 2 else 0)
                    meanwhile(number)
            await asyncio.sleep(100.0 if leaving > 1 else 0)
            with suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR if leaving == 1 else socket.SHUT_WR)
            return await hearing
    finally:
        hearing.cancel()
        ours.close()


async def _hear(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    heard = bytearray()
    try:
        while len(heard) < MOST and (part := await loop.sock_recv(sock, 65_536)):
            heard += part
    except OSError:
        return bytes(heard)
    assert len(heard) < MOST, "it talks without end"
    return bytes(heard)


async def settled(connected: Callable[[], int]) -> None:
    """Wait until nobody is served any more."""
    for _ in range(60):
        if not connected():
            return
        await asyncio.sleep(1.0)
    raise AssertionError("a connection is served for ever")


# -- one loop for all executions ---------------------------------------------------------------------------------------

_made: list[Any] = []


def kept(make: Callable[..., Any]) -> Any:
    """``functools.cache`` for what lives on the loop, and goes with it."""
    made = cache(make)
    _made.append(made)
    return made


@kept
def loop() -> Loop:
    """Made at first use."""
    made = Loop()
    asyncio.set_event_loop(made)
    return made


@contextmanager
def closed() -> Iterator[None]:
    """Let the loop go in the end, for tests that are not alone in their process."""
    try:
        yield
    finally:
        if loop.cache_info().currsize:
            loop().close()
        for each in _made:
            each.cache_clear()


def play(scenario: Coroutine[Any, Any, None]) -> None:
    """Run it; whatever tasks it leaves behind are its fault."""
    before = asyncio.all_tasks(loop())
    loop().run_until_complete(scenario)
    left = asyncio.all_tasks(loop()) - before
    assert not left, f"{len(left)} tasks are left"


def unopened() -> Any:
    """A server's socket that is not needed."""
    raise AssertionError("connections are handed in")
