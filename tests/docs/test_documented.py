"""Every line of shell in README and docs is tried somewhere, or it is said why not."""

from __future__ import annotations

import re

import pytest

from tests.support.documented import IN_CHECKOUT, ON_DEVICE, PAGES, RULES, Line, in_checkout, lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_line_has_its_place(page) -> None:
    lost = [line.text for line in lines(page) if not line.place]
    assert not lost, "say in tests/support/documented.py where these are tried, or why not"


def test_every_rule_is_of_use() -> None:
    everything = [line for page in PAGES for line in lines(page)]
    used = {next(n for n, (p, _) in enumerate(RULES) if re.search(p, line.text)) for line in everything if line.place}
    assert [RULES[n][0] for n in range(len(RULES)) if n not in used] == []


def test_enough_of_it_is_tried() -> None:
    places = [line.place for page in PAGES for line in lines(page)]
    assert places.count(ON_DEVICE) >= 30
    assert places.count(IN_CHECKOUT) >= 8


def test_a_line_that_nobody_thought_of_is_noticed(tmp_path) -> None:
    page = tmp_path / "new.md"
    page.write_text("Do this:\n\n    sudo systemd-hop --now   # and\n    idiolect status | doctor\n")
    assert [(line.text, line.place) for line in lines(page)] == [
        ("sudo systemd-hop --now", ""), ("idiolect status", ON_DEVICE), ("idiolect doctor", ON_DEVICE),
    ]  # fmt: skip
    assert Line(page, "sudo idiolect doctor").as_root
    assert not Line(page, "idiolect doctor").as_root


def test_the_script_for_the_checkout_has_the_steps_in_order() -> None:
    script = "\n".join(in_checkout())
    wanted = (
        "sudo apt install",
        "-m venv ~/idiolect",
        "pip install",
        "idiolectd --config",
        "sleep",
        "idiolect status",
    )
    places = [script.index(each) for each in wanted]
    assert places == sorted(places)
    assert script.index("bundle keygen") < script.index("bundle sign") < script.index("bundle verify")
