"""Playback: while the box plays something scores must be higher, nothing is learnt, and it ends by itself."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from bundlebuild.audio import read, to_int16
from idiolect.cli import main
from idiolect.errors import RequestError
from idiolect.events import EventStream
from idiolect.listening.attempt import Taken
from idiolect.listening.audio.capture import BlockQueue
from idiolect.listening.inference import PLAYBACK_MORE, EventIds, Inference
from idiolect.listening.pipeline.decoder import State, raised
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle
from idiolect.people.people import People
from idiolect.service.playback import Playback
from idiolect.values import BLOCK, Captured
from tests.conftest import DATA, absent
from tests.support import speech
from tests.support.alsa import require_wavmic
from tests.support.homes import Home, story
from tests.whole.test_people import PHRASE, take
from tests.whole.test_people import Home as Living

pytestmark = pytest.mark.usefixtures("sounds")


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))


@pytest.fixture
def inference(recognizer):
    """In a mode where every phrase counts at any time, and "nine" is spared as what needs no wake word."""
    wish = listening(recognizer.bundle, phrases=speech.DIGITS, always_on=["nine"], always=True)
    return Inference(recognizer.chain(wish), BlockQueue(8), EventStream(), EventIds(), lambda: None)


def hear(inference: Inference, *sounds: np.ndarray) -> list[dict[str, object]]:
    """Blocks, one after the other; the events that came of them."""
    before = inference.events
    samples = np.concatenate(sounds)
    for first in range(0, len(samples) - BLOCK + 1, BLOCK):
        inference._take(Captured(samples[first : first + BLOCK]))
    events = [e for e in inference._hub.recent() if e["kind"] != "state"]
    return events[len(events) - (inference.events - before) :]


def say(inference: Inference, number: int) -> dict[str, object]:
    (event,) = hear(inference, speech.silence(2.5), speech.digit(number), speech.silence(1.0))
    return event


# -- scores -----------------------------------------------------------------------------------------------------------


def test_scores_must_be_higher_meanwhile_and_only_then(inference):
    usual = say(inference, 7)["threshold"]
    inference.playing = True
    meanwhile = say(inference, 7)["threshold"]
    inference.playing = False
    assert meanwhile == pytest.approx(raised(np.array([usual], np.float32), PLAYBACK_MORE)[0], abs=1e-3)
    assert meanwhile > usual + 0.05
    assert say(inference, 7)["threshold"] == usual


def test_what_needs_no_wake_word_is_heard_as_ever(inference):
    usual = say(inference, 9)
    inference.playing = True
    meanwhile = say(inference, 9)
    assert (meanwhile["phrase"], meanwhile["threshold"]) == ("nine", usual["threshold"])
    assert meanwhile["score"] == pytest.approx(usual["score"], abs=0.05)


def test_what_is_unsure_does_not_count_meanwhile(recognizer):
    """A threshold just below the score: it is reached in a quiet room, and not while something is played."""

    def heard(limit: float, playing: bool) -> list[str]:
        wish = listening(recognizer.bundle, phrases=speech.DIGITS, always=True, overrides={"seven": limit})
        inference = Inference(recognizer.chain(wish), BlockQueue(8), EventStream(), EventIds(), lambda: None)
        inference.playing = playing
        sounds = (speech.silence(0.6), speech.digit(7), speech.silence(1.0))
        return [e["phrase"] for e in hear(inference, *sounds) if e["phrase"] == "seven"]

    limits = np.linspace(0.5, 0.99, 50)
    found = {playing: [float(x) for x in limits if heard(float(x), playing)] for playing in (False, True)}
    assert max(found[True]) < max(found[False])


def test_a_turn_that_is_open_goes_on(recognizer, data):
    """Who is called turns the music down: playback ends in the very turn in which the phrase comes."""
    word = to_int16(read(sorted((data / "phrases" / "computer").glob("*"))[0]))
    inference = Inference(
        recognizer.chain(listening(recognizer.bundle)), BlockQueue(8), EventStream(), EventIds(), lambda: None
    )
    inference.playing = True
    (wake,) = hear(inference, speech.silence(0.6), word, speech.silence(0.3))
    assert wake["kind"] == "wake"
    inference.playing = False
    (event,) = hear(inference, speech.digit(3), speech.silence(1.0))
    assert (event["kind"], event["phrase"]) == ("phrase", "three")
    assert inference._chain.state is State.IDLE


def test_it_goes_on_when_what_is_listened_for_changes(recognizer):
    wish = listening(recognizer.bundle, phrases=speech.DIGITS, always=True)
    sound = np.concatenate([speech.silence(0.6), speech.digit(7), speech.silence(1.0)])
    found = []
    for more in (0.0, PLAYBACK_MORE):
        chain = recognizer.chain(wish)
        chain.demand(more)
        chain.listen_for(wish)
        found += [detection.threshold for detection in chain.process(sound)]
    assert found[1] > found[0] + 0.05


def test_no_threshold_reaches_one_and_what_is_no_phrase_stays():
    before = np.array([0.01, 0.5, 0.999, 1.0], np.float32)
    after = raised(before, 1.0)
    assert (after[:3] > before[:3]).all()
    assert (after[:3] < 1.0).all()
    assert after[3] == 1.0
    assert raised(after, -1.0) == pytest.approx(before, abs=1e-5)


# -- learning ---------------------------------------------------------------------------------------------------------


def test_events_know_whether_something_was_played(inference):
    before = say(inference, 7)
    inference.playing = True
    meanwhile = say(inference, 8)
    inference.playing = False
    after = say(inference, 6)
    hear(inference, speech.silence(0.6))
    inference.playing = True  # it begins in the middle of a word
    played = hear(inference, speech.digit(5)[:3200])
    inference.playing = False
    played += hear(inference, speech.digit(5)[3200:], speech.silence(1.0))
    kept = {e["phrase"]: inference.recent.look(str(e["id"])).played for e in (before, meanwhile, after, *played)}
    assert kept == {"seven": False, "eight": True, "six": False, "five": True}


def test_nothing_that_is_said_meanwhile_is_taken_for_teaching(inference):
    taken: list[object] = []
    inference.attempt(taken.append)
    inference.playing = True
    hear(inference, speech.silence(0.6), speech.digit(4), speech.silence(3.0))
    assert taken == []
    inference.playing = False
    hear(inference, speech.silence(0.6), speech.digit(4), speech.silence(3.0))
    assert isinstance(taken[0], Taken)


@story
async def test_what_is_heard_meanwhile_is_neither_counted_nor_corrected_nor_consent(folder, monkeypatch):
    if not DATA.is_dir():
        absent("no recordings: set IDIOLECT_DATA to a folder of them")
    async with Home(folder) as home:
        recognizer = Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))
        ann = await home.agree()
        home.inference.listen_for(listening(recognizer.bundle, always=True), None, ann)
        people = People(home.personal, home.inference)
        consents: list[bool] = []

        async def granted() -> None:
            consents.append(True)

        monkeypatch.setattr(home.personal, "_heard_yes", granted)
        home.inference.told = home.personal.heard
        home.inference.playing = True
        event = say(home.inference, 7)
        assert event["profile"] == ann
        assert (home.personal._counts, home.personal._said) == ({}, [])
        for asked in (people.correct(str(event["id"]), "six", ""), people.confirm(str(event["id"]), "")):
            with pytest.raises(RequestError, match="nothing is learnt") as refused:
                await asked
            assert (refused.value.status, refused.value.field) == (409, "playback")
        home.personal.ask(True)
        sound = to_int16(read(sorted((DATA / "speech_commands" / "yes").glob("*"))[0]))
        for playing in (True, False):
            home.inference.playing = playing
            events = hear(home.inference, speech.silence(1.0), sound, speech.silence(1.0))
            assert [e["phrase"] for e in events] == ["yes"]
            await asyncio.sleep(0.05)
            assert consents == [True] * (not playing)
        home.inference.playing = False
        event = say(home.inference, 7)
        assert home.personal._counts[ann]["seven"] == 1
        assert (await people.correct(str(event["id"]), "seven", ""))["example"] == 1


# -- the lease --------------------------------------------------------------------------------------------------------


def states(hub: EventStream) -> list[object]:
    return [e["playback"]["active"] for e in hub.recent() if "playback" in e]


@pytest.mark.pace
def test_it_ends_by_itself_and_can_be_renewed(inference):
    async def scenario() -> None:
        box = Playback(inference._hub, EventIds(), inference)
        assert box.status() == {"active": False, "until": None}
        begun = box.playback(0.2)
        assert (begun["active"], inference.playing) == (True, True)
        assert begun["until"] == pytest.approx(time.time() + 0.2, abs=0.2)
        box.playback(60)
        await asyncio.sleep(0.3)
        assert inference.playing
        box.playback(0.1)
        while inference.playing:
            await asyncio.sleep(0.02)
        assert (box.status(), inference.playing) == ({"active": False, "until": None}, False)
        box.playback(60)
        box.playback(None)
        box.playback(None)
        assert not inference.playing

    asyncio.run(scenario())
    assert states(inference._hub) == [True, False, True, False]


# -- how it is said ---------------------------------------------------------------------------------------------------


def test_over_the_api(run):
    assert run.client.post("/v1/playback", {"active": True})["playback"]["active"] is True
    run.client.post("/v1/playback", {"active": True, "for_s": 3600})
    run.client.post("/v1/playback", {"active": True, "for_s": 1.5})
    assert run.client.post("/v1/playback", {"active": False})["playback"] == {"active": False, "until": None}
    assert run.daemon.box.leases == [300.0, 3600.0, 1.5, None]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "active"),
        ({"active": "yes"}, "active"),
        ({"active": 1}, "active"),
        ({"active": True, "for_s": 0.5}, "for_s"),
        ({"active": True, "for_s": 3601}, "for_s"),
        ({"active": True, "for_s": True}, "for_s"),
        ({"active": True, "for_s": None}, "for_s"),
        ({"active": True, "for_s": "60"}, "for_s"),
        ({"active": False, "for_s": 60}, "for_s"),
        ({"active": True, "for": 60}, "for"),
    ],
)
def test_bad_wishes_are_refused_by_name(run, body, field):
    status, answer, _ = run.ask("POST", "/v1/playback", body)
    assert (status, answer["error"]["field"]) == (422, field)
    assert run.daemon.box.leases == []


def test_over_the_command_line(run, capsys):
    socket = ["--socket", str(run.path)]
    assert main.main([*socket, "playback", "on", "--for", "10m"]) == 0
    assert "on for 600 s" in capsys.readouterr().out
    assert main.main([*socket, "playback", "on"]) == 0
    assert main.main([*socket, "--json", "playback", "off"]) == 0
    assert '"active": false' in capsys.readouterr().out
    assert run.daemon.box.leases == [600.0, 300.0, None]
    with pytest.raises(SystemExit):
        main.main([*socket, "playback", "on", "--for", "2h"])
    assert "up to" not in capsys.readouterr().out


# -- the whole daemon -------------------------------------------------------------------------------------------------


@pytest.fixture
def living(tmp_path, sounds):
    require_wavmic()
    home = Living(tmp_path).begin()
    yield home
    home.stop()


@pytest.mark.pace
def test_people_and_a_box_that_plays(living):
    living.agree("enrol", "adapt_corrections")
    living.idiolect("profile", "ann")
    assert living.status()["playback"] == {"active": False, "until": None}
    assert "on for 60 s" in living.idiolect("playback", "on", "--for", "1m")
    assert living.status()["playback"]["active"] is True
    with pytest.raises(RequestError, match="playback"):
        living.client.post("/v1/enrol", {"profile": "ann", "phrase": PHRASE})
    (event,) = living.say(speech.digit(4))
    with pytest.raises(RequestError, match="nothing is learnt"):
        living.client.post("/v1/correct", {"event": event["id"], "phrase": "four"})
    assert "off" in living.idiolect("playback", "off")
    with pytest.raises(RequestError, match="nothing is learnt"):  # it was on when that was said
        living.client.post("/v1/correct", {"event": event["id"], "phrase": "four"})
    (event,) = living.say(speech.digit(5))
    assert living.client.post("/v1/correct", {"event": event["id"], "phrase": "five"})["example"] == 1
    changes = [e for e in living.client.get("/v1/events/recent")["events"] if e["kind"] == "state"]
    assert [e["playback"]["active"] for e in changes if "playback" in e] == [True, False]
    assert "running" in [e["microphone"]["state"] for e in changes if "microphone" in e]

    living.idiolect("playback", "on", "--for", "1h")
    living.stop()
    living.begin()  # a restart forgets it
    assert living.status()["playback"] == {"active": False, "until": None}
    state, seen = living.teach([take(0.92), take(1.0, 0.6), take(1.1)])
    assert state["state"] == "done", seen
