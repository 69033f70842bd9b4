"""The sound of turns for one program: who gets in, what it gets and when that ends, and that it costs nobody else."""

import asyncio
import os
import pwd
import socket
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest

pytest.importorskip("wyoming", reason="pip install '.[wyoming]'")

from wyoming.audio import AudioChunk
from wyoming.client import AsyncClient
from wyoming.event import Event
from wyoming.ping import Ping

from idiolect.control.sockets import make_listener
from idiolect.control.wyoming.handoff import HandoffServer
from idiolect.events import EventStream
from idiolect.listening.audio.capture import BlockQueue
from idiolect.listening.inference import EventIds, Inference
from idiolect.listening.recognizer import listening
from idiolect.listening.turns import LONGEST_S, TurnTap
from idiolect.values import BLOCK, Captured, Detection
from tests.support import speech
from tests.support.wyoming_talk import hung_up, recognizer, spoken, streams, until

ME = pwd.getpwuid(os.geteuid()).pw_name


# -- cutting turns out -------------------------------------------------------------------------------------------------


class Played:
    """A tap on a made-up microphone, whose samples count up."""

    def __init__(self):
        self.messages, self.position = [], 0
        self.tap = TurnTap(self.messages.append)

    def hear(self, blocks=1, *detections, state="listening"):
        for _ in range(blocks):
            samples = (np.arange(self.position, self.position + BLOCK) % 30_000).astype(np.int16)
            self.position += BLOCK
            self.tap(samples, detections, self.position, state)
        return self

    def found(self, kind, phrase="", late=0):
        return Detection(kind, phrase, 0.9, 0.5, 0.5, 0, self.position + BLOCK - late)

    @property
    def kinds(self):
        return [message.kind for message in self.messages]

    @property
    def sound(self):
        return np.frombuffer(b"".join(message.sound for message in self.messages), "<i2")


def test_a_turn_is_what_follows_the_wake_word_to_the_last_sample():
    it = Played().hear(20, state="idle")
    assert it.messages == []
    end = it.position + BLOCK - 2000
    it.hear(1, it.found("wake", "computer", late=2000)).hear(10)
    it.hear(1, it.found("phrase", "seven"), state="idle").hear(5, state="idle")
    assert it.kinds == ["wake", *["sound"] * 12, "stop", "phrase"]
    assert np.array_equal(it.sound, np.arange(end, end + 2000 + 11 * BLOCK) % 30_000)
    assert {message.turn for message in it.messages} == {1}
    sounds = [message for message in it.messages if message.kind == "sound"]
    assert [m.position for m in sounds] == [end, *range(end + 2000, end + 2000 + 11 * BLOCK, BLOCK)]


def test_a_turn_ends_when_time_is_up_and_after_fifteen_seconds_at_most():
    it = Played()
    it.hear(1, it.found("wake", "computer")).hear(3).hear(3, state="idle")
    assert it.kinds == ["wake", *["sound"] * 4, "stop"]
    it = Played()  # as where any phrase is heard at any time: nothing ends it
    it.hear(1, it.found("wake", "computer"), state="always").hear(400, state="always")
    assert (it.kinds[-1], it.kinds.count("stop")) == ("stop", 1)
    assert len(it.sound) == LONGEST_S * 16_000


def test_a_second_wake_word_begins_another_turn_and_a_rejected_try_none():
    it = Played()
    it.hear(1, it.found("wake", "computer")).hear(2).hear(1, it.found("rejected")).hear(1, it.found("wake", "jarvis"))
    assert it.kinds == ["wake", "sound", "sound", "sound", "stop", "wake"]
    assert it.messages[-1].turn == 2


def test_a_phrase_without_a_wake_word_is_none_of_its_business():
    it = Played()
    it.hear(1, it.found("phrase", "stop"), state="idle").hear(1, it.found("phrase", "stop"), state="always")
    assert it.messages == []


# -- the socket -------------------------------------------------------------------------------------------------------


