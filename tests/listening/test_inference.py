"""The inference thread's body: how patient it is, and how long nobody has spoken."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from bundlebuild.audio import read, to_int16
from idiolect.events import EventStream
from idiolect.listening import inference as inference_module
from idiolect.listening.audio.capture import BlockQueue
from idiolect.listening.inference import PATIENCE, EventIds, Inference
from idiolect.listening.pipeline.decoder import State
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle
from idiolect.values import BLOCK, SAMPLE_RATE, Captured
from tests.support import speech


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))


class Listener:
    """An Inference on a queue of its own and a clock that the test moves."""

    def __init__(self, recognizer, clock, **wishes):
        self.queue = BlockQueue(1000)
        self.clock = clock
        chain = recognizer.chain(listening(recognizer.bundle, phrases=speech.DIGITS, **wishes))
        self.inference = Inference(chain, self.queue, EventStream(), EventIds(), lambda: None)

    def hear(self, samples, lost=0):
        """Blocks in real time, as far as anybody can tell; the patience after each."""
        patience = []
        for first in range(0, len(samples) - BLOCK + 1, BLOCK):
            self.clock.now += BLOCK / SAMPLE_RATE
            self.inference._take(Captured(samples[first : first + BLOCK], lost if first == 0 else 0))
            patience.append(self.queue.patience)
        return patience


@pytest.fixture
def listener(recognizer, monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(
        inference_module, "time", SimpleNamespace(monotonic=lambda: clock.now, time=time.time, sleep=time.sleep)
    )
    return lambda **wishes: Listener(recognizer, clock, **wishes)


def test_it_is_patient_while_nobody_makes_a_sound_and_in_a_hurry_from_the_first_one_on(listener):
    it = listener(always=True)
    patience = it.hear(speech.silence(6.0))
    assert (patience[0], patience[-1]) == (1, PATIENCE)
    roused = []
    it.queue.roused = lambda: roused.append(1)
    word = it.hear(np.concatenate([speech.digit(3), speech.silence(0.5)]))
    assert word[2:] == [1] * (len(word) - 2)
    assert roused == [1]
    assert it.hear(speech.silence(3.0))[-1] == PATIENCE


def test_it_is_in_a_hurry_while_somebody_is_asked_to_speak(listener):
    it = listener(always=True)
    it.hear(speech.silence(6.0))
    it.inference.attempt(lambda _: None)
    assert set(it.hear(speech.silence(2.0))) == {1}
    it.inference.attempt(None)
    assert it.hear(speech.silence(2.0))[-1] == PATIENCE


def test_without_a_gate_it_is_never_patient(recognizer):
    queue = BlockQueue(200)
    chain = recognizer.chain(listening(recognizer.bundle), gated=False)
    inference = Inference(chain, queue, EventStream(), EventIds(), lambda: None)
    queue.put(*[Captured(np.zeros(BLOCK, np.int16))] * 60)
    queue.close()
    inference.run()
    assert queue.patience == 1


def test_how_long_it_has_been_quiet(listener):
    it = listener(always=True)
    assert it.inference.quiet_s == 0
    it.hear(speech.silence(6.0))
    assert it.inference.quiet_s == pytest.approx(6.0)  # since the start: nobody spoke yet
    it.hear(speech.digit(8))
    it.hear(speech.silence(4.0))
    assert it.inference.events == 1
    assert 2.5 < it.inference.quiet_s < 4.5
    quiet = it.inference.quiet_s
    it.hear(speech.silence(1.0), lost=3 * SAMPLE_RATE)  # an overrun is nobody speaking
    assert it.inference.quiet_s == pytest.approx(quiet + 1.0, abs=0.1)
    it.clock.now += 100.0  # the microphone is away
    assert it.inference.quiet_s > 100


def test_a_wake_word_in_a_take_opens_no_turn(listener, data):
    it, told = listener(), []
    wake_word = to_int16(read(data / "phrases" / "computer" / "199d33ca-9cb9-4069-80e0-33bd910b63b6.flac"))
    it.hear(speech.silence(4.0))
    it.inference.attempt(told.append)
    it.hear(np.concatenate([wake_word, speech.silence(1.0)]))
    assert len(told) == 1
    assert it.inference._chain.state is State.IDLE
    it.hear(np.concatenate([speech.digit(3), speech.silence(2.0)]))
    assert it.inference.events == 0
    it.hear(np.concatenate([wake_word, speech.silence(0.5), speech.digit(3), speech.silence(1.0)]))
    assert it.inference.events == 2


def test_whoever_is_asked_to_speak_counts_as_speaking(listener):
    it = listener(always=True)
    it.hear(speech.silence(4.0))
    it.inference.attempt(lambda _: None)
    it.hear(speech.silence(1.0))
    assert it.inference.quiet_s == 0
