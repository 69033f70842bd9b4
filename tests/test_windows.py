"""Idle windows over a real vault and the real worker: what waits for what, what gives way, what catches up."""

import asyncio
import random
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from idiolect import windows as windows_module
from idiolect.assembly import Recognizer, bundle_directory, listening, read_bundle
from idiolect.config import Config, Idle
from idiolect.control.hub import Hub
from idiolect.custody import Custody, Model
from idiolect.errors import RequestError
from idiolect.host.capture import BlockQueue
from idiolect.host.worker import Worker
from idiolect.inference import Inference, Names
from idiolect.keysthread import Keys
from idiolect.learner import DISUSE_DAYS, SHADOW_DAYS
from idiolect.learning import rollout
from idiolect.observe import Said
from idiolect.personal import Personal
from idiolect.rights import Rights
from idiolect.windows import Windows
from tests.boards import Board
from tests.people import invented, model, span

DAY = 86_400
ENCODER = "e" * 64


class Home:
    """All of the daemon that learns, but for its ears: on a board of files, with a calendar that can be turned."""

    def __init__(self, folder, wishes=None, known=None, worker=None):
        self.board = Board(folder / "board")
        self.wishes = wishes or Idle(machine=self.board.root)
        self.quiet, self.wall = 3600.0, float(20_000 * DAY + 12 * 3600)
        self.synchronized, self.boot = True, 1000.0
        self.worker = worker or Worker()
        bundle = read_bundle(bundle_directory("builtin"))
        chain = Recognizer.from_bundle(bundle).chain(listening(bundle))
        self.hub, names = Hub(), Names()
        self.inference = Inference(chain, BlockQueue(8), self.hub, names, lambda: None)
        config = replace(Config(), state_dir=folder / "state", keystore="file")
        custody = Custody(config, Model("x", 1, "d" * 64, (), False, ""), clock=lambda: self.wall)
        self.keys = Keys(custody, lambda _: None)
        self.personal = Personal(
            self.keys, self.inference, self.hub, known or model(), ENCODER, people={}, state_dir=folder / "state",
            names=names, listen=lambda *_: None, backend=self.worker, synchronized=lambda: self.synchronized,
        )  # fmt: skip
        self.windows = Windows(
            self.personal, self.worker, wishes=lambda: self.wishes, state_dir=folder / "state",
            quiet=lambda: (self.quiet, False), custody=custody, synchronized=lambda: self.synchronized,
            minute=lambda: 720, now=lambda: self.boot,
        )  # fmt: skip
        self.thread = threading.Thread(target=self.keys.run)

    async def __aenter__(self):
        self.thread.start()
        self.keeping = asyncio.create_task(self.keys.keep())
        while not self.keys.view.released:
            await asyncio.sleep(0.01)
        await self.personal.opened()
        self.learner.clock = lambda: self.wall
        return self

    async def __aexit__(self, *_):
        self.keeping.cancel()
        self.keys.stop()
        await asyncio.to_thread(self.thread.join, 20)

    @property
    def learner(self):
        return self.personal._learner

    async def do(self, work):
        return await self.personal.do(work)

    async def agree(self, name="Ann", *purposes):
        def work(learner):
            pending = learner.consents.begin(name, purposes or ("enrol", "adapt_corrections", "usage"))
            assert learner.consents.heard_yes()
            return pending.profile

        return await self.do(work)

    async def teach(self, profile, number=1, takes=3, phrase="lights please"):
        def work(learner):
            learner.add(profile, "enrolment", phrase, [invented(number, t) for t in range(takes)], "01")
            return learner.round(profile, at_once=True)

        return await self.personal.changed(work)

    async def correct(self, profile, label="yes", number=0):
        return await self.personal.changed(
            lambda learner: learner.add(profile, "correction", label, [span(label, number)], f"{number:02x}")
        )

    async def versions(self, profile):
        return await self.do(lambda learner: learner.versions(profile))

    async def kinds(self, limit=40):
        return [e.kind for e in await self.do(lambda learner: learner.vault.audit_entries(limit))]

    @property
    def status(self):
        return self.windows.status()


