"""One microphone for the daemon and for the assistant that follows the wake word: PipeWire, and ALSA's dsnoop.

Real parts throughout. PipeWire records from the tests' ALSA plugin, as it would from a card. dsnoop shares kernel
devices only, so it needs one: a card, or snd-aloop.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import soxr

from tests.support.alsa import pipewire, require_wavmic
from tests.whole.test_service import Daemon, room

SPOKEN = (4, 2, 7, 1)
WORDS = ["four", "two", "seven", "one"]


class Sharer(Daemon):
    """The daemon, in the environment that knows the shared microphone."""

    environment: dict[str, str]

    def start(self):
        self.errors = (self.folder / "stderr").open("ab")
        command = [sys.executable, "-m", "idiolect", "--config", str(self.config)]
        self.process = subprocess.Popen(command, env=os.environ | self.environment, stderr=self.errors)
        return self

    def ready(self):
        self.wait(lambda: self.status() is not None, 40)  # this file's tests also run on emulated boards
        return self

    def hears(self, count=3, seconds=20.0):
        """Wait for so many more phrases; they have to be those that are spoken, in their order."""
        before = len(self.heard())
        self.wait(lambda: len(self.heard()) >= before + count, seconds)
        got = self.heard()[before:]
        first = WORDS.index(got[0])
        assert got == [WORDS[(first + i) % len(WORDS)] for i in range(len(got))]

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def load(self, seconds):
        """The part of a processor that it uses."""
        used, began = self.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        return (self.cpu_seconds() - used) / (time.monotonic() - began)


def samples_of(path):
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels()) == (16_000, 1)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)


def likeness(recorded, spoken):
    """Correlation of a recording with that part of what is spoken over and over which it resembles most."""
    spoken = np.concatenate([spoken, spoken]).astype(float)
    size = 1 << (len(spoken) + len(recorded)).bit_length()
    match = np.fft.irfft(np.fft.rfft(spoken, size) * np.conj(np.fft.rfft(recorded, size)), size)
    at = int(match[: len(spoken) - len(recorded)].argmax())
    return np.corrcoef(recorded, spoken[at : at + len(recorded)])[0, 1]


def record(path, device, environment, seconds=4, **as_whom):
    command = ["arecord", "-q", "-D", device, "-f", "S16_LE", "-r", "16000", "-c", "1", "-d", str(seconds), str(path)]
    return subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True, **as_whom)


@pytest.fixture
def shared(tmp_path):
    """A daemon that listens through a PipeWire, which records from a plugin; both still to be started."""
    require_wavmic()
    if reason := pipewire.missing():
        pytest.skip(reason)
    daemon = Sharer(tmp_path, room(*SPOKEN), speed=1.0, eof="loop")
    server = pipewire.PipeWire(tmp_path, daemon.mic)
    daemon.environment = server.environment
    daemon.write(device="pipewire")
    yield daemon, server
    daemon.stop()
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("device", ["pipewire", f"pipewire:NODE={pipewire.PipeWire.node}"])
def test_through_pipewire_two_programs_hear_the_same(shared, tmp_path, device):
    d, server = shared
    server.start()
    d.write(device=device)
    d.start().ready().hears(1)
    alsa = record(tmp_path / "alsa.wav", device, server.environment)
    native = ["pw-record", "--rate", "16000", "--channels", "1", "--format", "s16", str(tmp_path / "native.wav")]
    native = subprocess.Popen(native, env=os.environ | server.environment)
    held = record(tmp_path / "card.wav", d.mic.device, d.mic.environment)
    assert "busy" in held.communicate(timeout=60)[1]  # the card itself is PipeWire's alone
    d.hears(3)
    assert alsa.wait(60) == 0
    native.terminate()
    native.wait(60)
    spoken = room(*SPOKEN)
    for name in ("alsa.wav", "native.wav"):
        recorded = samples_of(tmp_path / name)[8_000:56_000]
        assert len(recorded) == 48_000
        assert likeness(recorded, spoken) > 0.98, name
    assert d.microphone["state"] == "running"
    assert (d.microphone["overruns"], d.microphone["dropped_blocks"], d.microphone["reopened"]) == (0, 0, 0)
    assert (d.microphone["rate"], d.microphone["channels"]) == (16_000, 1)
    assert d.load(3.0) < 0.2  # a reader that trusts the plugin's descriptor spins, with half a processor


@pytest.mark.slow
def test_pipewire_may_come_late_and_may_be_restarted(shared):
    d, server = shared
    d.start().ready()
    d.wait(lambda: d.microphone["state"] == "absent")
    assert "PipeWire" in d.microphone["fix"]
    server.start()
    d.hears(2, 30)
    server.stop()
    d.wait(lambda: d.microphone["state"] == "absent")
    assert "PipeWire" in d.microphone["fix"]
    assert d.load(2.0) < 0.1
    threads = len(list(Path(f"/proc/{d.process.pid}/task").iterdir()))
    server.start()
    d.hears(2, 30)
    assert d.microphone["reopened"] >= 1
    assert threads < 10
    assert "Traceback" not in d.log


# -- dsnoop ---------------------------------------------------------------------------------------------------------

# The names differ from those of the documentation, as the machine's own asound.conf is read after this.
DSNOOP = """\
</usr/share/alsa/alsa.conf>
pcm.tests_hw {{
    type dsnoop
    ipc_key {key}
    ipc_key_add_uid false
    ipc_perm 0660
    ipc_gid audio
    slave {{
        pcm "{card}"
        format S16_LE
        rate 48000
        channels 2
        period_size 1920
        buffer_size 61440
    }}
}}
pcm.tests_mic {{
    type plug
    slave.pcm "tests_hw"
}}
"""
NOBODY = 65_534


def loopback():
    """Number of the snd-aloop card: what is played on its device 0 is recorded from its device 1."""
    try:
        cards = Path("/proc/asound/cards").read_text()
    except OSError:
        cards = ""
    found = re.search(r"^ *(\d+) \[Loopback", cards, re.MULTILINE)
    if not found:
        pytest.skip("dsnoop shares devices of the kernel only, and there is no snd-aloop here: modprobe snd-aloop")
    return found[1]


def test_dsnoop_refuses_what_is_no_device_of_the_kernel(tmp_path):
    """So the plugin of the other tests cannot stand in for a card."""
    require_wavmic()
    d = Sharer(tmp_path, room(*SPOKEN))
    conf = tmp_path / "dsnoop.conf"
    conf.write_text(DSNOOP.format(key=0x1D10, card=d.mic.device))
    environment = {"ALSA_CONFIG_PATH": f"{d.mic.config}:{conf}"}
    done = record(tmp_path / "no.wav", "tests_hw", environment)
    assert "Invalid type 'wavmic' for slave PCM" in done.communicate(timeout=60)[1]


@pytest.mark.slow
def test_through_dsnoop_two_users_hear_the_same(tmp_path):
    card = loopback()
    conf = tmp_path / "dsnoop.conf"
    conf.write_text(DSNOOP.format(key=0x1D10 + os.getpid(), card=f"hw:{card},1,0"))
    d = Sharer(tmp_path, room(*SPOKEN))
    d.environment = {"ALSA_CONFIG_PATH": str(conf)}
    d.write(device="tests_mic")
    spoken = tmp_path / "spoken.wav"
    with wave.open(str(spoken), "wb") as file:
        file.setparams((2, 2, 48_000, 0, "NONE", ""))
        loud = np.tile(soxr.resample(room(*SPOKEN).astype(np.float32), 16_000, 48_000), 10)
        file.writeframes(np.repeat(np.clip(loud, -32_768, 32_767).astype("<i2"), 2).tobytes())
    # as root, the assistant is another user, who has nothing but the group audio
    other = {"user": NOBODY, "group": "audio", "extra_groups": []} if os.geteuid() == 0 else {}
    recording = tmp_path / "recordings"
    recording.mkdir(mode=0o777)
    for folder in (recording, tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | (0o777 if folder == recording else 0o011))
    conf.chmod(0o644)
    player = subprocess.Popen(["aplay", "-q", "-D", f"hw:{card},0,0", str(spoken)])
    try:
        first = record(recording / "first.wav", "tests_mic", d.environment, 15, **other)
        time.sleep(1)
        d.start().ready().hears(1)
        second = record(recording / "second.wav", "tests_mic", d.environment, 4, **other)
        d.hears(3)
        assert second.wait(60) == 0, second.stderr.read()
        assert first.wait(60) == 0, first.stderr.read()
        assert likeness(samples_of(recording / "second.wav")[8_000:56_000], room(*SPOKEN)) > 0.95
        count = len(d.heard())
        d.wait(lambda: len(d.heard()) > count, 12)  # whoever came first is gone, and it goes on
        assert (d.microphone["overruns"], d.microphone["reopened"]) == (0, 0)
    finally:
        d.stop()
        player.terminate()
        player.wait(60)
