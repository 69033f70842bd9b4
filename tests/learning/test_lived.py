"""Held-out takes are judged as they would be heard in use, by what a chain makes of the same sound in a turn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from idiolect.config.schema import parse
from idiolect.errors import LearningError
from idiolect.learning import ledger as ledgers
from idiolect.learning import messages, self_test, trainer
from idiolect.learning import round as rounds
from idiolect.learning.ledger import Example, Ledger
from idiolect.learning.lived import Lived, Wish, utterance_of
from idiolect.learning.trainer import When
from idiolect.listening.attempt import AFTER, BEFORE, Attempt, Taken
from idiolect.listening.pipeline.decoder import State
from idiolect.listening.pipeline.household import Household
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle, with_taught
from idiolect.people.models import wish_of
from idiolect.values import BLOCK, GUEST
from tests.support import speech
from tests.support.learners import model, span

PROFILE = "aa" * 8
PHRASES = ("do-not-disturb", "please-try-again", "queue-thankyou", "vm-goodbye", "one-moment-please")
LONG = "please-try-call-later"
"""A sentence of more than a window's length."""


@pytest.fixture(scope="module")
def recognizer(sounds):
    return Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))


def clip(name, pace=1.0):
    samples = speech.recording(speech.SOUNDS / f"{name}.wav")
    place = np.arange(0, len(samples) - 1, pace)
    return np.interp(place, np.arange(len(samples)), samples).astype(np.int16)


def taken(recognizer, sound):
    """The take that an attempt makes of a recording."""
    chain, attempt = recognizer.chain(listening(recognizer.bundle), gated=False), Attempt()
    samples = np.concatenate([speech.silence(2.0), sound, speech.silence(1.0)])
    for first in range(0, len(samples) - BLOCK + 1, BLOCK):
        block = samples[first : first + BLOCK]
        chain.steps(block)
        if (outcome := attempt.hear(block, chain.recent)) is not None:
            break
    assert isinstance(outcome, Taken), outcome
    return outcome


def example(take, number, phrase, **changes):
    kept = Example(
        number, phrase, "enrolment", "s", 20_000, "00" * 32, take.span[None],
        length=take.length, clear=take.clear, whole=take.whole,
    )  # fmt: skip
    return ledgers.decode(replace(kept, **changes).encode())


@pytest.fixture(scope="module")
def takes(recognizer):
    """Three takes of each phrase, and a fourth that nothing is learnt from."""
    paces = (0.94, 1.0, 1.07, 0.98)
    return {name: [taken(recognizer, clip(name, pace)) for pace in paces] for name in PHRASES}


@pytest.fixture(scope="module")
def adapter(takes):
    several = [example(take, n, name) for name in PHRASES for n, take in enumerate(takes[name][:3])]
    examples = tuple(replace(each, sequence=n) for n, each in enumerate(several))
    outcome = rounds.run(model(), Ledger(PROFILE, examples), When(20_000, 1))
    assert outcome.verdict.passed, outcome.verdict
    return outcome.adapter


def in_a_chain(recognizer, adapter, sound):
    """What a chain says of a recording in a turn that is open already."""
    known = model()
    household = Household(known.space, known.classes, [adapter]) if adapter else None
    wish = with_taught(listening(recognizer.bundle), household.taught if household else ())
    chain = recognizer.chain(wish)
    chain.listen_for(wish, household)
    chain.address(PROFILE if adapter else GUEST)
    chain.process(speech.silence(2.0))
    chain._hearing.decoder.begin_turn()
    events = chain.process(np.concatenate([sound, speech.silence(1.5)]))
    return next((e.phrase for e in events if e.kind != "rejected"), "")


@pytest.mark.parametrize("name", PHRASES)
def test_a_take_is_heard_again_as_the_chain_hears_its_sound(recognizer, takes, adapter, name):
    said = utterance_of(model(), example(takes[name][3], 0, name))
    assert Lived(model(), Wish.of(model()), adapter).understands(said) == name
    assert in_a_chain(recognizer, adapter, clip(name, 0.98)) == name


@pytest.mark.parametrize("name", PHRASES)
def test_without_what_was_learnt_too(recognizer, takes, name):
    said = utterance_of(model(), example(takes[name][3], 0, name))
    found = Lived(model(), Wish.of(model()), None).understands(said)
    assert found == in_a_chain(recognizer, None, clip(name, 0.98))


def test_what_the_household_does_not_listen_for_is_not_understood(recognizer):
    said = utterance_of(model(), example(taken(recognizer, clip("digits/7")), 0, "seven"))
    every = Wish.of(model())
    assert Lived(model(), every, None).understands(said) == "seven"
    few = replace(every, limits={name: limit for name, limit in every.limits.items() if name != "seven"})
    assert Lived(model(), few, None).understands(said) == ""


def test_what_others_let_everybody_say_counts(takes, adapter):
    said = utterance_of(model(), example(takes[PHRASES[0]][3], 0, PHRASES[0]))
    mine = replace(adapter, profile="bb" * 8, taught=adapter.taught[1:])
    name = adapter.taught[0].name
    said = utterance_of(model(), example(takes[name][3], 0, name))
    assert Lived(model(), Wish.of(model()), mine).understands(said) != name
    lent = replace(Wish.of(model()), lent=((adapter, frozenset({name})),))
    assert Lived(model(), lent, mine).understands(said) == name


