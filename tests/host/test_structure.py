"""Structure has a bound: whoever parses what others wrote counts it first, and says what there is too much of."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import struct
import time
import tracemalloc
from types import SimpleNamespace

import pytest

from idiolect.cli import review
from idiolect.client import connection
from idiolect.config.tree import Reading, read_tree
from idiolect.control.api import requests
from idiolect.control.wyoming import connection as wyoming_wire
from idiolect.errors import IdiolectError, LearningError, RequestError
from idiolect.host import structure
from idiolect.learning import adapter_file, ledger, messages, provenance
from idiolect.people import receipt, stretch
from idiolect.people import review as rights
from idiolect.trust.bundle import canonical, phrases, slots
from idiolect.trust.device import documents, key_file
from idiolect.trust.vault import audit, sealed_copy
from idiolect.trust.vault.passphrase import stretch as here

MIB = 1 << 20
OBJECTS = b"[" + b"{}," * (16 * MIB // 3) + b"{}]"
BOMBS = {
    "objects": OBJECTS,
    "deep": b"[" * (16 * MIB),
    "lists": b"[" + b"[0]," * (4 * MIB) + b"0]",
    "texts": b'["' + b'a","' * (4 * MIB) + b'"]',
    "texts without commas": b'"a"' * (5 * MIB),
    "members": b"{" + b",".join(b'"%x":{"":0}' % n for n in range(900_000)) + b"}",
    "escaped": b'"' + b'\\"' * (8 * MIB) + b'"',
    "backslashes": b'"' + b"\\" * (16 * MIB),
    "inside a member": b'{"profile":"ann","document":{"examples":' + OBJECTS + b"}}",
}


def grown(work):
    """MiB that ``work`` took at its peak beyond what it began with."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("parse", [requests.parse_body, lambda raw: requests.parse_copy(structure.Source(raw))])
def test_sixteen_mib_of_structure_cost_next_to_nothing_and_are_refused_by_name(parse, name):
    def refused():
        with pytest.raises(RequestError) as told:
            parse(BOMBS[name])
        assert (told.value.status, told.value.field) == (422, "body")
        assert str(told.value).startswith(("has more than", "is nested deeper", "holds a text", "is cut short"))

    assert grown(refused) < 1


@pytest.mark.parametrize("character", [b"\xf0\x9f\x98\x80", b"\\ud83d\\ude00", b"a"])
def test_one_emoji_does_not_make_four_bytes_of_every_character(character):
    """Python keeps a text in as many bytes a character as the widest needs; and the whole of what it decodes."""
    raw = b'{"profile": "' + character + b'", "document": {"x": "' + b"a" * (15 * MIB) + b'"}}'
    assert grown(lambda: requests.parse_copy(structure.Source(raw))) < 1


def test_what_lies_between_long_texts_is_bounded_too():
    for between in (b" " * (3 * MIB), b"1" * (3 * MIB), b'"' + b"a" * 900 + b'",'):
        raw = b"[" + between * (4000 if len(between) < 1000 else 1) + b"1]"
        with pytest.raises(RequestError, match="beside its long texts"):
            requests.parse_copy(structure.Source(raw))


def anything(chance, depth=0):
    kind = chance.randrange(9 if depth < 5 else 6)
    if kind < 2:
        text = "".join(chance.choice('ab"\\/{}[],:\n\u00e4\U0001f600') for _ in range(chance.randrange(12)))
        return text * (1 if chance.random() < 0.8 else 500)
    if kind < 6:
        return (None, True, 7, -1.5)[kind - 2]
    if kind == 6:
        return {str(n) + chance.choice('",[') * n: anything(chance, depth + 1) for n in range(chance.randrange(5))}
    return [anything(chance, depth + 1) for _ in range(chance.randrange(6))]


@pytest.mark.parametrize("seed", range(300))
def test_what_is_counted_is_what_json_has(seed):
    """Exactly as many parts as there are brackets and commas outside of texts, exactly as deep as it is nested."""
    value = anything(random.Random(seed))
    raw = json.dumps(value, ensure_ascii=bool(seed % 2)).encode()

    def size(it, depth=0):
        if not isinstance(it, dict | list):
            return 0, depth
        inner = [size(each, depth + 1) for each in (it.values() if isinstance(it, dict) else it)]
        return 2 + max(0, len(it) - 1) + sum(n for n, _ in inner), max([depth + 1, *(d for _, d in inner)])

    parts, depth = size(value)
    assert structure.load(raw, parts=parts, depth=depth) == value
    for bounds in ({"parts": parts - 1, "depth": depth}, {"parts": parts, "depth": depth - 1}):
        if parts:
            with pytest.raises(structure.StructureError):
                structure.check(raw, **bounds)
    apart = structure.load_apart(structure.Source(raw), parts=parts, depth=depth, around=len(raw))
    assert json.dumps(shortened(apart)) == json.dumps(shortened(value))


