"""Idle windows at the whole daemon: what it waits for, a word that stops a round, and what `doctor` finds."""

import base64
import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from idiolect.client import NoAnswerError
from tests.support import speech
from tests.support.alsa import require_wavmic
from tests.support.boards import Board
from tests.support.learners import invented
from tests.whole.test_people import Home


class IdleHome(Home):
    """The same people in front of a board whose sensors are files."""

    def __init__(self, folder):
        super().__init__(folder)
        self.board = Board(folder / "board")
        self.config.write_text(f"{self.config.read_text()}idle: {{machine: {self.board.root}}}\n")

    @property
    def learning(self):
        return self.status()["learning"]

    def workers(self):
        """Training workers of the daemon that are alive now, by pid."""
        found = []
        for children in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for pid in children.read_text().split():
                with contextlib.suppress(OSError):  # gone since
                    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                    if state != "Z" and b"idiolect.learning.worker.main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found.append(int(pid))
        return found

    def used(self, pid):
        """Seconds of processor time that a worker has had; a busy machine lets it, and this test, wait for them."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def more_work(self, workers):
        """How much more of the processor each of these workers has until it is gone."""
        before, after = {}, {}
        while alive := [pid for pid in workers if pid in self.workers()]:
            for pid in alive:
                with contextlib.suppress(OSError):  # gone since
                    after[pid] = self.used(pid)
                    before.setdefault(pid, after[pid])
        return [after[pid] - before[pid] for pid in before]

    def bring(self, examples):
        """An export of hers from another device, with so many examples: enough for a round of a second or two."""
        rows = [
            {
                "phrase": f"phrase {n % 30}", "source": "enrolment", "day": 20_000, "session": f"{n % 30:02x}",
                "heard": "", "copies": 1,
                "embeddings_float16": base64.b64encode(invented(n % 30, n).astype("<f2").tobytes()).decode(),
            }
            for n in range(examples)
        ]  # fmt: skip
        document = {"schema": "idiolect/person/v1", "examples": rows}
        with contextlib.suppress(NoAnswerError):  # on a busy machine it takes longer than an answer may, and goes on
            self.client.post("/v1/import", {"profile": "ann", "document": document})

        def kept():
            with contextlib.suppress(NoAnswerError):
                return len(self.client.get("/v1/review?profile=ann")["examples"]) >= examples
            return False

        self.wait(kept)


@pytest.fixture
def home(tmp_path, sounds):
    require_wavmic()
    one = IdleHome(tmp_path).begin()
    yield one
    one.stop()


def test_a_correction_is_learnt_when_nobody_is_disturbed_or_when_asked_for(home):
    home.agree("enrol", "adapt_corrections")
    home.idiolect("profile", "ann")
    (event,) = home.say(speech.digit(4))
    said = home.idiolect("correct", event["id"], "four")
    assert "next idle window" in said
    home.wait(lambda: home.learning["state"] == "waiting")
    assert home.learning["due"]["rebuild"] == 1
    assert "nobody speaking for 10 min" in home.idiolect("learn")
    assert "waits for nobody speaking" in home.idiolect("status")
    home.board.heat(88)
    assert "88 C" in home.idiolect("learn", "--now", "--timeout", "4s", code=1)
    home.board.heat(41)
    home.wait(lambda: home.learning["done"].get("rebuild") == 1)
    assert "there is nothing to learn" in home.idiolect("learn", "--now")
    assert "nothing due" in home.idiolect("status")
    kinds = [e["kind"] for e in home.client.get("/v1/audit?limit=50")["entries"]]
    assert "checkpoint" in kinds
    assert {"adapter-made", "adapter-refused"} & set(kinds)


@pytest.mark.pace
def test_a_word_stops_a_round_within_a_tenth_of_a_second(home):
    home.agree("enrol", "adapt_corrections")
    home.bring(1800)
    home.idiolect("profile", "ann")
    took = []
    for number in (5, 7):
        (event,) = home.say(speech.digit(number))
        home.client.post("/v1/correct", {"event": event["id"], "phrase": "one"})
        home.client.post("/v1/learn", {})
        home.wait(home.workers)
        before, running = len(home.heard()), home.workers()
        home.talker.say(speech.digit(8), wait=False)
        home.wait(lambda seen=before: len(home.heard()) > seen)
        took += home.more_work(running)
    assert home.learning["preempted"] >= 1, home.learning
    assert home.learning["stopped_by"]
    assert max(took, default=0.0) <= 0.1, took
    home.wait(lambda: not home.learning["due"].get("rebuild"))  # it goes on by itself, and ends
    assert home.client.get("/v1/audit/verify")["count"] > 0
    assert "round-failed" not in [e["kind"] for e in home.client.get("/v1/audit?limit=200")["entries"]]


def test_a_worker_killed_from_outside_loses_nothing(home):
    home.agree("enrol", "adapt_corrections")
    home.bring(1800)
    home.idiolect("profile", "ann")
    (event,) = home.say(speech.digit(5))
    home.client.post("/v1/correct", {"event": event["id"], "phrase": "one"})
    home.client.post("/v1/learn", {})
    home.wait(home.workers)
    for pid in home.workers():
        os.kill(pid, signal.SIGKILL)
    home.wait(lambda: home.learning["failed"] == 1)
    entries = home.client.get("/v1/audit?limit=200")["entries"]
    assert [e["body"]["cause"] for e in entries if e["kind"] == "round-failed"] == ["crash"]
    assert len(json.loads(home.idiolect("review", "ann", "--json"))["examples"]) == 1801
    assert [e["phrase"] for e in home.say(speech.digit(3))] == ["three"]


def test_doctor_says_what_decides_and_what_confines(home):
    checks = {c["check"]: c for c in home.client.get("/v1/doctor")["checks"]}
    assert {"power", "heat", "pressure", "resources", "time zone", "clock", "sleep", "sandbox"} <= checks.keys()
    assert "45" in checks["heat"]["detail"]
    assert checks["power"]["level"] == "ok"
    assert "no_new_privs" in checks["sandbox"]["detail"]
    assert checks["pressure"]["level"] == "warn"  # a board of files has no PSI
    home.board.heat(-273.0)
    home.board.battery("10^9")

    def told_of_it():  # an answer holds for two seconds, whoever asks
        checks.update({c["check"]: c for c in home.client.get("/v1/doctor")["checks"]})
        return checks["heat"]["level"] == "warn"

    home.wait(told_of_it)
    assert "thermal_zone0" in checks["heat"]["detail"]
    assert checks["power"]["level"] == "warn"
    text = home.idiolect("doctor", "--config", str(home.config))
    assert "sandbox" in text
