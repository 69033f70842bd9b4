"""The chain: the same samples give the same events, however they are cut, gated or interrupted."""

import numpy as np
import pytest

from idiolect.listening.pipeline.chain import MEMORY
from idiolect.listening.pipeline.decoder import State
from idiolect.listening.pipeline.hearing import resample_window
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle
from idiolect.values import BLOCK
from tests.support import speech


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))


@pytest.fixture
def make(recognizer):
    def chain(*, gated=True, **wishes):
        wishes = {"always": True, "phrases": speech.DIGITS, "wake_words": (), **wishes}
        return recognizer.chain(listening(recognizer.bundle, **wishes), gated=gated)

    return chain


def spoken(*numbers, pause=1.5):
    """Digits with pauses in a quiet room."""
    parts = [speech.silence(2.0)]
    for i, number in enumerate(numbers):
        parts += [speech.digit(number), speech.silence(pause, seed=i)]
    return np.concatenate(parts)


def names(detections):
    return [d.phrase for d in detections]


def test_digits_spoken_by_a_stranger_are_heard(make):
    heard = names(make().process(spoken(*range(10))))
    assert heard == list(speech.DIGITS)


@pytest.mark.parametrize("size", [1, 160, 1024, 1280, 4800, 10_000_000])
def test_the_size_of_the_pieces_changes_nothing(make, size):
    samples = spoken(4, 7) if size == 1 else spoken(4, 7, 1)
    chain, whole = make(), make()
    pieces = [d for i in range(0, len(samples), size) for d in chain.process(samples[i : i + size])]
    assert pieces == whole.process(samples)
    assert pieces
    assert chain.position == whole.position


@pytest.mark.parametrize("level", [0.0, 4.0, 60.0])
def test_the_gate_changes_no_event(make, level):
    samples = spoken(3, 8, 0, 5, pause=6.0).astype(np.float32)
    noise = np.random.default_rng(3).standard_normal(len(samples)) * level
    samples = np.clip(samples + noise, -32768, 32767).astype(np.int16)
    gated, free = make(), make(gated=False)
    with_gate, without = gated.process(samples), free.process(samples)
    # An open gate knows when a word began; a chain without one takes every block for sound.
    assert [(d.phrase, d.score, d.margin) for d in with_gate] == [(d.phrase, d.score, d.margin) for d in without]
    assert names(with_gate) == ["three", "eight", "zero", "five"]


def test_the_gate_replays_into_the_very_same_state(make):
    gated, free = make(), make(gated=False)
    quiet = speech.silence(20.0)
    word = speech.digit(9)
    samples = np.concatenate([word, quiet, word, speech.silence(1.0)])
    mine, theirs = gated.steps(samples), {s.position: s for s in free.steps(samples)}
    assert len(mine) < len(theirs) - 100
    replayed = [s for s in mine if s.position > len(word) + len(quiet)]
    assert len(replayed) > 10
    for step in replayed:
        assert np.array_equal(step.embedding, theirs[step.position].embedding)
        assert np.array_equal(step.posteriors, theirs[step.position].posteriors)


def test_silence_runs_no_encoder(make):
    chain = make()
    chain.process(speech.silence(30.0))
    assert not chain.awake
    assert chain.steps(speech.silence(10.0)) == []