def shortened(it):
    """The same without what ``load_apart`` leaves where it is."""
    if isinstance(it, dict):
        return {name: shortened(each) for name, each in it.items()}
    if isinstance(it, list):
        return [shortened(each) for each in it]
    long = isinstance(it, structure.Text) or (isinstance(it, str) and len(json.dumps(it)) > structure.LONG)
    return "..." if long else it


def test_a_long_text_is_read_where_it_lies_until_its_bytes_are_given_back():
    data = random.Random(1).randbytes(5000)
    source = structure.Source(bytearray(json.dumps({"a": base64.b64encode(data).decode(), "b": 1}).encode()))
    found = structure.load_apart(source, parts=10, depth=2, around=100)
    assert (found["a"].base64(), found["b"]) == (data, 1)
    with pytest.raises(ValueError, match="too long"):
        str(found["a"])
    found["a"].release()
    assert not source.raw


@pytest.mark.parametrize("raw", [b'{"a": NaN, "b": "%s"}', b'{"b": "%s", "a": NaN}', b'{"a": Infinity, "b": "%s"}'])
def test_a_nan_of_the_sender_is_not_taken_for_a_long_text(raw):
    with pytest.raises(RequestError) as told:
        requests.parse_copy(structure.Source(raw % (b"a" * 2000)))
    assert told.value.status == 400


# -- everywhere that something of others is parsed --------------------------------------------------------------------

WIDE = b"[" + b"{}," * 300_000 + b"{}]"
DEEP = b"[" * 500 + b"]" * 500


def of_a_file(header):
    return struct.pack("<I", len(header)) + header


def answered(raw):
    return connection._parse(raw)


PARSERS = {
    "body": requests.parse_body,
    "copy": lambda raw: requests.parse_copy(structure.Source(raw)),
    "sealed copy": lambda raw: rights.Rights(SimpleNamespace(vault=None), here).bring(
        None, sealed_copy.seal(raw, "correct horse"), "correct horse"
    ),
    "answer": answered,
    "wyoming": lambda raw: wyoming_wire._object("data", raw),
    "canonical": canonical.strict,
    "audit": audit.strict_json,
    "attestation": lambda raw: documents._strict(raw, len(raw), set()),
    "keystore": key_file._parsed,
    "slots": slots._parse,
    "bundle": lambda raw: phrases.read_json("head.json", raw),
    "phrases": lambda raw: phrases.read_phrases(raw, ()),
    "adapter": lambda raw: adapter_file.decode(of_a_file(raw)),
    "example": lambda raw: ledger.decode(of_a_file(raw)),
    "provenance": provenance.parse,
    "receipt": receipt._fields,
    "key": stretch.asked,
}


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("raw", [WIDE, DEEP], ids=["wide", "deep"])
def test_every_parser_counts_before_it_builds(parser, raw, monkeypatch):
    loads = json.loads

    def guarded(text, **hooks):
        raw = text.encode() if isinstance(text, str) else text
        assert len(raw) < 2000 or parser == "sealed copy", "it was built"
        return loads(text, **hooks)

    monkeypatch.setattr(json, "loads", guarded)
    monkeypatch.setattr(json.JSONDecoder, "decode", lambda *_: pytest.fail("it was built"))
    with pytest.raises((IdiolectError, ValueError)):
        PARSERS[parser](raw)


@pytest.mark.parametrize(
    ("body", "built"),
    [
        (b"\xdc\xff\xff" * 20, "lists that promise 65,535 items each"),
        (b"\xdd\x00\x0f\xff\xf0" + b"\x90" * 0xFFFF0, "a million empty lists"),
        (b"\xde\xff\xff" + b"\x80" * 65_535 * 2, "a map of maps"),
        (b"\x91" * 70_000 + b"\x00", "a chain of 70,000 lists"),
    ],
)
def test_a_message_of_the_worker_is_counted_before_it_is_built(body, built):
    def refused():
        with pytest.raises(LearningError):
            messages.unpack(body, messages.ANSWER_CAP)

    assert grown(refused) < 1, built


