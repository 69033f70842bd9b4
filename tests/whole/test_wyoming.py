"""The whole daemon with its Wyoming socket, over a TCP proxy as in a network, and the hand-off beside it."""

import asyncio
import os
import pwd
import socket
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("wyoming", reason="pip install '.[wyoming]'")

from wyoming.asr import Transcribe
from wyoming.client import AsyncClient
from wyoming.info import Describe, Info
from wyoming.wake import Detect

from tests.support import speech
from tests.support.alsa import require_wavmic
from tests.support.talk import Talker
from tests.support.wyoming_talk import say, spoken, until, words
from tests.whole.test_service import DIGITS, Daemon

ME = pwd.getpwuid(os.geteuid()).pw_name
MORE = """\
wyoming: {{enabled: true, socket: {folder}/wyoming.sock, microphone: true, max_clients: 8}}
handoff: {{user: {user}, socket: {folder}/handoff.sock}}
keystore: file
"""


class Speaker(Daemon):
    """A daemon that others may listen to, with somebody in front of it."""

    def __init__(self, folder):
        super().__init__(folder, speech.silence(0.1), speed=2.0, mode="wake", phrases=DIGITS)
        self.talker = Talker(folder / "audio.raw", 2.0)
        self.config.write_text(self.config.read_text() + MORE.format(folder=folder, user=ME))

    def begin(self):
        self.start().ready()
        self.talker.follow(self.client)
        return self

    def wyoming(self):
        return AsyncClient.from_uri(f"unix://{self.folder}/wyoming.sock", read_timeout=60)

    def handoff(self):
        return AsyncClient.from_uri(f"unix://{self.folder}/handoff.sock", read_timeout=60)


@pytest.fixture
def daemon(tmp_path, sounds):
    require_wavmic()
    one = Speaker(tmp_path).begin()
    yield one
    one.stop()


def test_the_microphone_and_clients_are_heard_apart(daemon):
    async def scenario():
        async with daemon.wyoming() as local, daemon.wyoming() as it, daemon.handoff() as program:
            await local.write_event(Detect().event())
            await it.write_event(Describe().event())
            info = Info.from_event((await until(it, "info"))[0])
            assert [m.name for m in info.wake[0].models] == ["computer", "jarvis", "alexa"]
            await it.write_event(Transcribe().event())
            await say(it, words(4))
            assert (await until(it, "transcript"))[0].data["text"] == "four"
            assert daemon.status()["handoff"] == {"user": ME, "connected": True}

            said = np.concatenate([spoken("computer"), speech.digit(7), speech.silence(1.0)])
            await asyncio.to_thread(daemon.talker.say, said, wait=False)
            event, before = await until(local, "detection")
            assert (event.data["name"], before) == ("computer", [])
            assert (await until(program, "audio-start"))[1] == ["detection"]
            await local.write_event(Transcribe().event())
            assert (await until(local, "transcript"))[0].data["text"] == "seven"
            event, before = await until(program, "transcript")
            assert (event.data["text"], before[-1]) == ("seven", "audio-stop")
            assert set(before[:-1]) == {"audio-chunk"}

    asyncio.run(scenario())
    # what the client sent is nobody's event; what the microphone heard is
    daemon.wait(lambda: daemon.heard() == ["seven"])
    assert [e["phrase"] for e in daemon.events("wake")] == ["computer"]
    assert daemon.status()["events"] == 2
    daemon.wait(lambda: daemon.status()["handoff"]["connected"] is False)
    daemon.stop()
    for content in ("computer", "seven", "four"):
        assert content not in daemon.log
    assert "handoff: it is gone" in daemon.log


PROXY = "/lib/systemd/systemd-socket-proxyd"


@pytest.mark.skipif(not os.path.exists(PROXY), reason="systemd-socket-proxyd is not installed")  # noqa: PTH110
def test_over_tcp_through_the_proxy_of_the_unit(daemon):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    activate = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", PROXY, str(daemon.folder / "wyoming.sock")]
    proxy = subprocess.Popen(activate, stderr=subprocess.DEVNULL)

    async def scenario():
        for _ in range(100):
            try:
                async with AsyncClient.from_uri(f"tcp://127.0.0.1:{port}", read_timeout=60) as it:
                    await it.write_event(Detect(names=["computer"]).event())
                    await say(it, spoken("computer"))
                    return (await until(it, "detection"))[0].data["name"]
            except OSError:
                await asyncio.sleep(0.05)
        raise AssertionError("no proxy")

    try:
        assert asyncio.run(scenario()) == "computer"
    finally:
        proxy.terminate()
        proxy.wait(60)


def test_without_the_library_the_daemon_serves_all_else_and_says_what_is_missing(tmp_path, sounds):
    require_wavmic()
    hidden = tmp_path / "hidden" / "wyoming"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError")
    one = Speaker(tmp_path)
    one.errors = (tmp_path / "stderr").open("ab")
    environment = os.environ | one.mic.environment | {"PYTHONPATH": str(hidden.parent)}
    command = [sys.executable, "-m", "idiolect", "--config", str(one.config)]
    one.process = subprocess.Popen(command, env=environment, stderr=one.errors)
    try:
        one.ready()
        assert one.status()["handoff"] == {"user": ME, "connected": False}
        assert not (tmp_path / "wyoming.sock").exists()
        assert one.log.count("needs the Python package wyoming") == 2
    finally:
        one.stop()


def test_the_library_is_loaded_where_somebody_asks_for_it_and_nowhere_else():
    code = "import sys, idiolect.service.service; print(*(m for m in sys.modules if m.split('.')[0] == 'wyoming'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
