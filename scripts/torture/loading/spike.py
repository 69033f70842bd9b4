"""Everybody at once, at a share of a core where all is well: what listening costs then, and that no sound is lost.

Listeners to events, satellites that stream over Wyoming in real time, browsers that poll the page, the export of the
person who has as much as one may have, and a round that does not wait, for something of hers was forgotten.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmark.speech import RATE
from torture.loading import talk
from torture.loading.board import Board
from torture.loading.household import House, person
from torture.loading.order import LATE, LIMITS
from torture.loading.running import Asker, ask, daemon, spread
from torture.loading.step import spoken

HANG_UPS, AFTER_S = 60, 8.0
"""So many reviews of somebody with 2,000 examples take half a minute of a whole core, were they all made."""


class Crowd:
    """So many listeners to the event stream, in one thread; ``events`` has how many words each was told of."""

    def __init__(self, control: Path, count: int) -> None:
        self.events = [0] * count
        self._control = control
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))
        self._thread.start()

    def close(self) -> None:
        """They hang up."""
        self._over.set()
        self._thread.join()

    async def _all(self) -> None:
        listening = [asyncio.ensure_future(self._listen(number)) for number in range(len(self.events))]
        while not self._over.is_set():
            await asyncio.sleep(0.2)
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)

    async def _listen(self, number: int) -> None:
        reader, writer = await asyncio.open_unix_connection(self._control)
        try:
            writer.write(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while line := await reader.readline():
                self.events[number] += line.startswith(b"event: phrase")
        finally:
            writer.transport.abort()


def satellites(running: Any, count: int, seconds: float) -> dict[str, object]:
    """Wyoming clients that stream speech; how late they were told of their word. Empty without the library."""
    try:
        from connecting.load import Told, wyoming_client
    except ImportError:
        return {}
    told = Told()

    async def everybody() -> None:
        clients = [wyoming_client(running, number, seconds, told) for number in range(count)]
        await asyncio.gather(*clients, return_exceptions=True)

    asyncio.run(everybody())
    return told.summary()


def spike(
    folder: Path, house: House, board: Board, words: Sequence[talk.Word], wish: argparse.Namespace
) -> tuple[dict[str, object], list[str]]:
    """The figures, and what did not hold."""
    who = person(house.people - 1)
    named = {"profile": who}
    with daemon(folder, house, board) as it:
        ask(it.control, "POST", "/v1/profile", named)
        path = who.replace(" ", "%20")
        askers = [
            Asker("page", 0.2, lambda: ask(it.page, "GET", "/")),
            Asker("status", 0.2, lambda: ask(it.control, "GET", "/v1/status")),
            Asker("review", 2.0, lambda: ask(it.control, "GET", f"/v1/review?profile={path}")),
            Asker("export", 2.0, lambda: ask(it.control, "POST", "/v1/export", named)),
            Asker("forget", 6.0, _forgetting(it.control, who)),
        ]
        crowd = Crowd(it.control, wish.listeners)
        seconds = sum(len(word.samples) for word in words) / RATE
        streaming: dict[str, object] = {}
        others = threading.Thread(
            target=lambda: streaming.update(satellites(_reached(it), wish.satellites, seconds))
        )  # fmt: skip
        others.start()
        try:
            before = board.throttled()
            late, events, used = spoken(it, words, askers)
        finally:
            crowd.close()
            others.join()
        microphone = it.status().get("microphone", {})
        waited = after_hang_ups(it, path)
        figures = it.figures()
    lost = int(microphone.get("dropped_blocks", -1)) + int(microphone.get("overruns", -1))
    told = spread(late)
    found = [f"at once: {told['failed']} of {told['count']} words missed"] if told["failed"] else []
    p95 = told["p95"]
    if p95 is not None and p95 > LIMITS[LATE].most:
        found.append(f"at once: events come {p95:.0f} ms late at the 95th percentile")
    if waited is None or waited > AFTER_S:
        found.append(f"after {HANG_UPS} requests that nobody waited for, the next took {waited or 'too long'} s")
    if lost:
        found.append(f"at once: {lost} blocks or overruns of the microphone")
    if len(set(crowd.events)) > 1:
        found.append(f"at once: not all listeners were told the same: {min(crowd.events)} to {max(crowd.events)} words")
    return {
        "share": wish.spike / 100, "listeners": wish.listeners, "satellites": wish.satellites, "words": told,
        "told_to_each": max(crowd.events, default=0), "events": len(events), "cpu_used": round(used, 3),
        "throttled_s": round(board.throttled()[1] - before[1], 1), "microphone_lost": lost, "wyoming": streaming,
        "after_hang_ups_s": waited,
        **{asker.name: spread(asker.took) for asker in askers}, **figures,
    }, found  # fmt: skip


def after_hang_ups(it: Any, path: str) -> float | None:
    """Seconds that a question takes right after many costly ones of clients that have gone away; None: too long."""
    gone = [socket.socket(socket.AF_UNIX) for _ in range(HANG_UPS)]
    for client in gone:
        client.connect(str(it.control))
        client.sendall(f"GET /v1/review?profile={path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    time.sleep(0.5)
    for client in gone:
        client.close()
    asker = Asker("history", 0.0, lambda: ask(it.control, "GET", f"/v1/history?profile={path}"))
    asker.once()
    return asker.took[0]


def _reached(it: Any) -> SimpleNamespace:
    return SimpleNamespace(control=it.control, wyoming=it.wyoming)


def _forgetting(control: Path, who: str) -> Any:
    """Forget one more example each time: a rekeying, a rotation while there is credit, and a round at once."""
    number = iter(range(10, 1000))
    return lambda: ask(control, "POST", "/v1/forget", {"profile": who, "example": next(number)})


@contextlib.contextmanager
def limited(board: Board, share: float, mib: int | None = None) -> Any:
    """A share for so long; afterwards a whole core again."""
    board.limit(share, mib)
    try:
        yield
    finally:
        board.limit(1.0)
        time.sleep(0.1)
