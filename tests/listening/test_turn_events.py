"""What lights and sounds are driven with: the events of a turn, and the example that follows them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bundlebuild.audio import read, to_int16
from idiolect.events import EventStream
from idiolect.listening.audio.capture import BlockQueue
from idiolect.listening.inference import EventIds, Inference
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle
from idiolect.values import BLOCK, GUEST, Captured
from tests.support import speech
from tests.support.alsa import require_wavmic
from tests.support.talk import Talker
from tests.whole.test_service import Daemon

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "lights.py"
SPEED = 3.0


@pytest.fixture(scope="module")
def wake(data):
    return to_int16(read(sorted((data / "phrases" / "computer").glob("*"))[0]))


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))


@pytest.fixture
def inference(recognizer):
    wish = listening(recognizer.bundle, timeout_s=5.0)
    return Inference(recognizer.chain(wish), BlockQueue(8), EventStream(), EventIds(), lambda: None)


def hear(inference: Inference, *sounds: np.ndarray, lost: int = 0) -> list[object]:
    """The kinds of events, and of the turn's state with why, in order."""
    before = inference._hub.published
    samples = np.concatenate(sounds)
    for first in range(0, len(samples) - BLOCK + 1, BLOCK):
        inference._take(Captured(samples[first : first + BLOCK], 0 if first else lost))
    fresh = inference._hub.recent()[before - inference._hub.published :] if inference._hub.published > before else []
    return [e["listening"] if e["kind"] == "state" else e["kind"] for e in fresh]


OPEN = {"state": "listening"}


def closed(after: str) -> dict[str, str]:
    return {"state": "idle", "after": after}


@pytest.mark.usefixtures("sounds")
def test_a_turn_says_why_it_ended(inference, recognizer, wake):
    quiet = speech.silence(0.6)
    assert hear(inference, quiet, wake, quiet) == ["wake", OPEN]
    assert hear(inference, speech.digit(3), quiet) == ["phrase", closed("phrase")]
    assert hear(inference, quiet, wake, quiet) == ["wake", OPEN]
    assert hear(inference, speech.silence(6.0)) == [closed("timeout")]
    assert hear(inference, quiet, wake, quiet) == ["wake", OPEN]
    tried = hear(inference, speech.recording(speech.SOUNDS / "goodbye.wav"), speech.silence(6.0))
    assert tried == ["rejected", closed("rejected")]
    assert hear(inference, quiet, wake, quiet) == ["wake", OPEN]
    assert hear(inference, quiet, lost=16_000) == [closed("interrupted")]
    assert hear(inference, quiet, wake, quiet) == ["wake", OPEN]
    inference.listen_for(listening(recognizer.bundle), None, GUEST)
    assert hear(inference, quiet) == [closed("interrupted")]
    inference.listen_for(listening(recognizer.bundle, always=True), None, GUEST)
    assert hear(inference, quiet) == [{"state": "always"}]


@pytest.fixture
def daemon(tmp_path, sounds):
    require_wavmic()
    it = Daemon(tmp_path, speech.silence(0.1), speed=SPEED, mode="wake", phrases="all")
    yield it.start().ready()
    it.stop()


def test_the_example_follows_a_daemon_through_its_day(daemon, wake, tmp_path):
    talker = Talker(tmp_path / "audio.raw", SPEED)
    talker.follow(daemon.client)
    daemon.wait(lambda: daemon.microphone["state"] == "running")
    with (tmp_path / "lights").open("w") as out:
        command = [sys.executable, str(EXAMPLE), str(tmp_path / "control.sock")]
        lights = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def shown() -> list[str]:
        return (tmp_path / "lights").read_text().splitlines()

    try:
        daemon.wait(lambda: shown() == ["light off"])
        time.sleep(0.3)  # until it follows
        talker.say(np.concatenate([wake, speech.silence(0.4), speech.digit(3)]))
        done = ["light off", "sound wake", "light blue", "sound done", "light off"]
        daemon.wait(lambda: len(shown()) >= len(done))
        assert shown() == done
        daemon.client.post("/v1/listening", {"active": False})
        daemon.wait(lambda: shown()[-1] == "light red")
        daemon.client.post("/v1/listening", {"active": True})
        daemon.wait(lambda: shown()[-1] == "light off")
        daemon.write(mode="wake", phrases="all", device="plughw:CARD=Nowhere")
        daemon.process.send_signal(1)  # SIGHUP: reload
        daemon.wait(lambda: shown()[-1] == "light red-blinking")
        daemon.stop()
        daemon.wait(lambda: shown()[-1] == "light purple")
        daemon.write(mode="wake", phrases="all")
        daemon.start()
        daemon.wait(lambda: shown()[-1] == "light off")
    finally:
        lights.terminate()
        lights.wait(60)
    assert not any("Traceback" in line for line in shown())
