"""Any bytes give a value or a refusal, soon and in little memory: every target under Hypothesis and at random.

`scripts/torture/fuzz.py` does the same a million times. The positive controls: what a target must not do is reported.
"""

from __future__ import annotations

import logging
import re
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.errors import LearningError
from idiolect.learning import messages
from tests.fuzz import fields, machine
from tests.fuzz.engine import MARK, Target, Watch
from tests.fuzz.mutate import PIECES, Mutator
from tests.fuzz.targets import TARGETS, feed

SLOW = {"worker-child", "worker-confined", "wyoming-ears"}
TALKS = {"control", "page", "wyoming", "wyoming-talk", "handoff", "bus", "client", "client-stream", "fields"} | SLOW
"""These cost more, and are conversed with in test_protocols.py; ``fields`` below."""
PARSERS = [name for name in TARGETS if name not in TALKS]
JSON_LIKE = st.text(alphabet='{}[]":,0123456789abefnrstu\\.-+ \u00e9\ud7ff', max_size=200).map(
    lambda text: text.encode("utf-8", "surrogatepass")
)


def mutated(good: bytes):
    """A good file with a few spans replaced, removed or repeated."""
    span = st.tuples(st.integers(0, len(good)), st.integers(0, 40), st.binary(max_size=8) | st.sampled_from(PIECES))

    def apply(edits):
        data = good
        for at, length, new in edits:
            data = data[:at] + new + data[at + length :]
        return data

    return st.lists(span, min_size=1, max_size=4).map(apply)


@pytest.mark.parametrize("name", PARSERS)
def test_any_bytes_give_a_value_or_a_refusal(name):
    target = TARGETS[name]

    @settings(max_examples=25, deadline=None)
    @given(data=st.binary(max_size=200) | JSON_LIKE | st.one_of([mutated(good) for good in target.goods()[:8]]))
    def any_bytes(data):
        found = watch.feed(data)
        assert found is None, (found.where, found.detail)

    with Watch(target) as watch:
        any_bytes()
        inputs = Mutator(target.goods(), target.tokens, 1)
        for _ in range(100):
            any_bytes.hypothesis.inner_test(inputs.next())


@pytest.mark.parametrize("name", PARSERS)
def test_the_good_input_is_taken(name):
    """Or the fuzzers would start nowhere."""
    TARGETS[name].run(TARGETS[name].goods()[0])


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("unit", [b"[", b"{", b'{"a":', b'"', b'\\"', b"[1,", b"-----BEGIN ", b"#\n", b"\x00", b"9"])
def test_a_megabyte_of_anything_is_refused_at_once(name, unit):
    start = time.process_time()
    feed(name, unit * (1_000_000 // len(unit)))
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("vault-row", b"v\x80"),  # a negative number where the AAD has unsigned ones
        ("vault-file", b"|\xfc\xfc" + bytes(20) + b"\xff"),  # a damaged page that reads as NULL where there is none
    ],
)
def test_what_fuzzing_found_stays_mended(name, found):
    TARGETS[name].run(found)