class Room:
    """Real inference on a thread, into which one speaks."""

    def __init__(self, **wishes):
        self.queue, self.hub = BlockQueue(4000), EventStream()
        chain = recognizer().chain(listening(recognizer().bundle, **wishes))
        self.inference = Inference(chain, self.queue, self.hub, EventIds(), lambda: None)
        self.thread = threading.Thread(target=self.inference.run)

    async def say(self, samples):
        """Forty times faster than life."""
        for first in range(0, len(samples) // BLOCK * BLOCK, BLOCK):
            self.queue.put(Captured(samples[first : first + BLOCK]))
            await asyncio.sleep(0.002)


@asynccontextmanager
async def handing(folder, user=ME, **wishes):
    """A room, and a server that hands on what is said in it."""
    room = Room(**wishes)

    def attach(tap):
        room.inference.tap = tap

    def opening():
        listener = make_listener(folder / "handoff.sock", "handoff")
        (folder / "handoff.sock").chmod(0o666)
        return listener

    room.server = HandoffServer(streams(), user, opening, attach)
    await room.server.start()
    room.thread.start()
    try:
        yield room
    finally:
        await room.server.stop()
        room.queue.close()
        await asyncio.to_thread(room.thread.join, 5)


def program(folder):
    return AsyncClient.from_uri(f"unix://{folder}/handoff.sock", read_timeout=60)


async def condition(holds):
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen in time")


def story(scenario):
    def test(tmp_path, sounds):
        asyncio.run(asyncio.wait_for(scenario(tmp_path), 60))

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


@story
async def test_it_gets_the_very_samples_behind_the_wake_word_and_what_was_understood(folder):
    said = np.concatenate([spoken("computer"), speech.digit(7), speech.silence(1.5)])
    async with handing(folder) as room, program(folder) as it:
        await it.write_event(Ping("here").event())
        await until(it, "pong")
        assert room.server.connected
        await room.say(said)
        detection, before = await until(it, "detection")
        assert (detection.data["name"], detection.data["speaker"], before) == ("computer", None, [])
        start = await it.read_event()
        assert (start.type, start.data["rate"], start.data["width"], start.data["channels"]) == (
            "audio-start",
            16_000,
            2,
            1,
        )
        heard = b""
        while (event := await it.read_event()).type == "audio-chunk":
            heard += AudioChunk.from_event(event).audio
        assert event.type == "audio-stop"
        transcript = await it.read_event()
        assert (transcript.type, transcript.data["text"]) == ("transcript", "seven")
        first = detection.data["timestamp"] * 16
        got = np.frombuffer(heard, "<i2")
        assert len(got) > 0.3 * 16_000
        assert np.array_equal(got, said[first : first + len(got)])
        word = np.flatnonzero(np.abs(spoken("computer").astype(int)) > 300)[-1]
        assert abs(first - word) < 4000


@story
async def test_nothing_is_copied_while_nobody_is_there_and_nothing_of_before_is_handed_over(folder):
    async with handing(folder) as room:
        await room.say(np.concatenate([spoken("computer"), speech.digit(7), speech.silence(1.0)]))
        await condition(lambda: room.hub.published >= 4)
        assert room.inference.tap is None
        assert not room.server.connected
        async with program(folder) as it:
            await condition(lambda: room.inference.tap is not None)
            await room.say(speech.silence(1.0))
            await room.say(spoken("jarvis"))
            event, before = await until(it, "detection")
            assert (event.data["name"], before) == ("jarvis", [])
        await condition(lambda: room.inference.tap is None)
        assert not room.server.connected


@story
async def test_a_turn_whose_microphone_was_released_is_ended(folder):
    async with handing(folder) as room, program(folder) as it:
        await condition(lambda: room.inference.tap is not None)
        await room.say(spoken("computer"))  # and then there is no more sound, not even silence
        await until(it, "audio-start")
        begun = time.monotonic()
        assert (await until(it, "audio-stop"))[0]
        assert 0.5 < time.monotonic() - begun < 30
        await room.say(np.concatenate([speech.silence(0.3), speech.digit(7), speech.silence(1.0)]))
        event, before = await until(it, "transcript")
        assert (event.data["text"], before) == ("seven", [])  # the rest of that turn's sound is not for it


def test_who_comes_second_is_told_so_and_the_first_stays(tmp_path, sounds, caplog):
    asyncio.run(second_program(tmp_path))
    assert caplog.text.count("a second program was refused") == 1  # nobody fills the journal by knocking


async def second_program(folder):
    async with handing(folder) as room, program(folder) as it:
        await condition(lambda: room.server.connected)
        async with program(folder) as second:
            (error,) = await hung_up(second)
            assert (error.type, error.data["code"]) == ("error", "busy")
        for _ in range(30):
            async with program(folder) as another:
                await hung_up(another)
        await room.say(spoken("computer"))
        assert (await until(it, "detection"))[0].data["name"] == "computer"


@story
async def test_who_does_not_read_is_cut_off_and_the_microphone_is_not_kept_waiting(folder):
    talk = np.concatenate([spoken("computer"), speech.sentences(12)])
    async with handing(folder, timeout_s=60) as room:
        with socket.socket(socket.AF_UNIX) as it:
            it.connect(str(folder / "handoff.sock"))
            await condition(lambda: room.server.connected)
            await room.say(talk)
            await condition(lambda: not room.server.connected)
            assert room.inference.tap is None
            await condition(lambda: room.queue.waiting == 0)
            got = b"".join(iter(lambda: it.recv(65_536), b""))
    assert b'"detection"' in got
    assert (
        8_000 < len(got) < 4 * 32_000
    )  # seconds at most of fifteen seconds, from the buffers; the rest was kept nowhere


@story
async def test_what_it_sends_besides_is_let_pass_or_ends_it(folder):
    async with handing(folder) as room:
        async with program(folder) as it:
            await it.write_event(Event("describe"))
            await it.write_event(Ping("x").event())
            assert (await until(it, "pong"))[1] == []
        async with program(folder) as it:
            await condition(lambda: not room.server.connected)
        async with program(folder) as it:
            await condition(lambda: room.server.connected)
            it._writer.write(b"nonsense\n")
            assert await hung_up(it) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to be somebody else")
@pytest.mark.parametrize(("user", "welcome"), [("daemon", True), ("nobody", False)])
def test_only_the_configured_user_and_root_get_in(tmp_path, user, welcome, caplog):
    """Each as a process of its own; root is every other test here."""
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import os, pwd, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(pwd.getpwnam(sys.argv[2]).pw_uid)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(3)\n"
        "s.sendall(b'{\"type\":\"ping\"}\\n'); said = b''\n"  # an event's header and data may come apart
        "while b'pong' not in said and (more := s.recv(4096)): said += more\n"
        "print(said.decode())"
    )

    async def scenario():
        async with handing(tmp_path, user="daemon"):
            command = [sys.executable, "-c", code, str(tmp_path / "handoff.sock"), user]
            return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)

    done = asyncio.run(scenario())
    assert ('"pong"' in done.stdout) == welcome, done
    assert ("handoff.user" in done.stdout) != welcome, done
    assert ("another user" in caplog.text) != welcome


@pytest.mark.skipif(os.geteuid() == 0, reason="root gets in anyway")
def test_a_user_that_there_is_not_lets_nobody_in(tmp_path):
    async def scenario():
        async with handing(tmp_path, user="nobody-of-that-name"), program(tmp_path) as it:
            (error,) = await hung_up(it)
            assert error.data["code"] == "user"

    asyncio.run(scenario())
