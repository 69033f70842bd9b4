"""People over the control API: a real vault behind it, real consent, a real worker; only nobody speaks.

What the microphone would have brought is put where inference keeps it: windows of the shipped guard set.
"""

import asyncio
import getpass
import json
import threading
import time
from dataclasses import dataclass, replace

import pytest

from idiolect.config.schema import Config, Idle
from idiolect.errors import RequestError
from idiolect.events import EventStream
from idiolect.host.clock import Moment
from idiolect.learning.worker.process import Worker
from idiolect.listening.audio.capture import BlockQueue
from idiolect.listening.inference import EventIds, Inference
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle
from idiolect.people.adapters import Adapters
from idiolect.people.enrolment import Enrolment
from idiolect.people.people import People
from idiolect.service.idle.scheduler import IdleScheduler
from idiolect.trust.bundle.choose import Model
from idiolect.trust.device.keys import DeviceKeys
from idiolect.trust.device.vault_thread import VaultThread
from idiolect.values import Detection, Event
from tests.support.boards import Board
from tests.support.fake_daemon import FakeDaemon, running
from tests.support.learners import invented, model, span

ME = getpass.getuser()


@dataclass
class PeopleDaemon(FakeDaemon):
    """The fake daemon with everything about people real."""

    people: People = None
    teaching: Enrolment = None
    personal: Adapters = None
    inference: Inference = None
    windows: IdleScheduler = None


@dataclass
class House:
    """The daemon over its socket, and what a test does behind the API's back."""

    it: object
    daemon: PeopleDaemon

    def ask(self, method, path, body=None):
        status, answer, _ = self.it.ask(method, path, body)
        return status, answer

    def ok(self, method, path, body=None):
        status, answer = self.ask(method, path, body)
        assert status == 200, answer
        return answer

    def agree(self, name="ann", *purposes):
        asked = self.ok(
            "POST", "/v1/consent", {"name": name, "purposes": list(purposes or ("enrol", "adapt_corrections"))}
        )
        assert asked["how"] == "paired"
        self.ok("POST", "/v1/consent/agree", {"token": asked["token"]})
        return asked["profile"]

    def on_loop(self, coroutine):
        return self.it.submit(coroutine).result(30)

    def teach(self, number=1, name="ann", phrase="lights please"):
        """As ``Enrolment`` does when it has its samples."""
        spans = [invented(number, take) for take in range(3)]
        known = {person["name"]: person["profile"] for person in self.ok("GET", "/v1/consent")["people"]}
        return self.on_loop(self.daemon.people.taught(known[name], phrase, spans))

    def hears(self, said, heard, profile, number=0):
        """An utterance of ``said`` that was understood as ``heard``."""
        detection = Detection("phrase", heard, 0.9, 0.3, 0.5, 0, 16_000, profile)
        event = Event(f"e-{said}-{heard}-{number}", time.time(), detection)
        self.daemon.inference.recent.keep(event, span(said, number)[0])
        return event.id


@pytest.fixture
def house(tmp_path):
    bundle = read_bundle(bundle_directory("builtin"))
    recognizer = Recognizer.from_bundle(bundle)
    daemon = PeopleDaemon()
    names = EventIds()
    daemon.inference = Inference(recognizer.chain(listening(bundle)), BlockQueue(8), daemon.hub, names, lambda: None)
    config = replace(Config(), state_dir=tmp_path / "state", keystore="file")
    keys = VaultThread(
        DeviceKeys(config, Model(bundle.name, bundle.version, bundle.digest, (), False, "")), lambda _: None
    )
    thread = threading.Thread(target=keys.run)
    thread.start()
    daemon.personal = Adapters(
        keys, daemon.inference, daemon.hub, model(), "e" * 64,
        people={"ann": [ME], "bob": ["somebody-else"]}, state_dir=tmp_path / "state", names=names,
        listen=lambda *_: None, backend=Worker(), synchronized=lambda: True,
    )  # fmt: skip
    board = Board(tmp_path / "board")
    daemon.windows = IdleScheduler(
        daemon.personal, Worker(), wishes=lambda: Idle(machine=board.root), state_dir=tmp_path / "state",
        quiet=lambda: (3600.0, False), custody=keys.custody, synchronized=lambda: True,
    )  # fmt: skip
    daemon.people = People(daemon.personal, daemon.inference)
    daemon.teaching = Enrolment(
        daemon.personal, daemon.people, daemon.inference, daemon.hub, model(), names=names, ready=lambda: ""
    )
    with running(tmp_path / "s", daemon) as it:
        keeping = it.submit(keys.keep())
        deadline = time.monotonic() + 60
        while not keys.view.released:
            assert time.monotonic() < deadline, keys.view
            time.sleep(0.01)
        it.submit(daemon.personal.opened()).result(20)
        yield House(it, daemon)
        keeping.cancel()
    keys.stop()
    thread.join(60)


