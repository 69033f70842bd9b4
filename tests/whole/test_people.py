"""People at the whole daemon: consent, teaching through the microphone, mistakes, forgetting, what never happens."""

import getpass
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from bundlebuild.augment import stretch
from idiolect.errors import RequestError
from tests.support import speech
from tests.support.alsa import require_wavmic
from tests.support.talk import Talker
from tests.whole.test_service import Daemon

pytestmark = pytest.mark.pace
"""Enrolment gives people so many seconds to speak, and here they pass three times as fast."""

SPEED = 3.0
PHRASE = "do not disturb"
PAIRED = "[zero, one, two, three, four, five, six, seven, eight, nine, stop, up]"


def take(pace, level=1.0, name="do-not-disturb"):
    """The one recording there is of it, at another pace and level: another take as far as an encoder can tell."""
    audio = speech.recording(speech.SOUNDS / f"{name}.wav").astype(np.float32) * level
    return np.clip(stretch(audio, pace), -32768, 32767).astype(np.int16)


class Home(Daemon):
    """A daemon with a talker in front of it, and ``ann`` paired with the user who runs the tests."""

    def __init__(self, folder):
        super().__init__(folder, speech.silence(0.1), speed=SPEED, phrases=PAIRED)
        self.talker = Talker(folder / "audio.raw", SPEED)
        people = f"people: {{ann: {{users: [{getpass.getuser()}]}}}}\nkeystore: file\n"
        self.config.write_text(self.config.read_text() + people)

    def begin(self):
        self.start().ready()
        self.wait(lambda: self.status()["personalization"]["state"] == "on")
        self.talker.follow(self.client)
        return self

    def idiolect(self, *arguments, typed="", code=0):
        command = [sys.executable, "-m", "idiolect.cli.main", *arguments]
        environment = {"IDIOLECT_SOCKET": str(self.folder / "control.sock"), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            command, env=environment, input=typed, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout

    def agree(self, *purposes):
        wanted = [word for purpose in purposes for word in ("--purpose", purpose)]
        return self.idiolect("consent", "grant", "ann", *wanted, typed="yes\n")

    def teach(self, takes, phrase=PHRASE, samples=3):
        """Enrol over the API, speaking when it listens; the states that were seen."""
        self.client.post("/v1/enrol", {"profile": "ann", "phrase": phrase, "samples": samples})
        seen, spoken, ends = [], 0, time.monotonic() + 240
        while time.monotonic() < ends:
            state = self.client.get("/v1/enrol")
            if not seen or (state["state"], state["attempts"]) != seen[-1][:2]:
                seen.append((state["state"], state["attempts"], state["reason"]))
                if state["state"] == "listening" and state["attempts"] > spoken and spoken < len(takes):
                    time.sleep(0.1)
                    self.talker.say(takes[spoken], wait=False)
                    spoken += 1
            if state["state"] in ("done", "failed", "cancelled"):
                return state, seen
            time.sleep(0.01)
        raise AssertionError(seen)

    def say(self, samples):
        """What is heard of it: the events, oldest first."""
        before = {e["id"] for e in self.events() + self.events("rejected")}
        self.talker.say(samples)
        self.talker.passed(0.7)
        time.sleep(0.1)  # from the microphone to the event
        fresh = [e for e in self.events() + self.events("rejected") if e["id"] not in before]
        return sorted(fresh, key=lambda e: e["end"])


@pytest.fixture
def home(tmp_path, sounds):
    require_wavmic()
    one = Home(tmp_path).begin()
    yield one
    one.stop()


def test_from_consent_to_oblivion(home):
    with pytest.raises(RequestError, match="nobody of that name"):
        home.client.post("/v1/enrol", {"profile": "ann", "phrase": PHRASE})
    assert "agreed to" in home.agree("enrol", "adapt_corrections", "usage")
    assert PHRASE not in [e["phrase"] for e in home.say(take(1.04))]

    state, seen = home.teach([take(0.92), take(1.0, 0.6), take(1.1)])
    assert (state["state"], state["taken"]) == ("done", 3), seen
    assert state["result"]["state"] == "canary"
    heard = home.say(take(1.05, 0.8))
    assert [e["phrase"] for e in heard] == [PHRASE], heard
    assert heard[0]["profile"] == state["result"]["profile"]
    assert heard[0]["adapter"] == 1
    assert [e["phrase"] for e in home.say(speech.digit(7))] == ["seven"]

    proof = home.idiolect("audit", "verify", "--adapter", "1", "--of", "ann")
    assert proof.count("ok") == 5, proof
    review = json.loads(home.idiolect("review", "ann", "--json"))
    assert len(review["examples"]) == 3
    assert "3 exam" in home.idiolect("explain", "ann")

    home.idiolect("forget", "ann", "--phrase", PHRASE)
    assert PHRASE not in [e["phrase"] for e in home.say(take(1.05, 0.8))]
    assert json.loads(home.idiolect("review", "ann", "--json"))["examples"] == []
    assert "OK" in home.idiolect("audit", "verify")
    for secret in (PHRASE, "disturb", "ann"):
        assert secret not in home.log
    spoken = take(0.92).astype("<i2").tobytes()[8000:8400]
    for path in (home.folder / "state").rglob("*"):
        if path.is_file():
            assert spoken not in path.read_bytes()
            assert PHRASE.encode() not in path.read_bytes()


def test_a_mistake_is_corrected_once(home):
    home.agree("enrol", "adapt_corrections")
    home.idiolect("profile", "ann")
    (event,) = home.say(speech.digit(4))
    answer = home.client.post("/v1/correct", {"event": event["id"], "phrase": "four"})
    assert answer["example"] == 1
    with pytest.raises(RequestError, match="not in memory"):
        home.client.post("/v1/correct", {"event": event["id"], "phrase": "four"})
    (event,) = home.say(speech.digit(5))
    with pytest.raises(RequestError, match="not known"):
        home.client.post("/v1/correct", {"event": event["id"], "phrase": "never taught"})
    for number in range(1000):
        with pytest.raises(RequestError, match="not in memory"):
            home.client.post("/v1/correct", {"event": f"x-{number}", "phrase": "five"})
    assert len(json.loads(home.idiolect("review", "ann", "--json"))["examples"]) == 1


def test_attempts_that_are_not_good_enough_are_refused_with_the_reason(home):
    home.agree("enrol")
    clipped = np.clip(take(1.0).astype(np.int32) * 40, -32768, 32767).astype(np.int16)
    state, seen = home.teach([clipped, take(1.0, 0.01), take(1.0), take(1.0), take(0.9), take(1.12)])
    reasons = [reason.split(":")[0] for what, _, reason in seen if what == "refused"]
    assert state["state"] == "done", seen
    assert reasons[0] == "clipped"
    assert reasons[1].startswith(("too quiet", "nothing was said"))
    assert "the same recording again" in reasons


def test_two_cannot_be_taught_at_once_and_a_pause_ends_learning(home):
    home.agree("enrol")
    home.client.post("/v1/enrol", {"profile": "ann", "phrase": PHRASE})
    with pytest.raises(RequestError, match="already"):
        home.client.post("/v1/enrol", {"profile": "ann", "phrase": "another"})
    assert home.client.delete("/v1/enrol")["state"] == "cancelled"
    home.idiolect("pause", "learning", "--for", "2h")
    with pytest.raises(RequestError, match="paused"):
        home.client.post("/v1/enrol", {"profile": "ann", "phrase": PHRASE})
    home.idiolect("resume", "learning")
    assert home.status()["personalization"]["state"] == "on"


def test_what_is_learnt_survives_a_restart(home):
    home.agree("enrol")
    state, seen = home.teach([take(0.92), take(1.0, 0.6), take(1.1)])
    assert state["state"] == "done", seen
    home.stop()
    home.begin()
    assert home.status()["personalization"]["taught"] == 1
    assert PHRASE not in json.dumps(home.status())
    assert PHRASE in [e["phrase"] for e in home.say(take(1.05))]


def test_a_take_is_kept_on_request_and_another_one_taken_back(home):
    home.agree("enrol")
    home.client.post("/v1/enrol", {"profile": "ann", "phrase": PHRASE, "samples": 3})

    def until(attempts, *states):
        home.wait(lambda: _stands(home.client.get("/v1/enrol"), attempts, states))
        return home.client.get("/v1/enrol")

    def speak(attempt, sound):
        until(attempt, "listening")
        home.talker.say(sound, wait=False)
        return until(attempt + 1, "listening")

    assert speak(1, take(0.92))["takes"] == [1]
    refused = speak(2, speech.digit(7))
    assert (refused["takes"], refused["keepable"], refused["reason"][:6]) == ([1], True, "unlike")
    assert "less surely" in home.idiolect("enroll", "--keep")
    assert home.client.get("/v1/enrol")["takes"] == [1, 2]
    with pytest.raises(RequestError, match="only a take that was just refused"):
        home.client.keep_take()
    assert "counts no more" in home.idiolect("enroll", "--take-back", "2")
    with pytest.raises(RequestError, match="there are: 1"):
        home.client.take_back(2)
    assert speak(3, take(1.0, 0.6))["takes"] == [1, 3]
    until(4, "listening")
    home.talker.say(take(1.1), wait=False)
    home.wait(lambda: home.client.get("/v1/enrol")["state"] == "done")
    assert [e["phrase"] for e in home.say(take(1.05, 0.8))] == [PHRASE]
    assert PHRASE not in home.log


def _stands(state, attempts, states):
    return state["attempts"] >= attempts and state["state"] in states
