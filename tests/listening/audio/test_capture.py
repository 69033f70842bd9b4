"""Capture: recovery from every fault without a restart, the queue's arithmetic, pausing and stopping.

Sources are scripted ones that implement the real interface where timing is tested, and the simulated microphone behind
the real libasound where a device must fail.
"""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from idiolect.errors import MicrophoneAbsent, MicrophoneBusy, SourceEnded
from idiolect.listening.audio import capture as capture_module
from idiolect.listening.audio.capture import BlockQueue, Capture, SourceInfo
from idiolect.listening.audio.microphone import AlsaMicrophone, open_source
from idiolect.values import BLOCK, SAMPLE_RATE, Captured
from tests.support.alsa import WavMic, require_wavmic


def block(value: int, lost: int = 0) -> Captured:
    return Captured(np.full(BLOCK, value, np.int16), lost)


class Scripted:
    """A source that plays a script: blocks, None (nothing for now), errors; after it 10 ms naps."""

    def __init__(self, *script: Captured | Exception | None, live: bool = True) -> None:
        self.description = SourceInfo("scripted", SAMPLE_RATE, 1, live)
        self.overruns = 0
        self.closed = 0
        self._script = iter(script)

    def read(self) -> Captured | None:
        step = next(self._script, None)
        if isinstance(step, Exception):
            raise step
        if step is None:
            time.sleep(0.01)
        return step

    def close(self) -> None:
        self.closed += 1


class Running:
    """A Capture on a thread of its own, and what its watchdog saw."""

    def __init__(self, opener: Callable, capacity: int = 256) -> None:
        self.queue = BlockQueue(capacity)
        self.beats: list[float] = []
        self.error: BaseException | None = None
        self.capture = Capture(opener, self.queue, lambda: self.beats.append(time.monotonic()))
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.capture.run()
        except BaseException as error:  # handed to the test
            self.error = error

    def until(self, state: str, within: float = 60.0) -> None:
        deadline = time.monotonic() + within
        while self.capture.health.state != state:
            assert time.monotonic() < deadline, f"{self.capture.health} never became {state}"
            time.sleep(0.005)

    def take(self, count: int, within: float = 60.0) -> list[Captured]:
        blocks = []
        while len(blocks) < count:
            taken = self.queue.get(within)
            assert taken is not None, f"only {len(blocks)} blocks came: {self.capture.health}"
            blocks.append(taken)
        return blocks

    def stop(self) -> float:
        started = time.monotonic()
        self.capture.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()
        return time.monotonic() - started


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    with contextlib.ExitStack() as stack:

        def make(opener: Callable, **settings) -> Running:
            running = Running(opener, **settings)
            stack.callback(running.stop)
            return running

        yield make


@pytest.fixture
def mic(tmp_path, monkeypatch) -> WavMic:
    """A microphone at four times real time that says the numbers 0, 1, 2, ..."""
    require_wavmic()
    audio = tmp_path / "ramp.pcm"
    audio.write_bytes((np.arange(20 * SAMPLE_RATE) % 30_000).astype("<i2").tobytes())
    mic = WavMic(tmp_path, audio, speed=4)
    monkeypatch.setenv("ALSA_CONFIG_PATH", mic.environment["ALSA_CONFIG_PATH"])
    return mic


def opener(mic: WavMic) -> Callable:
    return lambda: open_source(mic.device, channel="mix", gain_db=0.0)


# ---- the queue ----


def test_a_full_queue_forgets_the_oldest_and_the_next_block_says_so():
    queue = BlockQueue(2)
    for value in (1, 2, 3, 4):
        queue.put(block(value, lost=10 if value == 2 else 0))
    third, fourth = queue.get(0), queue.get(0)
    assert (third.samples[0], third.lost) == (3, 2 * BLOCK + 10)
    assert (fourth.samples[0], fourth.lost) == (4, 0)
    assert queue.dropped == 2
    assert queue.get(0.01) is None


