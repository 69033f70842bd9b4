"""One daemon, its microphones and its reference, in step: what is told is heard, processed, and compared.

Sound is told in portions that neither the device's buffer nor the daemon's queue overflows; the next comes when the
daemon says (`/metrics`) that it has processed the last. So nothing is lost but what a fault takes, however fast the
machine is, and both sides know exactly which samples were heard.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from idiolect.config.schema import load
from idiolect.listening.pipeline.decoder import Listening
from idiolect.listening.recognizer import Recognizer, listening_for
from idiolect.values import BLOCK, SAMPLE_RATE
from torture.audio.daemon import Daemon, Stream, Stuck, held, wait_until
from torture.audio.device import Microphone
from torture.audio.leaks import Look
from torture.audio.programme import Room
from torture.audio.reference import Expected, Order, Positions, Reference, Stretch, compare

PORTION = 11
"""Blocks told at once, and twice before they have to be processed: the device's buffer holds 16, the queue 25.

Converters of rates, here and there, may give a block more at once than they took.
"""
QUEUE = 25
"""Blocks in the daemon's queue (``idiolect.service.service.QUEUE_BLOCKS``)."""
HEARD = ("wake", "phrase", "rejected")
MOST_FOUND = 40


@dataclass
class Counts:
    """What should come out of the daemon's own counters."""

    overruns: int = 0
    reopened: int = 0
    dropped: int = 0


