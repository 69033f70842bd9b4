"""Who is heard, and what: real voices, a real vault and worker, adapters made from what was said, one chain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from bundlebuild.audio import read, to_int16
from bundlebuild.augment import stretch
from idiolect.learning.ledger import Manner
from idiolect.listening.attempt import Attempt, Taken
from idiolect.listening.pipeline.decoder import State, Thresholds
from idiolect.listening.pipeline.household import Household as Heard
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle, with_taught
from idiolect.values import BLOCK, GUEST
from tests.support import speech
from tests.support.learners import Household
from tests.support.vaults import House

VOICES = {
    "ann": "199d33ca-9cb9-4069-80e0-33bd910b63b6",
    "ben": "17ac1340-98f8-4bd1-a574-ad23d0bc82dc",
    "stranger": "157d5111-1593-48f9-b0df-2db59f27bd0d",
}
"""Recordings of "computer" by three people of whom nobody sounds like another."""
SHARED, ANNS, BENS = "do not disturb", "please try again", "thank you for calling"
SOUNDS = {SHARED: "do-not-disturb", ANNS: "please-try-again", BENS: "queue-thankyou"}
AGREED = ("enrol", "adapt_corrections", "voice_match")
NOT_AGREED = ("enrol", "adapt_corrections")
PACES = (0.92, 1.0, 1.09)


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))


def at_pace(samples, pace):
    return np.clip(stretch(samples.astype(np.float32), pace), -32768, 32767).astype(np.int16)


def phrase(name, pace=1.0):
    return at_pace(speech.recording(speech.SOUNDS / f"{SOUNDS[name]}.wav"), pace)


@pytest.fixture(scope="module")
def wake_word(data, sounds):
    """How somebody says "computer", at a pace."""
    return lambda who, pace=1.05: at_pace(to_int16(read(data / "phrases" / "computer" / f"{VOICES[who]}.flac")), pace)


def spans(recognizer, takes):
    """What is learnt from of each take, as it comes through the microphone."""
    found = []
    for take in takes:
        chain, attempt = recognizer.chain(listening(recognizer.bundle), gated=False), Attempt()
        samples = np.concatenate([speech.silence(1.5), take, speech.silence(1.0)])
        outcome = None
        for first in range(0, len(samples) - BLOCK + 1, BLOCK):
            block = samples[first : first + BLOCK]
            chain.steps(block)
            outcome = outcome or attempt.hear(block, chain.recent)
        assert isinstance(outcome, Taken), outcome
        found.append(outcome)
    return found


@dataclass
class Scene:
    """A household with a chain that listens for it."""

    recognizer: Recognizer
    people: dict[str, str]
    household: Heard
    listening: object
    head: tuple[str, ...]

    def __post_init__(self):
        self.chain = self.recognizer.chain(self.listening)
        self.names = {profile: name for name, profile in self.people.items()} | {GUEST: GUEST}

    def named(self, who, household="mine"):
        """As after ``idiolect profile``, in a fresh stream."""
        self.chain = self.recognizer.chain(self.listening)
        self.chain.listen_for(self.listening, self.household if household == "mine" else household)
        self.chain.address(self.people.get(who, GUEST))
        return self

    def sharing(self, **shared):
        """The household in which these people let everybody say some phrases."""
        people = {self.people[name]: frozenset(phrases) for name, phrases in shared.items()}
        return Heard(self.household.space, self.head, list(self.household.adapters.values()), people)

    def says(self, *sounds, wait=7.0):
        """What is heard: (kind, phrase, who), rejected speech left out."""
        samples = np.concatenate([speech.silence(1.0), *sounds, speech.silence(wait)])
        heard = self.chain.process(samples)
        return [(d.phrase, self.names[d.profile]) for d in heard if d.kind != "rejected"]


@pytest.fixture(scope="module")
def scene(recognizer, wake_word, tmp_path_factory):
    """Make a household: who agreed to what, and who taught what; voices are learnt from corrected wake words."""
    made = {}

    def make(agreed, taught, *, voices=("ann", "ben"), takes_known=False, **wishes):
        key = repr((agreed, taught, voices, takes_known, wishes))
        if key not in made:
            with House(tmp_path_factory.mktemp("home") / "state").create() as vault:
                home = Household(vault)
                people = {name: home.agree(name, *purposes) for name, purposes in agreed.items()}
                for name, profile in people.items():
                    for each in taught[name]:
                        takes = spans(recognizer, [phrase(each, pace) for pace in PACES])
                        lengths = [take.length for take in takes] if takes_known else ()
                        own = [take.span[None] for take in takes]
                        home.learner.add(
                            profile, "enrolment", each, own, "01", said=[Manner(length) for length in lengths]
                        )
                    if name in voices:
                        takes = spans(recognizer, [wake_word(name, pace) for pace in PACES])
                        home.learner.add(profile, "correction", "computer", [t.span[None] for t in takes], "02")
                    round_ = home.learner.round(profile, at_once=True)
                    assert round_.outcome.verdict.passed, round_
                household = Heard(recognizer.space, recognizer.head.classes, home.in_use())
            base = with_taught(listening(recognizer.bundle, phrases=["yes", "no"], **wishes), household.taught)
            made[key] = Scene(recognizer, people, household, base, recognizer.head.classes)
        return made[key]

    return make


BOTH_TAUGHT = {"ann": [SHARED], "ben": [SHARED]}


@pytest.mark.parametrize(
    "cell",
    [
        # Both agreed to voice_match: whoever is recognised, and where that is not clear whom `profile` named.
        (("ann", "ben"), "ann", "ann", "ann"),
        (("ann", "ben"), "ann", "ben", "ben"),
        (("ann", "ben"), "ann", "stranger", "ann"),
        (("ann", "ben"), "ben", "ann", "ann"),
        (("ann", "ben"), "ben", "ben", "ben"),
        (("ann", "ben"), "ben", "stranger", "ben"),
        (("ann", "ben"), GUEST, "ann", "ann"),
        (("ann", "ben"), GUEST, "stranger", GUEST),
        # Only Ann agreed. Ben, who did not, is heard as himself where he is named, even if he sounds like her.
        (("ann",), "ben", "ben", "ben"),
        (("ann",), "ben", "stranger", "ben"),
        (("ann",), "ben", "ann", "ben"),
        (("ann",), "ann", "ann", "ann"),
        (("ann",), "ann", "ben", "ann"),
        (("ann",), "ann", "stranger", "ann"),
        (("ann",), GUEST, "ann", "ann"),
        (("ann",), GUEST, "ben", GUEST),
        # Nobody agreed.
        ((), "ann", "ben", "ann"),
        ((), "ben", "ben", "ben"),
        ((), GUEST, "ann", GUEST),
    ],
)
def test_unsure_falls_back_to_whom_profile_named(scene, wake_word, cell):
    agreed, named, speaks, served = cell
    home = scene({name: AGREED if name in agreed else NOT_AGREED for name in ("ann", "ben")}, BOTH_TAUGHT)
    heard = home.named(named).says(wake_word(speaks), speech.silence(0.4), phrase(SHARED, 1.04))
    expected = [("computer", served)] + ([(SHARED, served)] if served != GUEST else [])
    assert heard == expected
    assert home.chain.profile == home.people.get(named, GUEST)  # the turn is over


@pytest.mark.parametrize("named", ["ann", "ben"])
@pytest.mark.parametrize("speaks", ["ann", "ben", "stranger"])
def test_voice_match_never_costs_whom_profile_named_a_phrase(scene, wake_word, named, speaks):
    """A wrong guess, too: whose voice it seemed is heard beside whom ``profile`` named, and the phrase's owner told."""
    home = scene({"ann": AGREED, "ben": AGREED}, {"ann": [ANNS], "ben": [BENS]})
    own = {"ann": ANNS, "ben": BENS}
    said = home.named(named).says(wake_word(speaks), speech.silence(0.4), phrase(own[named], 1.04))
    assert said[1:] == [(own[named], named)]
    if speaks != "stranger":
        said = home.named(named).says(wake_word(speaks), speech.silence(0.4), phrase(own[speaks], 1.04))
        assert said == [("computer", speaks), (own[speaks], speaks)]