def test_whose_version_is_proved_is_asked_by_nobody_else(house):
    house.agree()
    house.teach()
    assert house.ok("GET", "/v1/adapters/verify?profile=ann&adapter=1")["ok"]
    house.daemon.personal._learner.consents._paired["ann"] = ("somebody-else",)
    assert house.ask("GET", "/v1/adapters/verify?profile=ann&adapter=1")[0] == 403


def test_what_was_heard_does_not_outlive_forgetting(house):
    profile = house.agree()
    house.teach()
    house.daemon.hub.publish(
        Event("e-1", time.time(), Detection("phrase", "lights please", 0.9, 0.3, 0.5, 0, 1, profile))
    )
    assert "lights please" in json.dumps(house.daemon.hub.recent())
    house.ok("POST", "/v1/forget", {"profile": "ann", "phrase": "lights please"})
    assert "lights please" not in json.dumps(house.daemon.hub.recent())


def test_nobody_is_known_and_nobody_is_kept(house):
    assert house.ok("GET", "/v1/consent") == {"people": [], "active": "guest", "household": []}
    assert house.ask("POST", "/v1/profile", {"profile": "ann"})[0] == 404
    assert house.ask("GET", "/v1/review?profile=ann")[0] == 404
    assert house.ok("POST", "/v1/profile", {"profile": "guest"}) == {"active": "guest"}


def test_nobody_grants_for_another(house):
    asked = house.ok("POST", "/v1/consent", {"name": "bob", "purposes": ["enrol"]})
    status, answer = house.ask("POST", "/v1/consent/agree", {"token": asked["token"]})
    assert status == 403, answer
    assert house.ok("GET", "/v1/consent")["people"] == []


def test_a_phrase_from_teaching_to_forgetting(house):
    profile = house.agree()
    made = house.teach()
    assert (made["adapter"], made["state"]) == (1, "canary")
    assert house.ok("GET", "/v1/consent")["active"] == profile
    review = house.ok("GET", "/v1/review?profile=ann")
    assert [e["phrase"] for e in review["examples"]] == ["lights please"] * 3
    assert house.ok("GET", "/v1/adapters/verify?profile=ann&adapter=1")["ok"]
    assert house.ok("GET", "/v1/history?profile=ann")["versions"]
    assert house.ok("GET", "/v1/explain?profile=ann")["text"]
    assert house.ok("GET", "/v1/report?profile=ann")
    status, answer = house.ask("GET", "/v1/explain?profile=ann&adapter=9")
    assert status == 404, answer
    gone = house.ok("POST", "/v1/forget", {"profile": "ann", "phrase": "lights please"})
    assert gone["forgotten"] == 3
    assert house.ok("GET", "/v1/review?profile=ann")["examples"] == []


def test_the_events_of_one_person_are_not_another_ones_to_correct(house):
    house.agree()
    event = house.hears("right", "left", "0123456789abcdef")
    assert house.ask("POST", "/v1/correct", {"event": event, "phrase": "right"})[0] == 404
    guest = house.hears("right", "left", "guest", 1)
    status, answer = house.ask("POST", "/v1/correct", {"event": guest, "phrase": "right"})
    assert (status, answer["error"]["field"]) == (409, "event")


