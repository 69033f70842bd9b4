"""A few minutes of sound with faults for a real daemon, and what the checkers of torture/hours.py would find."""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from idiolect.values import BLOCK, Detection
from tests.support.alsa import require_wavmic
from torture import harness, hours
from torture.audio import leaks, realtime
from torture.audio.leaks import Look
from torture.audio.programme import Material
from torture.audio.reference import Expected, Order, Positions, Stretch, compare

KINDS = (
    "overrun", "hiccup", "gone and back", "queue overflow", "short reads", "overrun, daemon held up", "reload",
    "another rate or channels",
)  # fmt: skip


@pytest.mark.pace
def test_a_few_minutes_with_faults_hold(sounds, tmp_path):
    require_wavmic()
    if os.geteuid():
        pytest.skip("only root sees what another process has open, and may hold it")
    run = harness.Run("hours", argparse.Namespace(seed=7, seconds=600.0, json=None))
    material = Material.found(tmp_path / "none", np.random.default_rng(7))
    with tempfile.TemporaryDirectory(dir=hours.MEMORY if os.access(hours.MEMORY, os.W_OK) else None) as quick:
        day = hours.Day(run, material, tmp_path, Path(quick))
        session = day.session
        try:
            session.start()
            for name in KINDS:
                day._deck = [name]
                day.one_more(3600.0, 24)
            session.close_stretch()
            before, told = len(session.found), session.stretch
            _mishear(session)
        finally:
            code = session.stop()
    assert session.found[:before] == []
    assert code == 0
    assert session.events > 5
    assert session.counts.overruns == 2
    assert session.counts.dropped >= 10 * bool(session.inference)
    assert leaks._growing(session.looks) == []
    # The control: the reference heard one block less than the daemon.
    assert "1 blocks more were processed than delivered" in " ".join(session.found[before:]), told


def _mishear(session) -> None:
    """Drop a block on the reference's side only, as if the daemon had had one twice."""
    hear = session.reference.hear
    session.reference.hear = lambda data: hear(data[: -2 * session.mic.channels * session.mic.period])
    session.feed(4)


# -- each checker finds what it is for ---------------------------------------------------------------------------


def stretch(count=3, offset=10_000, **changes) -> Stretch:
    """One that is as it should be, with events that lie five seconds apart."""
    found = [
        Detection("phrase", "two", 0.9 - index / 100, 0.3, 0.5, 80_000 * index + 20_000, 80_000 * index + 30_000)
        for index in range(count)
    ]
    expected = [Expected(each, each.end + 2 * BLOCK, (each.end, each.end + 1.0)) for each in found]
    told = [
        {"kind": d.kind, "phrase": d.phrase, "score": round(d.score, 4), "margin": 0.3, "threshold": 0.5}
        | {"start": d.start + offset, "end": d.end + offset, "time": d.end + 0.5}
        for d in found
    ]
    return replace(Stretch(1, expected, told, (0.0, 1.0), 240_000), **changes)


def test_what_is_as_it_should_be_is_not_found():
    assert compare(stretch()) == []


def test_a_missed_and_a_doubled_event_are_found():
    it = stretch()
    missed, doubled = replace(it, told=it.told[:2]), replace(it, told=[it.told[0], *it.told])
    assert compare(missed) == ["stretch 1: 1 of 3 events missed"]
    assert compare(doubled) == ["stretch 1: 1 of 3 events doubled"]
    assert compare(replace(it, told=it.told[::-1])) == ["stretch 1: events came in another order"]


@pytest.mark.parametrize("change", [{"score": 0.8999}, {"phrase": "six"}, {"kind": "wake"}, {"end": 41_280}])
def test_an_event_that_differs_is_found(change):
    it = stretch()
    it.told[0] = {**it.told[0], **change}
    assert any("invented or different" in fault for fault in compare(it))


def test_an_event_in_the_wrong_place_or_time_is_found():
    it = stretch()
    moved = {**it.told[2], "start": it.told[2]["start"] + BLOCK, "end": it.told[2]["end"] + BLOCK}
    assert compare(replace(it, told=[*it.told[:2], moved])) == [
        "stretch 1: the phrase event at 190000 is 1280 samples off"
    ]
    late = {**it.told[2], "time": it.told[2]["time"] + 1.0}
    assert ["told 0.500 s away" in fault for fault in compare(replace(it, told=[*it.told[:2], late]))] == [True]


