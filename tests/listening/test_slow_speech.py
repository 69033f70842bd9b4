"""Slow speakers: words drawn out, up to four seconds, are still one utterance each and mostly understood."""

import numpy as np
import pytest

from bundlebuild.augment import stretch
from bundlebuild.corpus import speech_span
from idiolect.listening.pipeline.head import Scorer
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle
from tests.support import speech


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))


def spoken(samples):
    """The part with speech in it: around it these recordings are digital silence, which no microphone gives."""
    audio = samples.astype(np.float32) / 32768.0
    start, end = speech_span(audio)
    return samples[start:end]


def hear(recognizer, number, factor):
    drawn_out = stretch(spoken(speech.digit(number)).astype(np.float32), factor)
    word = np.clip(drawn_out, -32768, 32767).astype(np.int16)
    chain = recognizer.chain(listening(recognizer.bundle, always=True, phrases=speech.DIGITS, wake_words=()))
    found = chain.process(np.concatenate([speech.silence(2.0), word, speech.silence(2.0)]))
    return [d.phrase for d in found], len(word) / 16_000


@pytest.mark.parametrize(("factor", "least"), [(1.5, 9), (2.0, 7), (3.0, 6)])
def test_drawn_out_digits_are_heard(recognizer, sounds, factor, least):
    heard = [hear(recognizer, number, factor) for number in range(10)]
    right = sum(phrases == [speech.DIGITS[number]] for number, (phrases, _) in enumerate(heard))
    assert right >= least
    assert max(seconds for _, seconds in heard) < 4.0
    assert all(len(phrases) <= 1 for phrases, _ in heard)


def test_a_long_utterance_is_judged_once_more_as_a_whole(recognizer, sounds, monkeypatch):
    """What no window held, four seconds resampled to one may: the head says "nine" to any such window here."""
    nine = recognizer.bundle.classes.index("nine")
    shapes = []

    def window(self, embeddings):
        shapes.append(embeddings.shape)
        return np.eye(len(recognizer.bundle.classes), dtype=np.float32)[nine]

    monkeypatch.setattr(Scorer, "window", window)
    chain = recognizer.chain(listening(recognizer.bundle, always=True, phrases=["nine"], wake_words=()))
    quiet = speech.silence(3.0)
    assert chain.process(np.concatenate([quiet, spoken(speech.digit(2)), quiet])) == []
    assert shapes == []  # one word fits into a window
    sentence = spoken(speech.recording(speech.SOUNDS / "please-try-again.wav"))
    (event,) = chain.process(np.concatenate([sentence, sentence, quiet])[: 16_000 * 6])
    assert shapes == [(16, 96)]
    assert (event.phrase, event.score) == ("nine", 1.0)
    assert 1.3 < (event.end - event.start) / 16_000 <= 4.0