def test_corrections_and_confirmations_need_their_own_consent(house):
    profile = house.agree("ann", "enrol")
    event = house.hears("on", "off", profile)
    assert house.ask("POST", "/v1/correct", {"event": event, "phrase": "on"})[0] == 403
    house.agree("ann", "adapt_corrections")
    assert (
        house.ok("POST", "/v1/correct", {"event": house.hears("on", "off", profile, 1), "phrase": "on"})["example"] == 1
    )
    assert house.ask("POST", "/v1/confirm", {"event": house.hears("on", "on", profile, 2)})[0] == 403


def test_two_corrections_take_a_canary_back(house):
    profile = house.agree()
    house.teach()
    events = [house.hears("up", "down", profile, n) for n in range(2)]
    answers = [house.ok("POST", "/v1/correct", {"event": event, "phrase": "up"}) for event in events]
    assert answers[-1]["rolled_back"]


def test_rollback_export_and_import(house):
    house.agree()
    house.teach()
    document = house.ok("POST", "/v1/export", {"profile": "ann"})
    sealed = house.ok("POST", "/v1/export", {"profile": "ann", "passphrase": "correct horse battery"})
    assert house.ok("POST", "/v1/rollback", {"profile": "ann"})["in_use"]
    house.ok("POST", "/v1/erase", {"profile": "ann"})
    assert house.ok("GET", "/v1/consent")["people"] == []
    house.agree()
    status, answer = house.ask("POST", "/v1/import", {"profile": "ann", "document": sealed, "passphrase": "wrong"})
    assert status == 422, answer
    brought = house.ok("POST", "/v1/import", {"profile": "ann", "document": document})
    assert brought["adapter"]
    assert len(house.ok("GET", "/v1/review?profile=ann")["examples"]) == 3


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/v1/consent", {"name": "ann"}, "purposes"),
        ("POST", "/v1/consent", {"name": "ann", "purposes": ["world domination"]}, "purposes"),
        ("POST", "/v1/consent", {"name": "an\u202en", "purposes": ["enrol"]}, "name"),
        ("POST", "/v1/consent", {"name": "ann", "purposes": ["enrol"], "language": "xx"}, "language"),
        ("POST", "/v1/learning", {"active": "no"}, "active"),
        ("POST", "/v1/learning", {"active": False, "for_s": 0}, "for_s"),
        ("POST", "/v1/enrol", {"profile": "ann", "phrase": "x\u0000y"}, "phrase"),
        ("POST", "/v1/enrol", {"profile": "ann", "phrase": "computer"}, "phrase"),
        ("POST", "/v1/enrol", {"profile": "ann", "phrase": "lights", "samples": 99}, "samples"),
        ("POST", "/v1/enrol", {"profile": "ann", "phrase": "lights", "speak": "tlh"}, "speak"),
        ("POST", "/v1/correct", {"event": "nothing", "phrase": ""}, "phrase"),
        ("POST", "/v1/forget", {"profile": "ann"}, "what"),
        ("POST", "/v1/import", {"profile": "ann", "document": {"format": "?"}}, "document"),
        ("GET", "/v1/explain?profile=ann&adapter=x", None, "adapter"),
    ],
)
def test_what_makes_no_sense_is_refused_by_field(house, method, path, body, field):
    house.agree()
    status, answer = house.ask(method, path, body)
    assert status in (404, 409, 422), answer
    assert answer["error"]["field"] == field, answer


def test_a_flood_of_corrections_teaches_nothing_and_stops_nobody(house):
    profile = house.agree()
    known = [house.hears("go", "no", profile, n) for n in range(40)]
    begin = time.monotonic()
    counted = 0
    for number in range(1500):
        event = known[number] if number < 40 else f"x-{number}"
        status, answer = house.ask("POST", "/v1/correct", {"event": event, "phrase": "go"})
        counted += status == 200 and bool(answer["counts"])
        if number == 60:
            assert house.ok("GET", "/v1/status")
    assert counted <= 12  # what a day allows, however often one insists
    assert time.monotonic() - begin < 60


