"""The inference thread's body: takes blocks out of the queue, through the chain, and publishes events.

Goes in: blocks of sound, and between two of them what to listen for. Comes out: events, and on request the next
utterance as an attempt at a phrase. Of an event only a window of embeddings is kept, for KEPT events and AGE_S seconds,
so that people can correct what was heard.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from idiolect.events import EventStream, StateChange
from idiolect.host import clock
from idiolect.listening.attempt import AFTER, Attempt, Reason, Taken
from idiolect.listening.audio.capture import BlockQueue
from idiolect.listening.counters import BLOCK_S, Counters
from idiolect.listening.pipeline.chain import Chain
from idiolect.listening.pipeline.decoder import Listening, State
from idiolect.listening.pipeline.earlier import EarlierModel
from idiolect.listening.pipeline.hearing import LONGEST, resample_window
from idiolect.listening.pipeline.household import Household
from idiolect.listening.pipeline.space import SPAN, as_span
from idiolect.listening.turns import Tap
from idiolect.values import BLOCK, SAMPLE_RATE, WINDOW, Captured, Detection, Event

log = logging.getLogger(__name__)

_WAIT_S = 5.0
"""Longest wait for a block; a paused daemon wakes up no oftener."""

PATIENCE = 3
"""Blocks (0.24 s) to be woken for at once while the gate is shut. The first syllable of a phrase may wait so long; by
its last, blocks come one by one again, and its event is no later."""
KEPT = 64
AGE_S = 600.0
"""Events that can be corrected: so many, for so long."""
PLAYBACK_MORE = 1.0
"""Log-odds by which scores must be higher while the box itself plays something: a quarter of ``SENSITIVITY_SPAN``."""


class EventIds:
    """Ids of events: unique across restarts, and in order within one."""

    def __init__(self) -> None:
        self._boot = secrets.token_hex(4)
        self._count = itertools.count(1)

    def __call__(self) -> str:
        """Return the next id, unlike any before."""
        return f"{self._boot}-{next(self._count)}"


@dataclass(frozen=True, slots=True)
class Heard:
    """The window of an event, as long as it may be corrected; ``span`` float32 (18, 96) stays in RAM.

    ``played``: the box itself was playing something then, so that nothing can be learnt of it.
    """

    event: Event
    span: NDArray[np.float32]
    played: bool = False
    since_boot: float = 0.0
    """When it was kept, by a clock that nobody sets."""


class Recent:
    """The windows of the last events, for `correct` and `confirm`: KEPT of them, for AGE_S. Any thread."""

    def __init__(self, now: Callable[[], float] = clock.since_boot) -> None:
        """Begin without any. ``now`` is a clock that nobody sets, in seconds."""
        self._now = now
        self._heard: OrderedDict[str, Heard] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, event: Event, span: NDArray[np.float32] | None, *, played: bool = False) -> None:
        """Remember an event's window, and forget those that are too many or too old."""
        with self._lock:
            if span is not None:
                self._heard[event.id] = Heard(event, span, played, self._now())
            while self._heard and (len(self._heard) > KEPT or self._old(next(iter(self._heard.values())))):
                self._heard.popitem(last=False)

    def take(self, ident: str) -> Heard | None:
        """Return an event's window and forget it: nothing is learnt from twice."""
        with self._lock:
            found = self._heard.pop(ident, None)
        return None if found is None or self._old(found) else found

    def look(self, ident: str) -> Heard | None:
        """Return an event's window, and go on remembering it."""
        with self._lock:
            found = self._heard.get(ident)
        return None if found is None or self._old(found) else found

    def clear(self) -> None:
        """Forget all windows that are remembered."""
        with self._lock:
            self._heard.clear()

    def _old(self, heard: Heard) -> bool:
        return self._now() - heard.since_boot > AGE_S


