"""Codes and browsers: who tries, asks or pairs without end takes nothing from others."""

from __future__ import annotations

import asyncio

import pytest

from idiolect.control.page.browsers import ALPHABET, CODE_LENGTH, MAX_BROWSERS, MAX_CODES_OF_ONE, NAMING, TRIES, Pairing
from idiolect.errors import RequestError
from tests.support.learners import Household
from tests.support.vaults import House

ANN, BEN = 1001, 1002


class Direct:
    """``Adapters`` as far as pairing goes, without its thread."""

    open = True

    def __init__(self, learner):
        self._learner = learner

    async def keep(self, work):
        return work(self._learner.consents)


@pytest.fixture
def pairing(tmp_path):
    with House(tmp_path).create() as vault:
        home = Household(vault)
        yield Pairing(Direct(home.learner), "loopback", monotonic=lambda: 0.0)


def run(coroutine):
    return asyncio.run(coroutine)


def code_for(pairing, name, uid):
    return run(pairing.begin(name, f"user{uid}", uid))["code"].replace("-", "")


def wrong(pairing, code):
    with pytest.raises(RequestError) as told:
        run(pairing.redeem(code))
    return told.value.status


def other(letter):
    return ALPHABET[(ALPHABET.index(letter) + 1) % len(ALPHABET)]


def test_a_code_whose_secret_was_tried_too_often_is_good_no_more(pairing):
    code = code_for(pairing, "ann", ANN)
    near = code[:-1] + other(code[-1])
    for _ in range(TRIES - 1):
        wrong(pairing, near)
    kept = code_for(pairing, "ben", BEN)
    wrong(pairing, near)
    assert wrong(pairing, code) in (401, 429)
    assert run(pairing.redeem(kept))[1].person == "ben"


def test_a_code_is_good_up_to_its_last_try(pairing):
    code = code_for(pairing, "ann", ANN)
    for _ in range(TRIES - 1):
        wrong(pairing, code[:-1] + other(code[-1]))
    assert run(pairing.redeem(code))[1].person == "ann"
    assert wrong(pairing, code) in (401, 429)  # once


def test_tries_that_name_no_code_spoil_none_and_are_answered_alike(pairing):
    code = code_for(pairing, "ann", ANN)
    stranger, near = other(code[0]) + code[1:], code[:-1] + other(code[-1])
    told = [wrong(pairing, stranger) for _ in range(1000)]
    assert told[:5] == [401] * 5
    assert set(told[5:]) == {429}
    assert wrong(pairing, near) == 429  # as for a stranger's
    assert run(pairing.redeem(code))[1].person == "ann"


def test_the_bound_that_is_claimed(pairing):
    """Whatever the rate: those who know the first letters have TRIES, the others need as many as nobody answers."""
    assert len(set(ALPHABET)) ** (CODE_LENGTH - NAMING) / TRIES > 1e8
    assert len(set(ALPHABET)) ** NAMING * TRIES / 300 > 10_000
    codes = [code_for(pairing, f"person {n}", ANN + n) for n in range(8)]
    assert len({code[:NAMING] for code in codes}) == 8


def test_who_asks_for_a_code_takes_none_from_another_user(pairing):
    hers = code_for(pairing, "ann", ANN)
    for _ in range(3):
        code_for(pairing, "ann", BEN)
    for n in range(MAX_CODES_OF_ONE - 1):
        code_for(pairing, f"invented {n}", BEN)
    with pytest.raises(RequestError, match="codes of yours wait already"):
        code_for(pairing, "one more", BEN)
    assert code_for(pairing, "lena", ANN)
    assert run(pairing.redeem(hers))[1].person == "ann"


def test_who_pairs_browser_after_browser_shuts_out_his_own(pairing):
    hers, _ = run(pairing.redeem(code_for(pairing, "ann", ANN)))
    for n in range(3 * MAX_BROWSERS):
        run(pairing.redeem(code_for(pairing, f"invented {n}", BEN)))
    assert run(pairing.session(hers)).person == "ann"
    assert len(run(pairing.browsers("", True))["browsers"]) == MAX_BROWSERS
