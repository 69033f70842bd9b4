"""The lives of versions: every count at which one moves, and what it is judged by in daily use."""

from __future__ import annotations

import pytest

from idiolect.errors import LearningError
from idiolect.learning import health, rollout
from idiolect.learning.health import Health
from idiolect.learning.rollout import State, Version


def used(version, times, *, agreed=True, drifted=False):
    for _ in range(times):
        version = version.heard(agreed=agreed, drifted=drifted)
    return version


@pytest.mark.parametrize(
    ("agreed", "differed", "state"),
    [(9, 0, State.SHADOW), (8, 2, State.CANARY), (7, 3, State.ROLLED_BACK), (10, 0, State.CANARY)],
)
def test_a_shadow_is_judged_at_ten_uses_by_four_fifths(agreed, differed, state):
    version = used(used(Version(1, State.SHADOW), differed, agreed=False), agreed)
    assert version.state is state
    if state is not State.SHADOW:
        assert version == Version(1, state)  # its counts begin anew


def test_a_canary_settles_at_twenty_uses():
    assert used(Version(1, State.CANARY), 19).state is State.CANARY
    assert used(Version(1, State.CANARY), 20) == Version(1, State.ACTIVE)


def test_a_canary_goes_back_at_two_corrections_and_a_fifth():
    canary = Version(1, State.CANARY)
    assert canary.corrected().state is State.CANARY
    assert canary.corrected().corrected().state is State.ROLLED_BACK
    assert used(canary, 10).corrected().corrected().state is State.ROLLED_BACK  # 2 of 10
    assert used(canary, 11).corrected().corrected().state is State.CANARY  # 2 of 11
    assert used(canary, 11).corrected().corrected().corrected().state is State.ROLLED_BACK


def test_a_canary_goes_back_at_four_drifts_and_three_tenths():
    canary = Version(1, State.CANARY)
    assert used(canary, 3, drifted=True).state is State.CANARY
    assert used(canary, 4, drifted=True).state is State.ROLLED_BACK
    assert used(used(canary, 9), 4, drifted=True).state is State.ROLLED_BACK  # 4 of 13
    assert used(used(canary, 10), 4, drifted=True).state is State.CANARY  # 4 of 14
    assert used(Version(1, State.SHADOW), 5, drifted=True).drifts == 0


def test_an_active_one_stays_however_often_it_is_corrected():
    version = Version(1, State.ACTIVE)
    for _ in range(5):
        version = version.corrected()
    assert used(version, 30, drifted=True).state is State.ACTIVE
    assert version.corrections == 5


def test_the_whole_table():
    moves = {(f"{state}", f"{signal}"): f"{to}" for (state, signal), to in rollout.TABLE.items()}
    assert moves == {
        ("shadow", "agreed"): "canary", ("shadow", "disagreed"): "rolled-back", ("shadow", "replaced"): "superseded",
        ("shadow", "taken back"): "rolled-back", ("canary", "settled"): "active", ("canary", "trouble"): "rolled-back",
        ("canary", "replaced"): "superseded", ("canary", "taken back"): "rolled-back",
        ("active", "replaced"): "superseded", ("active", "taken back"): "rolled-back",
        ("active", "trouble"): "rolled-back", ("superseded", "restored"): "active",
    }  # fmt: skip


def states(versions):
    return [(v.number, v.state) for v in versions]


def test_who_joins_in_which_state_and_who_makes_room():
    assert states(rollout.enter([], 1, at_once=False)) == [(1, State.CANARY)]
    active = [Version(1, State.ACTIVE), Version(2, State.SHADOW)]
    assert states(rollout.enter(active, 3, at_once=False)) == [
        (1, State.ACTIVE), (2, State.SUPERSEDED), (3, State.SHADOW)
    ]  # fmt: skip
    assert states(rollout.enter(active, 3, at_once=True)) == [
        (1, State.SUPERSEDED), (2, State.SUPERSEDED), (3, State.CANARY)
    ]  # fmt: skip


def test_what_goes_back_gives_way_to_the_newest_before_it():
    table = [Version(1, State.SUPERSEDED), Version(2, State.SUPERSEDED), Version(3, State.CANARY)]
    changed = rollout.update(table, Version(3, State.ROLLED_BACK))
    assert states(changed) == [(1, State.SUPERSEDED), (2, State.ACTIVE), (3, State.ROLLED_BACK)]
    later = [Version(3, State.CANARY), Version(4, State.SUPERSEDED)]
    assert rollout.in_use(rollout.update(later, Version(3, State.ROLLED_BACK))) is None
    proven = [Version(1, State.ACTIVE), Version(2, State.SHADOW)]
    assert states(rollout.update(proven, Version(2, State.CANARY))) == [(1, State.SUPERSEDED), (2, State.CANARY)]
    assert rollout.in_use(proven).number == 1