class Inference:
    """Runs a chain on what arrives in a queue. ``run`` belongs to one thread."""

    def __init__(
        self, chain: Chain, queue: BlockQueue, hub: EventStream, names: EventIds, first_block: Callable[[], None]
    ) -> None:
        self._chain = chain
        self._queue = queue
        self._hub = hub
        self._names = names
        self._first_block: Callable[[], None] | None = first_block
        self._next: tuple[Listening, Household | None, str, EarlierModel | None] | None = None
        self._wanted: Callable[[Taken | Reason], None] | None = None
        self._attempt: Attempt | None = None
        self._pause = 0
        self.recent = Recent()
        self.told: Callable[[Event], None] = lambda _: None
        """Called with each event, on this thread."""
        self.tap: Tap | None = None
        """Called with the sound of turns, on this thread: set while a program that may have it is connected."""
        self._lock = threading.Lock()
        self._state = chain.state
        self._speech = chain.last_speech
        self._speech_at = time.monotonic()
        self._begun = perf_counter()
        self._after = ""
        self._playing = False
        self._played = 0  # position up to which the box has played something
        self.playing = False
        """True while the box plays something. Any thread may set it."""
        self.released = False
        """True while the microphone is released: then what was heard before is forgotten, not kept until it is back."""
        self.tally = Counters()
        self.events = 0
        self.processed: Callable[[], None] = lambda: None
        """Called on this thread after each block: the watchdog's food."""

    @property
    def state(self) -> str:
        """Return "idle", "listening" (a turn is open) or "always"."""
        return self._state.value

    def listen_for(
        self, listening: Listening, household: Household | None, profile: str, carried: EarlierModel | None = None
    ) -> None:
        """Change what is listened for, and for whom, between two blocks. Any thread."""
        with self._lock:
            self._next = listening, household, profile, carried

    def attempt(self, done: Callable[[Taken | Reason], None] | None) -> None:
        """Take the next utterance as an attempt at a phrase, and tell ``done``; None: no more. Any thread.

        While somebody speaks to be learnt from, there are no events: nobody wants the lamp to go on.
        """
        with self._lock:
            self._wanted, self._attempt = done, None

    def forget(self) -> None:
        """Forget what was heard of anybody until now: windows to be corrected, and events that clients could fetch."""
        self.recent.clear()
        self._hub.clear()

    @property
    def quiet_s(self) -> float:
        """Return the seconds since somebody last seemed to speak, or since the start. Any thread."""
        return max(0.0, time.monotonic() - self._speech_at)

    @property
    def level_dbfs(self) -> float:
        """Return the level of the attempt's newest block, -120 without an attempt."""
        attempt = self._attempt
        return -120.0 if attempt is None else attempt.level_dbfs

    def run(self) -> None:
        """Process blocks until the queue is finished."""
        while not self._queue.finished:
            block = self._queue.get(_WAIT_S)
            if block is not None:
                self._take(block)
            elif self.released:
                self._chain.reset(same_room=True)

    def _take(self, block: Captured) -> None:
        """Process one block, and tell the queue how urgent the next ones are."""
        self._begun = perf_counter()
        self._process(block)
        self.tally.processing.add(perf_counter() - self._begun)
        self.processed()
        self._queue.patience = 1 if self._chain.awake or self._wanted is not None else PATIENCE

    def _process(self, block: Captured) -> None:
        self._prepare(block.lost)
        if self._wanted is not None:
            self._try(block)
        else:
            heard = self._chain.process(block.samples)
            if (tap := self.tap) is not None:
                tap(block.samples, heard, self._chain.position, self._chain.state.value)
            for detection in heard:
                self._publish(detection)
        self._note_speech()
        if self._chain.state is not self._state:
            self._turned()
        if self._first_block:
            self._first_block()
            self._first_block = None

    def _prepare(self, lost: int) -> None:
        """Take over what has changed since the last block, before the next is heard."""
        if self._next is not None:
            with self._lock:
                (listening, household, profile, carried), self._next = self._next, None
            self._chain.listen_for(listening, household, carried)
            self._pause = listening.pause
            self._chain.address(profile)
        if lost:
            self._chain.lose(lost)
        # ``listen_for`` and ``lose`` end an open turn, which is no time-out.
        if self._state is State.TURN and self._chain.state is not State.TURN:
            self._after = "interrupted"
        if self.playing is not self._playing:
            self._playing = self.playing
            self._chain.demand(PLAYBACK_MORE if self._playing else 0.0)
        if self._playing:
            self._played = self._chain.position + BLOCK

    def _turned(self) -> None:
        """Publish that a turn was opened, or closed: after a phrase or a time-out, with or without a try before."""
        before, self._state = self._state, self._chain.state
        change: dict[str, object] = {"state": self._state.value}
        if before is State.TURN and self._after:
            change["after"] = self._after
        self._hub.publish(StateChange(self._names(), time.time(), {"listening": change}))

    def played(self, detection: Detection) -> bool:
        """Return whether the box was playing something while that was said. Any thread, soon after it was."""
        return detection.start < self._played

    def _note_speech(self) -> None:
        if self._chain.last_speech != self._speech:
            self._speech = self._chain.last_speech
            self._speech_at = time.monotonic() - (self._chain.position - self._speech) / SAMPLE_RATE

    def _publish(self, detection: Detection) -> None:
        self.events += 1
        self._after = "timeout" if detection.kind == "wake" else detection.kind
        event = Event(self._names(), time.time(), detection)
        self.recent.keep(event, self._span(detection), played=self.played(detection))
        self._hub.publish(event)
        late = (self._chain.position - detection.end) / SAMPLE_RATE + self._queue.waiting * BLOCK_S
        late += perf_counter() - self._begun
        self.tally.event(detection, base=self._chain.knows(detection.phrase), late=late)
        self.told(event)
        log.info("event: %s", detection.kind)  # which phrase, the journal need not know

    def _span(self, detection: Detection) -> NDArray[np.float32] | None:
        """Return the embeddings around the end of what was said; slow speech squeezed in time."""
        late = max(0, (self._chain.position - detection.end) // BLOCK - AFTER)
        length = (detection.end - detection.start) // BLOCK
        if WINDOW < length <= LONGEST - late - AFTER:
            spoken = self._chain.recent(length + late + AFTER)
            if spoken is None:
                return None
            return as_span(resample_window(spoken[:length]))
        recent = self._chain.recent(SPAN + late)
        return None if recent is None else recent[:SPAN]

    def _try(self, block: Captured) -> None:
        """Take the block as part of an attempt."""
        self._speech_at = time.monotonic()  # whoever is asked to speak is not to be disturbed
        with self._lock:
            done = self._wanted
            if done is not None and (self._attempt is None or block.lost or self._playing):
                self._attempt = Attempt(self._pause)
            attempt = self._attempt
        self._chain.steps(block.samples)
        self._chain.end_turn()  # a wake word in a take is a part of it
        self._after = ""  # of what it made there are no events
        if done is None or attempt is None:
            return
        outcome = attempt.hear(block.samples, self._chain.recent)
        if outcome is not None:
            with self._lock:
                if self._wanted is done:
                    self._wanted = self._attempt = None
            done(outcome)
