"""The load harness's small part: a slow board, a small full house, words that must be told, and the order of decay."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from idiolect.listening.pipeline.household import Household
from tests.support.alsa import wavmic
from torture.loading import order, plot, talk
from torture.loading.board import board, quota
from torture.loading.household import Growth, House, person
from torture.loading.order import LATE, LIMITS, MISSED
from torture.loading.running import Asker, ask, daemon, spread
from torture.loading.spike import Crowd
from torture.loading.step import spoken, usual

WELL = {name: 0.5 * limit.most for name, limit in LIMITS.items()} | {MISSED: 0.0}
PEOPLE, PHRASES, EXAMPLES = 3, 4, 12


def worse(*names):
    return WELL | dict.fromkeys(names)


EVERYTHING = [name for name in LIMITS if name not in (MISSED, LATE)]


def test_listening_last_is_as_it_should_be():
    table = {1.0: WELL, 0.05: worse("review", "round", "confirm"), 0.01: worse(*LIMITS)}
    assert order.broken(table) == []
    first = order.order(table)
    assert first[0] == "review at 5 %"
    assert first[-2:] == [f"{MISSED} at 1 %", f"{LATE} at 1 %"]


def test_a_word_missed_before_the_rest_is_degraded_is_reported():
    table = {1.0: WELL, 0.05: worse(MISSED, "round"), 0.01: worse(*LIMITS)}
    found = order.broken(table)
    assert any("misses a word at 5 % of a core, where status is still well" in line for line in found)
    assert not any("where round" in line for line in found)


def test_a_word_missed_while_nothing_else_ever_degrades_is_reported():
    table = {1.0: WELL, 0.01: WELL | {MISSED: 1.0}}
    assert len(order.broken(table)) == len(EVERYTHING)


def test_events_that_come_late_before_what_costs_much_are_reported():
    table = {1.0: WELL, 0.1: WELL | {LATE: LIMITS[LATE].most + 1}, 0.05: worse("review", "confirm", "round")}
    found = order.broken(table)
    assert any("events come late at 10 % of a core, where review is still well" in line for line in found)
    assert order.broken({1.0: WELL, 0.1: worse("review", "confirm", "round", "start", "keys", LATE)}) == []


def test_what_was_measured_at_some_shares_only_counts_there():
    assert order.first_degraded({1.0: {"start": 1.0}, 0.1: {"start": None}, 0.05: {MISSED: 0.0}}) == {
        MISSED: None,
        "start": 0.1,
    }


def test_what_fails_oftener_than_one_in_twenty_has_no_percentile_that_counts():
    from torture.loading.step import _p95

    assert _p95([0.1] * 19 + [None]) == pytest.approx(0.1)
    assert _p95([0.1] * 9 + [None]) is None
    assert _p95([]) is None
    assert spread([0.1, None]) == {"count": 2, "failed": 1, "p50": 0.1, "p95": 0.1, "max": 0.1}


def test_growth_beyond_proportion_is_reported():
    steady = Growth({5: {"open_s": 1.0}, 10: {"open_s": 2.2}})
    squared = Growth({5: {"open_s": 1.0, "audit_s": 0.001}, 10: {"open_s": 4.0, "audit_s": 0.004}})
    assert steady.worse_than_linear() == []
    assert [line.split()[0] for line in squared.worse_than_linear()] == ["open_s"]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.05, 0.01])
def test_a_share_is_handed_out_in_small_pieces(share):
    most, period = quota(share)
    assert most / period == pytest.approx(share, rel=0.01)
    assert 1_000 <= most <= 10_000


def test_a_board_is_as_slow_as_it_says():
    slow = board()
    try:
        slow.limit(0.2)
        program = "import time; a=time.monotonic(); \nwhile time.monotonic()-a < 1.0: pass\nprint(time.process_time())"
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, preexec_fn=slow.join)  # noqa: PLW1509
        slow.follow(child.pid)
        used = float(child.communicate(timeout=60)[0])
        assert used < 0.6, slow.how  # a busy machine gives less, never more; the interpreter's start is in it
        assert slow.throttled()[0] > 0
    finally:
        slow.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    house = House(tmp_path_factory.mktemp("house") / "state", people=PEOPLE)
    for _ in range(PEOPLE):
        house.add(PHRASES, EXAMPLES)
    return house


@pytest.fixture(scope="module")
def words(house):
    found = talk.certain(talk.ears(house, house.adapters(), ""), orders=1)
    if not found:
        pytest.skip("no recorded words: apt install asterisk-core-sounds-en-wav")
    return found


def test_everybody_has_an_adapter_with_what_she_taught(house):
    adapters = house.adapters()
    assert [len(adapter.taught) for adapter in adapters] == [PHRASES] * PEOPLE
    assert len(Household(house.model.space, house.model.classes, adapters).taught) == PEOPLE * PHRASES
    row = house.measure(proofs=False)
    assert row["vault_bytes"] > PEOPLE * EXAMPLES * 3_000
    assert set(house.growth.rows) == {PEOPLE}


def test_words_are_told_on_a_slow_board_and_a_starved_daemon_is_found(tmp_path, house, words):
    """At a fifth of a core all is well; a daemon that is given hardly anything misses words: the harness sees both."""
    try:
        wavmic.build()
    except wavmic.PluginError as error:
        pytest.skip(str(error))
    slow = board()
    try:
        slow.limit(1.0)
        with daemon(tmp_path, house, slow, minutes=0.6) as it:
            ask(it.control, "POST", "/v1/profile", {"profile": person(PEOPLE - 1)})
            slow.limit(0.5)
            crowd, askers = Crowd(it.control, 3), usual(it, person(PEOPLE - 1))
            try:
                late, events, _ = spoken(it, words[:2], askers, tail=0.5, settle=0.3)
            finally:
                crowd.close()
            assert None not in late
            assert len(events) == 2
            assert crowd.events == [2, 2, 2]
            assert [asker.name for asker in askers if None in asker.took] == []
            it.process.send_signal(signal.SIGSTOP)  # the extreme of a starved daemon
            late, events, _ = spoken(it, words[:1], (), tail=0.2, settle=0.0)
            it.process.send_signal(signal.SIGCONT)
            assert late == [None]
            assert events == []
    finally:
        slow.close()


def test_who_asks_notes_what_fails():
    asker = Asker("nobody", 0.0, lambda: ask(Path("/nonexistent"), "GET", "/"))
    asker.once()
    assert asker.took == [None]
    assert asker.why


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    plot.draw(tmp_path / "load.svg", {1.0: WELL, 0.01: worse(*LIMITS)})
    assert (tmp_path / "load.svg").stat().st_size > 1_000