def test_of_a_long_utterance_all_is_kept_and_of_a_short_one_no_more_than_is_learnt_from(recognizer, takes):
    long = taken(recognizer, clip(LONG))
    kept = example(long, 1, "x")
    assert 18 < long.length <= 50
    assert kept.whole.shape == (BEFORE + long.length + AFTER, 96)
    assert np.allclose(kept.whole, long.whole, atol=0.01, rtol=0.01)
    assert utterance_of(model(), kept).embeddings.shape == kept.whole.shape
    assert utterance_of(model(), replace(kept, whole=ledgers.NOTHING)) is None
    short = takes["vm-goodbye"][0]
    assert short.length <= 14
    assert not len(short.whole)
    assert len(utterance_of(model(), example(short, 1, "x")).embeddings) == BEFORE + short.length + AFTER


@pytest.mark.parametrize(
    "change", [{"whole": np.zeros((65, 96), np.float32)}, {"clear": -1}, {"clear": 121},
               {"whole": np.full((20, 96), np.nan, np.float32)}],
)  # fmt: skip
def test_a_record_with_too_much_is_refused(takes, change):
    with pytest.raises(LearningError):
        example(takes[PHRASES[0]][0], 1, "x", **change)


def judged(examples):
    made = [replace(each, sequence=n) for n, each in enumerate(examples)]
    return rounds.run(model(), Ledger(PROFILE, tuple(made)), When(20_000, 1)).verdict.numbers


def test_what_was_kept_without_its_length_is_judged_by_its_windows_and_counted(takes):
    several = [example(take, 0, name) for name in PHRASES[:3] for take in takes[name][:3]]
    now = judged(several)
    assert (now["own_held_out"], now["own_in_windows"]) == (9, 0)
    old = judged([replace(each, length=0, clear=0, whole=ledgers.NOTHING) for each in several])
    assert (old["own_held_out"], old["own_in_windows"]) == (9, 9)
    mixed = judged([*several[:6], *(replace(each, length=0, whole=ledgers.NOTHING) for each in several[6:])])
    assert (mixed["own_held_out"], mixed["own_in_windows"]) == (9, 3)


def test_before_counts_only_what_the_model_can_understand(takes):
    taught = [example(take, 0, PHRASES[0]) for take in takes[PHRASES[0]][:3]]
    base = [
        ledgers.decode(Example(0, "on", "enrolment", "s", 20_000, "00" * 32, span("on", n), length=8).encode())
        for n in range(3)
    ]
    alone, both = judged(taught), judged([*taught, *base])
    assert (alone["own_known"], alone["own_known_wrong_before"]) == (0, 0)
    assert alone["own_wrong_before"] == 3
    assert both["own_known"] == 3
    assert both["own_known_wrong_before"] == both["own_wrong_before"] - 3


def test_no_more_takes_of_a_phrase_are_heard_again_than_it_is_aligned_with(takes):
    many = [example(take, n, PHRASES[0]) for n, take in enumerate(takes[PHRASES[0]])]
    heard = trainer.prepare(model(), Ledger(PROFILE, tuple(many)))[0].utterances
    assert [each is not None for each in heard] == [False, True, True, True]


def test_the_self_test_hears_them_again_too(takes, adapter):
    examples = tuple(example(take, n, PHRASES[0]) for n, take in enumerate(takes[PHRASES[0]][:3]))
    known = Ledger(PROFILE, examples)
    rows = {each.name: each for each in self_test.run(model(), known, adapter, 9)}
    assert (rows["own: taught phrases"].total, rows["own: taught phrases"].wrong) == (3, 0)
    room = tuple(replace(each, whole=np.tile(each.spans[0][:1], (20, 1))) for each in examples)
    rows = {each.name: each for each in self_test.run(model(), replace(known, examples=room), adapter, 9)}
    assert rows["own: taught phrases"].wrong == 3


def test_what_counts_in_a_turn_is_what_the_household_configured(recognizer):
    text = """
        listening:
          phrases: [seven, stop, "yes"]
          always_on: [stop]
          pause_ms: 800
          thresholds: {seven: 0.9}
        people:
          ann: {users: [ann], sensitivity: 0.9}
    """
    config = parse("\n".join(line[8:] for line in text.splitlines()), "test")
    wish = wish_of(config, recognizer.bundle, {"ann": PROFILE}, PROFILE)
    wakes = set(recognizer.bundle.wake_words)
    assert set(wish.limits) == {"seven", "stop", "yes"} | wakes
    assert (set(wish.always_on), wish.pause, wish.limits["seven"]) == ({"stop"}, 10, pytest.approx(0.9))
    guest = wish_of(config, recognizer.bundle, {"ann": PROFILE}, GUEST)
    assert wish.limits["yes"] < guest.limits["yes"]
    assert wish.taught < guest.taught == 0.5


def test_what_counts_reaches_the_worker(adapter):
    wish = Wish({"seven": 0.5}, 0.25, ["stop"], 12, ((adapter, frozenset({"do-not-disturb"})),))
    asked = messages.Request(model(), Ledger(PROFILE), When(1), wish=wish)
    message = messages.unpack(messages.ask(asked), messages.REQUEST_CAP)
    read = messages.read_request(message).wish
    assert (dict(read.limits), read.taught, set(read.always_on), read.pause) == ({"seven": 0.5}, 0.25, {"stop"}, 12)
    ((lent, names),) = read.lent
    assert (lent.taught[0].name, set(names)) == (adapter.taught[0].name, {"do-not-disturb"})
    for bad in ({"taught": 2.0}, {"pause": 0}, {"pause": 65}, {"limits": {"x": -0.1}}, {"lent": [[b"x", []]]}):
        with pytest.raises(LearningError):
            messages.read_request({**message, "wish": {**message["wish"], **bad}})


def test_a_turn_begins_as_behind_a_wake_word(recognizer):
    chain = recognizer.chain(listening(recognizer.bundle))
    chain._hearing.decoder.begin_turn()
    assert chain.state is State.TURN