@pytest.mark.pace
def test_a_closed_queue_is_emptied_first_and_then_returns_at_once():
    queue = BlockQueue(2)
    queue.put(block(1))
    queue.close()
    assert not queue.finished
    assert queue.get(1.0).samples[0] == 1
    started = time.monotonic()
    assert queue.get(1.0) is None
    assert time.monotonic() - started < 0.1
    assert queue.finished


def test_blocks_put_together_wake_their_reader_once_and_all_are_there():
    queue, woken = BlockQueue(4), []

    def read() -> None:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        taken.extend(queue.get(60.0).samples[0] for _ in range(3))
        woken.append(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before)

    for _ in range(10):  # on a busy machine the two threads meet at the interpreter's lock, now and then
        taken = []
        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(0.05)
        queue.put(block(1), block(2), block(3))
        reader.join(60)
        assert taken == [1, 2, 3]
    assert min(woken) <= 2  # one more for the lock; a wake-up for each block would be three and more
    queue.put(block(3))
    queue.put(*[block(value) for value in range(4, 8)])  # one more than there is space for
    after = queue.get(0)
    assert (after.samples[0], after.lost) == (4, BLOCK)


def test_only_less_patience_rouses_who_fills_the_queue():
    queue, roused = BlockQueue(4), []
    queue.roused = lambda: roused.append(queue.patience)
    for patience in (1, 3, 3, 5, 1, 1):
        queue.patience = patience
    assert roused == [1]


# ---- supervision, with scripted sources ----


@pytest.mark.pace
def test_retries_back_off_twofold_up_to_the_limit_and_start_over_after_a_block(monkeypatch, start):
    monkeypatch.setattr(capture_module, "FIRST_BACKOFF_S", 0.02)
    monkeypatch.setattr(capture_module, "LONGEST_BACKOFF_S", 0.08)
    attempts = []

    def open_scripted() -> Scripted:
        attempts.append(time.monotonic())
        if len(attempts) == 6:
            return Scripted(block(1), MicrophoneAbsent("mic: no such device", "plug it in"))
        raise MicrophoneBusy("mic: held by another program", "stop it")

    running = start(open_scripted)
    deadline = time.monotonic() + 60
    while len(attempts) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    waits = np.diff(attempts)[:7]
    assert waits == pytest.approx([0.02, 0.04, 0.08, 0.08, 0.08, 0.02, 0.04], abs=0.015)
    assert len(running.beats) >= 8  # one for each bounded step


@pytest.mark.pace
def test_the_first_waits_are_a_quarter_and_half_a_second(start):
    attempts = []

    def never() -> Scripted:
        attempts.append(time.monotonic())
        raise MicrophoneAbsent("mic: no such device", "plug it in")

    running = start(never)
    time.sleep(0.95)
    assert np.diff(attempts) == pytest.approx([0.25, 0.5], abs=0.05)
    assert running.capture.health.state == "absent"
    assert running.capture.health.reason == "mic: no such device"
    assert running.capture.health.fix == "plug it in"
    assert running.stop() < 0.1  # in the middle of a wait of 1 s


def test_every_source_is_closed_before_the_next_is_opened(monkeypatch, start):
    monkeypatch.setattr(capture_module, "FIRST_BACKOFF_S", 0.01)
    sources = []

    def open_scripted() -> Scripted:
        assert all(source.closed == 1 for source in sources)
        sources.append(Scripted(block(len(sources)), None, MicrophoneAbsent("gone", "plug it in")))
        return sources[-1]

    running = start(open_scripted)
    blocks = running.take(4)
    running.stop()
    assert running.error is None
    assert [b.samples[0] for b in blocks] == [0, 1, 2, 3]
    assert blocks[0].lost == 0
    assert all(b.lost > 0 for b in blocks[1:])
    assert running.capture.health.reopened >= 3


def test_the_loss_over_a_re_open_is_the_time_that_passed(start):
    sources = [Scripted(block(1), MicrophoneAbsent("gone", "plug it in")), Scripted(block(2))]
    running = start(lambda: sources.pop(0))
    _, second = running.take(2)
    assert second.lost == pytest.approx(0.25 * SAMPLE_RATE - BLOCK, abs=0.05 * SAMPLE_RATE)


