"""The gate: closed in silence, open before anything is missed."""

import numpy as np
import pytest

from idiolect.listening.pipeline.gate import HANG, Gate
from tests.support import speech


def run(gate, samples):
    return [gate.hear(b) for b in samples[: len(samples) // 1280 * 1280].reshape(-1, 1280)]


@pytest.mark.parametrize("level", [0.0, 1.0, 10.0, 300.0, 3000.0])
def test_steady_noise_closes_it(level):
    opened = run(Gate(), speech.silence(90, level))
    assert opened[0]
    assert not any(opened[-100:])


@pytest.mark.parametrize("samples", [np.full(16_000 * 5, 20_000, np.int16), np.zeros(16_000 * 5, np.int16)])
def test_dc_and_zeros_are_silence(samples):
    assert not any(run(Gate(), samples)[HANG + 2 :])


def test_hum_is_silence():
    hum = (3000 * np.sin(2 * np.pi * 50 / 16_000 * np.arange(16_000 * 40))).astype(np.int16)
    assert not any(run(Gate(), hum)[-50:])


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.01])
def test_speech_after_silence_opens_it_within_the_word(gain):
    word = (speech.digit(6) * gain).astype(np.int16)
    gate = Gate()
    run(gate, speech.silence(30, 1.0))
    assert not gate.open
    assert any(run(gate, word))


def test_it_stays_open_through_a_minute_of_speech():
    gate = Gate()
    talk = speech.sentences(40)
    assert len(talk) > 60 * 16_000
    opened = run(gate, talk)
    assert np.mean(opened) > 0.97


def test_reset_opens_it():
    gate = Gate()
    run(gate, speech.silence(30, 1.0))
    assert not gate.open
    gate.reset()
    assert gate.open


def test_the_room_is_that_of_before_a_long_sentence():
    """Within one nothing is as quiet as the room: four seconds without a pause stand out as clearly as one."""
    gate, loud = Gate(), (np.random.default_rng(3).standard_normal(1280 * 50) * 2000).astype(np.int16)
    run(gate, speech.silence(30, 10.0))
    clear = []
    for block in loud.reshape(-1, 1280):
        gate.hear(block)
        clear.append(gate.clearness())
    assert clear[12] > 40
    assert clear[-1] == pytest.approx(clear[12], abs=3)