def test_who_agreed_and_is_not_known_well_enough_yet_is_heard_when_named(scene, wake_word):
    home = scene({"ann": AGREED, "ben": AGREED}, BOTH_TAUGHT, voices=("ann",))
    assert not home.household.has_voice(home.people["ben"])
    for speaks in ("ann", "ben", "stranger"):
        said = home.named("ben").says(wake_word(speaks), speech.silence(0.4), phrase(SHARED, 1.04))
        assert said == [("computer", "ben"), (SHARED, "ben")]


def test_a_guest_taken_for_somebody_loses_nothing_that_the_base_model_hears(scene, wake_word, recognizer):
    home = scene({"ann": AGREED, "ben": NOT_AGREED}, BOTH_TAUGHT).named(GUEST)
    said = np.concatenate([speech.silence(1.0), wake_word("ann"), speech.silence(0.4), speech.digit(7)])
    steps = home.chain.steps(said)
    assert home.chain.profile == home.people["ann"]
    base = recognizer.chain(listening(recognizer.bundle))
    count = len(recognizer.head.classes)
    for mine, theirs in zip(steps, base.steps(said), strict=True):
        assert (mine.posteriors[:count] >= theirs.posteriors - 1e-6).all()


def test_of_two_who_are_heard_the_lower_threshold_counts(scene, wake_word):
    home = scene({"ann": AGREED, "ben": AGREED}, BOTH_TAUGHT).named("ann")
    base = home.listening
    place = base.classes.index(SHARED)
    strict = np.where(np.arange(len(base.classes)) == place, 0.999, base.turn_thresholds).astype(np.float32)
    own = {home.people["ben"]: Thresholds(base.thresholds, strict)}
    fields = {name: getattr(base, name) for name in base.__slots__}
    home.chain.listen_for(type(base)(**fields | {"by_profile": own}), home.household)
    said = home.says(wake_word("ben"), speech.silence(0.4), phrase(SHARED, 1.04))
    assert said == [("computer", "ben"), (SHARED, "ben")]


