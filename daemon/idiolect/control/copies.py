"""Lets large bodies into the daemon, and large answers out of it, one after the other, and says whose turn it is.

A person's copy lies in memory whole while it is read or written. Whoever wants that while somebody else's is under way
waits in the order of coming, and each caller has one place: one who sends half a copy at a time, again and again, costs
the others the seconds of one, and never a place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from idiolect.errors import RequestError
from idiolect.host.structure import Source

PLACES = 8
"""Callers that wait or are served."""


class Copies:
    """Lets one large body or answer through at a time. Everything belongs to the event loop."""

    def __init__(self, wait_s: float) -> None:
        """Begin with no caller. ``wait_s``: seconds that somebody waits before being told to come again."""
        self._wait_s = wait_s
        self._lock = asyncio.Lock()
        self._callers: set[object] = set()
        self._source = Source(b"")

    @property
    def callers(self) -> int:
        """Return those that wait or are served."""
        return len(self._callers)

    @asynccontextmanager
    async def turn(self, caller: object) -> AsyncIterator[None]:
        """Wait for the turn of ``caller``, which ends with the block, and the memory of what it brought with it.

        Raises:
            RequestError: 503, it has a place already, all places are taken, or its turn has not come in time.
        """
        if caller in self._callers or len(self._callers) >= PLACES:
            raise _busy()
        self._callers.add(caller)
        try:
            await self._come_up()
            try:
                yield
            finally:
                self._source.release()
                self._lock.release()
        finally:
            self._callers.discard(caller)

    async def _come_up(self) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                await self._lock.acquire()
        except TimeoutError:
            raise _busy() from None

    def holds(self, source: Source) -> None:
        """Note the bytes that the caller of this turn has brought: their memory is given back when the turn ends.

        That is done even where something else still holds a part of them.
        """
        self._source = source


def _busy() -> RequestError:
    return RequestError(503, "", "another copy is being taken or brought back: try again in a moment")
