"""One attempt at a phrase: what is good enough, and the reason for everything else."""

import numpy as np
import pytest

from bundlebuild.augment import stretch
from idiolect.listening.attempt import PATIENCE, Attempt, Reason, Taken, alike, level, repeated
from idiolect.listening.pipeline.hearing import LONGEST
from idiolect.values import BLOCK
from tests.support import speech

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


def test_the_odd_one_out_is_not_alike():
    assert alike(unit(1, 0.2, 0), [unit(1, 0, 0)])
    assert not alike(unit(0, 0, 1), [unit(1, 0, 0)])


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


# -- the limits, with blocks of a known level


def block(dbfs):
    """One block of a square wave: its RMS is its level."""
    value = round(32_768 * 10 ** (dbfs / 20))
    return np.tile(np.array([value, -value], np.int16), BLOCK // 2)


def fed(*levels, recent=embeddings):
    """The outcome of blocks of these levels, and how many were taken to come to it."""
    one = Attempt()
    for count, dbfs in enumerate(levels, 1):
        if (outcome := one.hear(block(dbfs), recent)) is not None:
            return outcome, count
    return None, len(levels)


ROOM = [-70.0] * 10


def test_levels_are_rms_against_a_full_square_wave():
    assert level(block(-20.0)) == pytest.approx(-20.0, abs=0.01)
    assert level(np.full(BLOCK, 16_384, np.int16)) == pytest.approx(20 * np.log10(0.5), abs=1e-3)
    assert level(np.zeros(BLOCK, np.int16)) == -120.0


def test_three_blocks_are_speech_and_two_a_knock():
    outcome, count = fed(*ROOM, *[-20.0] * 3, *[-70.0] * 20)
    assert isinstance(outcome, Taken)
    assert count == 10 + 3 + 6  # six blocks of room end it
    assert len(outcome.samples) == 3 * BLOCK
    assert fed(*ROOM, *[-20.0] * 2, *[-70.0] * 20)[0] is None


def test_nobody_is_waited_for_longer_than_patience():
    assert fed(*[-70.0] * 200) == (Reason.SILENCE, PATIENCE + 1)
    knocks = [-70.0] * (PATIENCE - 5) + [-20.0] * 2 + [-70.0] * 20
    assert fed(*knocks) == (Reason.SHORT, PATIENCE + 3)


def test_the_longest_phrase_and_one_block_more():
    long = [*ROOM, *[-20.0] * LONGEST, *[-70.0] * 20]
    assert isinstance(fed(*long)[0], Taken)
    assert fed(*ROOM, *[-20.0] * (LONGEST + 1), *[-70.0] * 20) == (Reason.LONG, 10 + LONGEST + 1 + 6)
    assert fed(*ROOM, *[-20.0] * 300) == (Reason.LONG, 10 + LONGEST + 6 + 2)  # who does not end is not waited for


def test_what_is_faint_is_no_speech_and_what_is_quiet_is_no_example():
    assert fed(*[-90.0] * 10, *[-58.1] * 5, *[-90.0] * 10)[0] is None
    assert fed(*[-90.0] * 10, *[-57.9] * 5, *[-90.0] * 10)[0] is Reason.QUIET
    assert fed(*ROOM, *[-45.1] * 5, *[-70.0] * 10)[0] is Reason.QUIET
    assert isinstance(fed(*ROOM, *[-44.9] * 5, *[-70.0] * 10)[0], Taken)


def test_speech_stands_twelve_decibel_out_of_the_room():
    assert fed(*[-50.0] * 10, *[-38.2] * 5, *[-50.0] * 10)[0] is None
    assert isinstance(fed(*[-50.0] * 10, *[-37.8] * 5, *[-50.0] * 10)[0], Taken)


def test_eight_samples_at_the_end_of_the_scale_are_clipped():
    for count, good in ((7, True), (8, False)):
        one, outcome = Attempt(), None
        for n, dbfs in enumerate([*ROOM, *[-20.0] * 4, *[-70.0] * 6]):
            samples = block(dbfs)
            if n == 11:
                samples[:count] = -32_600
            outcome = one.hear(samples, embeddings)
        assert isinstance(outcome, Taken) is good
        assert good or outcome is Reason.CLIPPED


def test_the_level_of_a_take_is_that_of_its_louder_blocks():
    outcome, _ = fed(*ROOM, -40.0, -20.0, -20.0, -20.0, -20.0, *[-70.0] * 10)
    assert outcome.level_dbfs == pytest.approx(-20.0, abs=0.05)
    outcome, _ = fed(*ROOM, -30.0, -30.0, -30.0, -30.0, -10.0, *[-70.0] * 10)
    assert outcome.level_dbfs == pytest.approx(-26.0, abs=0.05)  # four fifths of the blocks are not louder


def test_what_is_learnt_from_reaches_two_blocks_behind_the_end():
    def numbered(count):
        return np.repeat(np.arange(count, dtype=np.float32)[::-1, None], 96, 1)  # 0 is the newest

    outcome, _ = fed(*[-70.0] * 30, *[-20.0] * 5, *[-70.0] * 10, recent=numbered)
    assert (outcome.span[0, 0], outcome.span[-1, 0]) == (4 + 17, 4)  # of six blocks of room, four are left out
    assert fed(*[-70.0] * 30, *[-20.0] * 5, *[-70.0] * 10, recent=lambda _: None)[0] is Reason.CUT_OFF


def test_takes_are_compared_with_the_mean_of_the_others():
    z, other = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)

    def at(cosine):
        return np.array([cosine, (1 - cosine * cosine) ** 0.5], np.float32)

    assert alike(z, [])
    assert not alike(z, [at(0.07)])
    assert alike(z, [at(0.09)])
    assert alike(z, [at(0.18), other])  # 0.09 on average
    assert not alike(z, [at(0.14), other])


