from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect.trust.vault import audit
from tests.support.vaults import House


def chain(length: int) -> tuple[list[audit.Entry], audit.Mark]:
    entries, mark = [], audit.start("ab")
    for n in range(length):
        entries.append(audit.append(mark, n, "put", {"count": n}))
        mark = audit.Mark(entries[-1].seq, entries[-1].hash)
    return entries, mark


def test_the_chain_is_the_one_described():
    entry = audit.append(audit.start("ab12"), 1_800_000_000, "put", {"purpose": "enrol", "count": 3})
    first = hashlib.sha256(b"idiolect/audit/start/v1" + b"ab12").digest()
    text = {"seq": 1, "time": 1_800_000_000, "kind": "put", "body": {"count": 3, "purpose": "enrol"}}
    canonical = json.dumps(text, sort_keys=True, separators=(",", ":")).encode()
    assert entry.hash == hashlib.sha256(b"idiolect/audit/entry/v1" + first + canonical).digest()


def test_a_chain_walks_from_any_mark_on_it():
    entries, end = chain(9)
    assert audit.walk(audit.start("ab"), entries) == end
    assert audit.walk(audit.Mark(4, entries[3].hash), entries[4:]) == end
    with pytest.raises(audit.AuditError) as refusal:
        audit.walk(audit.Mark(4, entries[2].hash), entries[4:])
    assert refusal.value.entry == 5


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("said", {}),
        ("put", {"name": "ann"}),
        ("put", {"count": "ann"}),
        ("put", {"count": -1}),
        ("put", {"count": True}),
        ("put", {"count": 1.0}),
        ("put", {"count": 2**53}),
        ("put", {"purpose": "turn on the light"}),
        ("put", {"profile": "Ann"}),
        ("put", {"profile": "a" * 65}),
        ("put", {"profile": 5}),
        ("keys-released", {"bundle": "ab"}),
        ("keys-released", {"bundle": None}),
    ],
)
def test_nothing_but_the_table_gets_in_and_the_error_does_not_quote_it(kind, fields):
    with pytest.raises(ValueError, match="audit entry") as refusal:
        audit.append(audit.start("ab"), 0, kind, fields)
    assert not any(str(value) in str(refusal.value) for value in fields.values() if isinstance(value, str))


def test_every_kind_takes_its_fields_and_exports():
    samples = {
        audit.NUMBER: 7,
        audit.DIGEST: "d" * 64,
        audit.ID: "ab",
        audit.PURPOSE: "enrol",
        audit.HOW: "paired",
        audit.STATE: "canary",
        audit.WHY: "encoder",
        audit.CAUSE: "timeout",
    }
    entries, mark = [], audit.start("ab")
    for kind, fields in audit.KINDS.items():
        entries.append(audit.append(mark, 5, kind, {name: samples[pattern] for name, pattern in fields.items()}))
        mark = audit.Mark(entries[-1].seq, entries[-1].hash)
    raw = json.dumps(audit.export("ab", audit.start("ab"), entries)).encode()
    assert audit.verify_export(raw, mark).kinds == dict.fromkeys(audit.KINDS, 1)


@given(st.text(max_size=70) | st.integers())
def test_a_word_or_number_is_refused_or_stays_as_it_is(value):
    for field in ("profile", "purpose", "count"):
        try:
            entry = audit.append(audit.start("ab"), 0, "put", {field: value})
        except ValueError:
            continue
        assert json.loads(entry.body) == {field: value}
        assert entry.body.isascii()
        assert "\n" not in entry.body


@given(st.integers(0, 3000), st.integers(0, 8), st.integers(0, 20))
def test_whole_old_segments_are_dropped_and_no_others(count, dropped, keep):
    anchor, end = audit.Mark(dropped * audit.SEGMENT, b""), audit.Mark(count + dropped * audit.SEGMENT, b"")
    last = audit.last_to_drop(anchor, end, keep)
    assert last % audit.SEGMENT == 0
    assert anchor.count <= last <= end.count
    if last > anchor.count:
        assert keep * audit.SEGMENT <= end.count - last < (keep + 1) * audit.SEGMENT


