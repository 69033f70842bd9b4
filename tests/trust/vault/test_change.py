"""A change, call by call: what it refuses, and that a refusal undoes all of it."""

from __future__ import annotations

import pytest

from idiolect.trust.vault import schema
from idiolect.trust.vault.vault import Vault
from tests.support.vaults import ANN, BEN, DAY, House, contents, furnished, put


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "state")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda change: change.add_key(ANN, "enrol", "02"),
        lambda change: change.add_key("Ann Smith", "enrol", "02"),
        lambda change: change.add_key(ANN, "vault", ""),
        lambda change: change.put(ANN, "enrol", "example", "what she said", b""),
        lambda change: change.put(ANN, "enrol", "example", "", b""),
        lambda change: change.put(ANN, "enrol", "example", "01", bytes(schema.PAYLOAD_CAP + 1)),
        lambda change: change.put(ANN, "enrol", "example", "01", b"", expires=-1),
        lambda change: change.put(ANN, "enrol", "example", "01", b"", encoder="Z"),
        lambda change: change.put(ANN, "usage", "example", "01", b""),
        lambda change: change.rekey(BEN, "usage"),
        lambda change: change.note(name="Ann"),
    ],
)
def test_wrong_calls_undo_the_whole_change(house, wrong):
    with furnished(house) as vault:
        expected, head = contents(vault), vault.audit_head()
        with pytest.raises((ValueError, KeyError)):
            spoilt(vault, wrong)
        assert contents(vault) == expected
        assert vault.audit_head() == head
        put(vault, "55", b"works")
    with house.open() as vault:
        assert contents(vault) == {**expected, (ANN, "enrol"): {**expected[ANN, "enrol"], "55": b"works"}}


def spoilt(vault: Vault, wrong) -> None:
    with vault.change("put", count=1) as change:
        change.erase(BEN)
        change.put(ANN, "enrol", "example", "00", b"lost")
        wrong(change)


def test_each_change_is_counted_once(house):
    with furnished(house) as vault:
        before = vault._ledger.state.counter
        put(vault, "77", b"x")
        with pytest.raises(KeyError):
            spoilt(vault, lambda change: change.rekey(BEN, "usage"))
        put(vault, "78", b"x")
        assert vault._ledger.state.counter == before + 2
    assert house.sql("SELECT counter FROM meta") == [(before + 2,)]


def test_a_change_that_fails_while_a_rotation_is_stuck_does_not_lose_its_key(house):
    with furnished(house) as vault:
        keys = vault._ring._keystore
        keys.out_of_reach = {0, 1}
        with vault.change("forgot", rotate=True, count=1) as change:
            change.delete(ANN, "enrol", "example", "00")
        with pytest.raises(KeyError):
            spoilt(vault, lambda change: change.rekey(BEN, "usage"))
        keys.out_of_reach = set()
        house.clock.pass_(DAY)
        assert vault.rotate_if_due()
        assert vault.trouble is None
        expected = contents(vault)
    with house.open() as vault:
        assert contents(vault) == expected


def test_what_is_withdrawn_is_gone_beside_what_stays(house):
    with furnished(house) as vault:
        with vault.change("key-withdrawn", profile=ANN, purpose="enrol") as change:
            assert change.withdraw(ANN, "enrol") == 3
            assert change.withdraw(ANN, "enrol") == 0
        assert vault.idents(ANN, "enrol", "example") == []
        assert vault.counts().records == 4
    with house.open() as vault:
        assert vault.counts().records == 4
        assert vault.idents(ANN, "adapt_corrections", "example") == ["00"]


def test_a_record_expires_after_its_day_and_one_without_never(house):
    with furnished(house) as vault:
        put(vault, "a1", b"x", expires=1)
        assert vault.expired(1) == []
        assert vault.expired(2) == [(ANN, "enrol", "example", "a1")]


def test_a_profiles_root_moves_with_anything_of_it_and_a_stranger_has_nothing(house):
    with furnished(house) as vault:
        before, other = vault.root(ANN), vault.root(BEN)
        put(vault, "77", b"x", encoder="ab")
        assert vault.root(ANN) != before
        assert vault.root(BEN) == other
        assert vault.encoders(ANN, "example") == {"", "ab"}
        assert vault.encoders(ANN, "other") == set()
        who = "ff" * 8
        assert (vault.root(who), vault.encoders(who, "example"), vault.idents(who, "enrol", "example")) == (
            b"",
            set(),
            [],
        )
        assert (vault.purposes(who), vault.items(who, "enrol", "example")) == ({}, [])
        assert vault.record(who, "enrol", "example", "00") is None