def story(scenario):
    """A test in the event loop."""

    def test(tmp_path, monkeypatch):
        asyncio.run(asyncio.wait_for(scenario(tmp_path, monkeypatch), 100))

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


@story
async def test_a_correction_waits_until_nobody_is_disturbed(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.correct(profile)
        home.quiet = 30.0
        assert await home.windows.look() == windows_module.LOOK_S
        assert home.status["due"] == {"rebuild": 1, "checkpoint": 1}
        assert home.status["waiting_for"] == ["nobody speaking for 10 min (so far 30 s)"]
        assert await home.do(lambda learner: learner.last_round(profile)) is None
        home.quiet = 601.0
        assert await home.windows.look() == windows_module.REST_S
        assert home.status["state"] == "nothing due"
        assert home.status["done"] == {"rebuild": 1, "checkpoint": 1}
        assert await home.do(lambda learner: learner.last_round(profile)) is not None
        assert {"checkpoint"} <= set(await home.kinds())
        await home.windows.look()
        assert home.status["done"] == {"rebuild": 1, "checkpoint": 1}  # the same is not learnt twice
        assert all(home.status["sandbox"][name] for name in ("limits", "no_new_privs", "undumpable"))


@story
async def test_who_asks_does_not_wait_for_silence_and_hours_but_for_heat(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.correct(profile)
        home.quiet = 5.0
        home.wishes = replace(home.wishes, hours="00:00-00:01")
        home.board.heat(90)
        home.windows.ask()
        assert await home.windows.look() == windows_module.EAGER_S
        assert [text[:4] for text in home.status["waiting_for"]] == ["65 C"]
        home.board.heat(40)
        await home.windows.look()
        assert home.status["done"]["rebuild"] == 1
        assert not home.status["asked"]


async def _long(home, profile, examples=900):
    """Enough to learn from that a round takes a second."""
    spans = [invented(n % 30, n) for n in range(examples)]

    def work(learner):
        for n in range(30):
            learner.add(profile, "enrolment", f"phrase {n}", spans[n::30], f"{n:02x}")

    await home.personal.changed(work)


@story
async def test_a_word_stops_a_round_at_once_and_nothing_is_lost(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await _long(home, profile)
        chance = random.Random(3)
        for _ in range(5):
            window = asyncio.create_task(home.windows.look())
            while home.status["running"] != "rebuild":
                await asyncio.sleep(0.01)
            await asyncio.sleep(chance.uniform(0.0, 0.6))
            home.quiet = 0.0
            begin = time.monotonic()
            await asyncio.to_thread(home.windows.interrupt)  # as the inference thread does
            await window
            assert time.monotonic() - begin < 0.1
            home.quiet = 3600.0
        assert home.status["preempted"] == 5
        assert home.status["stopped_by"] == "somebody spoke"
        assert home.status["due"]["rebuild"] == 1
        assert await home.versions(profile) == []
        assert "round-failed" not in await home.kinds()
        await home.windows.look()
        assert home.status["done"]["rebuild"] == 1
        looked_at = await home.do(lambda learner: learner.last_round(profile))
        assert looked_at.last == 900


@story
async def test_conditions_are_looked_at_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(windows_module, "RECHECK_S", 0.05)
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await _long(home, profile)
        window = asyncio.create_task(home.windows.look())
        while home.status["running"] != "rebuild":
            await asyncio.sleep(0.01)
        home.board.heat(95)
        begin = time.monotonic()
        await window
        assert time.monotonic() - begin < 0.3
        assert home.status["preempted"] == 1
        assert "95 C" in home.status["stopped_by"]
        await home.windows.look()
        assert home.status["done"].get("rebuild") is None
        assert "C or less" in home.status["waiting_for"][0]


@story
async def test_pressure_by_the_kernels_word_stops_it(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await _long(home, profile)
        window = asyncio.create_task(home.windows.look())
        while home.status["running"] != "rebuild":
            await asyncio.sleep(0.01)

        class Fired:
            def fired(self):
                return ("io", "memory")

        home.windows._stalled(Fired())
        await window
        assert home.status["preempted"] == 1
        assert home.status["stopped_by"] == "other programs wait for memory"
        await home.windows.look()
        assert home.status["preempted"] == 1  # it waits, for as long as the stall is remembered
        assert any("not waiting for io" in text for text in home.status["waiting_for"])


@story
async def test_a_worker_that_fails_is_tried_later_and_later(tmp_path, monkeypatch):
    async with Home(tmp_path, worker=Worker(["/bin/false"])) as home:
        profile = await home.agree()
        await home.correct(profile)
        waits = []
        for _ in range(4):
            await home.windows.look()
            failed = home.status["failed"]
            since = home.boot
            while home.status["failed"] == failed and home.boot < since + 30 * 3600:
                home.boot += 300
                await home.windows.look()
            waits.append(home.boot - since)
        assert waits == sorted(waits)
        assert waits[0] >= 600
        assert waits[-1] >= 2400
        assert (await home.kinds()).count("round-failed") == home.status["failed"]
        assert await home.versions(profile) == []
        home.learner.backend = home.windows._backend = Worker()
        home.boot += 200_000
        await home.windows.look()
        assert home.status["done"]["rebuild"] == 1


@story
async def test_missed_hours_are_made_up_for(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        home.wishes = replace(home.wishes, hours="01:00-05:00")
        profile = await home.agree()
        await home.correct(profile)
        for hours in (0, 12, 25):
            home.boot = 1000.0 + hours * 3600
            await home.windows.look()
            assert home.status["waiting_for"] == ["the hours 01:00-05:00"]
        home.boot += 2 * 3600
        await home.windows.look()
        assert home.status["done"]["rebuild"] == 1


@story
async def test_hours_missed_while_the_device_was_off_count_too(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        home.wishes = replace(home.wishes, hours="01:00-05:00")
        profile = await home.agree()
        await home.correct(profile)
        await home.windows.look()
        assert home.status["waiting_for"]
    async with Home(tmp_path) as home:
        home.wishes = replace(home.wishes, hours="01:00-05:00")
        await home.windows.look()
        assert home.status["waiting_for"]
        home.personal.waiting_since -= 2 * DAY  # as if it had been switched off for so long
        home.synchronized = False
        await home.windows.look()
        assert home.status["waiting_for"], "a clock that is not synchronized proves no waiting"
        home.synchronized = True
        await home.windows.look()
        assert home.status["done"]["rebuild"] == 1
        assert home.personal.waiting_since is None


@story
async def test_a_device_that_was_off_for_a_year_does_what_has_gathered(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        await home.windows.look()
        assert home.status["done"] == {"checkpoint": 1}
    async with Home(tmp_path) as home:
        home.wall += 400 * DAY
        await home.windows.look()  # the first night: one glance makes nothing expire
        assert home.status["done"] == {"selftest": 1, "checkpoint": 1}
        assert len((await home.do(lambda learner: learner.ledger(profile))).examples) == 3
        home.wall += DAY
        await home.windows.look()
        assert home.status["done"]["expire"] == 1
        assert (await home.do(lambda learner: learner.ledger(profile))).examples == ()
        assert await home.versions(profile) == []
        text = await home.do(lambda learner: Rights(learner).explain(learner.consents.find("Ann")))
        assert any("kept as long as was agreed" in line for line in text["text"])
        before = home.status["done"]
        await home.windows.look()
        assert home.status["done"] == before


@story
async def test_expired_examples_go_without_waiting_and_the_rest_is_learnt_anew(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        await home.windows.look()
        home.wall += 200 * DAY
        await home.teach(profile, 2, phrase="good night")
        home.quiet = 0.0  # somebody speaks all the time: nothing is learnt, but things expire
        for _ in range(2):
            home.wall += 100 * DAY
            await home.windows.look()
            home.wall += DAY
            await home.windows.look()
        phrases = {e.phrase for e in (await home.do(lambda learner: learner.ledger(profile))).examples}
        assert phrases == {"good night"}
        assert await home.versions(profile) == []
        home.quiet = 3600.0
        await home.windows.look()
        (version,) = await home.versions(profile)
        assert version.in_use
        assert "adapter-retired" in await home.kinds()
        assert await home.do(lambda learner: learner.retired(profile)) is None


@story
async def test_whom_nobody_hears_for_half_a_year_is_retired_until_asked_for(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        home.learner.recalled.clear()
        for days in (DISUSE_DAYS + 1, 1):
            home.wall += days * DAY
            await home.windows.look()
        assert await home.versions(profile) == []
        assert len((await home.do(lambda learner: learner.ledger(profile))).examples) == 3
        home.wall += DAY
        await home.windows.look()
        assert await home.versions(profile) == []
        home.personal.address(profile)
        await home.windows.look()
        assert [v.in_use for v in await home.versions(profile)] == [True]


@story
async def test_another_encoder_retires_what_was_learnt_and_says_so(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
    other = replace(model(), digest="ab" * 32)
    home = Home(tmp_path, known=other)
    home.personal._encoder = "f" * 64
    async with home:
        assert await home.versions(profile) == []
        text = await home.do(lambda learner: Rights(learner).explain(learner.consents.find("Ann")))
        assert any("another encoder" in line for line in text["text"])
        await home.windows.look()
        assert home.status["done"] == {"checkpoint": 1}
        await home.teach(profile)
        assert [v.in_use for v in await home.versions(profile)] == [True]


@story
async def test_a_pause_of_learning_stops_learning_and_not_expiry(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.correct(profile)
        home.personal.pause(float("inf"))
        await home.windows.look()
        assert home.status["done"] == {"checkpoint": 1}
        home.personal.pause(None)
        await home.windows.look()
        assert home.status["done"]["rebuild"] == 1


@story
async def test_a_version_on_trial_is_not_replaced_every_night(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        await home.do(
            lambda learner: learner.add(profile, "enrolment", "good night", [invented(2, t) for t in range(3)], "09")
        )
        await home.windows.look()
        assert [v.state.value for v in await home.versions(profile)] == ["canary", "shadow"]
        await home.correct(profile)
        await home.windows.look()
        assert home.status["done"]["rebuild"] == 1
        home.windows.ask()
        await home.windows.look()
        assert home.status["done"]["rebuild"] == 2  # who asks does not wait
        await home.correct(profile, "no")
        home.wall += SHADOW_DAYS * DAY
        await home.windows.look()
        assert home.status["done"]["rebuild"] == 3


@story
async def test_an_adapter_that_became_worse_in_use_is_taken_back_by_itself(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        (version,) = await home.versions(profile)
        active = replace(version, state=rollout.State.ACTIVE)
        await home.do(lambda learner: learner.settle(profile, [active]))
        understood = await home.do(_clear)
        rejected = [Said(profile, "", window) for window in understood[:4]]
        home.personal._said = rejected
        await home.personal.flush()
        assert rollout.in_use(await home.versions(profile)) is not None  # four may be chance
        home.personal._said = [Said(profile, "", window) for window in understood[4:6]]
        await home.personal.flush()
        assert rollout.in_use(await home.versions(profile)) is None
        entries = await home.do(
            lambda learner: [e for e in learner.vault.audit_entries(20) if e.kind == "adapter-moved"]
        )
        assert '"rolled-back"' in entries[-1].body
        assert '"lost":5' in entries[-1].body


def _clear(learner):
    """Spans of other people that the base model understands."""
    from idiolect.learning import guard
    from idiolect.pipeline.space import offset_windows

    spans = [span(label, n)[0] for label in ("yes", "no", "left", "right") for n in range(6)]
    heard = learner.model.hear(offset_windows(np.stack(spans)))
    return [s for s, said in zip(spans, guard.spoken(learner.model, None, heard), strict=True) if said]


@story
async def test_the_weekly_self_test_is_in_the_report_and_in_the_log(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        await home.windows.look()
        assert "selftest" not in home.status["done"]
        home.wall += 7 * DAY
        await home.windows.look()
        assert home.status["done"]["selftest"] == 1
        report = await home.do(lambda learner: Rights(learner).report(learner.consents.find("Ann")))
        slices = {each["slice"]: each for each in report["selftest"]["slices"]}
        assert slices["own: taught phrases"]["total"] == 3
        assert slices["others: all"]["total"] == len(model().guard_labels)
        assert any(name.startswith("others: noise") for name in slices)
        assert report["selftest"]["worse"] == ""
        assert "self-tested" in await home.kinds()
        await home.windows.look()
        assert home.status["done"]["selftest"] == 1


@story
async def test_a_self_test_that_fails_takes_the_adapter_back(tmp_path, monkeypatch):
    from idiolect.learning import protocol, selftest

    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        home.wall += 7 * DAY
        worse = [selftest.Slice(selftest.UNSEEN, 12, 9, 8, 0), selftest.Slice("others: all", 400, 50, 0, 0)]
        monkeypatch.setattr(protocol, "read_selftest", lambda _: tuple(worse))
        await home.windows.look()
        assert rollout.in_use(await home.versions(profile)) is None
        entries = await home.do(lambda learner: [e for e in learner.vault.audit_entries(9) if e.kind == "self-tested"])
        assert '"passed":0' in entries[-1].body


@story
async def test_of_what_is_forgotten_not_even_a_digest_stays(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        assert await home.do(lambda learner: learner.last_round(profile)) is not None
        await home.do(lambda learner: Rights(learner).forget(learner.consents.find("Ann"), {"all": True}))
        assert await home.do(lambda learner: learner.last_round(profile)) is None
        review = await home.do(lambda learner: Rights(learner).review(learner.consents.find("Ann")))
        assert review["upkeep"] == {}
        await home.windows.look()
        assert home.status["done"] == {"checkpoint": 1}


@story
async def test_what_learning_keeps_of_its_own_is_in_the_review(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        home.wall += 7 * DAY
        await home.windows.look()
        review = await home.do(lambda learner: Rights(learner).review(learner.consents.find("Ann")))
        assert review["upkeep"] == {"last_round": "2024-10-04", "last_tested": "2024-10-11"}


@story
async def test_a_damaged_adapter_is_not_used_and_stops_nobody(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.teach(profile)
        assert home.personal.status()["adapters"] == {profile: 1}
        files = home.learner.files
        monkeypatch.setattr(home.learner, "files", lambda: [(data[:-1] + b"!", digest) for data, digest in files()])
        await home.personal.reload()
        assert home.personal.status()["adapters"] == {}


@story
async def test_without_keys_there_is_nothing_to_do_and_asking_says_why(tmp_path, monkeypatch):
    home = Home(tmp_path)
    assert await home.windows.look() == windows_module.REST_S
    assert home.status["state"] == "off"
    with pytest.raises(RequestError):
        await home.do(lambda learner: learner.day)


@story
async def test_the_loop_wakes_up_when_something_changes(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        home.personal.altered = home.windows.changed
        running = asyncio.create_task(home.windows.run())
        profile = await home.agree()
        await home.correct(profile)
        ends = time.monotonic() + 20
        while not home.status["done"].get("rebuild"):
            assert time.monotonic() < ends, home.status
            await asyncio.sleep(0.02)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