INFINITE = b'{"number": 1e999, "day": 1}'
HALF = (
    b'{"v": 1, "profile": "aa", "number": 1, "gain": 0, "shifts": [], "taught": [], "raises": {},'
    b' "prior": {"\\ud800": 1}, "voice": false, "size": 0}'
)
"""An adapter with a name of half a character."""
MENDED = [
    ("bundle-contents", b'\2{"classes": ["a"], "shape": [1e999, 16, 96], "scale": 1, "labels": [], "strata": {}}'),
    ("bundle-contents", b'\1[{"name": "no", "text": "no", "kind": "phrase", "threshold": 1' + b"0" * 400 + b"}]"),
    ("listening", b"[" * 1024), ("listening", b" " * 1025), ("listening", b'{"paused": true, "until": 1e999}'),
    ("listening", b'{"paused": true, "until": NaN}'), ("listening", b'{"paused": true, "until": 1' + b"0" * 400 + b"}"),
    ("personal", b"[" * 1024), ("personal", b" " * 1025),
    ("personal", b'{"profile": "guest", "paused_until": null, "day": 1e999}'),
    ("personal", b'{"profile": "guest", "paused_until": NaN, "day": 1}'),
    ("personal", b'{"profile": "guest", "paused_until": null, "waiting_since": 1e999}'),
    ("tables", b"\0" + INFINITE), ("tables", b'\1[{"number": 1, "state": "new"}]'), ("tables", b"\1[1]"),
    ("copy", b'{"schema": "idiolect/sealed/v1", "cost": 1e999, "salt": "", "nonce": "", "box": ""}'),
    ("copy", b'{"schema": "idiolect/person/v1", "examples": [{"source": "enrolment", "copies": 1e999}]}'),
    ("copy", b'{"schema": "idiolect/person/v1", "examples": [], "x": "\\ud800"}'),
    ("adapter", len(HALF).to_bytes(4, "little") + HALF),
    ("sysfs", bytes([machine._NAMES.index("sys/class/thermal/thermal_zone0/type")]) + b"cpu\nidiolectd: all is well"),
    ("recording", b"\2RIFF\x64\x1f\0\0WAVEfmtVEfmt \x10\0\0\0\1\0\1\0\x80>\0\0\0}\0\0\2\0\x10\0data"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data"), MENDED)
def test_what_the_first_million_found_stays_mended(name, data):
    with Watch(TARGETS[name]) as watch:
        found = watch.feed(data)
    assert found is None, found.where


def test_a_list_that_says_it_is_long_gets_no_room_before_it_is_there():
    """500 times five bytes, each a list of a million inside the one before: 38 MiB, while they were believed."""
    tracemalloc.start()
    try:
        with pytest.raises(LearningError):
            messages.unpack(b"\xdd\x00\x0f\xff\xff" * 500, messages.ANSWER_CAP)
        with pytest.raises(LearningError):
            messages.unpack(b"\xdd\x00\x00\x09\xc4" * 500, messages.ANSWER_CAP)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


# -- by somebody who knows the format ----------------------------------------------------------------------------------


def test_values_are_changed_and_digests_fit():
    refused = taken = 0
    inputs = Mutator(fields.goods(), (), 5)
    with Watch(TARGETS["fields"]) as watch:
        for _ in range(700):
            found = watch.feed(inputs.next())
            assert found is None, (found.where, found.detail)
    run, make = fields.formats()[0]
    run(make(b""))
    for n in range(120):
        try:
            run(make(bytes([n, 5, n % 35, n, 4, 9])))
            taken += 1
        except LearningError:
            refused += 1
    assert taken > 5, "no change gets past the digest"
    assert refused > 5, "nothing is refused"


# -- positive controls -------------------------------------------------------------------------------------------------

log = logging.getLogger("idiolect.of.tests")


def crashes(data):
    return {}[data]


def hangs(data):
    while data:
        pass


def hangs_and_says_nothing(data):
    try:
        hangs(data)
    except BaseException:
        return


def eats(data):
    return [bytearray(b"x" * (1 << 20)) for _ in range(60)]


def tells(data):
    log.info("somebody said %s", data.decode())


def tells_in_a_traceback(data):
    try:
        raise ValueError(data.decode())
    except ValueError:
        log.debug("it failed", exc_info=True)


def complains(data):
    log.error("a connection failed: %s", "ValueError")


def leaves(data):
    raise SystemExit(1)


@pytest.mark.parametrize(
    ("run", "kind", "where"),
    [
        (crashes, "crash", r"KeyError at tests/fuzz/test_targets\.py:\d+"),
        (leaves, "crash", "SystemExit"),
        (hangs, "hang", "Hang at"),
        (hangs_and_says_nothing, "hang", "swallowed"),
        (eats, "memory", "more than 32 MiB"),
        (tells, "log", "its input in a log"),
        (tells_in_a_traceback, "log", "its input in a log"),
        (complains, "log", "an error in the log"),
    ],
)
def test_what_must_not_be_is_reported(run, kind, where):
    with Watch(Target(run, list), cpu_s=0.2) as watch:
        found = watch.feed(MARK.encode())
        assert (found.kind, bool(re.search(where, found.where))) == (kind, True), found
        assert found.data == MARK.encode()


def test_refusals_and_quiet_words_are_no_findings():
    def refuses(data):
        log.warning("refused")
        raise LearningError("it is none", "ask again")

    with Watch(Target(refuses, list)) as watch:
        assert watch.feed(MARK.encode()) is None
        assert watch.executions == 1
