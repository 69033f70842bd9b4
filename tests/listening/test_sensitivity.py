"""A sensitivity of one's own: whose thresholds count, from when on, and that nobody else notices."""

from __future__ import annotations

import getpass
import signal

import numpy as np
import pytest

from bundlebuild.audio import read, to_int16
from idiolect.config.schema import Config, parse
from idiolect.events import EventStream
from idiolect.listening.audio.capture import BlockQueue
from idiolect.listening.inference import EventIds, Inference
from idiolect.listening.pipeline.adapter import Adapter
from idiolect.listening.pipeline.decoder import Decoder, Listening, State, Thresholds
from idiolect.listening.pipeline.household import Household
from idiolect.listening.recognizer import (
    Recognizer,
    bundle_directory,
    for_people,
    listening_for,
    read_bundle,
    with_taught,
)
from idiolect.values import BLOCK, GUEST, Captured
from tests.support import speech
from tests.support.alsa import require_wavmic
from tests.whole.test_people import Home as Living

PEOPLE = """
schema: 2
listening: {mode: always, sensitivity: 0.5, thresholds: {nine: 0.7}}
people:
  Ann: {sensitivity: 0.9}
  ben: {sensitivity: 0.4}
  cy: {}
"""
PROFILES = {"ann": "aa" * 8, "cy": "cc" * 8, "dora": "dd" * 8}


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))


def wish(recognizer: Recognizer, text: str = PEOPLE) -> tuple[Config, Listening]:
    config = parse(text, "test")
    return config, with_taught(listening_for(config, recognizer.bundle), ["lights please"])


# -- thresholds -------------------------------------------------------------------------------------------------------


def test_they_are_those_of_that_sensitivity_for_everybody(recognizer):
    config, base = wish(recognizer)
    own = for_people(base, config, PROFILES).by_profile
    assert list(own) == [PROFILES["ann"]]  # ben is not known yet, cy wants what all have, dora is not configured
    _, everybody = wish(recognizer, PEOPLE.replace("sensitivity: 0.5", "sensitivity: 0.9"))
    taught = with_taught(listening_for(config, recognizer.bundle), ["lights please"], 0.9)
    for mine, all_alike, of_taught in (
        (own[PROFILES["ann"]].free, everybody.thresholds, taught.thresholds),
        (own[PROFILES["ann"]].turn, everybody.turn_thresholds, taught.turn_thresholds),
    ):
        assert mine[:-1] == pytest.approx(all_alike[:-1], abs=1e-5)
        assert mine[-1] == pytest.approx(of_taught[-1], abs=1e-5)
        assert mine.dtype == np.float32
    nine = base.classes.index("nine")
    assert own[PROFILES["ann"]].free[nine] == base.thresholds[nine] == np.float32(0.7)
    assert (own[PROFILES["ann"]].free <= base.thresholds).all()


def test_where_nobody_has_one_nothing_is_made(recognizer):
    config, base = wish(recognizer, PEOPLE.replace("0.9", "same").replace("{sensitivity: 0.4}", "{}"))
    assert for_people(base, config, PROFILES) is base
    config, base = wish(recognizer)
    assert for_people(base, config, {}) is base


# -- who speaks -------------------------------------------------------------------------------------------------------


def say(inference: Inference, *sounds: np.ndarray) -> list[dict[str, object]]:
    before = inference.events
    samples = np.concatenate([speech.silence(0.6), *sounds, speech.silence(1.0)])
    for first in range(0, len(samples) - BLOCK + 1, BLOCK):
        inference._take(Captured(samples[first : first + BLOCK]))
    events = [e for e in inference._hub.recent() if e["kind"] != "state"]
    return events[len(events) - (inference.events - before) :]


@pytest.mark.usefixtures("sounds")
def test_whom_one_names_speaks_with_their_own(recognizer):
    config = parse(PEOPLE, "test")
    base = for_people(listening_for(config, recognizer.bundle), config, PROFILES | {"ben": "bb" * 8})
    inference = Inference(recognizer.chain(base), BlockQueue(8), EventStream(), EventIds(), lambda: None)
    found = {}
    for name, profile in (("guest", GUEST), ("ann", PROFILES["ann"]), ("ben", "bb" * 8), ("cy", PROFILES["cy"])):
        inference.listen_for(base, None, profile)
        (event,) = say(inference, speech.digit(7))
        assert event["profile"] == profile
        found[name] = event["threshold"]
    assert found["ann"] < found["guest"] < found["ben"]
    assert found["cy"] == found["guest"]
    inference.listen_for(base, None, GUEST)
    assert say(inference, speech.digit(7))[0]["threshold"] == found["guest"]


def household(recognizer: Recognizer, *voices: tuple[str, np.ndarray]) -> Household:
    adapters = [Adapter(profile, 1, voice=voice) for profile, voice in voices]
    return Household(recognizer.space, recognizer.head.classes, adapters)