def test_lost_samples_start_anew_and_are_counted(make):
    samples = spoken(7)
    middle = (len(speech.silence(2.0)) + len(speech.digit(7)) // 2) // 1280 * 1280
    chain = make()
    first = chain.process(samples[:middle])
    chain.lose(8000)
    rest = chain.process(samples[middle:])
    assert names(first + rest) == []  # half a word is none
    assert chain.position == len(samples) // 1280 * 1280 + 8000
    assert names(chain.process(spoken(6))) == ["six"]


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("part", [0.2, 0.4, 0.6])
def test_the_end_of_a_word_is_no_event(make, number, part):
    chain, word = make(), speech.digit(number)
    chain.lose(1)
    rest = word[round(len(word) * part) :]
    assert names(chain.process(np.concatenate([rest, speech.silence(2.0)]))) == []
    assert names(chain.process(spoken(6))) == ["six"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_word_after_a_loss_is_heard_in_a_room_with_noise(make, when):
    """Its noise is known from before. Else all of it would pass for the rest of a word that was cut, for 2 s."""
    chain, noise = make(), speech.silence(30.0, 300.0)
    chain.process(noise)
    wish = chain._hearing.decoder._l
    if when == "before":
        chain.listen_for(wish)
    chain.lose(8000)
    if when == "after":
        chain.listen_for(wish)
    word = np.concatenate(
        [noise[:10_000], speech.digit(9).astype(np.int16) + noise[: len(speech.digit(9))], noise[:20_000]]
    )
    assert names(chain.process(word)) == ["nine"]


@pytest.mark.parametrize("number", [1, 4, 7])
def test_what_was_cut_stays_cut_when_the_settings_change(make, number):
    chain, word = make(), speech.digit(number)
    chain.lose(1)
    chain.listen_for(chain._hearing.decoder._l)
    assert names(chain.process(np.concatenate([word[len(word) * 2 // 5 :], speech.silence(2.0)]))) == []


def test_nothing_is_invented(make):
    chain = make()
    rng = np.random.default_rng(1)
    for samples in (
        np.zeros(160_000, np.int16),
        np.full(160_000, 32767, np.int16),
        np.full(160_000, -32768, np.int16),
        rng.integers(-32768, 32767, 160_000).astype(np.int16),
        (20_000 * np.sin(2 * np.pi * 440 / 16_000 * np.arange(160_000))).astype(np.int16),
        np.tile(np.array([32767] * 20 + [-32768] * 20, np.int16), 4000),
    ):
        assert names(chain.process(samples)) == []


def test_a_ten_hour_stream_keeps_its_positions(make):
    chain = make()
    chain.lose(10 * 3600 * 16_000)
    (event,) = chain.process(spoken(2))
    assert event.phrase == "two"
    assert event.start > 10 * 3600 * 16_000
    assert event.start < event.end <= chain.position


@pytest.mark.parametrize("gated", [True, False])
def test_the_position_of_the_last_speech_is_known(make, gated):
    chain = make(gated=gated)
    chain.process(speech.silence(4.0))
    assert chain.last_speech == 0
    begin = chain.position
    chain.process(np.concatenate([speech.digit(7), speech.silence(6.0)]))
    spoken = chain.last_speech
    assert begin < spoken <= begin + len(speech.digit(7)) + 16 * 1280
    chain.lose(16_000)
    chain.process(speech.silence(3.0))
    assert chain.last_speech == spoken


def test_a_sound_that_is_no_speech_does_not_count_as_speech(make):
    chain = make()
    water = np.random.default_rng(5).standard_normal(8000) * 100
    hum = 3000 * np.sin(2 * np.pi * 100 / 16_000 * np.arange(8000))
    knock = np.concatenate([[8000], np.zeros(1279)])
    for sound in (water, hum, knock):
        chain.process(speech.silence(3.0))
        chain.process(sound.astype(np.int16))
        assert chain.awake
    assert chain.last_speech == 0


def test_an_event_counts_as_speech(make):
    chain = make()
    (detection,) = chain.process(spoken(4))
    assert chain.last_speech >= detection.end


def test_in_wake_mode_digits_need_a_wake_word(make):
    chain = make(always=False)
    assert names(chain.process(spoken(1, 2, 3))) == []
    assert chain.state is State.IDLE


def test_windows_are_resampled_linearly():
    ramp = np.repeat(np.arange(31, dtype=np.float32)[:, None], 96, axis=1)
    assert resample_window(ramp)[:, 0] == pytest.approx(np.linspace(0, 30, 16))
    assert np.array_equal(resample_window(ramp[:16]), ramp[:16])


def test_memory_is_what_the_stages_remember():
    assert MEMORY == 10 + 16 - 1 + 2


@pytest.mark.parametrize("after", range(4))
def test_what_was_told_is_not_told_again_when_what_is_listened_for_changes(make, recognizer, after):
    """As when somebody's keys arrive, a round has learnt something or a file is read anew, in the middle of a word."""
    chain, samples, heard, told = make(), spoken(4, 2, 7), [], -1
    for block in np.split(samples[: len(samples) // BLOCK * BLOCK], len(samples) // BLOCK):
        found = chain.process(block)
        heard += names(found)
        told = 0 if found else told + 1 if told >= 0 else -1
        if told == after:
            wish = {"always": True, "phrases": speech.DIGITS[::-1], "wake_words": ("computer",)}
            chain.listen_for(listening(recognizer.bundle, **wish))
    assert heard == ["four", "two", "seven"]
