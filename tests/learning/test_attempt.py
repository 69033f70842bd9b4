"""One attempt at a phrase: what is good enough, and the reason for everything else."""

import numpy as np
import pytest

from bundlebuild.augment import stretch
from idiolect.learning.attempt import Attempt, Reason, Taken, compare, repeated
from idiolect.values import BLOCK
from tests import speech

RNG = np.random.default_rng(3)


def embeddings(count):
    return RNG.standard_normal((count, 96)).astype(np.float32)


def attempt(samples, recent=embeddings):
    """Feed it whole blocks; the outcome, or None when it waits still."""
    one = Attempt()
    for start in range(0, len(samples) - BLOCK + 1, BLOCK):
        outcome = one.hear(samples[start : start + BLOCK], recent)
        if outcome is not None:
            return outcome
    return None


def spoken(level=1.0, before=1.0, after=1.0, words=1):
    word = np.concatenate([speech.digit(7)] * words).astype(np.float32) * level
    loud = np.clip(word, -32768, 32767).astype(np.int16)
    return np.concatenate([speech.silence(before), loud, speech.silence(after)])


@pytest.mark.usefixtures("sounds")
def test_a_word_in_a_quiet_room_is_taken():
    taken = attempt(spoken())
    assert isinstance(taken, Taken)
    assert taken.span.shape == (18, 96)
    assert -40 < taken.level_dbfs < -5


@pytest.mark.usefixtures("sounds")
@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (lambda: speech.silence(9.0), Reason.SILENCE),
        (lambda: np.zeros(9 * 16_000, np.int16), Reason.SILENCE),
        (lambda: spoken(0.02), Reason.QUIET),
        (lambda: spoken(30.0), Reason.CLIPPED),
        (lambda: spoken(words=9), Reason.LONG),
        (lambda: spoken(before=0.0)[5000:], Reason.CUT_OFF),
    ],
)
def test_what_is_refused_says_why(samples, reason):
    assert attempt(samples()) is reason


@pytest.mark.usefixtures("sounds")
def test_a_knock_is_not_an_attempt_and_what_follows_is():
    knock = np.zeros(BLOCK, np.int16)
    knock[:200] = 9000
    assert isinstance(attempt(np.concatenate([speech.silence(1.0), knock, spoken()])), Taken)


@pytest.mark.usefixtures("sounds")
def test_in_a_loud_room_nobody_is_learnt_from():
    music = (RNG.standard_normal(8 * 16_000) * 2500).astype(np.int16)
    word = speech.digit(7)
    loud = music[32_000 : 32_000 + len(word)] + word.astype(np.int32)
    music[32_000 : 32_000 + len(word)] = np.clip(loud, -32768, 32767)
    assert not isinstance(attempt(music), Taken)


@pytest.mark.usefixtures("sounds")
def test_a_stream_that_has_not_settled_is_no_example():
    assert attempt(spoken(), lambda _: None) is Reason.CUT_OFF


@pytest.mark.usefixtures("sounds")
def test_slow_speech_is_squeezed_into_a_window():
    asked = []

    def recent(count):
        asked.append(count)
        return np.arange(count, dtype=np.float32)[:, None] * np.ones(96, np.float32)

    slow = stretch(speech.recording(speech.SOUNDS / "do-not-disturb.wav").astype(np.float32), 1.6).astype(np.int16)
    taken = attempt(np.concatenate([speech.silence(1.0), slow, speech.silence(1.0)]), recent)
    assert isinstance(taken, Taken)
    assert asked[-1] > 24
    assert np.all(np.diff(taken.span[1:-1, 0]) > 1.0)  # steps further apart than one: resampled


def unit(*numbers):
    v = np.array(numbers, np.float32)
    return v / np.linalg.norm(v)


def test_the_odd_one_out_and_the_one_too_near_are_refused():
    near, far = unit(1, 0.2, 0), unit(0, 0, 1)
    assert compare(near, [unit(1, 0, 0)], []) is None
    assert compare(far, [unit(1, 0, 0)], []) is Reason.UNLIKE
    assert compare(near, [unit(1, 0, 0)], [unit(1, 0.4, 0)]) is Reason.CLOSE
    assert compare(near, [], [far]) is None


@pytest.mark.usefixtures("sounds")
def test_a_recording_played_twice_is_known_again_at_any_level():
    word = speech.digit(7)
    shifted = np.concatenate([np.zeros(431, np.int16), word]).astype(np.float32) * 0.4
    again = (shifted + speech.silence(2.0)[: len(shifted)]).astype(np.int16)
    assert repeated(again, [word])
    assert not repeated(speech.digit(8), [word])
    assert not repeated(stretch(word.astype(np.float32), 1.08).astype(np.int16), [word])


def test_nobody_says_anything_twice_alike(data):
    soundfile = pytest.importorskip("soundfile")
    paths = sorted((data / "digits" / "7").glob("*.flac"))[:40]
    takes = [(soundfile.read(path)[0] * 32_767).astype(np.int16) for path in paths]
    assert not any(repeated(take, takes[:i]) for i, take in enumerate(takes))