def wake_voice(recognizer: Recognizer, sound: np.ndarray) -> np.ndarray:
    """Which way from everybody's "computer" the one of a recording lies: a voice, as far as the device can tell."""
    seen = []

    class Watched(Household):
        def who(self, z, phrase):
            seen.append(z)
            return super().who(z, phrase)

    dora = Adapter(PROFILES["dora"], 1, voice=np.zeros(recognizer.space.size, np.float32))
    people = Watched(recognizer.space, recognizer.head.classes, [dora])
    base = listening_for(parse("schema: 2\n", "test"), recognizer.bundle)
    inference = Inference(recognizer.chain(base), BlockQueue(8), EventStream(), EventIds(), lambda: None)
    inference.listen_for(base, people, GUEST)
    say(inference, sound)
    residual = seen[0] - recognizer.space.prototypes[recognizer.head.classes.index("computer")]
    return np.asarray(residual / np.linalg.norm(residual), np.float32)


@pytest.mark.usefixtures("sounds")
def test_whoever_is_known_by_voice_has_their_own_until_the_turn_ends(recognizer, data):
    word = to_int16(read(sorted((data / "phrases" / "computer").glob("*"))[0]))
    voice = wake_voice(recognizer, word)
    config, _ = wish(recognizer)
    wakes = listening_for(parse("schema: 2\n", "test"), recognizer.bundle)
    base = for_people(wakes, config, PROFILES)
    people = household(recognizer, (PROFILES["ann"], voice), (PROFILES["dora"], -voice))
    inference = Inference(recognizer.chain(base), BlockQueue(8), EventStream(), EventIds(), lambda: None)
    inference.listen_for(base, people, GUEST)

    wake, phrase = say(inference, word, speech.silence(0.4), speech.digit(3))
    assert (wake["phrase"], wake["profile"], phrase["profile"]) == ("computer", PROFILES["ann"], PROFILES["ann"])
    three = base.classes.index("three")
    assert phrase["threshold"] == pytest.approx(base.by_profile[PROFILES["ann"]].turn[three], abs=1e-4)
    assert phrase["threshold"] < base.turn_thresholds[three] - 0.1
    wake = say(inference, word)[0]
    assert wake["threshold"] == pytest.approx(base.thresholds[0], abs=1e-4)  # a guest's again

    say(inference, speech.silence(8.0))  # and after a turn in which nothing was said
    assert inference._chain.state is State.IDLE
    assert inference._chain.profile == GUEST
    assert say(inference, word)[0]["threshold"] == pytest.approx(base.thresholds[0], abs=1e-4)


def test_a_phrase_falls_below_half_of_its_own_threshold_before_it_is_reported_again():
    """One threshold serves for both: whoever has a lower one is not reported twice for one word."""
    low, high = np.array([0.3, 1.0], np.float32), np.array([0.9, 1.0], np.float32)
    yes, no = np.array([True, False]), np.array([False, False])
    base = Listening(("hey", "_"), no, yes, no, high, high, State.OPEN, refractory=1)
    base = Listening(**{f: getattr(base, f) for f in base.__slots__} | {"by_profile": {"x": Thresholds(low, low)}})
    decoder = Decoder(base)
    decoder.serve("x")
    scores = [0.0, 0.35, 0.35, 0.2, 0.2, 0.2, 0.2, 0.2, 0.35, 0.35, 0.35, 0.1, 0.1, 0.1, 0.35, 0.35, 0.35]
    rows = [np.array([s, 1 - s], np.float32) for s in scores]
    heard = [i for i, row in enumerate(rows) if decoder.push(row, active=True, position=1280 * (i + 1))]
    assert len(heard) == 2
    assert heard[1] > 13


# -- the whole daemon -------------------------------------------------------------------------------------------------


@pytest.fixture
def living(tmp_path, sounds):
    require_wavmic()
    home = Living(tmp_path)
    home.config.write_text(set_to(home.config.read_text(), "0.15"))
    yield home.begin()
    home.stop()


def set_to(text: str, sensitivity: str) -> str:
    line = next(line for line in text.splitlines() if line.startswith("people:"))
    return text.replace(line, f"people: {{ann: {{users: [{getpass.getuser()}], sensitivity: {sensitivity}}}}}")


def test_it_is_in_use_once_that_person_is_known_and_a_reload_changes_it(living):
    def threshold() -> float:
        (event,) = living.say(speech.digit(7))
        return float(event["threshold"])

    everybody = threshold()
    living.agree("enrol")
    assert threshold() == everybody
    living.idiolect("profile", "ann")
    hers = threshold()
    assert hers > everybody + 0.05

    living.config.write_text(set_to(living.config.read_text(), "0.9"))
    living.process.send_signal(signal.SIGHUP)
    living.wait(lambda: "reloaded" in living.log)
    assert "next start" not in living.log
    assert threshold() < everybody - 0.05

    living.idiolect("profile", "guest")
    assert threshold() == everybody
    assert "ann" not in living.log
