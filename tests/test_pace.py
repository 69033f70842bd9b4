"""A test of pace is tried again, five times at most; one that never holds fails."""

from __future__ import annotations

import pytest

pytest_plugins = "pytester"
TOY = """
import pathlib
import pytest
TRIES = pathlib.Path(__file__).with_name("tries")

@pytest.fixture
def fresh(tmp_path):
    assert not (tmp_path / "used").exists()
    (tmp_path / "used").touch()

{mark}
def test_toy(fresh):
    TRIES.write_text(TRIES.read_text() + "x" if TRIES.exists() else "x")
    assert len(TRIES.read_text()) >= {holds}
"""
PACE = "@pytest.mark.pace"


@pytest.mark.parametrize(
    ("mark", "holds", "tries", "outcome"),
    [
        (PACE, 1, 1, "passed"),
        (PACE, 3, 3, "passed"),
        (PACE, 99, 5, "failed"),
        ("", 3, 1, "failed"),
    ],
)
def test_a_test_of_pace_is_tried_until_it_holds(pytester: pytest.Pytester, mark, holds, tries, outcome) -> None:
    pytester.makeconftest("from tests.conftest import pytest_runtest_protocol")
    pytester.makeini("[pytest]\nmarkers = pace: of time\n")
    pytester.makepyfile(test_toy=TOY.format(mark=mark, holds=holds))
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(**{outcome: 1})
    assert len((pytester.path / "tries").read_text()) == tries