def test_a_slow_consumer_loses_blocks_of_a_live_source_and_none_of_a_patient_one(start):
    blocks = [block(value) for value in range(10)]
    live = start(lambda: Scripted(*blocks), capacity=4)
    live.until("running")
    time.sleep(0.1)
    kept = live.take(4)
    assert [b.samples[0] for b in kept] == [6, 7, 8, 9]
    assert [b.lost for b in kept] == [6 * BLOCK, 0, 0, 0]
    assert live.capture.health.dropped_blocks == 6

    patient = start(lambda: Scripted(*blocks, SourceEnded("over", ""), live=False), capacity=4)
    time.sleep(0.6)
    assert len(patient.beats) >= 5 + 1  # five reads, and it stays alive while it waits for space
    assert [b.samples[0] for b in patient.take(10)] == list(range(10))
    assert patient.capture.health.dropped_blocks == 0


@pytest.mark.pace
def test_a_patient_source_can_be_stopped_while_the_queue_is_full(start):
    running = start(lambda: Scripted(*[block(1)] * 10, live=False), capacity=2)
    running.until("running")
    assert running.stop() < 0.4


def test_the_end_of_a_recording_ends_the_loop_and_closes_the_queue(start):
    source = Scripted(block(1), SourceEnded("file: the recording has ended", "restart"))
    running = start(lambda: source)
    running.thread.join(60)
    assert running.capture.health.state == "ended"
    assert not running.queue.finished
    running.take(1)
    assert running.queue.finished
    assert source.closed == 1


def test_a_bug_in_a_source_ends_the_thread_loudly_with_the_device_closed(start):
    source = Scripted(block(1), ZeroDivisionError())
    running = start(lambda: source)
    running.thread.join(60)
    assert isinstance(running.error, ZeroDivisionError)
    assert source.closed == 1
    running.take(1)
    assert running.queue.finished


def test_level_is_measured_about_once_a_second(start):
    loud, silent = np.full(BLOCK, 3_277, np.int16), np.zeros(BLOCK, np.int16)
    script = [Captured(loud), *[Captured(silent)] * 12]
    running = start(lambda: Scripted(*script))
    running.take(13)
    time.sleep(0.05)
    assert running.capture.health.level_dbfs == -20.0
    again = start(lambda: Scripted(*script, Captured(silent)))
    again.take(14)
    time.sleep(0.05)
    assert again.capture.health.level_dbfs == -120.0


def test_health_is_one_frozen_value(start):
    running = start(lambda: Scripted(block(1)))
    assert running.take(1)
    health = running.capture.health
    assert (health.state, health.device, health.rate, health.channels) == ("running", "scripted", 16_000, 1)
    with pytest.raises(FrozenInstanceError):
        health.state = "absent"


@pytest.mark.pace
def test_pausing_twice_and_stopping_while_paused(start):
    sources = []

    def open_scripted() -> Scripted:
        sources.append(Scripted(block(len(sources))))
        return sources[-1]

    running = start(open_scripted)
    running.take(1)
    for _ in range(2):
        running.capture.pause()
        running.until("paused")
        assert sources[-1].closed == 1
        count, beats = len(sources), len(running.beats)
        time.sleep(0.1)
        assert len(running.beats) - beats <= 2  # it sleeps
        running.capture.resume()
        running.until("running")
        assert len(sources) == count + 1
    assert [b.lost > 0 for b in running.take(2)] == [True, True]
    assert running.capture.health.reopened == 0  # nothing failed
    running.capture.pause()
    running.until("paused")
    assert running.stop() < 0.1


# ---- supervision of a device behind the real libasound ----


