"""The inference thread's body: blocks out of the queue, through the chain, events to whoever listens."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable

from idiolect.control.hub import Hub, StateChange
from idiolect.host.capture import BlockQueue
from idiolect.pipeline.chain import Chain
from idiolect.pipeline.decoder import Listening
from idiolect.values import Captured, Event

log = logging.getLogger(__name__)

_WAIT_S = 5.0
"""Longest wait for a block; a paused daemon wakes up no oftener."""


class Names:
    """Ids of events: unique across restarts, and in order within one."""

    def __init__(self) -> None:
        self._boot = secrets.token_hex(4)
        self._count = itertools.count(1)

    def __call__(self) -> str:
        """The next id."""
        return f"{self._boot}-{next(self._count)}"


class Inference:
    """Runs a chain on what arrives in a queue. ``run`` belongs to one thread."""

    def __init__(
        self, chain: Chain, queue: BlockQueue, hub: Hub, names: Names, first_block: Callable[[], None]
    ) -> None:
        self._chain = chain
        self._queue = queue
        self._hub = hub
        self._names = names
        self._first_block: Callable[[], None] | None = first_block
        self._next: Listening | None = None
        self._lock = threading.Lock()
        self._state = chain.state
        self.events = 0

    @property
    def state(self) -> str:
        """ "idle", "listening" (a turn is open) or "always"."""
        return self._state.value

    def listen_for(self, listening: Listening) -> None:
        """Change what is listened for, between two blocks. Any thread."""
        with self._lock:
            self._next = listening

    def run(self) -> None:
        """Process blocks until the queue is finished."""
        while not self._queue.finished:
            block = self._queue.get(_WAIT_S)
            if block is not None:
                self._process(block)

    def _process(self, block: Captured) -> None:
        if self._next is not None:
            with self._lock:
                listening, self._next = self._next, None
            self._chain.listen_for(listening)
        if block.lost:
            self._chain.lose(block.lost)
        for detection in self._chain.process(block.samples):
            self.events += 1
            self._hub.publish(Event(self._names(), time.time(), detection))
            log.info("event: %s", detection.kind)  # which phrase, the journal need not know
        if self._chain.state is not self._state:
            self._state = self._chain.state
            self._hub.publish(StateChange(self._names(), time.time(), {"listening": {"state": self._state.value}}))
        if self._first_block:
            self._first_block()
            self._first_block = None