def test_a_log_is_pruned_to_whole_segments_behind_an_anchor(tmp_path):
    house = House(tmp_path)
    with house.create() as vault:
        for _ in range(600):
            vault.log("put", count=1)
        assert vault.prune(2) == 0
        assert vault.prune(1) == 256
        assert vault.counts().audit_entries == 600 - 256 + 1
        assert vault.audit_entries(1)[0].as_dict()["body"] == {"count": 256}
        assert vault.prune(0) == 256
        assert vault.audit_entries(1)[0].as_dict()["body"] == {"count": 256}
        head = vault.audit_head()
    with house.open() as vault:
        summary = audit.verify_export(json.dumps(vault.audit_export()).encode(), head)
        assert (summary.anchor.count, summary.end.count) == (512, 602)
        assert vault.audit_verify() == head


def test_a_log_never_grows_past_what_is_read(tmp_path):
    house = House(tmp_path)
    with house.create() as vault:
        most = 0
        for _ in range(audit.MAX_ENTRIES + 600):
            vault.log("put", count=1)
            most = max(most, vault.counts().audit_entries)
        assert most <= audit.MAX_ENTRIES
    with house.open() as vault:
        summary = audit.verify_export(json.dumps(vault.audit_export()).encode())
        assert summary.kinds["pruned"] == 3
        assert vault.audit_entries(0) == []
        assert [e.seq for e in vault.audit_entries(2)] == [summary.end.count - 1, summary.end.count]


def test_the_largest_log_fits_into_the_largest_export():
    longest = max(len(kind) for kind in audit.KINDS) + audit.BODY_CAP + 200
    assert audit.MAX_ENTRIES * longest < audit.EXPORT_CAP


def test_a_quote_names_head_count_and_nonce():
    one = audit.qualifying_data(bytes(32), 1, b"n")
    others = [(bytes(32), 2, b"n"), (b"\x01" + bytes(31), 1, b"n"), (bytes(32), 1, b"m"), (bytes(32), 1, b"")]
    assert one not in [audit.qualifying_data(*other) for other in others]


def test_a_nonce_has_a_cap():
    with pytest.raises(ValueError, match="nonce"):
        audit.export("ab", audit.start("ab"), [], bytes(65))


def test_verifying_loads_the_standard_library_alone():
    code = "import sys, idiolect.trust.vault.audit; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    daemon = Path(__file__).parents[3] / "daemon"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=daemon)
    assert not set(done.stdout.split()) & {"cryptography", "sqlite3", "numpy"}


def exported(**changes):
    entries, _ = chain(3)
    value = json.loads(json.dumps(audit.export("ab", audit.start("ab"), entries, b"n")))
    return {**value, **changes}


def refused(value):
    with pytest.raises(audit.AuditError) as refusal:
        audit.verify_export(value if isinstance(value, bytes) else json.dumps(value).encode())
    return refusal.value.check, refusal.value.entry


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"schema": "idiolect/audit/export/v2"}, 1), ({"more": 1}, 1), ({"device": "a" * 65}, 1), ({"device": "AB"}, 1),
        ({"device": 7}, 1), ({"nonce": "a" * 130}, 1), ({"nonce": "abc"}, 1), ({"nonce": "zz"}, 1),
        ({"anchor": {"count": 0}}, 2), ({"anchor": {"count": "0", "head": "0" * 64}}, 2), ({"head": "0" * 63}, 2),
        ({"head": "0" * 65}, 2), ({"count": True}, 2), ({"entries": {}}, 2), ({"device": "ac"}, 2), ({"count": 4}, 3),
        ({"count": 2}, 5), ({"head": "0" * 64}, 5),
    ],
)  # fmt: skip
def test_every_part_of_an_export_is_refused_by_number(changes, check):
    assert refused(exported(**changes))[0] == check


def test_device_and_nonce_at_their_limits():
    entries, mark = [], audit.start("a" * 64)
    raw = json.dumps(audit.export("a" * 64, mark, entries, bytes(64))).encode()
    assert audit.verify_export(raw).nonce == bytes(64)
    assert audit.verify_export(raw).device == "a" * 64


@pytest.mark.parametrize(
    ("field", "value", "check"),
    [
        ("seq", 2, 3), ("seq", "1", 2), ("time", 7, 4), ("time", True, 2), ("kind", "Put", 2), ("kind", "k" * 33, 2),
        ("kind", "k" * 32, 4), ("kind", "other", 4), ("hash", "0" * 64, 4), ("hash", "0" * 63, 2), ("more", 1, 2),
        ("body", {"count": 5}, 4), ("body", [], 2), ("body", {"Count": 0}, 2), ("body", {"count": "x" * 64}, 4),
        ("body", {"count": "x" * 65}, 2), ("body", {"count": "X"}, 2), ("body", {"count": None}, 2),
        ("body", {"n" * 33: 1}, 2), ("body", {"count": True}, 2),
    ],
)  # fmt: skip
def test_every_part_of_an_entry_is_refused_by_number_and_named(field, value, check):
    export = exported()
    export["entries"][0][field] = value
    assert refused(export) == (check, 1)


