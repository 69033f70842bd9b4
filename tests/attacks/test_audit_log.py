"""Who has the disk, or an export in hand, rewrites history."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.errors import TrustError, VaultError
from idiolect.trust.vault import audit
from tests.support.vaults import House, furnished


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "state")
    furnished(house).close()
    return house


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        ("UPDATE audit SET time = time + 1 WHERE seq = 4", 4),
        ("UPDATE audit SET kind = 'erased' WHERE seq = 5", 5),
        ("UPDATE audit SET body = '{}' WHERE seq = 3", 3),
        ("UPDATE audit SET hash = zeroblob(32) WHERE seq = 6", 6),
        ("DELETE FROM audit WHERE seq = 4", 4),
        ("DELETE FROM audit WHERE seq = 1", 1),
        ("DELETE FROM audit WHERE seq = 10", 10),
        ("DELETE FROM audit WHERE seq > 7", 10),
        ("DELETE FROM audit", 10),
        ("INSERT INTO audit SELECT 11, time, kind, body, hash FROM audit WHERE seq = 10", 11),
    ],
)
def test_an_edited_log_is_refused_and_the_entry_named(house, change, entry):
    house.sql(change)
    with pytest.raises(audit.AuditError) as refusal:
        house.open()
    assert refusal.value.entry == entry
    assert str(entry) in str(refusal.value)


def test_exchanged_entries_are_refused(house):
    for old, new in ((4, 99), (5, 4), (99, 5)):
        house.sql("UPDATE audit SET seq = ? WHERE seq = ?", new, old)
    with pytest.raises(audit.AuditError) as refusal:
        house.open()
    assert refusal.value.entry == 4


def test_a_log_cut_with_its_count_and_head_is_refused(house):
    house.sql("DELETE FROM audit WHERE seq > 7")
    house.sql("UPDATE meta SET count = 7, head = (SELECT hash FROM audit WHERE seq = 7)")
    with pytest.raises(VaultError, match=r"refused \(7\)"):
        house.open()


def test_a_log_written_anew_without_the_key_is_refused(house):
    mark = audit.start(house.sql("SELECT device FROM meta")[0][0])
    house.sql("DELETE FROM audit")
    for _ in range(10):
        entry = audit.append(mark, 1, "put", {"count": 1})
        mark = audit.Mark(entry.seq, entry.hash)
        house.sql("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", entry.seq, 1, entry.kind, entry.body, entry.hash)
    house.sql("UPDATE meta SET head = ?", mark.head)
    with pytest.raises(VaultError, match=r"refused \(7\)"):
        house.open()


def test_an_old_log_beside_todays_rows_is_refused(house, tmp_path):
    old = House(shutil.copytree(house.directory, tmp_path / "old"), house.clock)
    with house.open() as vault:
        vault.log("put", count=1)
    rows = old.sql("SELECT * FROM audit")
    house.sql("DELETE FROM audit")
    for row in rows:
        house.sql("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", *row)
    with pytest.raises(audit.AuditError) as refusal:
        house.open()
    assert refusal.value.entry == 11


def test_an_edit_under_an_open_vault_is_noticed(house):
    with house.open() as vault:
        assert vault.audit_verify() == vault.audit_head()
        vault._connection.execute("DELETE FROM audit WHERE seq = 4")
        for attempt in (vault.audit_verify, vault.audit_export):
            with pytest.raises(audit.AuditError) as refusal:
                attempt()
            assert refusal.value.entry == 4


# Exports


@pytest.fixture
def exported(house):
    with house.open() as vault:
        return vault.audit_export(b"nonce")


def verify(value: object, expected: audit.Mark | None = None) -> audit.Summary:
    return audit.verify_export(json.dumps(value).encode(), expected)


def rehashed(value: dict) -> dict:
    """The export with all hashes made to fit, as an attacker would."""
    head = bytes.fromhex(value["anchor"]["head"])
    for entry in value["entries"]:
        bare = audit.Entry(entry["seq"], entry["time"], entry["kind"], audit.canonical(entry["body"]), b"")
        head = audit.chained(head, bare)
        entry["hash"] = head.hex()
    value["head"], value["count"] = head.hex(), value["entries"][-1]["seq"]
    return value


def test_a_true_export_is_summed_up(exported):
    summary = verify(exported)
    assert summary.kinds == {"key-added": 3, "put": 7}
    assert summary.end.count == 10
    assert summary.nonce == b"nonce"
    expected = b"idiolect/audit/quote/v1" + summary.end.head + bytes(7) + b"\x0anonce"
    assert summary.qualifying_data == hashlib.sha256(expected).digest()


@pytest.mark.parametrize(
    ("meddle", "check", "entry"),
    [
        (lambda v: v["entries"].pop(3), 3, 4),
        (lambda v: v["entries"].pop(0), 3, 1),
        (lambda v: v["entries"].pop(), 3, 10),
        (lambda v: v["entries"].clear(), 3, 1),
        (lambda v: v["entries"].insert(2, v["entries"].pop(3)), 3, 3),
        (lambda v: v["entries"].append(v["entries"][-1]), 3, 11),
        (lambda v: v["entries"][4].update(time=1), 4, 5),
        (lambda v: v["entries"][4].update(kind="erased"), 4, 5),
        (lambda v: v["entries"][4].update(body={}), 4, 5),
        (lambda v: v["entries"][4].update(hash="0" * 64), 4, 5),
        (lambda v: v["entries"][4].update(hash="0"), 2, 5),
        (lambda v: v["entries"][4].update(body={"said": "Good Morning"}), 2, 5),
        (lambda v: v["entries"][4].update(body={"x": "a" * 65}), 2, 5),
        (lambda v: v["entries"][4].update(seq=True), 2, 5),
        (lambda v: v["entries"][4].update(more=1), 2, 5),
        (lambda v: v.update(head="0" * 64), 5, 0),
        (lambda v: v.update(count=9), 5, 0),
        (lambda v: v.update(count=11), 3, 11),
        (lambda v: v.update(device="00"), 2, 0),
        (lambda v: v.update(anchor={"count": 0, "head": "0" * 64}), 2, 0),
        (lambda v: v.update(anchor=None), 2, 0),
        (lambda v: v.update(nonce="abc"), 1, 0),
        (lambda v: v.update(more=1), 1, 0),
        (lambda v: v.update(schema="idiolect/audit/export/v2"), 1, 0),
        (lambda v: v.update(entries={}), 2, 0),
    ],
)
def test_a_meddled_export_is_refused_and_the_entry_named(exported, meddle, check, entry):
    meddle(exported)
    with pytest.raises(audit.AuditError) as refusal:
        verify(exported)
    assert (refusal.value.check, refusal.value.entry) == (check, entry)
    assert refusal.value.fix


def test_history_hashed_anew_is_refused_against_a_head_from_elsewhere(exported):
    head = verify(exported).end
    exported["entries"][4]["kind"] = "erased"
    assert verify(rehashed(exported)).kinds["erased"] == 1  # alone it cannot be told
    with pytest.raises(audit.AuditError) as refusal:
        verify(exported, head)
    assert refusal.value.check == 5


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"null", b"\xff", b'{"a":1,"a":1}', b"[1.0]", b"[NaN]", b"[1e9]", b"[-1]",
        b"[" + b"9" * 17 + b"]", b"[" * 100_000, b" " * (audit.EXPORT_CAP + 1), '{"a":"é"}'.encode(),
    ],
)  # fmt: skip
def test_what_is_no_export_is_refused(raw):
    with pytest.raises(audit.AuditError) as refusal:
        audit.verify_export(raw)
    assert refusal.value.check == 1


def test_a_double_key_is_refused(exported):
    raw = json.dumps(exported).encode()
    double = raw.replace(b'"nonce":', b'"nonce": "00", "nonce":')
    assert double != raw
    with pytest.raises(audit.AuditError) as refusal:
        audit.verify_export(double)
    assert refusal.value.check == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**60) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def an_export() -> dict:
    entries, mark = [], audit.start("ab")
    for n in range(6):
        entries.append(audit.append(mark, 100 + n, "put", {"count": n, "profile": "cd"}))
        mark = audit.Mark(entries[-1].seq, entries[-1].hash)
    return audit.export("ab", audit.start("ab"), entries, b"n")


def paths(value: object, path: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, each in inner for deeper in paths(each, (*path, key)))]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_whatever_stands_in_place_of_a_part_is_refused_in_words(data):
    value = an_export()
    *way, last = data.draw(st.sampled_from([path for path in paths(value) if path and path != ("nonce",)]))
    place = value
    for key in way:
        place = place[key]
    old, place[last] = place[last], data.draw(json_values)
    if place[last] == old and type(place[last]) is type(old):
        return
    with pytest.raises(TrustError) as refusal:
        verify(value)
    assert isinstance(refusal.value, audit.AuditError)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_of_an_export_do_not_verify_as_something_else(data):
    value = an_export()
    raw = bytearray(json.dumps(value, separators=(",", ":")).encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        summary = audit.verify_export(bytes(raw))
    except audit.AuditError:
        return
    assert summary.end == audit.verify_export(json.dumps(value).encode()).end
