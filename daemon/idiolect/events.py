"""The event stream's memory: the last 256 happenings, and who waits for the next one.

Theory of operation: the inference thread publishes, clients of the control API read. One ring serves everybody and
a subscriber is nothing but a position in it, so a client that reads slowly costs no memory. When the ring has moved
on past a position, events are lost for that subscriber and it is told so (``LaggedError``); nobody else notices.

Who comes back names the id that he read last. Where that is not in the ring any more he is told that as well: it is
``lagged`` when the id was of this run, ``restarted`` when it was not; then follows all that the ring holds, which is
new to him in either case.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from idiolect.errors import IdiolectError

RING = 256
"""Happenings kept for ``recent`` and for clients that come back with a Last-Event-ID."""


GAPS: Mapping[str, str] = {
    "lagged": "events left the memory before they were read: what follows is all that there is",
    "restarted": "the daemon was started anew, and has not what was before: what follows is all that there is",
}
"""Why something is missing for who comes back."""


class Happening(Protocol):
    """What can be published; ``values.Event`` is one, ``StateChange`` another."""

    @property
    def id(self) -> str:
        """Unique across restarts, without line breaks."""

    def as_dict(self) -> dict[str, object]:
        """What clients get as JSON; holds at least "id", "time" and "kind"."""


@dataclass(frozen=True, slots=True)
class StateChange:
    """The daemon is listening, paused, without microphone, ...; ``state`` goes out beside id, time and kind."""

    id: str
    time: float
    state: Mapping[str, object] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """The change as JSON carries it; ``time`` in seconds since the Unix epoch."""
        return {"id": self.id, "time": round(self.time, 3), "kind": "state", **self.state}


@dataclass(frozen=True, slots=True)
class Entry:
    """One happening in the ring; ``frame`` is its Server-Sent Event, made once for all clients."""

    id: str
    data: dict[str, object]
    frame: bytes


class LaggedError(IdiolectError):
    """A subscriber was too slow; ``missed`` events left the ring unread."""

    def __init__(self, missed: int) -> None:
        super().__init__(f"{missed} events left the memory before they were read: read faster")
        self.missed = missed


def frame(event: str, data: Mapping[str, object], event_id: str = "") -> bytes:
    """A Server-Sent Event. JSON never holds a line break, so one data line is enough."""
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class EventStream:
    """Where happenings go in from any thread and come out on the event loop's."""

    def __init__(self, capacity: int = RING) -> None:
        self._lock = threading.Lock()
        self._ring: deque[Entry] = deque(maxlen=capacity)
        self._published = 0  # also the position after the newest entry
        self._begin = self._newest = f"{secrets.token_hex(4)}-0"  # what those have read who came before the first
        self._subscriptions: set[Subscription] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waking = False

    def publish(self, happening: Happening) -> None:
        """Remember it and wake the subscribers. Any thread; microseconds; never waits for a client."""
        data = happening.as_dict()
        entry = Entry(happening.id, data, frame(str(data["kind"]), data, happening.id))
        with self._lock:
            self._ring.append(entry)
            self._published += 1
            self._newest = happening.id
            # Under the lock: once the last subscription is closed the loop is not touched, so it may close too.
            if self._subscriptions and not self._waking and self._loop is not None:
                self._waking = True
                self._loop.call_soon_threadsafe(self._wake)

    @property
    def published(self) -> int:
        """Happenings since the start."""
        return self._published

    @property
    def subscribers(self) -> int:
        """Open subscriptions."""
        return len(self._subscriptions)

    def recent(self, limit: int = RING) -> list[dict[str, object]]:
        """The newest ``limit`` happenings, oldest first."""
        with self._lock:
            return [entry.data for entry in islice(self._ring, max(0, len(self._ring) - limit), None)]

    def clear(self) -> None:
        """Forget all of it: phrases and profiles are in there. Who had not read everything is told that he lags."""
        with self._lock:
            self._ring.clear()

    def subscribe(self, last_id: str | None = None) -> Subscription:
        """Follow the stream, on the running event loop: from now on, or from what came after ``last_id``.

        An id that the ring does not hold is older than all of it, or from before a restart: then everything in
        the ring is new to the caller, who gets all of it, and ``gap`` says why that may not be all.
        """
        with self._lock:
            self._loop = asyncio.get_running_loop()
            position, gap = self._position_after(last_id)
            begin = "" if gap or position < self._published else self._newest
            subscription = Subscription(self, position, gap, begin)
            self._subscriptions.add(subscription)
        return subscription

    def hang_up(self) -> None:
        """End every subscription, as the service stops. On the event loop's thread."""
        for subscription in tuple(self._subscriptions):
            subscription.end()

    def since(self, position: int) -> tuple[list[Entry], int]:
        """Entries from ``position`` on, and the position after them. Raises ``LaggedError`` when some are gone."""
        with self._lock:
            oldest = self._published - len(self._ring)
            if position < oldest:
                raise LaggedError(oldest - position)
            return list(islice(self._ring, position - oldest, None)), self._published

    def forget(self, subscription: Subscription) -> None:
        """Stop waking ``subscription``."""
        with self._lock:
            self._subscriptions.discard(subscription)

    def _position_after(self, last_id: str | None) -> tuple[int, str]:
        if last_id is None or last_id == self._newest:
            return self._published, ""
        for back, entry in enumerate(reversed(self._ring)):
            if entry.id == last_id:
                return self._published - back, ""
        oldest = self._published - len(self._ring)
        if last_id == self._begin:
            return oldest, "lagged" if oldest else ""
        return oldest, "lagged" if self._published and _run(last_id) == _run(self._newest) else "restarted"

    def _wake(self) -> None:
        with self._lock:
            self._waking = False
            subscriptions = tuple(self._subscriptions)
        for subscription in subscriptions:
            subscription.wake()


def _run(ident: str) -> str:
    """What all ids of one run of the daemon begin with (``inference.Names``)."""
    return ident.rpartition("-")[0]


class Subscription:
    """One reader's position in the ring. Use it on the event loop's thread, as a context manager.

    ``gap`` is "" or one of GAPS: something before it is missing. ``begin`` is the id after which it follows
    everything, "" where older entries come first.
    """

    def __init__(self, hub: EventStream, position: int, gap: str = "", begin: str = "") -> None:
        self._hub = hub
        self._position = position
        self.gap, self.begin = gap, begin
        self._ready = asyncio.Event()
        self._ended = False

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.forget(self)

    async def take(self, timeout: float) -> list[Entry] | None:
        """What is new; waits for it up to ``timeout`` seconds, then returns []. None: the hub hung up.

        Raises ``LaggedError`` when the reader was too slow.
        """
        entries = self._collect()
        if not entries and not self._ended:
            try:
                async with asyncio.timeout(timeout):
                    await self._ready.wait()
            except TimeoutError:
                return []
            entries = self._collect()
        return None if self._ended and not entries else entries

    def wake(self) -> None:
        """There is something to take."""
        self._ready.set()

    def end(self) -> None:
        """There will be nothing more to take."""
        self._ended = True
        self._ready.set()

    def _collect(self) -> list[Entry]:
        self._ready.clear()  # before looking: what comes in between wakes us once too often, not once too seldom
        entries, self._position = self._hub.since(self._position)
        return entries