def test_a_missing_entry_is_the_first_that_is_not_there():
    export = exported()
    del export["entries"][1]
    assert refused(export) == (3, 2)
    export = exported()
    export["entries"] = export["entries"][:2]
    assert refused(export) == (3, 3)


def test_a_body_of_512_bytes_is_taken_and_no_more():
    body = {f"f{c}": "x" * 48 for c in "abcdefgh"}
    body["fi"] = "x" * (512 - len(audit.canonical(body | {"fi": ""})))
    for more, check in (("", 4), ("x", 2)):
        export = exported()
        export["entries"][0]["body"] = body | {"fa": body["fa"] + more}
        assert len(audit.canonical(export["entries"][0]["body"])) == 512 + len(more)
        assert refused(export) == (check, 1)


@pytest.mark.parametrize(
    ("number", "good"), [("9007199254740991", True), ("9007199254740992", False), ("-1", False), ("1" * 17, False)]
)
def test_numbers_that_any_reader_takes(number, good):
    raw = b'{"n":' + number.encode() + b"}"
    if good:
        assert audit.strict_json(raw) == {"n": int(number)}
    else:
        assert refused(raw) == (1, 0)


@pytest.mark.parametrize("raw", [b'{"a":1,"a":1}', b"1.0", b"NaN", b"-Infinity", b"[", b"\xc3\xa4", b"[" * 100_000])
def test_1_what_is_no_strict_json(raw):
    with pytest.raises(audit.AuditError) as refusal:
        audit.strict_json(raw)
    assert (refusal.value.check, refusal.value.entry) == (1, 0)


def test_1_eight_mib_and_a_byte():
    assert audit.strict_json(b"7" + b" " * ((8 << 20) - 1)) == 7
    assert refused(b"7" + b" " * (8 << 20)) == (1, 0)


def test_times_are_kept_within_what_any_reader_takes():
    for given_, kept in ((-5, 0), (2**60, 2**53 - 1), (7, 7)):
        assert audit.append(audit.start("ab"), given_, "put", {}).time == kept


def test_the_head_that_is_known_from_elsewhere_must_be_the_end():
    entries, end = chain(3)
    raw = json.dumps(audit.export("ab", audit.start("ab"), entries)).encode()
    assert audit.verify_export(raw, end).end == end
    with pytest.raises(audit.AuditError) as refusal:
        audit.verify_export(raw, audit.Mark(2, entries[1].hash))
    assert (refusal.value.check, refusal.value.entry) == (5, 0)


def logged():
    """(file, kind, fields) of every entry that the daemon writes, as far as it is spelled out where it is written."""
    daemon = Path(__file__).parents[3] / "daemon" / "idiolect"
    for path in sorted(daemon.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            if called in ("change", "log") and node.args and isinstance(node.args[0], ast.Constant):
                names = {each.arg for each in node.keywords if each.arg}
                for each in node.args[1:]:
                    names |= {key.value for key in each.keys} if isinstance(each, ast.Dict) else set()
                yield path.name, node.args[0].value, names - {"rotate"}


def test_every_entry_that_the_daemon_writes_may_be_written():
    found = list(logged())
    assert len(found) > 25
    assert [each for each in found if not each[2] <= audit.KINDS.get(each[1], {}).keys()] == []


def test_a_body_that_is_too_long_is_not_written(monkeypatch):
    """Nothing in the table gets so long today; what is added to it tomorrow might."""
    fits = len(audit.append(audit.start("ab"), 1, "put", {"count": 7}).body)
    for cap, good in ((fits, True), (fits - 1, False)):
        monkeypatch.setattr(audit, "BODY_CAP", cap)
        if good:
            assert audit.append(audit.start("ab"), 1, "put", {"count": 7}).seq == 1
        else:
            with pytest.raises(ValueError, match="too long"):
                audit.append(audit.start("ab"), 1, "put", {"count": 7})