def ramps_on(blocks: list[Captured]) -> bool:
    """Within each block, and from block to block unless the later one says that something is missing."""
    inside = all(np.all(np.diff(b.samples) % 30_000 == 1) for b in blocks)
    pairs = zip(blocks, blocks[1:], strict=False)  # noqa: RUF007
    return inside and all(b.lost or (a.samples[-1] + 1) % 30_000 == b.samples[0] for a, b in pairs)


@pytest.mark.pace
def test_a_healthy_microphone(start, mic):
    running = start(opener(mic))
    blocks = running.take(20)
    assert ramps_on(blocks)
    assert not any(b.lost for b in blocks)
    health = running.capture.health
    assert (health.state, health.device, health.overruns, health.reopened) == ("running", "wavmic", 0, 0)
    assert running.stop() < 0.1
    AlsaMicrophone(mic.device).close()  # it was released


@pytest.mark.parametrize("patience", [1, 3])
def test_overruns_are_counted_and_survived(start, mic, patience):
    running = start(opener(mic))
    running.queue.patience = patience
    blocks = running.take(3)
    for count in (1, 2):
        mic.xrun()
        while running.capture.health.overruns < count:
            blocks += running.take(1)
        blocks += running.take(6)
        assert running.capture.health.overruns == count
    assert ramps_on(blocks)
    assert sum(b.lost > 0 for b in blocks) == 2
    assert running.capture.health.state == "running"
    assert running.capture.health.reopened == 0


@pytest.mark.parametrize("patience", [1, 3])
def test_unplugged_and_plugged_in_again(start, mic, patience):
    running = start(opener(mic))
    running.queue.patience = patience
    blocks = running.take(3)
    mic.gone()
    running.until("absent")
    mic.gone(False)
    running.until("running")
    while not blocks[-1].lost:
        blocks += running.take(1)
    assert ramps_on(blocks)
    assert running.capture.health.reopened == 1
    assert running.capture.health.reason == ""


def test_absent_at_the_start_and_plugged_in_later(start, mic):
    mic.gone()
    running = start(opener(mic))
    running.until("absent")
    mic.gone(False)
    assert running.take(1)[0].lost == 0
    assert running.capture.health.state == "running"


def test_busy_and_free_again(start, mic):
    holder = AlsaMicrophone(mic.device)
    running = start(opener(mic))
    running.until("busy")
    assert running.capture.health.fix
    holder.close()
    running.until("running")
    assert running.take(1)[0].samples[0] == 0


@pytest.mark.pace
@pytest.mark.parametrize("patience", [1, 3])
def test_stalled_and_back(start, mic, patience):
    running = start(opener(mic))
    running.queue.patience = patience
    running.take(2)
    mic.stall()
    running.until("stalled")
    beats = np.array(running.beats)
    assert np.diff(beats).max() < 0.4  # the watchdog is fed all along
    mic.stall(False)
    running.until("running")
    assert running.capture.health.reopened == 1
    assert running.stop() < 0.3


@pytest.mark.pace
def test_a_stalled_microphone_can_be_stopped(start, mic):
    running = start(opener(mic))
    running.take(1)
    mic.stall()
    time.sleep(0.2)
    assert running.stop() < 0.35


def test_wrong_format_until_the_configuration_is_mended(start, mic, tmp_path):
    right = mic.config.read_text()
    mic.config.write_text(right.replace('"S16_LE"', '"S32_LE"'))
    running = start(opener(mic))
    running.until("format")
    assert "plug:wavmic" in running.capture.health.fix
    mended = tmp_path / "mended.conf"  # renamed into place: never half a file
    mended.write_text(right)
    mended.rename(mic.config)
    running.until("running")


@pytest.mark.pace
def test_a_pause_releases_the_device_and_a_resume_takes_it_again(start, mic):
    running = start(opener(mic))
    running.take(2)
    with pytest.raises(MicrophoneBusy):
        AlsaMicrophone(mic.device)
    running.capture.pause()
    running.until("paused", within=0.4)
    other = AlsaMicrophone(mic.device)
    running.capture.resume()
    running.until("busy")
    other.close()
    running.until("running")
    assert running.capture.health.fix == ""
