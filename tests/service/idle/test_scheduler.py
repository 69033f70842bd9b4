"""Idle windows over a real vault and the real worker: what waits for what, what gives way, what is made up for."""

import asyncio
import random
import time
from dataclasses import replace

import pytest

from idiolect.errors import RequestError
from idiolect.learning.worker.process import Worker
from idiolect.service.idle import scheduler as windows_module
from tests.support.homes import DAY, Home, story
from tests.support.learners import invented


@story
async def test_a_correction_waits_until_nobody_is_disturbed(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.correct(profile)
        home.quiet = 30.0
        assert await home.windows.look() == windows_module.LOOK_S
        assert home.status["due"] == {"rebuild": 1, "checkpoint": 1}
        assert home.status["waiting_for"] == ["nobody speaking for 10 min (so far 30 s)"]
        assert home.status["obstacles"] == ["speech"]
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


@story
async def test_who_asks_while_a_round_runs_is_not_forgotten(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.correct(profile)
        home.quiet = 5.0
        do, meanwhile = home.windows._do, []

        async def and_somebody_asks(job):
            await do(job)
            if job.kind == "rebuild" and not meanwhile:
                meanwhile.append(job)
                await home.correct(profile)
                home.windows.ask()

        monkeypatch.setattr(home.windows, "_do", and_somebody_asks)
        home.windows.ask()
        await home.windows.look()
        assert meanwhile
        assert home.status["asked"]
        await home.windows.look()  # what was corrected while the round ran
        assert home.status["done"]["rebuild"] == 2, home.status
        await home.windows.look()
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
        chance, took = random.Random(3), []
        for _ in range(5):
            window = asyncio.create_task(home.windows.look())
            while home.status["running"] != "rebuild":
                await asyncio.sleep(0.01)
            await asyncio.sleep(chance.uniform(0.0, 0.6))
            home.quiet = 0.0
            begin = time.monotonic()
            await asyncio.to_thread(home.windows.interrupt)  # as the inference thread does
            await window
            took.append(time.monotonic() - begin)
            home.quiet = 3600.0
        assert min(took) < 0.1, took  # a busy machine delays some of them, a fault all
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
        await window
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
        ends = time.monotonic() + 60
        while not home.status["done"].get("rebuild"):
            assert time.monotonic() < ends, home.status
            await asyncio.sleep(0.02)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
