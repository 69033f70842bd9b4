"""Queues what one client has asked of a thread that many share: bounded, priced, and worked off in short turns.

Everything that is queued has a price, in bytes of 16 kHz sound: at least ``LEAST``, however small it is. A client whose
backlog has reached ``MOST`` waits before it may add to it. What is set twice before its turn has come (``Job.setting``)
is done once. A turn ends when it has cost ``TURN``: by the prices of its pieces, or by the work that was counted,
whichever is more. The next turn is for the client that has used least of the thread: one that sends sound as it is
spoken is heard after one turn of somebody else's, however many others have sent more than can be heard.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

LEAST = 512
"""Price of what costs next to nothing: a queue holds so many bytes for it, too."""
MOST = 131_072
"""The price of all that one client may have waiting: two of the longest chunks there are."""
TURN = 40_960
"""The price at which one client's turn ends: 1.3 s of sound, or less where it finds its encoder with somebody else. A
file that is sent at once delays nobody by more than that."""


@dataclass(frozen=True, slots=True)
class Piece(Generic[T]):
    """A part of a job that is done without a pause: its price, and what came of it."""

    price: int
    told: Sequence[T] = ()


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """Something to do on the thread, in pieces. One with a ``setting`` replaces an earlier one of the same name.

    It does so only while neither has been begun, and nothing but settings has been queued after the earlier one.
    """

    price: int
    pieces: Callable[[], Iterator[Piece[T]]]
    setting: str = ""


class Turns:
    """The thread, and who has it next. All methods belong to the event loop."""

    def __init__(self, worker: Executor, counted: Callable[[], int]) -> None:
        """Start with an idle thread.

        Args:
            worker: has a single thread.
            counted: the work that it has done so far, for everybody.
        """
        self._worker, self.counted = worker, counted
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._taken = False
        self._least = 0
        self.newcomer = 0
        """The use that a new client starts with: the most that anybody has. Else one who hangs up and comes back would
        always be next."""

    async def run(self, used: int, turn: Callable[[], tuple[int, R]]) -> tuple[R, int]:
        """Run ``turn`` when nobody waits who has used less; return what came of it, and what has been used then.

        ``turn`` returns its price by its own account, which is charged where more work was not counted, and the rest.
        """
        really, used = used, max(used, self._least)  # nobody saves up what he does not use, but among equals he is next
        await self._come(used, really)
        self._least, before = used, self.counted()
        try:
            price, made = await asyncio.get_running_loop().run_in_executor(self._worker, turn)
        finally:
            self._go()
        used += max(LEAST, price, self.counted() - before)
        self.newcomer = max(self.newcomer, used)
        return made, used

    async def _come(self, used: int, really: int) -> None:
        if not self._taken:
            self._taken = True
            return
        mine = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (used, really, next(self._order), mine))
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._go()  # it was our turn already
            raise

    def _go(self) -> None:
        """Let in the client that is next."""
        while self._waiting:
            *_, following = heapq.heappop(self._waiting)
            if not following.done():
                following.set_result(None)
                return
        self._taken = False


class Backlog(Generic[T]):
    """One client's jobs. All methods belong to the event loop; jobs run on the thread of ``turns``."""

    def __init__(self, turns: Turns, tell: Callable[[T], Awaitable[None]]) -> None:
        """Start with nothing queued. ``tell`` is called with each thing that came of jobs."""
        self._turns, self._tell = turns, tell
        self._used = turns.newcomer
        self._todo: deque[Job[T]] = deque()
        self._begun: deque[tuple[int, Iterator[Piece[T]]]] = deque()  # the thread's, while there is a turn
        self._room = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._closed = False
        self.pending = 0
        """The price of all that is queued or begun."""

    async def put(self, job: Job[T]) -> None:
        """Queue a job, when there is room. Raises what went wrong with those before it."""
        self._check()
        price = max(LEAST, job.price)
        self._drop_replaced(job.setting)
        while self.pending and self.pending + price > MOST:
            self._room.clear()
            await self._room.wait()
            self._check()
        self._todo.append(job)
        self.pending += price
        if self._working is None:
            self._working = asyncio.ensure_future(self._work_off())

    async def drained(self) -> None:
        """Return when everything has been done and told. Raises what went wrong."""
        while self._working is not None:
            await asyncio.shield(self._working)

    def close(self) -> None:
        """Drop what has not been done."""
        self._closed = True
        self._todo.clear()
        working, self._working = self._working, None  # no circle: what jobs hold is to come back now
        if working is not None and not working.cancel() and not working.cancelled():
            working.exception()  # nobody else will ask, and asyncio would put it into the journal with its text

    def _check(self) -> None:
        if self._working is not None and self._working.done():
            self._working.result()

    def _drop_replaced(self, setting: str) -> None:
        """Take out what a job with this ``setting`` makes pointless."""
        if not setting:
            return
        for place in range(len(self._todo) - 1, -1, -1):
            job = self._todo[place]
            if job.setting == setting:
                self.pending -= max(LEAST, job.price)
                del self._todo[place]
            if job.setting in ("", setting):
                return

    async def _work_off(self) -> None:
        try:
            while self._todo or self._begun:
                self._begin()
                (done, told), self._used = await self._turns.run(self._used, self._turn)
                self.pending -= done
                self._room.set()
                for each in told:
                    await self._tell(each)
        except BaseException:
            self._room.set()  # who waits for room is to find out
            self.pending = 0
            raise
        self._working = None

    def _begin(self) -> None:
        """Hand the thread as many jobs as a turn may take by their prices."""
        price = sum(each for each, _ in self._begun)
        while self._todo and price < TURN:
            job = self._todo.popleft()
            self._begun.append((max(LEAST, job.price), job.pieces()))
            price += max(LEAST, job.price)

    def _turn(self) -> tuple[int, tuple[int, list[T]]]:
        """Do some of what has begun, on the thread; return its cost, the price of the jobs done, and their results."""
        counted = self._turns.counted
        before, spent, done, told = counted(), 0, 0, list[T]()
        while self._begun and not self._closed and max(spent, counted() - before) < TURN:
            price, pieces = self._begun[0]
            piece = next(pieces, None)
            if piece is None:
                self._begun.popleft()
                done += price
                continue
            spent += max(LEAST, piece.price)
            told += piece.told
        return spent, (done, told)
