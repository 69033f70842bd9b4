"""What the command line says is so: what is in use after an import, one example and two, and why a file is not read."""

from __future__ import annotations

import json

import pytest

from idiolect.cli import main
from idiolect.values import counted
from tests.service.test_starting import Running
from tests.support.whole import whole
from tests.whole.test_service import require_wavmic


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with whole(tmp_path_factory.mktemp("home")) as it:
        it.agree()
        it.teach()
        yield it


def said(home, capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main.main(["--socket", str(home.socket), *arguments]) == 0
    return capsys.readouterr().out


def test_an_import_says_what_is_in_use_then(home, capsys):
    document = home.client.export("ann")
    path = home.folder / "ann.json"
    path.write_text(json.dumps(document))
    told = said(home, capsys, "import", "ann", str(path))
    used = next(v for v in home.client.history("ann")["versions"] if v["state"] in ("active", "canary"))
    assert told.startswith(f"3 examples taken over; in use now: version {used['adapter']} ({used['state']})\n")
    only = document | {"examples": []}
    path.write_text(json.dumps(only))
    told = said(home, capsys, "import", "ann", str(path))
    assert told == f"0 examples taken over; in use now: version {used['adapter']} ({used['state']})\n"


def test_one_is_one(home, capsys):
    assert "1 adapter, 1 taught phrase, " in said(home, capsys, "status")
    assert "It knows 1 phrase that" in said(home, capsys, "explain", "ann")
    home.teach("ann", "good night", 2)
    assert "1 adapter, 2 taught phrases, " in said(home, capsys, "status")
    last = str(max(e["id"] for e in home.client.review("ann")["examples"]))
    assert said(home, capsys, "forget", "ann", "--example", last).startswith("1 example forgotten; in use now: version")


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ("phrase",), "0 phrases"),
        (1, ("phrase",), "1 phrase"),
        (2, ("entry", "entries"), "2 entries"),
        (1, ("entry", "entries"), "1 entry"),
    ],
)
def test_a_number_and_its_word(number, words, text):
    assert counted(number, *words) == text


def test_a_state_file_that_may_not_be_read_is_not_called_damaged(tmp_path):
    """A directory in its place: unlike a mode, that keeps root out, too."""
    require_wavmic()
    daemon = Running(tmp_path)
    daemon.settings()
    for name in ("listening.json", "personal.json"):
        (tmp_path / "state" / name).mkdir(parents=True)
    try:
        daemon.start().ready()
        assert daemon.status()["listening"]["state"] == "paused"
        assert "listening.json cannot be read (Is a directory): staying paused" in daemon.log
        assert "personal.json cannot be read (Is a directory): nobody is addressed" in daemon.log
        assert "damaged" not in daemon.log
    finally:
        daemon.stop()
