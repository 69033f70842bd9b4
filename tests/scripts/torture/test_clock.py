"""Clocks that are set, in short: a sample of what ``scripts/torture/clock.py`` does in full, and that it would find it.

And what was found by it.
"""

import asyncio
import json
import random
import time

import numpy as np
import pytest

from idiolect.control.page.browsers import CODE_S, SESSION_S, Pairing
from idiolect.errors import RequestError
from idiolect.host import clock
from idiolect.host.clock import Moment, Stretch
from idiolect.listening.audio.capture import BlockQueue, Capture
from idiolect.listening.inference import AGE_S, Recent
from idiolect.people.adapters import Adapters
from idiolect.people.learner import Learner
from idiolect.people.review import Rights
from idiolect.service import pause
from idiolect.service.idle import conditions
from idiolect.trust.vault.rotation import Meter
from idiolect.values import MAX_PAUSE_S, RETENTION, Detection, Event
from tests.support.homes import DAY, Home, story
from torture import clock as torture
from torture.clocks import years

YEAR = 365 * DAY


def chance(seed=3):
    return random.Random(seed)


def walked(tmp_path, days, seed=3):
    return asyncio.run(torture.walk(tmp_path, days, chance(seed)))


# -- the harness, and that it finds what is broken --------------------------------------------------------------------


def test_a_walk_with_leaps_and_reboots(tmp_path):
    life = walked(tmp_path, 40)
    assert life.found == []
    assert life.looks > 20
    assert {"leap", "no battery", "server"} <= set(life.happened)


def test_a_calendar_that_believes_every_look_is_found(tmp_path, monkeypatch):
    def glance(personal):
        if personal._synchronized():
            personal.expired_day = personal._learner.day

    monkeypatch.setattr(Adapters, "glance", glance)
    life = walked(tmp_path, 200)
    assert any("too early" in each for each in life.found)


def test_a_calendar_that_never_believes_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(Adapters, "glance", lambda _: None)
    monkeypatch.setattr(years, "RETENTION", {"enrol": 20})
    assert any("too long" in each for each in walked(tmp_path, 200).found)


def test_pauses_and_one_that_trusts_the_wall_clock(tmp_path, monkeypatch):
    assert asyncio.run(torture.pauses(tmp_path, 60, chance())).found == []
    monkeypatch.setattr(Stretch, "left", lambda self, now: self.seconds - (now.wall - self.began.wall))
    found = asyncio.run(torture.pauses(tmp_path, 60, chance())).found
    assert any("ended after" in each for each in found)
    assert any("lasts for" in each for each in found)