def test_messages_are_counted_as_they_are(monkeypatch):
    message = {"a": [1, -1, 300, 70_000, 1 << 40, 1.5, None, True, b"x" * 300, "y" * 40, "z" * 70_000], "b": {"c": []}}
    count = 1 + 2 + 11 + 2 + 2 - 1 + 1  # the map; "a" and its list; items; "b", its map; "c", its list
    body = messages.packed(message)
    monkeypatch.setattr(messages, "ITEMS", count)
    assert messages.unpack(body, 1 << 20) == message
    monkeypatch.setattr(messages, "ITEMS", count - 1)
    with pytest.raises(LearningError):
        messages.unpack(body, 1 << 20)


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [(LAUGHS, "anchors"), ("a: *b\n", "aliases"), ("[" * 100, "nested deeper"), ("- a\n" * 20_000, "more than 10000")],
)
def test_a_configuration_is_counted_before_it_is_built(text, why):
    reading = Reading("x.yaml")

    def read():
        read_tree(text, reading)

    assert grown(read) < 32
    assert why in str(reading.problems[0])


def test_the_command_line_looks_before_it_loads(tmp_path):
    file = tmp_path / "copy.json"
    for raw, status in ((OBJECTS, 422), (b" " * (21 * MIB), 413)):
        file.write_bytes(raw)
        with pytest.raises(RequestError) as told:
            review._import(SimpleNamespace(file=str(file), name="ann", seal=False))
        assert (told.value.status, told.value.field) == (status, "document")


# -- a key from a passphrase -------------------------------------------------------------------------------------------


def test_a_key_is_made_by_a_child_and_is_the_same():
    salt = bytes(range(16))
    assert stretch.stretch("correct horse", salt, 1 << 15) == here("correct horse", salt, 1 << 15)
    assert {layer.name for layer in stretch._child.layers} >= {"limits", "parent", "no_new_privs"}


def test_a_copy_that_our_own_export_made_is_read_and_one_that_asks_for_more_is_not():
    sealed = sealed_copy.seal(b"what was said", "correct horse", stretch.stretch)
    assert sealed_copy.open_(sealed, "correct horse", stretch.stretch) == b"what was said"
    with pytest.raises(IdiolectError, match="damaged"):
        sealed_copy.open_({**sealed, "cost": 1 << 16}, "correct horse", lambda *_: pytest.fail("it was tried"))


def test_text_in_another_encoding_is_refused_and_not_guessed():
    """In UTF-16 a quote may be half of a character, and what is between two of them no text."""
    for encoding in ("utf-16-le", "utf-16", "utf-32-le"):
        with pytest.raises(ValueError, match=r"codec|Expecting|control"):
            structure.load('["\u2200",[],[],"\u2200"]'.encode(encoding), parts=100)


def test_a_name_given_twice_among_many_costs_what_many_names_cost():
    def parsed(last):
        names = ",".join(f'"{n}":0' for n in (*range(20_000), last))
        began = time.process_time()
        with contextlib.suppress(RequestError):
            requests.parse_copy(structure.Source(bytearray(f"{{{names}}}".encode())))
        return time.process_time() - began

    once = min(parsed(20_000) for _ in range(3))
    assert min(parsed(19_999) for _ in range(3)) < 20 * once + 0.2


def test_a_long_text_may_be_spelt_with_escapes():
    raw = b"abc/" * 500
    written = base64.b64encode(raw).replace(b"/", rb"\/")
    found = structure.load_apart(structure.Source(bytearray(b'{"a": "%b"}' % written)), parts=10, depth=3, around=1000)
    assert found["a"].base64() == raw


def test_the_largest_copy_of_our_own_is_taken_in_any_script():
    phrase = "\u0432" * 64
    row = {"phrase": phrase, "source": "enrolment", "day": 20_000, "session": "0123456789abcdef", "heard": phrase,
           "copies": 1, "encoder": "e" * 64, "embeddings_float16": "A" * 4608}  # fmt: skip
    document = {"schema": "idiolect/person/v1", "name": phrase, "examples": [row] * 2000, "usage": [], "adapters": []}
    raw = bytearray(json.dumps({"profile": "ann", "document": document}).encode())
    assert len(requests.parse_copy(structure.Source(raw))["document"]["examples"]) == 2000


def test_released_bytes_are_gone_whoever_holds_them() -> None:
    raw = bytearray(b'{"a": "' + b"x" * 100_000 + b'"}')
    source = structure.Source(raw)
    structure.load_apart(source, parts=10, depth=2, around=100)
    source.release()
    assert len(raw) == 0
