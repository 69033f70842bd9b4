"""The whole daemon as a process: a microphone through libasound at one end, the control socket at the other."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from idiolect.client import Client, UnreachableError
from idiolect.listening.recognizer import bundle_directory
from tests.support import speech
from tests.support.alsa import require_wavmic
from tests.support.alsa.wavmic import WavMic

CONFIG = """\
audio: {{device: {device}}}
bundle: {bundle}
state_dir: {folder}/state
control: {{socket: {folder}/control.sock}}
listening: {{mode: {mode}, wake_words: all, phrases: {phrases}, always_on: []}}
"""
DIGITS = "[zero, one, two, three, four, five, six, seven, eight, nine]"


def room(*digits):
    parts = [speech.silence(0.6)]
    for number in digits:
        parts += [speech.digit(number), speech.silence(0.8)]
    return np.concatenate(parts)


class Daemon:
    """A running idiolectd; ``log`` is what it wrote to stderr."""

    def __init__(self, folder, samples, *, speed=4.0, eof="silence", mode="always", phrases=DIGITS, bundle="builtin"):
        self.folder = folder
        audio = folder / "audio.raw"
        audio.write_bytes(samples.astype("<i2").tobytes())
        self.mic = WavMic(folder, audio, speed=speed, eof=eof)
        self.config = folder / "idiolect.yaml"
        self.write(mode=mode, phrases=phrases, bundle=bundle)
        self.client = Client(str(folder / "control.sock"))
        self.process = None

    def write(self, mode="always", phrases=DIGITS, bundle="builtin", device=None):
        device = device or self.mic.device
        self.config.write_text(
            CONFIG.format(device=device, folder=self.folder, mode=mode, phrases=phrases, bundle=bundle)
        )

    def start(self):
        self.errors = (self.folder / "stderr").open("ab")
        command = [sys.executable, "-m", "idiolect", "--config", str(self.config)]
        self.process = subprocess.Popen(command, env=os.environ | self.mic.environment, stderr=self.errors)
        return self

    def ready(self):
        self.wait(lambda: self.status() is not None)
        return self

    def status(self):
        try:
            return self.client.get("/v1/status")
        except UnreachableError:
            assert self.process.poll() is None, self.log
            return None

    def wait(self, condition, seconds=120.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def events(self, kind="phrase"):
        return [e for e in self.client.get("/v1/events/recent")["events"] if e["kind"] == kind]

    def heard(self):
        return [e["phrase"] for e in self.events()]

    @property
    def microphone(self):
        return self.client.get("/v1/status")["microphone"]

    @property
    def log(self):
        return (self.folder / "stderr").read_text()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


@pytest.fixture
def daemon(tmp_path):
    require_wavmic()
    running = []

    def make(*args, **wishes):
        running.append(Daemon(tmp_path, *args, **wishes))
        return running[-1]

    yield make
    for one in running:
        one.stop()


def test_speech_through_libasound_becomes_events(daemon):
    d = daemon(room(4, 2, 7)).start().ready()
    d.wait(lambda: len(d.heard()) == 3)
    assert d.heard() == ["four", "two", "seven"]
    events = d.events()
    assert len({e["id"] for e in events}) == 3
    assert all(e["score"] >= e["threshold"] and e["profile"] == "guest" for e in events)
    assert abs(events[-1]["time"] - time.time()) < 600
    status = d.status()
    assert status["microphone"]["state"] == "running"
    assert (status["microphone"]["rate"], status["microphone"]["overruns"]) == (16_000, 0)
    assert status["keystore"] == "file (not hardware protected)"
    assert status["first_block_ms"] > 0  # how soon is for scripts/bench to say


def test_neither_phrases_nor_audio_reach_the_log_or_the_disk(daemon, tmp_path):
    d = daemon(room(4, 7)).start().ready()
    d.wait(lambda: len(d.heard()) == 2)
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    d.stop()
    assert "event: phrase" in d.log  # the log is alive
    assert "four" not in d.log
    assert "seven" not in d.log
    written = {str(p.relative_to(tmp_path)).partition("wavmic.ctl/")[0] for p in before} - {""}
    ours = {"audio.raw", "idiolect.yaml", "stderr", "wavmic.conf", "wavmic.raw", "wavmic.ctl"}
    kept = {f"state/{name}" for name in ("device.json", "keystore.json", "vault.db", "vault.db-wal", "last-good.json")}
    assert written <= ours | kept
    configured = tmp_path / "state" / "last-good.json"  # the words of idiolect.yaml, all of them
    assert json.loads(configured.read_bytes())["settings"]["listening"]["phrases"] == DIGITS[1:-1].split(", ")
    state = b"".join(p.read_bytes() for p in (tmp_path / "state").iterdir() if p != configured)
    assert len(state) < 200_000  # keys and an audit log; seconds of audio would be more
    assert b"four" not in state


@pytest.mark.pace
def test_sigterm_stops_within_a_second_and_removes_the_socket(daemon):
    d = daemon(room(1)).start().ready()
    began = time.monotonic()
    d.process.send_signal(signal.SIGTERM)
    assert d.process.wait(60) == 0
    assert time.monotonic() - began < 1.0
    assert not (d.folder / "control.sock").exists()
    assert "stopped" in d.log


def test_reload_changes_what_is_listened_for_without_a_gap(daemon):
    d = daemon(room(*[3, 8] * 20), speed=3.0).start().ready()
    d.wait(lambda: len(d.heard()) >= 2)
    d.write(phrases="[three]")
    d.process.send_signal(signal.SIGHUP)
    d.wait(lambda: "reloaded" in d.log)
    count = len(d.heard())
    d.wait(lambda: len(d.heard()) >= count + 4)
    assert set(d.heard()[count + 1 :]) == {"three"}
    assert d.microphone["reopened"] == 0


def test_a_bad_reload_is_refused_with_its_line_and_listening_goes_on(daemon):
    d = daemon(room(*[6] * 20), speed=3.0).start().ready()
    d.config.write_text("audio:\n  device: 7\nlistenning: {}\n")
    d.process.send_signal(signal.SIGHUP)
    d.wait(lambda: "reload refused" in d.log)
    assert f"{d.config}:2: audio.device" in d.log
    assert 'did you mean "listening"' in d.log
    count = len(d.heard())
    d.wait(lambda: len(d.heard()) > count)


def test_reload_moves_to_another_microphone(daemon, tmp_path):
    d = daemon(speech.silence(60)).start().ready()
    d.wait(lambda: d.microphone["state"] == "running")
    other = tmp_path / "other.raw"
    quiet = speech.silence(2.0)  # what is said at once after a change of microphones may be the rest of a word
    other.write_bytes(np.concatenate([quiet, room(9, 5)]).astype("<i2").tobytes())
    d.write(device=f"file:{other}")
    d.process.send_signal(signal.SIGHUP)
    d.wait(lambda: d.heard() == ["nine", "five"], 15)


def test_a_pause_releases_the_microphone_and_survives_a_restart(daemon):
    d = daemon(room(*[2] * 50), speed=2.0).start().ready()
    d.wait(d.heard)
    assert d.client.post("/v1/listening", {"active": False})["listening"]["state"] == "paused"
    d.wait(lambda: d.microphone["state"] == "paused")
    d.stop()
    d.start().ready()
    assert d.status()["listening"]["state"] == "paused"
    time.sleep(0.5)
    assert d.heard() == []
    d.client.post("/v1/listening", {"active": True})
    d.wait(d.heard)


def test_a_timed_pause_ends_by_itself(daemon):
    d = daemon(room(*[2] * 50), speed=2.0).start().ready()
    d.client.post("/v1/listening", {"active": False, "for_s": 1})
    d.wait(lambda: d.microphone["state"] == "paused")
    d.wait(lambda: d.status()["listening"]["state"] == "always", 4)
    d.wait(lambda: d.microphone["state"] == "running")


def test_a_damaged_pause_file_keeps_the_microphone_closed(daemon):
    d = daemon(room(2))
    (d.folder / "state").mkdir()
    (d.folder / "state" / "listening.json").write_text('{"paused": fal')
    d.start().ready()
    assert d.status()["listening"]["state"] == "paused"
    assert "staying paused" in d.log


def test_without_a_microphone_the_service_is_up_and_says_why(daemon):
    d = daemon(room(5), speed=2.0)
    d.mic.gone()
    d.start().ready()
    d.wait(lambda: d.microphone["state"] == "absent")
    assert d.microphone["fix"]
    checks = {c["check"]: c for c in d.client.get("/v1/doctor")["checks"]}
    assert (checks["microphone"]["ok"], checks["microphone"]["level"]) == (False, "fail")
    assert checks["microphone"]["fix"]
    d.mic.gone(False)
    d.wait(lambda: d.heard() == ["five"], 15)


def idiolect(daemon, *arguments):
    command = [sys.executable, "-m", "idiolect.cli.main", "--socket", str(daemon.folder / "control.sock"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_who_asks_is_told_that_nobody_can_be_heard(daemon):
    d = daemon(room(5), speed=2.0)
    d.mic.gone()
    d.start().ready()
    d.wait(lambda: d.microphone["state"] == "absent")
    said = idiolect(d, "status")
    assert said.returncode == 1
    assert "listening   nobody can be heard (microphone absent)" in said.stdout
    assert "waiting for a wake word" not in said.stdout
    assert idiolect(d, "status", "--json").returncode == 1
    command = [
        sys.executable,
        "-m",
        "idiolect.cli.main",
        "--socket",
        str(d.folder / "control.sock"),
        "listen",
        "--count=1",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as listening:
        assert listening.stderr.readline().startswith("idiolect: nobody can be heard: the microphone is absent: ")
        d.mic.gone(False)
        assert listening.stderr.readline() == "idiolect: the microphone is heard again\n"
        assert listening.wait(60) == 0
    assert idiolect(d, "status").returncode == 0
    assert idiolect(d, "pause", "listening").returncode == 0
    d.wait(lambda: d.microphone["state"] == "paused")
    assert idiolect(d, "status").returncode == 0, "somebody wanted it"


def test_the_log_says_when_the_microphone_goes_why_and_when_it_is_back(daemon):
    d = daemon(room(*[8] * 40), speed=2.0, eof="loop")
    d.mic.gone()
    d.start().ready()
    gone = "WARNING no sound from the microphone (absent): "
    d.wait(lambda: gone in d.log)
    time.sleep(2)
    assert d.log.count(gone) == 1, "not at each try"
    d.mic.gone(False)
    d.wait(lambda: "INFO the microphone is back after " in d.log, 30)
    d.mic.gone()
    d.wait(lambda: d.log.count(gone) == 2)
    d.stop()
    d.config.write_text(d.config.read_text() + "log_level: warning\n")
    d.start().ready()
    d.wait(lambda: d.log.count(gone) == 3)


def test_an_unplugged_microphone_comes_back(daemon):
    d = daemon(room(*[8] * 40), speed=2.0, eof="loop").start().ready()
    d.wait(d.heard)
    d.mic.gone()
    d.wait(lambda: d.microphone["state"] == "absent")
    count = len(d.heard())
    d.mic.gone(False)
    d.wait(lambda: len(d.heard()) > count, 15)
    assert d.microphone["reopened"] == 1


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda b: (b / "encoder.tflite").unlink(), "encoder.tflite: refused (5): is missing"),
        (lambda b: (b / "head.bin").write_bytes((b / "head.bin").read_bytes()[:-7]), "head.bin: refused (6): has"),
        (lambda b: (b / "manifest.json").write_text("{}"), "manifest.json: refused (2): has fields missing"),
        (lambda b: (b / "manifest.json").unlink(), "manifest.json: refused (5): is missing"),
        (lambda b: (b / "guard.bin").write_bytes(bytes(5 << 20)), "guard.bin: refused (1): is larger"),
    ],
)
def test_a_damaged_bundle_is_refused_by_name(daemon, tmp_path, damage, expected):
    copy = tmp_path / "bundle"
    copy.mkdir()
    for file in bundle_directory("builtin").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    damage(copy)
    d = daemon(room(1), bundle=copy).start()
    assert d.process.wait(60) == 78
    assert expected in d.log
    assert "Traceback" not in d.log


def test_a_bad_configuration_is_refused_with_all_its_lines(daemon):
    d = daemon(room(1))
    d.config.write_text("audio:\n  gain_db: loud\nlistening:\n  timeout_s: 0\n  phrases: [sevn]\n")
    d.start()
    assert d.process.wait(60) == 78
    assert f"{d.config}:2: audio.gain_db" in d.log
    assert f"{d.config}:4: listening.timeout_s" in d.log


def test_a_phrase_that_the_bundle_lacks_is_refused_with_a_suggestion(daemon):
    d = daemon(room(1), phrases="[sevn]").start()
    assert d.process.wait(60) == 78
    assert ":5: listening.phrases" in d.log
    assert "seven" in d.log


def test_a_dead_thread_ends_the_process(daemon, tmp_path):
    """A deaf daemon that looks alive is the worst of all: break the chain from outside and see it die."""
    d = daemon(room(1))
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import idiolect.listening.inference as i\n"
        "def process(self, block): raise RuntimeError('what was heard: a secret')\n"
        "i.Inference._process = process\n"
    )
    env = os.environ | d.mic.environment | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "idiolect", "--config", str(d.config)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 70
    assert "thread inference died: RuntimeError" in done.stderr
    assert "secret" not in done.stderr


def test_status_is_json_for_machines_and_sentences_for_people(daemon):
    d = daemon(room(1)).start().ready()
    command = [sys.executable, "-m", "idiolect.cli.main", "--socket", str(d.folder / "control.sock")]
    machine = subprocess.run([*command, "--json", "status"], capture_output=True, text=True, check=True)
    assert json.loads(machine.stdout)["bundle"]["name"] == "default"
    person = subprocess.run([*command, "status"], capture_output=True, text=True, check=True)
    assert "not hardware protected" in person.stdout


def test_the_shipped_configuration_starts(tmp_path, daemon):
    d = daemon(room(1))
    shipped = Path(__file__).parents[2] / "config" / "idiolect.yaml"
    local = tmp_path / "local.yaml"
    local.write_text(
        f"audio: {{device: {d.mic.device}}}\nstate_dir: {tmp_path}/s\ncontrol: {{socket: {tmp_path}/control.sock}}\n"
    )
    command = [sys.executable, "-m", "idiolect", "--config", str(shipped), "--config", str(local)]
    d.process = subprocess.Popen(command, env=os.environ | d.mic.environment, stderr=(tmp_path / "stderr").open("wb"))
    d.ready()
    assert d.status()["listening"]["state"] == "idle"
