"""A short version of ``scripts/torture/flood.py``: real daemons and sockets, and that it sees what is broken.

No verdict hangs on seconds: times are told, and what is asked for here is that everything comes at all.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("wyoming", reason="pip install '.[wyoming]'")

from idiolect.control.api import routes
from tests.support.alsa import require_wavmic
from tests.support.wyoming_talk import spoken
from torture import flood
from torture.flooding import floods
from torture.flooding.floods import CONTROL, FLOODS, WYOMING, Flood
from torture.flooding.pouring import Stream

SHORT = ("audio-start-formats", "one-sample-and-start", "variants", "describe-unread", "idle", "storm")
PATIENT = argparse.Namespace(each=2, slack=25.0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SHORT)
def test_a_flood_of_wyoming_does_no_harm(name):
    require_wavmic()
    with tempfile.TemporaryDirectory() as folder:  # where another user may go, too
        row, found = flood.attempt(name, Path(folder) / name, spoken("computer"), PATIENT)
    assert found == []
    assert row["verdict"] == "held"
    assert row["word"]["count"]
    assert row["pause"]["count"] >= 2


@pytest.mark.timeout(300)
def test_a_daemon_that_dies_is_found(tmp_path, monkeypatch):
    require_wavmic()
    begin = flood.Target.begin

    def dies(it, *arguments):
        begin(it, *arguments)
        it.process.kill()
        it.process.wait()

    monkeypatch.setattr(flood.Target, "begin", dies)
    monkeypatch.setitem(FLOODS, "nothing", Flood("wyoming", lambda: [Stream()]))
    row, found = flood.attempt("nothing", tmp_path / "nothing", spoken("computer"), PATIENT)
    assert row["verdict"] == "not held"
    assert found[0].startswith("the daemon is gone")


WELL = {
    "connections": 1, "above_rest_mib": 10.0,
    "pause": {"count": 9, "failed": 0, "p99": 0.1}, "word": {"count": 2, "failed": 0},
    "exit_s": 0.3, "exit_code": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("worse", "said"),
    [
        ({}, None),
        ({"above_rest_mib": 32.5}, "32.5 MiB"),
        ({"pause": {"count": 9, "failed": 1, "p99": 0.1, "why": "reset"}}, "1 of 9"),
        ({"pause": {"count": 9, "failed": 0, "p99": 1.2}}, "1.2 s"),
        ({"word": {"count": 2, "failed": 1, "why": "refused"}}, "1 of 2"),
        ({"connections": 0}, "nobody could connect"),
        ({"exit_s": 1.1}, "after 1.1 s"),
        ({"exit_s": None, "exit_code": None}, "SIGTERM"),
        ({"exit_code": -9}, "-9"),
    ],
)
def test_what_does_not_hold_is_said(worse, said):
    found = flood.judged(WELL | worse, 1.0)
    assert [said in line for line in found] == [True] * (said is not None)


def test_with_slack_times_may_be_longer_and_nothing_else():
    assert flood.judged(WELL | {"exit_s": 4.0, "pause": {"count": 1, "failed": 0, "p99": 4.0}}, 5.0) == []
    assert flood.judged(WELL | {"above_rest_mib": 40.0}, 5.0) != []


def test_every_body_of_the_api_is_flooded_and_is_as_long_as_may_be():
    assert set(floods.with_a_body()) == {
        path for path, methods in routes.ROUTES.items() if "POST" in methods
    } - {"/v1/listening"}  # fmt: skip
    for make in (floods.objects, floods.deep):
        assert (16 << 20) - 128 < len(make()) <= 16 << 20
    for name, each in (WYOMING | CONTROL).items():
        assert name.startswith(("import", "bodies", "page-bodies")) or each.streams()