def test_what_gives_way_is_not_what_comes_back():
    """Superseded itself, by one that is gone since: the one before it is brought back, and nothing newer."""
    versions = [Version(n, State.SUPERSEDED) for n in (1, 2, 3)]
    assert [v.number for v in rollout.update(versions, versions[1]) if v.in_use] == [1]


def test_five_are_kept_beside_those_in_use_and_in_the_shadow():
    table = [Version(n, State.SUPERSEDED) for n in range(1, 8)] + [Version(8, State.ACTIVE), Version(9, State.SHADOW)]
    assert [v.number for v in rollout.kept(table[::-1])] == [3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("rows", [[{"number": 1, "state": "gone"}], [{"number": 1}], [{"state": "active", "x": 1}]])
def test_a_table_that_is_none_is_refused(rows):
    with pytest.raises(LearningError, match="table of versions"):
        rollout.read(rows)


# -- health


@pytest.mark.parametrize(
    ("understood", "base", "meant", "counts"),
    [  # rejected, corrected, lost, won
        ("on", "on", None, (0, 0, 0, 0)),
        ("on", "", None, (0, 0, 0, 1)),
        ("on", "off", None, (0, 0, 0, 1)),
        ("on", "off", "off", (0, 1, 1, 0)),
        ("on", "off", "up", (0, 1, 0, 0)),
        ("on", "off", "on", (0, 0, 0, 1)),  # confirmed
        ("", "on", None, (1, 0, 1, 0)),
        ("", "", None, (1, 0, 0, 0)),
        ("", "on", "up", (1, 1, 0, 0)),
        ("", "up", "up", (1, 1, 1, 0)),
    ],
)
def test_every_line_of_the_table(understood, base, meant, counts):
    after = Health(3, 10).heard(12, understood=understood, base=base, meant=meant, sure=0.75, base_sure=0.5)
    assert (after.rejected, after.corrected, after.lost, after.won) == counts
    assert (after.number, after.day, after.uses, after.confidence, after.base_confidence) == (3, 12, 1, 0.75, 0.5)
    again = after.heard(11, understood=understood, base=base, meant=meant, sure=0.75, base_sure=0.5)
    assert (again.rejected, again.corrected, again.lost, again.won) == tuple(2 * n for n in counts)
    assert (again.day, again.uses, again.confidence, again.base_confidence) == (12, 2, 1.5, 1.0)


def test_beyond_a_hundred_utterances_all_counts_are_halved():
    at = Health(3, 10, 99.0, 10.0, 8.0, 6.0, 4.0, 50.0, 40.0)
    full = at.heard(10, understood="on", base="on")
    assert full.uses == 100.0
    after = full.heard(10, understood="on", base="on", sure=1.0, base_sure=1.0)
    assert after == Health(3, 10, 50.5, 5.0, 4.0, 3.0, 2.0, 25.5, 20.5)


def test_worse_is_what_chance_does_less_than_once_in_twenty():
    assert not Health(1, 1, lost=4.0).worse  # 1 in 16
    assert Health(1, 1, lost=5.0).worse  # 1 in 32
    assert Health(1, 1, lost=7.0, won=1.0).worse
    assert not Health(1, 1, lost=6.0, won=1.0).worse
    assert not Health(1, 1, won=5.0).worse


def test_shares_are_of_the_utterances():
    assert Health(1, 1).rates() == {}
    assert Health(1, 1, 33.26, 1.0).rates()["uses"] == 33.3
    assert Health(1, 1, 3.0, 1.0).rates()["rejected"] == 0.3333
    assert Health(1, 1, 8.0, 1.0, 2.0, 4.0, 0.0, 6.0, 5.0).rates() == {
        "uses": 8.0, "rejected": 0.125, "corrected": 0.25, "lost": 0.5, "won": 0.0, "confidence": 0.75,
        "base_confidence": 0.625,
    }  # fmt: skip


def test_health_comes_back_as_it_was_kept():
    kept = Health(3, 10, 99.0, 10.0, 8.0, 6.0, 4.0, 50.0, 40.0)
    assert health.read(kept.as_dict()) == kept
    for damaged in ({}, None, {**kept.as_dict(), "won": "many"}, {**kept.as_dict(), "day": float("inf")}):
        with pytest.raises(LearningError, match="health"):
            health.read(damaged)
