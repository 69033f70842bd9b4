"""Mutation testing itself: it notices what it should, on a small program, and its list of excuses is current."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("mutmut", reason="mutmut is not installed: run scripts/setup")

from scripts.torture import mutants
from scripts.torture.mutating import explained
from scripts.torture.mutating.changes import Source

ROOT = Path(__file__).parents[1]
PROGRAM = '''"""Counts."""

LIMIT = 3


class Gate:
    """Lets so many in."""

    def __init__(self):
        self.seen = 0

    @property
    def full(self):
        """Whether no more may."""
        return self.seen >= LIMIT

    def enter(self):
        """One more."""
        if self.full:
            raise ValueError("there is no room")
        self.seen += 1


def down(n):
    """To nothing, by ones."""
    while n > 0:
        n -= 1
    return n


def idle():
    """Nobody asks."""
    return 1
'''
TESTS = """
import pytest
from idiolect.trust import toy

def test_the_limit():
    gate = toy.Gate()
    for _ in range(3):
        gate.enter()
    with pytest.raises(ValueError):
        gate.enter()

def test_down():
    toy.down(3)

def test_skipped():
    pytest.skip("not here")
"""


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    """What a run over a program of a few lines says."""
    root = tmp_path_factory.mktemp("toy")
    for name, text in {
        "daemon/idiolect/__init__.py": "", "daemon/idiolect/trust/__init__.py": "",
        "daemon/idiolect/trust/toy.py": PROGRAM, "tests/__init__.py": "", "tests/test_toy.py": TESTS,
        "setup.cfg": "[tool:pytest]\n",
        "equivalent.toml": '[[mutant]]\nfile = "trust/toy.py"\nfunction = "down"\nwas = "return n"\n'
        'now = "return None"\nreason = "for this test"\n',
    }.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    argv = [
        "--root",
        str(root),
        "--only",
        "trust/toy.py",
        "--tests",
        "tests/test_toy.py",
        "--seed",
        "1",
        "--patience",
        "0.15",
    ]
    argv += ["--explained", str(root / "equivalent.toml"), "--json", str(root / "out.json")]
    code = mutants.main(argv)
    return code, json.loads((root / "out.json").read_text())


def test_what_no_test_notices_is_found_and_fails_the_run(summary):
    code, said = summary
    assert code == 1
    assert not [line for line in said["found"] if "trust/toy.py" not in line]
    assert any("down: while n > 0:  ->  while n > 1:" in line for line in said["found"])
    assert said["by_file"]["trust/toy.py"]["survived"] == len(said["found"])


def test_what_a_test_notices_is_killed(summary):
    _, said = summary
    survived = "\n".join(said["found"])
    for noticed in (
        "LIMIT = 4",
        "LIMIT = 2",
        "self.seen > LIMIT",
        "if False",
        "if True",
        "self.seen -= 1",
        "self.seen = 1",
    ):
        assert f"->  {noticed}" not in survived, noticed
    assert "return None" not in survived.replace("idle", "")  # that of a property is noticed, that of `down` explained
    assert said["by_file"]["trust/toy.py"]["explained"] == 1


def test_what_never_ends_is_a_timeout_and_not_a_survivor(summary):
    _, said = summary
    assert said["by_file"]["trust/toy.py"]["timeout"] >= 2  # `while True`, `n += 1`
    assert not [line for line in said["found"] if "while True" in line or "n += 1" in line]


def test_what_no_test_runs_is_said_apart_and_messages_are_left_out(summary):
    _, said = summary
    assert said["not_covered"]
    assert all("idle" in line for line in said["not_covered"])
    assert said["left_out"]["wording of messages"] >= 1
    assert (said["not_run"], said["tests"], said["tests_left_out"]) == (0, 2, 1)


def test_a_sample_is_even_and_the_same_for_the_same_seed():
    from scripts.torture.mutating.campaign import sample

    sources = [Source(name, PROGRAM) for name in ("a.py", "b.py")]
    places = {source.file: source.places for source in sources}
    chosen = sample(places, 10, 7)
    assert [place.file for place in chosen].count("a.py") == 5
    assert chosen == sample(places, 10, 7) != sample(places, 10, 8)
    assert len(sample(places, 0, 7)) == sum(map(len, places.values()))


def test_every_excuse_is_about_a_line_that_is_there():
    entries = explained.Explained.read(explained.FILE).entries
    files = {each.file for each in entries}
    lines = {f: (ROOT / "daemon" / "idiolect" / f).read_text() for f in files}
    squeezed = {f: " ".join(line.strip() for line in text.splitlines()) for f, text in lines.items()}
    for each in entries:
        assert each.was in squeezed[each.file], each
        name = each.function.rpartition(".")[2]
        assert not name or f"def {name}(" in lines[each.file], each
        assert each.was not in each.now


def test_a_run_that_tries_nothing_has_not_held(tmp_path):
    (tmp_path / "daemon/idiolect/trust").mkdir(parents=True)
    for folder in ("daemon/idiolect", "daemon/idiolect/trust"):
        (tmp_path / folder / "__init__.py").write_text("")
    (tmp_path / "daemon/idiolect/trust/toy.py").write_text('"""Nothing."""\n')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_toy.py").write_text("def test():\n    pass\n")
    argv = ["--root", str(tmp_path), "--tests", "tests/test_toy.py", "--only", "trust/toy.py"]
    assert mutants.main([*argv, "--json", str(tmp_path / "out.json")]) == 1
    assert "not one mutant" in json.loads((tmp_path / "out.json").read_text())["found"][0]