@dataclass
class Session:
    """``blocks`` told so far is the time of day; ``found`` what did not hold."""

    folder: Path
    """On a disk: what the daemon writes there is counted."""
    quick: Path
    """In memory, where there is such a place: for the microphones."""
    room: Room
    recognizer: Recognizer
    chance: np.random.Generator
    wishes: dict[str, Any] = field(default_factory=lambda: {"mode": "always"})
    log_level: str = "info"
    told: int = 0
    counts: Counts = field(default_factory=Counts)
    found: list[str] = field(default_factory=list)
    events: int = 0
    looks: list[Look] = field(default_factory=list)
    late_s: float = 0.0
    """By how much the device's clock was told too late, at most: in real time that is our fault."""

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon, and wait until it hears."""
        self.mics = {name: Microphone(self.quick, name) for name in ("first", "second")}
        self.mic = self.mics["first"]
        configs = ":".join(str(mic.config) for mic in self.mics.values())
        self.daemon = Daemon(self.folder, self.settings(), {"ALSA_CONFIG_PATH": configs})
        wait_until("the daemon serves", self._serves, every=0.02)
        self.stream = Stream(self.daemon.socket)
        self.order, self.positions = Order(), Positions()
        self.reference = Reference(self.recognizer, self.wish(), gated=True)
        self.stretch = Stretch(0)
        self._before: Stretch | None = None
        self._clock: tuple[float, int] | None = None
        self._number = 0
        wait_until("the microphone starts", lambda: self.mic.starts)
        self._begin()
        self.feed(25)
        self.inference = self._find_inference()

    def _serves(self) -> bool:
        if not self.daemon.alive():
            raise Stuck("the daemon ended as it began")
        if not self.daemon.socket.exists():
            return False
        try:
            state = self.daemon.status()
        except Exception:  # it does not listen yet
            return False
        return bool(state["personalization"]["state"] != "off")

    def stop(self) -> int:
        """End it; the exit code."""
        if stream := getattr(self, "stream", None):  # it may have ended before there was one
            stream.close()
        code = self.daemon.stop()
        for mic in self.mics.values():
            mic.close()
        return code

    def settings(self) -> dict[str, Any]:
        """The daemon's configuration as it is to be now."""
        return {
            "audio": {"device": self.mic.name},
            "state_dir": str(self.folder / "state"),
            "control": {"socket": str(self.folder / "control.sock")},
            "listening": self.wishes,
            "log_level": self.log_level,
        }

    def wish(self) -> Listening:
        """What the configuration of now listens for."""
        return listening_for(load((self.daemon.config,)), self.recognizer.bundle)

    def _find_inference(self) -> int:
        """The thread without which sound is taken and not processed; 0 where the kernel lets us hold none."""
        _, *others = self.daemon.threads()
        for thread in others:
            before, began = self.processed(), time.time()
            try:
                with held(thread):
                    self.say_sound(2)
                    taken = self._wait_briefly(lambda: self.mic.waiting < self.mic.period)
                    idle = taken and not self._wait_briefly(partial(self._more, before))
            except OSError:
                return 0
            self.follow(began)
            if idle:
                return thread
        return 0

    def _more(self, than: int) -> bool:
        return self.processed() > than

    @staticmethod
    def _wait_briefly(true: Callable[[], bool]) -> bool:
        try:
            wait_until("a thread", true, 0.5, 0.002)
        except Stuck:
            return False
        return True

    # -- sound ---------------------------------------------------------------------------------------------------

    def feed(self, blocks: int) -> None:
        """So much of the room, as fast as it is processed."""
        while blocks > 0:
            began = time.time()
            fresh: list[Expected] = []
            for _ in range(2):
                portion = min(blocks, PORTION)
                self.say_sound(portion)
                fresh += self._taken()
                blocks -= portion
            self._settle(fresh, began)

    def feed_to_speech(self, most: int) -> None:
        """Until somebody is in the middle of a word, at most so many blocks."""
        self.feed(max(1, self.room.until_speech(most * BLOCK) // BLOCK))

    def feed_in_time(self, seconds: float, speed: float = 1.0) -> None:
        """So much of the room as life has it, from a device whose clock is off by ``speed``.

        It goes on where it was left: what sounded since then is told at once, as by a device that was not read.
        """
        now = end = time.monotonic()
        end += seconds
        if self._clock is None:
            self._clock = now, 0
        began, said = self._clock
        while now < end:
            due = int((now - began) * SAMPLE_RATE * speed) - said
            said += due
            self.told += due
            self.mic.tell(self.room.take(due))
            self._note(self.reference.hear(self.mic.heard()), (time.time() - 2.0, time.time() + 5.0))
            self.listen()
            time.sleep(0.01)
            before, now = now, time.monotonic()
            self.late_s = max(self.late_s, now - before)
        self._clock = began, said
        self.follow(time.time() - 2.0)

    def say_sound(self, blocks: int) -> None:
        """Tell the device so much, and wait for nothing."""
        self.told += blocks * BLOCK
        self.mic.tell(self.room.take(blocks * BLOCK))

    def pass_unheard(self, blocks: int) -> None:
        """Time passes in the room, and nobody listens: the microphone is not open."""
        self.told += blocks * BLOCK
        self.room.take(blocks * BLOCK)

    def follow(self, began: float) -> None:
        """Wait until everything that was told is processed, and note what has to come of it."""
        self._settle(self._taken(), began)

    def _taken(self) -> list[Expected]:
        """Wait until the daemon has read everything, and let the reference hear it."""
        wait_until("the daemon reads", lambda: self._alive() and self.mic.waiting < self.mic.period)
        return self.reference.hear(self.mic.heard())

    def _settle(self, fresh: Sequence[Expected], began: float) -> None:
        """Wait for the daemon's count of blocks to be the reference's."""
        wanted = self.reference.blocks - self.counts.dropped
        try:
            wait_until("the daemon processes", lambda: self._alive() and self.processed() >= wanted, every=0.0005)
        except Stuck as stuck:
            raise Stuck(f"{stuck}: {self._processed} of {wanted} blocks; {self._standing()}") from None
        if (more := self._processed - wanted) > 0:
            self.say(f"{more} blocks more were processed than delivered")
        ended = time.time()
        self._note(fresh, (began, ended))
        self.stretch.span = (self.stretch.span[0] or began, ended)
        self.listen()

    def _standing(self) -> str:
        """What the daemon counts, and what the device does, for whoever looks for why it does not go on."""
        now = self.daemon.metrics()
        names = ("microphone_overruns", "microphone_reopened", "dropped_blocks", "queue_blocks")
        counts = ", ".join(f"{name} {now[name]:.0f}" for name in names if name in now)
        device = f"{self.mic.rate} Hz, {self.mic.channels} channels, {self.mic.waiting} frames waiting"
        return f"{counts}; device: {device}, started {self.mic.starts} times"

    def _note(self, fresh: Sequence[Expected], span: tuple[float, float]) -> None:
        self.stretch.expected += [replace(each, span=span) for each in fresh]

    def processed(self) -> int:
        """Blocks that went through recognition, as the daemon counts them."""
        self._processed = int(self.daemon.metrics()["block_processing_seconds_count"])
        return self._processed

    def _alive(self) -> bool:
        if not self.daemon.alive():
            raise Stuck("the daemon has ended")
        return True

    # -- events --------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Take what the stream has told."""
        for kind, data in self.stream.read():
            if kind in HEARD:
                self.stretch.told.append(data)
                self.events += 1
            elif kind != "state":
                self.say(f"the event stream said {kind}")
                continue
            for fault in self.order.check(str(data["id"])):
                self.say(fault)
        if self.stream.ended:
            raise Stuck("the event stream ended")

    def say(self, fault: str) -> None:
        """Something did not hold."""
        if len(self.found) < MOST_FOUND:
            self.found.append(f"{self.told / SAMPLE_RATE:.0f} s: {fault}")

    # -- stretches -----------------------------------------------------------------------------------------------

    def close_stretch(self) -> None:
        """Compare what was told with what should have been, and begin the next."""
        wanted = int(self.daemon.metrics()["events"])

        def complete() -> bool:
            self.listen()
            return self.events >= wanted

        wait_until("all events are told", complete)
        stretch = self.stretch
        stretch.length = self.reference.position
        for fault in (*compare(stretch), *self.positions.check(stretch, self._before)):
            self.say(fault)
        self._before, self._number = stretch, self._number + 1
        self.stretch = Stretch(self._number)

    @contextmanager
    def restart(self, counted: str = "") -> Iterator[None]:
        """What is done inside has the device started again, and sound from before lost; ``counted`` as which count."""
        starts = self.mic.starts
        yield
        if counted:
            setattr(self.counts, counted, getattr(self.counts, counted) + 1)
        wait_until("the microphone starts again", lambda: self._alive() and self.mic.starts > starts)
        self.close_stretch()
        self._begin()

    def _begin(self) -> None:
        self._clock = None
        self.mic.started()
        self.reference.begin(self.mic.rate, self.mic.channels)

    def overflow(self, blocks: int) -> None:
        """Recognition stands still while so many blocks come: the queue keeps the newest. More than it holds."""
        time.sleep(0.005)  # it has said that it is done, and is to sleep when it is held
        self.close_stretch()
        began = time.time()
        with held(self.inference):
            for _ in range(0, blocks, PORTION):
                self.say_sound(PORTION)
                wait_until("the daemon reads", lambda: self._alive() and self.mic.waiting < self.mic.period)
            fresh, lost = self.reference.hear_late(self.mic.heard(), QUEUE)
            self.counts.dropped += lost
            dropped = self.counts.dropped  # what was read from the device is not in the queue yet
            wait_until("the queue runs over", lambda: self.daemon.metrics()["dropped_blocks"] >= dropped)
        self.stretch.loss = lost * BLOCK
        self._settle(fresh, began)

    # -- what grows ----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Note what the process holds, once connections of a moment ago are closed."""
        daemon, least = self.daemon, min((len(each.descriptors) for each in self.looks), default=0)
        self._wait_briefly(lambda: len(daemon.descriptors()) <= least)
        descriptors = tuple(sorted(re.sub("first|second", "microphone", each) for each in daemon.descriptors()))
        threads, children = len(daemon.threads()), daemon.children()
        self.looks.append(
            Look(
                self.told / SAMPLE_RATE, daemon.rss_kib(), descriptors, threads, children, daemon.written(), self.events
            )
        )

    def check_counts(self, after: str) -> None:
        """The daemon's counters against what was done to it."""
        now = self.daemon.metrics()
        for what, name, wanted in (
            ("overruns", "microphone_overruns", self.counts.overruns),
            ("times reopened", "microphone_reopened", self.counts.reopened),
            ("blocks dropped", "dropped_blocks", self.counts.dropped),
        ):
            if now[name] != wanted:
                self.say(f"{after}: {now[name]:.0f} {what} are counted, there were {wanted}")
                setattr(self.counts, name.removeprefix("microphone_").removesuffix("_blocks"), int(now[name]))
