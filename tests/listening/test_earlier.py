"""An earlier encoder beside the stream's own: real speech through both, and one event for each utterance."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from bundlebuild.audio import read, to_int16
from bundlebuild.corpus import speech_span
from bundlebuild.features import Embedder
from bundlebuild.space import span_of
from idiolect.learning import trainer
from idiolect.learning.ledger import Example, Ledger
from idiolect.listening.pipeline.adapter import Adapter
from idiolect.listening.pipeline.decoder import State
from idiolect.listening.pipeline.earlier import Beside, EarlierModel
from idiolect.listening.pipeline.encoder import Encoder
from idiolect.listening.pipeline.frontend import Frontend
from idiolect.listening.pipeline.head import Scorer
from idiolect.listening.pipeline.hearing import LONGEST, UNSETTLED, resample_window
from idiolect.listening.pipeline.household import Household
from idiolect.listening.recognizer import Recognizer, listening, with_taught
from idiolect.people.models import model_of
from idiolect.trust.bundle import bundle as bundles
from idiolect.values import BLOCK, GUEST, WINDOW
from tests.listening.test_slow_speech import spoken
from tests.support import encoders, speech
from tests.support.bundles import builtin, unsigned
from tests.whole.test_people import take

ANN, BEN = "aa" * 8, "bb" * 8
PHRASE = "do not disturb"


@cache
def recognizer(kind):
    """Of the shipped bundle ("old"), or of the one with the new encoder."""
    return Recognizer.from_bundle(bundles.load(unsigned(builtin() if kind == "old" else encoders.files())))


@cache
def taught(kind, profile=ANN, number=3):
    """The phrase as ``profile`` taught it under that bundle, three takes."""
    embed, rows = Embedder(recognizer(kind).bundle.encoder), []
    for pace in (0.92, 1.0, 1.1):
        audio = take(pace)
        lead = 26 * BLOCK
        heard = np.concatenate([speech.silence(lead / 16_000), audio, speech.silence(1.5)])
        end = lead + speech_span(audio.astype(np.float32) / 32768)[1]
        rows.append(span_of(embed(heard), end)[None, 1:-1])
    examples = tuple(Example(i, PHRASE, "enrolment", "01", 1, "ab", row) for i, row in enumerate(rows))
    model, known = model_of(recognizer(kind)), Ledger(profile, examples)
    material, _ = trainer.prepare(model, known)
    return trainer.build(model, known, material, trainer.When(1, number), trainer.LADDER[-1])


def carried(*adapters):
    old = recognizer("old")
    household = Household(old.space, old.bundle.classes, adapters or [taught("old")])
    return EarlierModel(Encoder(old.bundle.encoder), old.head, household)


def make(earlier, household=None, *, profile=ANN, gated=True, **wishes):
    new = recognizer("new")
    wishes = {"always": True, "phrases": speech.DIGITS, "wake_words": (), **wishes}
    base = listening(new.bundle, **wishes)
    chain = new.chain(base, gated=gated)
    more = (*(household.taught if household else ()), *(earlier.phrases if earlier else ()))
    chain.listen_for(with_taught(base, tuple(dict.fromkeys(more))), household, earlier)
    chain.address(profile)
    return chain


def room(*parts, pause=2.0):
    found = [speech.silence(2.5)]
    for number, part in enumerate(parts):
        found += [part, speech.silence(pause, seed=number)]
    return np.concatenate(found)


def names(detections):
    return [d.phrase for d in detections]


SPOKEN = [take(1.05, 0.8), speech.digit(7), take(0.95), speech.digit(4)]
HEARD = [PHRASE, "seven", PHRASE, "four"]


@pytest.mark.usefixtures("sounds")
class TestBeside:
    def test_an_utterance_is_one_event_whoever_hears_it(self):
        found = make(carried()).process(room(*SPOKEN))
        assert names(found) == HEARD
        assert [(d.profile, d.adapter) for d in found] == [(ANN, 3), (ANN, 0), (ANN, 3), (ANN, 0)]
        assert names(make(None).process(room(*SPOKEN))) == ["seven", "four"]

    def test_what_it_hears_is_what_the_earlier_model_alone_would_hear(self):
        old = recognizer("old")
        alone = old.chain(listening(old.bundle, always=True, phrases=(), wake_words=()), gated=True)
        household = Household(old.space, old.bundle.classes, [taught("old")])
        base = listening(old.bundle, always=True, phrases=(), wake_words=())
        alone.listen_for(with_taught(base, household.taught), household)
        alone.address(ANN)
        samples = room(*SPOKEN)
        before, now = alone.process(samples), make(carried(), phrases=()).process(samples)
        assert names(before) == names(now) == [PHRASE, PHRASE]
        assert [(d.score, d.start, d.end) for d in before] == [(d.score, d.start, d.end) for d in now]

    def test_nobody_else_is_heard_with_it(self):
        for profile in ("guest", BEN):
            assert names(make(carried(), profile=profile).process(room(*SPOKEN))) == ["seven", "four"]

    def test_one_taught_it_anew_and_one_did_not(self):
        new = recognizer("new")
        household = Household(new.space, new.bundle.classes, [taught("new", BEN, 8)])
        for profile, number in ((ANN, 3), (BEN, 8)):
            found = make(carried(), household, profile=profile).process(room(*SPOKEN))
            assert names(found) == HEARD
            assert [d.adapter for d in found if d.phrase == PHRASE] == [number, number]
        both = Household(new.space, new.bundle.classes, [Adapter(ANN, 5), taught("new", BEN, 8)])
        found = make(carried(), both).process(room(*SPOKEN))
        assert [d.adapter for d in found] == [3, 5, 3, 5]

    def test_in_a_turn_that_a_wake_word_of_the_new_encoder_opened(self, data):
        words = [_read(path) for path in sorted((data / "phrases" / "computer").glob("*.flac"))[:12]]
        wishes = {"always": False, "wake_words": ("computer",)}
        word = next(w for w in words if names(make(None, **wishes).process(room(w))) == ["computer"])
        chain = make(carried(), **wishes)
        assert names(chain.process(room(SPOKEN[0]))) == []
        assert names(chain.process(np.concatenate([word, speech.silence(0.5)]))) == ["computer"]
        assert chain.state is State.TURN
        (event,) = [d for d in chain.process(np.concatenate([SPOKEN[0], speech.silence(2.0)])) if d.kind != "rejected"]
        assert (event.phrase, event.adapter, event.profile) == (PHRASE, 3, ANN)
        assert chain.state is State.IDLE

    @pytest.mark.parametrize("level", [0.0, 4.0])
    def test_the_gate_changes_no_event_of_either(self, level):
        samples = room(*SPOKEN, pause=6.0).astype(np.float32)
        samples += np.random.default_rng(3).standard_normal(len(samples)) * level
        samples = np.clip(samples, -32768, 32767).astype(np.int16)
        gated, free = (make(carried(), gated=gated).process(samples) for gated in (True, False))
        assert names(gated) == names(free) == HEARD
        assert [d.score for d in gated] == pytest.approx([d.score for d in free])

    def test_silence_runs_neither_encoder(self, monkeypatch):
        chain = make(carried())
        chain.process(speech.silence(4.0))
        steps = []
        monkeypatch.setattr(Encoder, "step", lambda *_: steps.append(1))
        chain.process(speech.silence(4.0, seed=1))
        assert steps == []

    def test_the_size_of_the_pieces_changes_nothing(self):
        samples = room(*SPOKEN)
        chain = make(carried())
        pieces = [d for i in range(0, len(samples), 1000) for d in chain.process(samples[i : i + 1000])]
        assert pieces == make(carried()).process(samples)

    def test_after_a_gap_both_begin_anew(self):
        chain = make(carried())
        half = len(SPOKEN[0]) // 2
        chain.process(np.concatenate([speech.silence(2.5), SPOKEN[0][:half]]))
        chain.lose(16_000)
        assert chain.process(np.concatenate([SPOKEN[0][half:], speech.silence(2.0)])) == []
        assert names(chain.process(room(*SPOKEN))) == HEARD

    def test_a_long_utterance_is_judged_as_a_whole_by_both(self, monkeypatch):
        """What no window held, four seconds resampled to one may: here the earlier model takes any for its phrase."""
        shapes, earlier = [], carried()
        classes = len(earlier.household.classes)

        def window(self, embeddings):
            shapes.append((self.head is earlier.head, embeddings.shape))
            return np.eye(classes, dtype=np.float32)[-1] if self.head is earlier.head else np.zeros(23, np.float32)

        monkeypatch.setattr(Scorer, "window", window)
        sentence = spoken(speech.recording(speech.SOUNDS / "please-try-again.wav"))
        (event,) = make(earlier, phrases=()).process(room(np.concatenate([sentence, sentence])))
        assert (event.phrase, event.adapter, event.score) == (PHRASE, 3, 1.0)
        assert shapes == [(False, (16, 96)), (True, (16, 96))]
        assert WINDOW * BLOCK < event.end - event.start <= LONGEST * BLOCK

    def test_the_whole_is_what_its_own_encoder_heard(self):
        beside, frontend = Beside(carried(), keep=LONGEST, settle=0), Frontend()
        embed, samples = Embedder(recognizer("old").bundle.encoder), room(SPOKEN[0])
        for start in range(0, len(samples) - BLOCK + 1, BLOCK):
            beside.encode(frontend.frames(samples[start : start + BLOCK]))
            beside.scores(ANN, attentive=True)
        whole = embed(samples)[-35:-5]
        scorer = Scorer(recognizer("old").head)
        scorer.household, scorer.profile = beside.carried.household, ANN
        expected = scorer.window(resample_window(whole))[-1:]
        np.testing.assert_array_equal(beside.whole(30, 5, resample_window), expected)
        assert beside.whole(LONGEST, 5, resample_window) is None

    def test_it_hears_whom_profile_named_beside_whoever_is_known_by_voice(self):
        alone, both = (Beside(carried(), keep=LONGEST, settle=0) for _ in range(2))
        frontend, samples, highest = Frontend(), room(SPOKEN[0]), 0.0
        for start in range(0, len(samples) - BLOCK + 1, BLOCK):
            frames = frontend.frames(samples[start : start + BLOCK])
            for each in (alone, both):
                each.encode(frames)
            mine = alone.scores(ANN, attentive=True)
            np.testing.assert_array_equal(both.scores("cc" * 8, ANN, attentive=True), mine)
            highest = max(highest, float(mine.max()))
        assert highest > 0.5

    @pytest.mark.parametrize("shared", [True, False])
    def test_a_guest_is_heard_with_it_to_say_what_its_owner_lets_everybody_say(self, shared):
        given, home = carried(), carried().household
        names = {ANN: [PHRASE] if shared else []}
        lent = Household(home.space, given.head.classes, list(home.adapters.values()), names)
        beside, frontend, highest = Beside(replace(given, household=lent), keep=LONGEST, settle=0), Frontend(), 0.0
        samples = room(SPOKEN[0])
        for start in range(0, len(samples) - BLOCK + 1, BLOCK):
            beside.encode(frontend.frames(samples[start : start + BLOCK]))
            highest = max(highest, float(beside.scores(GUEST, attentive=True).max()))
        assert (highest > 0.5) == shared

    def test_it_joins_and_leaves_a_stream_without_a_gap(self):
        base = listening(recognizer("new").bundle, always=True, phrases=speech.DIGITS, wake_words=())
        chain, earlier = make(None), carried()
        assert names(chain.process(room(*SPOKEN))) == ["seven", "four"]
        chain.listen_for(with_taught(base, earlier.phrases), None, earlier)
        # Of what was said before it joined it has heard half, and says nothing.
        assert chain.process(np.concatenate([SPOKEN[0][-8000:], speech.silence(0.5)])) == []
        assert names(chain.process(room(*SPOKEN))) == HEARD
        again = replace(earlier, household=Household(earlier.household.space, recognizer("old").bundle.classes, []))
        chain.listen_for(base, None, again)
        assert names(chain.process(room(*SPOKEN))) == ["seven", "four"]
        chain.listen_for(with_taught(base, earlier.phrases), None, earlier)  # the same encoder: it heard all the while
        assert names(chain.process(np.concatenate([SPOKEN[0], speech.silence(2.0)]))) == [PHRASE]
        chain.listen_for(base)
        assert names(chain.process(room(*SPOKEN))) == ["seven", "four"]

    def test_in_its_first_steps_it_says_nothing(self):
        beside = Beside(carried(), keep=LONGEST, settle=UNSETTLED + 1)
        frames = np.random.default_rng(0).uniform(0, 8, (UNSETTLED + 2, 8, 32)).astype(np.float32)
        for number, each in enumerate(frames):
            beside.encode(each)
            assert np.any(beside.scores(ANN, attentive=True)) == (number > UNSETTLED - 1)


def _read(path):
    return to_int16(read(path))
