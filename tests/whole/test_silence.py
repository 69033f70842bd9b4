"""Silence: capture naps while it lasts, loses nothing and wakes at once; the whole daemon hears what it would awake."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from benchmark import idle
from idiolect.errors import MicrophoneAbsent
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle
from idiolect.values import Captured
from tests.listening.audio.test_capture import Running, Scripted, block
from tests.support import speech
from tests.support.alsa import require_wavmic
from tests.whole.test_service import Daemon

SETTLED_S = 4.0
"""Until the gate, which starts open, has shut."""
SILENT_S = 10.0
WAKE_UPS = 15
"""At most so many a second: 8.4 on an idle machine, in the quietest of four windows also on a busy one."""


class Hardware(Scripted):
    """A live source whose device goes on while it is left alone: a numbered block every 80 ms, ten can wait there."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self._began = time.monotonic()
        self._read = 0
        self._taken: list[Captured] = []

    def _spoken(self) -> float:
        return (time.monotonic() - self._began) / 0.08

    def read(self) -> Captured | None:
        self.reads += not self._taken
        if not self._taken:
            time.sleep(max(0.0, (self._read + 1 - self._spoken()) * 0.08))
            whole = max(self._read + 1, int(self._spoken()))
            assert whole - self._read <= 10, "overrun"
            self._taken = [block(value) for value in range(self._read, whole)]
            self._read = whole
        return self._taken.pop(0)

    @property
    def ready(self) -> int:
        return len(self._taken)

    def ready_in(self, blocks: int) -> float:
        return max(0.0, (self._read + blocks - self._spoken()) * 0.08 + 0.002)


@pytest.fixture
def capturing() -> Iterator[Callable[..., Running]]:
    with contextlib.ExitStack() as stack:

        def make(opener: Callable) -> Running:
            running = Running(opener)
            stack.callback(running.stop)
            return running

        yield make


@pytest.mark.pace
def test_for_a_patient_consumer_blocks_are_gathered_and_none_is_lost(capturing):
    source = Hardware()
    running = capturing(lambda: source)
    running.take(2)
    running.queue.patience = 5
    running.take(5)
    reads = source.reads
    values = [int(b.samples[0]) for b in running.take(20)]
    assert values == list(range(7, 27))
    assert source.reads - reads <= 6
    assert max(np.diff(running.beats)) < 0.6


@pytest.mark.pace
def test_a_consumer_in_a_hurry_gets_what_there_is_at_once_and_then_each_block_in_time(capturing):
    source = Hardware()
    running = capturing(lambda: source)
    running.take(1)
    running.queue.patience = 8
    time.sleep(0.3)  # in the middle of a nap
    while running.queue.get(0) is not None:
        pass  # what came before it
    running.queue.patience = 1
    asked = time.monotonic()
    running.take(3)
    assert time.monotonic() - asked < 0.1
    reads = source.reads
    running.take(4)
    assert source.reads - reads >= 3


@pytest.mark.pace
@pytest.mark.parametrize("what", ["stop", "pause", "reopen"])
def test_a_nap_is_cut_short(capturing, what):
    sources = []

    def open_hardware() -> Hardware:
        sources.append(Hardware())
        return sources[-1]

    running = capturing(open_hardware)
    running.take(1)
    running.queue.patience = 9
    time.sleep(0.3)
    asked = time.monotonic()
    getattr(running.capture, what)()
    while not sources[0].closed:
        assert time.monotonic() - asked < 0.1
        time.sleep(0.002)


@pytest.mark.pace
def test_a_hurry_does_not_cut_the_wait_after_a_fault_short(capturing):
    attempts = []

    def open_scripted() -> Scripted:
        attempts.append(time.monotonic())
        running.queue.patience = 3
        running.queue.patience = 1
        raise MicrophoneAbsent("mic: no such device", "plug it in")

    gate = threading.Event()
    running = capturing(lambda: open_scripted() if gate.wait(1.0) else None)
    gate.set()
    time.sleep(0.5)
    assert np.diff(attempts) == pytest.approx([0.25], abs=0.05)


def offline(samples):
    """What the chain makes of the same samples, without a thread, a queue or a nap."""
    bundle = read_bundle(bundle_directory("builtin"))
    chain = Recognizer.from_bundle(bundle).chain(listening(bundle, phrases=speech.DIGITS, always=True))
    return [(d.phrase, d.start, d.end, round(d.score, 4)) for d in chain.process(samples)]


def wake_ups(pid, seconds):
    """Per second, over all threads. Forced switches are the doing of whatever else runs here."""
    before, began = idle.switches(pid, forced=False), time.monotonic()
    time.sleep(seconds)
    counts = idle.switches(pid, forced=False)
    return (sum(counts.values()) - sum(before.values())) / (time.monotonic() - began)


@pytest.mark.slow
def test_silence_wakes_it_rarely_and_words_after_it_are_heard_the_same(tmp_path):
    require_wavmic()
    room = speech.silence(SETTLED_S + SILENT_S + 1.0)
    parts = [room, *(part for n in (4, 8, 2) for part in (speech.digit(n), speech.silence(3.3, seed=n)))]
    samples = np.concatenate(parts)
    daemon = Daemon(tmp_path, samples, speed=1.0).start().ready()
    try:
        daemon.wait(lambda: daemon.mic.started_at is not None)
        time.sleep(max(0.0, daemon.mic.started_at + SETTLED_S - time.monotonic()))
        rates = [wake_ups(daemon.process.pid, SILENT_S / 4) for _ in range(4)]
        assert min(rates) <= WAKE_UPS, rates
        daemon.wait(lambda: len(daemon.events()) == 3, 20)
        heard = [(e["phrase"], e["start"], e["end"], e["score"]) for e in daemon.events()]
        assert heard == offline(samples)
        assert daemon.microphone["overruns"] == daemon.microphone["dropped_blocks"] == 0
    finally:
        daemon.stop()