def test_a_second_wake_word_that_is_not_clear_leads_back(scene, wake_word):
    home = scene({"ann": AGREED, "ben": AGREED}, BOTH_TAUGHT).named("ben")
    said = home.says(wake_word("ann"), speech.silence(0.8), wake_word("stranger"), speech.silence(0.4), phrase(SHARED))
    assert said == [("computer", "ann"), ("computer", "ben"), (SHARED, "ben")]


def test_a_turn_in_which_nothing_is_said_leads_back(scene, wake_word):
    home = scene({"ann": AGREED, "ben": AGREED}, BOTH_TAUGHT).named("ben")
    assert home.says(wake_word("ann"), wait=1.0) == [("computer", "ann")]
    assert home.chain.profile == home.people["ann"]
    home.says(wait=7.0)
    assert home.chain.state is State.IDLE
    assert home.chain.profile == home.people["ben"]


def test_where_no_wake_word_is_needed_a_voice_counts_as_long_as_a_turn(scene, wake_word):
    home = scene({"ann": AGREED, "ben": AGREED}, BOTH_TAUGHT, always=True).named("ben")
    assert home.says(wake_word("ann"), wait=1.0) == [("computer", "ann")]
    assert home.chain.profile == home.people["ann"]
    assert home.says(phrase(SHARED), wait=1.0) == [(SHARED, "ann")]
    assert home.chain.profile == home.people["ben"]
    home.says(wake_word("ann"), wait=7.0)
    assert home.chain.state is State.OPEN
    assert home.chain.profile == home.people["ben"]


def test_naming_somebody_in_a_turn_counts_at_once(scene, wake_word):
    home = scene({"ann": AGREED, "ben": AGREED}, {"ann": [ANNS], "ben": [BENS]}).named("ben")
    home.says(wake_word("ann"), wait=0.3)
    assert home.chain.profile == home.people["ann"]
    home.chain.address(GUEST)
    assert home.says(phrase(ANNS)) == []


# -- phrases that everybody may say


def said_in_a_turn(wake_word, *sounds):
    return np.concatenate(
        [speech.silence(1.0), wake_word("stranger"), speech.silence(0.4), *sounds, speech.silence(7.0)]
    )


@pytest.fixture
def home(scene):
    """Ann and Ben taught a phrase each, and one both; nobody can be told by voice."""
    return scene({"ann": NOT_AGREED, "ben": NOT_AGREED}, {"ann": [SHARED, ANNS], "ben": [SHARED, BENS]}, voices=())


@pytest.mark.parametrize("named", [GUEST, "ben", "ann"])
def test_a_phrase_is_heard_for_others_only_while_its_owner_lets_them(home, wake_word, named):
    turn = said_in_a_turn(wake_word, phrase(ANNS, 1.04))
    heard = [d for d in home.named(named).chain.process(turn) if d.kind == "phrase"]
    assert bool(heard) == (named == "ann")
    (event,) = [d for d in home.named(named, home.sharing(ann=[ANNS])).chain.process(turn) if d.kind == "phrase"]
    assert (event.phrase, home.names[event.profile]) == (ANNS, named)  # it is theirs who said it
    assert event.adapter == (1 if named == "ann" else 0)
    heard = [d for d in home.named(named, home.sharing(ann=[])).chain.process(turn) if d.kind == "phrase"]
    assert bool(heard) == (named == "ann")


@pytest.fixture
def aligned_home(scene):
    """The same with takes whose lengths are known."""
    taught = {"ann": [SHARED, ANNS], "ben": [SHARED, BENS]}
    return scene({"ann": NOT_AGREED, "ben": NOT_AGREED}, taught, voices=(), takes_known=True)


@pytest.mark.parametrize("named", [GUEST, "ben"])
def test_what_everybody_may_say_is_weighed_against_the_bundles_words(aligned_home, wake_word, recognizer, named):
    """It sounds like "one moment please", which the bundle has."""
    home = aligned_home
    shared = home.sharing(ann=[ANNS])
    home.named(named, shared).chain.listen_for(with_taught(listening(recognizer.bundle), shared.taught), shared)
    assert home.says(phrase(ANNS, 1.04), wait=1.0) == []
    heard = home.says(wake_word("stranger"), speech.silence(0.4), phrase(ANNS, 1.04))
    assert [said for said, _ in heard] == ["computer", ANNS]


