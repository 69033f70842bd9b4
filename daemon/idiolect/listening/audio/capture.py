"""Capture: keeps one source of audio open, whatever happens to it, and hands its blocks on.

``Capture.run`` is the body of a thread that the service owns. It opens the source, puts what it reads into a
``BlockQueue`` and, when the source fails, closes it and tries again, more and more slowly: a microphone that is busy,
unplugged or stalled never ends the process. Everything that other threads may look at is one frozen value,
``MicrophoneHealth``, replaced as a whole.

Every block costs two wake-ups, one here and one at the consumer, and most of the day there is nothing in it. So a
consumer that can wait says how many blocks it would like at once (``BlockQueue.patience``); then capture naps, while
the device's buffer goes on filling, and hands them on together. The first of them with sound in it ends the nap.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from idiolect.errors import MicrophoneError, SourceEnded
from idiolect.listening.audio.convert import level_dbfs
from idiolect.values import BLOCK, SAMPLE_RATE, Captured, MicrophoneHealth

FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 8.0
"""Also the longest time between two calls of ``alive`` (plus one open): a watchdog must allow twice as much."""
LEVEL_EVERY = 13
"""Blocks between two measurements of the level: about a second."""
_SPACE_WAIT_S = 0.25


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """The format of an open source: ``rate`` in Hz and ``channels`` as the device gives them, before conversion.

    A ``live`` source goes on whether it is read or not; another one (a file read as fast as possible, a pipe) waits.
    """

    device: str
    rate: int
    channels: int
    live: bool = True


class Source(Protocol):
    """An open microphone or recording. One thread opens, reads and closes it."""

    @property
    def description(self) -> SourceInfo:
        """Return the name and the format of what was opened."""
        ...

    @property
    def overruns(self) -> int:
        """Return how often samples were lost since it was opened because they were not read in time."""
        ...

    def read(self) -> Captured | None:
        """Return the next block; None when there is none within about 0.25 s and nothing is known to be wrong.

        It never returns samples that nobody recorded.

        Raises:
            MicrophoneError: (Absent, Busy, Stalled, Format, ...) it has to be opened again.
            SourceEnded: at the end of a recording.
        """
        ...

    def close(self) -> None:
        """Release the device within 0.1 s; closing twice is allowed."""
        ...


@runtime_checkable
class Buffered(Source, Protocol):
    """A source whose device keeps what is not read at once, so that it can be left alone for a while."""

    @property
    def ready(self) -> int:
        """Return how many blocks were taken from the device: so many times ``read`` returns at once, and none fails."""
        ...

    def ready_in(self, blocks: int) -> float:
        """Return the seconds until that many blocks have gathered, or as many as are safe; 0 when one should read."""
        ...


class BlockQueue:
    """Blocks on their way from one thread to another: when full it forgets the oldest and says so on the next one."""

    def __init__(self, capacity: int) -> None:
        """Make an empty queue for ``capacity`` blocks, from 1."""
        self.roused: Callable[[], None] = lambda: None
        """Called on the consumer's thread when it cannot wait any longer: who naps must look up."""
        self._patience = 1
        self._capacity = capacity
        self._blocks: deque[Captured] = deque()
        self._changed = threading.Condition()
        self._lost = 0  # samples forgotten in front of the oldest block
        self._dropped = 0
        self._closed = False

    @property
    def dropped(self) -> int:
        """Return how many blocks were forgotten so far."""
        return self._dropped

    @property
    def waiting(self) -> int:
        """Return how many blocks nobody has taken yet."""
        return len(self._blocks)

    @property
    def empty(self) -> bool:
        """Return whether no block waits."""
        return not self._blocks

    @property
    def finished(self) -> bool:
        """Return whether nothing is left and nothing more will come."""
        with self._changed:
            return self._closed and not self._blocks

    @property
    def patience(self) -> int:
        """Return how many blocks at once the consumer would like: 1 is each as soon as it is there. A wish only."""
        return self._patience

    @patience.setter
    def patience(self, blocks: int) -> None:
        hurry = blocks < self._patience
        self._patience = blocks
        if hurry:
            self.roused()

    def put(self, *blocks: Captured) -> None:
        """Append blocks, in place of the oldest ones when the queue is full; whoever waits wakes up once for all."""
        with self._changed:
            for block in blocks:
                if len(self._blocks) >= self._capacity:
                    self._lost += self._blocks.popleft().lost + BLOCK
                    self._dropped += 1
                self._blocks.append(block)
            self._changed.notify_all()

    def get(self, timeout: float) -> Captured | None:
        """Return the oldest block, or None after ``timeout`` seconds, or at once when the queue is finished."""
        with self._changed:
            self._changed.wait_for(lambda: self._blocks or self._closed, timeout)
            if not self._blocks:
                return None
            block = self._blocks.popleft()
            if self._lost:
                block = replace(block, lost=block.lost + self._lost)
                self._lost = 0
            self._changed.notify_all()
            return block

    def wait_for_space(self, timeout: float) -> bool:
        """Wait until a block can be put without forgetting one; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._blocks) < self._capacity, timeout)

    def close(self) -> None:
        """Say that no more blocks come: whoever waits in ``get`` goes on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Capture:
    """Supervises one source. ``run`` belongs to one thread; everything else may be called from any.

    ``open_source`` opens it or raises a ``MicrophoneError``. ``alive`` is called once per bounded step of the loop:
    a read (a block or none), a failed attempt, a wait. It feeds the watchdog and must return quickly. ``changed`` is
    called when the state of ``health`` is another one, and when a source that was opened gives its first sound.
    """

    def __init__(
        self,
        open_source: Callable[[], Source],
        queue: BlockQueue,
        alive: Callable[[], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._open_source = open_source
        self._queue = queue
        self._alive = alive
        self._changed = changed
        self._health = MicrophoneHealth()
        self._wake = threading.Event()  # cuts a wait short: a flag below was changed, or the consumer is in a hurry
        queue.roused = self._wake.set
        self._stopping = False
        self._paused = False
        self._reopen = False
        self._backoff = FIRST_BACKOFF_S
        self._failed = False  # a fault lies between the last block and the next
        self._heard_at: float | None = None  # monotonic time of the last block
        self._until_level = 0

    @property
    def health(self) -> MicrophoneHealth:
        """Return how capture is doing. The state leaves "opening" when the first attempt has ended, well or badly."""
        return self._health

    def stop(self) -> None:
        """Make ``run`` return: within 0.1 s out of a wait, at the next block or within 0.3 s out of a read."""
        self._stopping = True
        self._wake.set()

    def pause(self) -> None:
        """Close the device and leave it closed; it is free when the state is "paused"."""
        self._paused = True
        self._wake.set()

    def resume(self) -> None:
        """Open the device again after a pause."""
        self._paused = False
        self._wake.set()

    def reopen(self) -> None:
        """Close the source and open it again, as when the configuration names another one."""
        self._reopen = True
        self._wake.set()

    def run(self) -> None:
        """Capture until ``stop`` or the end of a recording; then the queue is closed.

        Faults of the source are handled here. Anything else that is raised is a bug and ends the thread.
        """
        try:
            while not self._stopping:
                if self._paused:
                    self._report(state="paused", reason="", fix="")
                    self._wait(LONGEST_BACKOFF_S)
                else:
                    self._attempt()
        except SourceEnded as end:
            self._report(state=end.state, reason=str(end), fix=end.fix)
        finally:
            self._queue.close()

    def _attempt(self) -> None:
        """Open, listen until something ends it, close; after a fault wait before the next attempt."""
        if self._health.state == "paused":
            self._report(state="opening")
        self._reopen = False
        try:
            source = self._open_source()
            try:
                self._listen(source)
            finally:
                source.close()  # before any other open: a device that was unplugged hangs otherwise
        except SourceEnded:
            raise
        except MicrophoneError as fault:
            self._failed = True
            self._report(state=fault.state, reason=str(fault), fix=fault.fix)
            if self._undisturbed():
                self._wait(self._backoff)
            self._backoff = min(2 * self._backoff, LONGEST_BACKOFF_S)

    def _listen(self, source: Source) -> None:
        """Read until stopped, paused or raised out of."""
        fresh = True
        overruns = 0
        buffered = source if isinstance(source, Buffered) else None
        while self._undisturbed():
            nap = buffered.ready_in(self._queue.patience) if buffered and self._queue.patience > 1 else 0.0
            if nap > 0:
                self._wait(nap)
                continue
            block = source.read()
            self._alive()
            if source.overruns != overruns:
                self._report(overruns=self._health.overruns + source.overruns - overruns)
                overruns = source.overruns
            if block is not None:
                blocks = [self._opened(source, block) if fresh else block]
                while buffered and buffered.ready and (more := buffered.read()):
                    blocks.append(more)
                self._hand_on(blocks, source.description.live)
                fresh = False

    def _undisturbed(self) -> bool:
        """Return whether to go on listening: nobody wants to stop, pause or reopen."""
        self._wake.clear()  # all that it can have been set for is looked at from here on
        return not (self._stopping or self._paused or self._reopen)

    def _opened(self, source: Source, block: Captured) -> Captured:
        """Report that a source works; return its first block, marked with what was missed while there was none."""
        info = source.description
        reopened = self._health.reopened + self._failed
        self._report(
            state="running",
            reason="",
            fix="",
            device=info.device,
            rate=info.rate,
            channels=info.channels,
            reopened=reopened,
        )
        self._changed()
        self._backoff = FIRST_BACKOFF_S
        self._failed = False
        self._until_level = 0
        if self._heard_at is None:
            return block
        missed = round((time.monotonic() - self._heard_at) * SAMPLE_RATE) - BLOCK
        return replace(block, lost=max(1, missed, block.lost))

    def _hand_on(self, blocks: list[Captured], live: bool) -> None:
        """Queue blocks, note their level now and then, and count what the queue forgot."""
        self._heard_at = time.monotonic()
        for block in blocks:
            if self._until_level == 0:
                self._report(level_dbfs=level_dbfs(block.samples))
            self._until_level = (self._until_level + 1) % LEVEL_EVERY
        while not (live or self._stopping or self._queue.wait_for_space(_SPACE_WAIT_S)):
            self._alive()
        self._queue.put(*blocks)
        if self._queue.dropped != self._health.dropped_blocks:
            self._report(dropped_blocks=self._queue.dropped)

    def _wait(self, seconds: float) -> None:
        """Wait, unless a flag changes or the consumer is in a hurry; the caller looks at the flags next."""
        self._alive()
        self._wake.wait(seconds)
        self._wake.clear()

    def _report(self, **changes: object) -> None:
        """Replace the health that others see; only the thread of ``run`` calls this."""
        before, self._health = self._health, replace(self._health, **changes)  # type: ignore[arg-type]
        if (before.state, before.reason) != (self._health.state, self._health.reason):
            self._changed()