def test_before_anything_was_heard_the_level_is_that_of_silence():
    assert Attempt().level_dbfs == level(np.zeros(BLOCK, np.int16)) == -120.0


def test_who_speaks_in_a_room_that_gets_loud_is_told_so():
    assert fed(-60.0, -60.0, *[-40.0] * 6, *[-45.0] * 40)[0] is Reason.NOISY
    assert isinstance(fed(-60.0, -60.0, *[-30.0] * 6, *[-45.0] * 40)[0], Taken)


def bursts(*lengths_and_pauses):
    """Blocks of noise, and of a quiet room, in turn; then a room for as long as one waits."""
    parts = [speech.silence(1.04)]
    for number, count in enumerate(lengths_and_pauses):
        noise = RNG.standard_normal(count * BLOCK) * 3000
        parts.append(np.rint(noise).astype(np.int16) if number % 2 == 0 else speech.silence(count * 0.08))
    return np.concatenate([*parts, speech.silence(3.04)])


def attended(pause, samples):
    """The outcome, and after how many blocks; each embedding is full of the number of its block."""
    one = Attempt(pause)
    for number in range(len(samples) // BLOCK):
        rows = np.repeat(np.arange(number - 58, number + 1, dtype=np.float32)[:, None], 96, 1)
        outcome = one.hear(samples[number * BLOCK : (number + 1) * BLOCK], lambda n, rows=rows: rows[-n:])
        if outcome is not None:
            return outcome, number + 1
    raise AssertionError


@pytest.mark.parametrize(("inside", "kept"), [(2, 2), (4, 2), (8, 2), (11, 2)])
def test_a_pause_of_the_household_is_waited_for_and_left_out(inside, kept):
    taken, blocks = attended(12, bursts(5, inside, 6))
    first, last = 13, 13 + 5 + inside + 6 - 1
    assert blocks == last + 1 + 12
    assert taken.length == 5 + kept + 6
    said = [*range(first, first + 5 + kept), *range(last - 5, last + 1)]
    assert taken.span[-15:, 0].tolist() == [*said[-13:], last + 1, last + 2]
    assert taken.heard[-len(said) - 4 :, 0].tolist() == [first - 2, first - 1, *said, last + 1, last + 2]
    assert len(taken.samples) == (last + 1 - first) * BLOCK


@pytest.mark.parametrize("inside", [6, 11])
def test_without_a_longer_pause_the_first_part_is_all(inside):
    for pause in (0, 2):
        taken, blocks = attended(pause, bursts(5, inside, 6))
        assert (taken.length, blocks) == (5, 13 + 5 + 6)


def test_what_is_long_without_its_pause_is_squeezed_and_nobody_is_waited_for_beyond_four_seconds():
    taken, _ = attended(25, bursts(10, 10, 12))
    assert (taken.length, taken.span.shape) == (24, (18, 96))
    assert attended(25, bursts(20, 20, 20))[0] is Reason.LONG
    assert attended(25, bursts(70))[0] is Reason.LONG