def test_takes_of_others_are_followed_where_they_let_everybody_say_the_phrase_and_nowhere_else(aligned_home):
    home = aligned_home
    for shared in ({}, {"ann": []}, {"ben": [ANNS]}):
        assert home.sharing(**shared).aligned(GUEST) is None
    lent = home.sharing(ann=[ANNS, SHARED])
    names = lambda along: [lent.classes[column] for column in along.columns]  # noqa: E731
    assert sorted(names(lent.aligned(GUEST))) == sorted([ANNS, SHARED])
    ben = lent.aligned(home.people["ben"])
    assert sorted(names(ben)) == sorted([ANNS, SHARED, BENS])
    assert [lent.classes[column] for column in ben.whole] == [ANNS]  # the other one he has taught himself


def test_only_the_phrases_that_are_shared_are_heard(home, wake_word):
    shared = home.sharing(ann=[SHARED], ben=[ANNS])  # Ben has not taught that one
    assert shared.shared == (SHARED,)
    turn = said_in_a_turn(wake_word, phrase(ANNS, 1.04))
    assert [d.phrase for d in home.named(GUEST, shared).chain.process(turn) if d.kind == "phrase"] == []


def test_who_taught_the_same_phrase_is_heard_by_their_own(home, wake_word):
    turn = said_in_a_turn(wake_word, phrase(SHARED, 1.04))
    alone = home.named("ben").chain.steps(turn)
    beside = home.named("ben", home.sharing(ann=[SHARED])).chain.steps(turn)
    assert [s.detection for s in alone] == [s.detection for s in beside]
    assert any(s.detection and (s.detection.phrase, s.detection.adapter) == (SHARED, 1) for s in beside)
    for mine, theirs in zip(alone, beside, strict=True):
        np.testing.assert_array_equal(mine.posteriors, theirs.posteriors)


def test_of_two_who_share_one_phrase_either_is_enough(home, wake_word):
    turn = said_in_a_turn(wake_word, phrase(SHARED, 1.04))
    place, highest = home.household.classes.index(SHARED), []
    for shared in ({"ann": [SHARED]}, {"ben": [SHARED]}, {"ann": [SHARED], "ben": [SHARED]}):
        steps = home.named(GUEST, home.sharing(**shared)).chain.steps(turn)
        highest.append(max(step.posteriors[place] for step in steps if step.position > len(turn) // 4))
    assert highest[2] >= max(highest[:2]) - 1e-6


def test_a_guest_is_heard_by_the_base_model_bit_by_bit(home, wake_word, recognizer):
    turn = said_in_a_turn(wake_word, speech.digit(7), speech.silence(0.5))
    base = recognizer.chain(listening(recognizer.bundle, phrases=["yes", "no"]))
    count = len(recognizer.head.classes)
    with_phrases = home.named(GUEST, home.sharing(ann=[ANNS, SHARED], ben=[BENS])).chain.steps(turn)
    for mine, theirs in zip(with_phrases, base.steps(turn), strict=True):
        np.testing.assert_array_equal(mine.posteriors[:count], theirs.posteriors)


def test_phrases_of_the_bundle_are_nobodys_to_share(scene):
    home = scene({"ann": NOT_AGREED}, {"ann": [SHARED]}, voices=())
    assert home.sharing(ann=["yes", SHARED]).shared == (SHARED,)


def test_without_such_phrases_a_guest_costs_nothing_more_and_with_them_nothing_until_a_turn(
    home, wake_word, monkeypatch
):
    looked = []
    rows = Heard.rows
    monkeypatch.setattr(Heard, "rows", lambda self, *of: looked.append(1) or rows(self, *of))
    turn = said_in_a_turn(wake_word, phrase(ANNS))
    home.named(GUEST).chain.process(turn)
    assert not looked
    home.named(GUEST, home.sharing(ann=[ANNS])).chain.process(phrase(ANNS))  # no wake word before it
    assert not looked
    home.named(GUEST, home.sharing(ann=[ANNS])).chain.process(turn)
    assert looked


def test_voice_match_and_shared_phrases_go_together(scene, wake_word):
    home = scene({"ann": AGREED, "ben": AGREED}, {"ann": [ANNS], "ben": [BENS]})
    shared = home.sharing(ben=[BENS])
    for named, speaks, who in ((GUEST, "stranger", GUEST), ("ann", "stranger", "ann"), (GUEST, "ann", "ann")):
        said = home.named(named, shared).says(wake_word(speaks), speech.silence(0.4), phrase(BENS, 1.04))
        assert said == [("computer", who), (BENS, who)]
