"""Gives one answer to all who ask at about the same time: who asks ten times a second has it made no oftener."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

KEPT_S = 2.0
"""Seconds that an answer holds for others who ask."""


class Shared(Generic[T]):
    """Keeps one result of ``make`` for all who wait for it, and for ``keep_s`` seconds after that.

    Belongs to the event loop.
    """

    def __init__(self, make: Callable[[], Awaitable[T]], keep_s: float = KEPT_S) -> None:
        self._make, self._keep_s = make, keep_s
        self._making: asyncio.Future[T] | None = None
        self._until = float("-inf")

    async def get(self) -> T:
        """Return the answer. What ``make`` raises goes to all who wait, and is not kept."""
        made = self._making
        if made is None or (made.done() and not self._fresh(made)):
            made = self._making = asyncio.ensure_future(self._made())
            made.add_done_callback(
                lambda it: it.cancelled() or it.exception()
            )  # looked at, if nobody is left who waits
        return await asyncio.shield(made)  # one who hangs up does not take it from the others

    def _fresh(self, made: asyncio.Future[T]) -> bool:
        well = not made.cancelled() and made.exception() is None
        return well and time.monotonic() < self._until

    async def _made(self) -> T:
        answer = await self._make()
        self._until = time.monotonic() + self._keep_s
        return answer