def test_hours_through_both_changes_and_in_the_wrong_zone(monkeypatch):
    looked, found = torture.hours(30)
    assert (looked > 10_000, found) == (True, [])
    monkeypatch.setattr(clock, "minute_of_day", lambda now: int(now // 60) % 1440)
    assert torture.hours(120)[1]


def test_an_hour_that_does_not_exist_and_one_that_comes_twice(tmp_path):
    assert asyncio.run(torture.missing_hour(tmp_path)) == []


def test_rotations_are_rationed_whatever_the_clock_shows(monkeypatch):
    done, found = torture.rotations(300, chance())
    assert (done > 300, found) == (True, [])
    monkeypatch.setattr(Meter, "_earned", lambda _: 3600)
    assert torture.rotations(300, chance())[1]


# -- what was found ---------------------------------------------------------------------------------------------------


def at(boot, wall=0.0, boot_id="a", sure=False):
    return Moment(wall, boot, boot_id, sure)


@pytest.mark.parametrize(
    ("began", "found", "now", "left"),
    [
        (at(100, 9e8), at(100, 9e8), at(700, 5.0), 6600),  # the wall clock was set back by decades
        (at(100, 9e8), at(400, 4e9), at(700, 4e9), 6600),  # and forward, with a restart of the daemon
        (at(100, 9e8, sure=True), at(5, 9e8 + 600, "b"), at(65, 9e8 + 660, "b", True), 6540),  # a reboot: what it says
        (at(100, 9e8), at(5, 0.0, "b"), at(65, 60.0, "b"), 7140),  # no battery: anew
        (at(100, 9e8, sure=True), at(5, 0.0, "b"), at(65, 9e8 + 8000, "b", True), 0),  # until a server answers
        (at(100, 9e8), at(5, 9e8 + 600, "b"), at(65, 9e8 + 660, "b"), 6540),  # within it: believed, and longer than
        (at(100, 9e8), at(5, 9e8 + 600, "b"), at(65, 4e9, "b"), 6540),  # a leap after that
        (at(100, 5.0), at(5, 9e8, "b"), at(65, 9e8, "b", True), 7140),  # it began when nobody knew the time
    ],
)
def test_what_is_left_of_two_hours(began, found, now, left):
    stretch = Stretch(7200, began, found)
    assert stretch.left(now) == left
    assert clock.read_stretch(json.loads(json.dumps(stretch.as_dict())), found) == stretch


@story
async def test_a_pause_of_learning_is_as_long_as_it_was_asked_for(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        for sign in (-1, 1):
            home.personal.pause(home.wall + 7200)
            home.wall += sign * YEAR
            home.set_by += sign * YEAR
            assert not home.personal.learning
            assert home.personal.status()["paused_until"] == pytest.approx(home.wall + 7200)
            home.wall += 7199
            assert not home.personal.learning
            home.wall += 2
            assert home.personal.learning


def paused(folder, now):
    quiet = Capture(lambda: None, BlockQueue(1), lambda: None)
    return pause.Pausing(quiet, folder, lambda: None, now=lambda: now[0])


def test_a_pause_that_could_not_be_written_is_written_later(tmp_path, monkeypatch):
    async def work():
        it = paused(tmp_path, now)
        with monkeypatch.context() as patch:

            def full(*_):
                raise OSError(28, "No space left on device")

            patch.setattr(pause, "write_durably", full)
            it.pause(7200)
            it._look()
        assert not (tmp_path / pause.PAUSE_FILE).exists()
        it._look()
        after = paused(tmp_path, now)
        after.restore()
        return after.active

    now = [at(100, 9e8)]
    assert asyncio.run(work())


def test_a_pause_of_an_earlier_version(tmp_path):
    async def work(until):
        (tmp_path / pause.PAUSE_FILE).write_text(json.dumps({"paused": True, "until": until}))
        it = paused(tmp_path, [at(100, 1000.0)])
        it.restore()
        return it.active, it.until

    assert asyncio.run(work(999.0)) == (False, None)
    assert asyncio.run(work(4600.0)) == (True, 4600.0)
    assert asyncio.run(work(2e9)) == (True, 1000.0 + MAX_PAUSE_S)  # it is 1970 again


def test_what_may_be_corrected_is_gone_after_ten_minutes_by_a_clock_that_nobody_sets():
    now = [5000.0]
    recent = Recent(lambda: now[0])
    detection = Detection("phrase", "yes", 0.9, 0.3, 0.5, 0, 16_000, "guest")
    for ident, wall in (("past", 0.0), ("future", 4e9)):
        recent.keep(Event(ident, wall, detection), np.zeros((18, 96), np.float32))
    now[0] += AGE_S - 1
    assert recent.take("past") is not None
    now[0] += 2
    assert recent.take("future") is None


@story
async def test_what_is_taught_before_the_time_is_known_is_kept_for_its_year(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        today = home.wall
        home.wall, home.synchronized, home.set_by = 60.0, False, -today
        profile = await home.agree()
        await home.correct(profile)
        (row,) = (await home.do(_review))["examples"]
        assert row["expires"] == "1971-01-01"  # as the clock has it
        home.personal.pause(float("inf"))
        home.wall, home.synchronized, home.set_by = today, True, 0.0
        for _ in range(3):
            await home.windows.look()
            home.wall += DAY
        assert (await home.do(lambda learner: learner.undated())) == []
        today, home.wall, home.synchronized = home.wall, 2.0**31, False  # a leap: what comes now is not dated by it
        await home.correct(profile, "no")
        await home.windows.look()
        assert len(await home.do(lambda learner: learner.undated())) == 1
        await home.do(lambda learner: Rights(learner).forget(learner.consents.find("Ann"), {"example": 2}))
        home.wall, home.synchronized = today, True
        assert len(await home.do(lambda learner: learner.examples(profile))) == 1
        home.wall += (RETENTION["adapt_corrections"] - 5) * DAY
        for _ in range(3):
            await home.windows.look()
            home.wall += DAY
        assert len(await home.do(lambda learner: learner.examples(profile))) == 1
        for _ in range(4):
            await home.windows.look()
            home.wall += DAY
        assert await home.do(lambda learner: learner.examples(profile)) == []


def _review(learner):
    return Rights(learner).review(learner.consents.find("Ann"))


@story
async def test_a_clock_that_is_set_about_midnight_confirms_nothing(tmp_path, monkeypatch):
    """Two looks in two days that are two seconds apart, and two a day apart by the wall clock alone."""
    async with Home(tmp_path) as home:
        profile = await home.agree()
        await home.correct(profile)
        for start in (home.wall + 3 * YEAR, home.wall + 4 * YEAR):
            midnight = (start // DAY) * DAY
            for shown, passes in ((midnight - 2, 0), (midnight + 1, 3), (midnight + DAY + 5, 0)):
                home.set_by += shown - home.wall - passes
                home.wall = shown
                await home.windows.look()
        assert len(await home.do(lambda learner: learner.examples(profile))) == 1


@story
async def test_a_wait_that_began_in_the_future_begins_anew(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        home.personal.waiting_since = home.wall + 70 * YEAR
        home.personal.note_waiting(True)
        assert home.personal.waiting_since == home.wall


@story
async def test_browsers_and_codes(tmp_path, monkeypatch):
    """A code is good for five minutes by a clock that nobody sets; a session for its days by the wall clock."""
    async with Home(tmp_path) as home:
        await home.agree()
        steady = [50.0]
        pairing = Pairing(home.personal, "local", wall=lambda: home.wall, monotonic=lambda: steady[0])
        code = (await pairing.begin("Ann", "ann", 1))["code"]
        home.wall -= 30 * YEAR
        steady[0] += CODE_S - 1
        token, _ = await pairing.redeem(code)
        assert await pairing.session(token)
        home.wall += SESSION_S + 1
        assert await pairing.session(token) is None
        late = (await pairing.begin("Ann", "ann", 1))["code"]
        steady[0] += CODE_S + 1
        with pytest.raises(RequestError, match="older than five minutes"):
            await pairing.redeem(late)


@story
async def test_before_1970_nothing_fails(tmp_path, monkeypatch):
    async with Home(tmp_path) as home:
        home.wall = -5.0 * YEAR
        profile = await home.agree()
        await home.teach(profile)
        await home.windows.look()
        assert home.windows.log.failed == 0
        await home.do(Learner.refresh)
        await home.do(lambda learner: learner.vault.audit_verify())


def test_the_shape_of_now():
    now = clock.moment()
    assert abs(now.wall - time.time()) < 60
    assert clock.read_moment(json.loads(json.dumps(now.as_dict()))) == now
    assert now.boot_id == clock.moment().boot_id
    assert conditions.within("always", 0)