def test_an_event_of_a_word_that_was_cut_is_found():
    it = stretch(1)
    early = replace(it.expected[0], decided=5 * BLOCK, detection=replace(it.expected[0].detection, start=0, end=6000))
    told = [{**it.told[0], "start": 10_000, "end": 16_000}]
    assert compare(replace(it, expected=[replace(early, span=(0.0, 1e6))], told=told)) == [
        "stretch 1: the phrase event at 6000 is of a word that was cut"
    ]


@pytest.mark.parametrize(("offset", "faults"), [(10_000 + 240_000 + 16_000, 0), (250_000, 1), (250_000 + 80_000, 1)])
def test_a_wrong_count_of_lost_samples_is_found(offset, faults):
    positions, before = Positions(), stretch()
    assert positions.check(before, None) == []
    assert len(positions.check(stretch(offset=offset, span=(2.0, 3.0)), before)) == faults


def test_a_known_loss_is_counted_to_the_sample():
    positions, before = Positions(), stretch()
    positions.check(before, None)
    assert positions.check(stretch(offset=250_000 + 17 * BLOCK, loss=17 * BLOCK), before) == []
    after = replace(stretch(offset=490_000 + 34 * BLOCK + 1, loss=17 * BLOCK), number=2)
    assert len(positions.check(after, before)) == 1


@pytest.mark.parametrize("ids", [("a-1", "a-1"), ("a-2", "a-1"), ("a-1", "b-2"), ("a-1", "a-x")])
def test_an_id_out_of_order_is_found(ids):
    order = Order()
    assert order.check(ids[0]) == []
    assert len(order.check(ids[1])) == 1


def looks(count=40, **changes) -> list[Look]:
    """A day of a process in which nothing grows, but for ``changes`` of the last look."""
    noise = np.random.default_rng(3).integers(0, 40, count)
    every = [
        Look(86_400 * (i + 1) / count, 80_000 + int(noise[i]), ("null", "socket:[N]"), 6, 0, 1000, 50 * (i + 1))
        for i in range(count)
    ]
    return [*every[:-1], replace(every[-1], **changes)]


def test_a_day_without_a_leak_is_not_found():
    lines = {"INFO event: wake": 7, "INFO reloaded": 30}
    assert leaks.found(looks(), lines, events=7, faults=30) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"descriptors": ("null", "pipe:[N]", "socket:[N]")}, "1 descriptors more are open: pipe:[N]"),
        ({"threads": 8}, "1 threads more"),
        ({"children": 1}, "1 child processes more"),
        ({"written": 5 << 20}, f"{(5 << 20) - 1000} bytes went to the disk in 0.975 days"),
    ],
)
def test_whatever_grows_is_found(change, fault):
    assert leaks.found(looks(**change), {}, events=0, faults=0) == [fault]


def test_memory_that_rises_is_found_and_by_how_much():
    rising = [replace(look, rss_kib=look.rss_kib + int(look.audio_s / 86_400 * 3072)) for look in looks()]
    (fault,) = leaks.found(rising, {}, events=0, faults=0)
    assert fault.startswith(("memory rises by 3.0", "memory rises by 2.9"))
    assert leaks.slope(rising).plus_minus < 0.1


def test_a_storm_in_the_log_and_an_event_that_is_not_told_are_found():
    assert len(leaks.found(looks(), {"ERROR no": 1000}, events=0, faults=30)) == 1
    assert leaks.found(looks(), {"INFO event: wake": 8}, events=7, faults=0) == ["8 events were logged and 7 told"]


@pytest.mark.parametrize(("walk", "skew", "faults"), [(0.0, 1.004, 0), (0.004, 1.004, 1), (0.0, 1.0, 1)])
def test_wall_and_samples_that_walk_apart_are_found(walk, skew, faults):
    noise = np.random.default_rng(2).exponential(0.01, 60)
    even = [realtime.Moment(2.0 * i, walk * i + float(noise[i])) for i in range(60)]
    skewed = [realtime.Moment(2.0 * i, 2.0 * i * (1 - skew) + float(noise[i])) for i in range(30)]
    assert len(realtime.judged(realtime.RealTime(), even, skewed).found) == faults