def test_expired_examples_go_when_two_days_in_a_row_say_so(house):
    house.agree()
    house.teach()
    learner = house.daemon.personal._learner
    clock = [time.time()]
    learner.clock = lambda: clock[0]
    house.daemon.personal._moment = lambda: Moment(clock[0], clock[0], "boot", True)
    year = 400 * 86_400

    def look():
        house.on_loop(house.daemon.windows.look())
        return len(house.ok("GET", "/v1/review?profile=ann")["examples"])

    assert look() == 3
    clock[0] += 10 * year  # a clock that leaps once
    assert look() == 3
    clock[0] -= 10 * year
    assert look() == 3
    clock[0] += year
    assert look() == 3
    clock[0] += 86_400
    assert look() == 0


def test_a_clock_that_nobody_keeps_right_expires_nothing(house):
    house.agree()
    house.teach()
    personal = house.daemon.personal
    personal._synchronized = lambda: False
    personal._learner.clock = lambda: time.time() + 900 * 86_400
    for _ in range(2):
        house.on_loop(house.daemon.windows.look())
    assert len(house.ok("GET", "/v1/review?profile=ann")["examples"]) == 3


def test_a_pause_survives_a_restart(house, tmp_path):
    house.ok("POST", "/v1/learning", {"active": False, "for_s": 3600})
    again = Adapters(
        None, house.daemon.inference, EventStream(), model(), "e" * 64,
        people={}, state_dir=tmp_path / "state", names=EventIds(), listen=lambda *_: None, backend=Worker(),
    )  # fmt: skip
    assert not again.learning
    (tmp_path / "state" / "personal.json").write_text("{")
    damaged = Adapters(
        None, house.daemon.inference, EventStream(), model(), "e" * 64,
        people={}, state_dir=tmp_path / "state", names=EventIds(), listen=lambda *_: None, backend=Worker(),
    )  # fmt: skip
    assert not damaged.learning
    house.ok("POST", "/v1/learning", {"active": True})
    assert house.daemon.personal.learning


def test_without_keys_every_question_says_why(tmp_path):
    bundle = read_bundle(bundle_directory("builtin"))
    inference = Inference(
        Recognizer.from_bundle(bundle).chain(listening(bundle)), BlockQueue(8), EventStream(), EventIds(), lambda: None
    )
    config = replace(Config(), state_dir=tmp_path, keystore="file")
    keys = VaultThread(DeviceKeys(config, Model("x", 1, "d" * 64, (), False, "")), lambda _: None)
    personal = Adapters(
        keys, inference, EventStream(), model(), "e" * 64, people={}, state_dir=tmp_path, names=EventIds(),
        listen=lambda *_: None, backend=Worker(),
    )  # fmt: skip
    with pytest.raises(RequestError, match="without keys"):
        asyncio.run(People(personal, inference).people())
    assert personal.status()["state"] == "off"


def test_what_is_set_aside_is_in_the_log_and_in_the_review(house):
    profile = house.agree()
    house.teach()
    answer = house.ok("POST", "/v1/correct", {"event": house.hears("on", "on", profile), "phrase": "off"})
    assert not answer["counts"]
    assert answer["adapter"] == 1  # what is in use stays so
    house.on_loop(house.daemon.windows.look())
    learner = house.daemon.personal._learner
    kinds = [entry.kind for entry in house.on_loop(_audit(house, learner))]
    assert "quarantined" in kinds
    assert house.ok("GET", "/v1/review?profile=ann")["examples"][-1]["why"]
    assert any("1 example does not count" in line for line in house.ok("GET", "/v1/explain?profile=ann")["text"])


async def _audit(house, learner):
    return await house.daemon.personal.do(lambda _: learner.vault.audit_entries(50))
