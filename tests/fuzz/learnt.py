"""Targets of learning: what the worker says, and what the vault gives back of it."""

from __future__ import annotations

import functools

from idiolect.learning import adapter_file, ledger, messages, self_test
from idiolect.learning import round as rounds
from idiolect.learning.ledger import Example, Ledger
from idiolect.learning.trainer import When
from idiolect.learning.worker import frames
from tests.support.learners import invented, model

CAP = messages.ANSWER_CAP


@functools.cache
def request() -> messages.Request:
    """Three takes of a phrase."""
    made = [Example(n + 1, "lights please", "enrolment", "01", 20_000, "00" * 32, invented(1, n)) for n in range(3)]
    return messages.Request(model(), Ledger("aa" * 8, tuple(ledger.decode(e.encode()) for e in made)), When(20_000, 1))


@functools.cache
def good_answer() -> bytes:
    """As a worker gives it, frame and all."""
    return frames.pack(messages.packed(messages.work(request())))


def good_adapter() -> bytes:
    return messages.read_answer(messages.unpack(_body(good_answer()), CAP), request()).data


def good_selftest() -> bytes:
    slices = [["others: all", 400, 20, 3, 4], [self_test.UNSEEN, 5, 0, 0, 2]]
    return frames.pack(messages.packed({"v": messages.VERSION, "slices": slices}))


def good_example() -> bytes:
    return request().ledger.examples[0].encode()


def _body(data: bytes) -> bytes:
    header, rest = data[: frames.HEADER], data[frames.HEADER :]
    return frames.body(header, rest[: frames.size(header, CAP)])


def _unframed(data: bytes) -> bytes:
    """The body, whether or not its digest fits: a liar would compute it afresh."""
    return data[frames.HEADER :]


def framed(data: bytes) -> None:
    if frames.pack(_body(data)) != data[: frames.HEADER + len(_body(data))]:
        raise AssertionError("two frames of one body")


def answer(data: bytes) -> None:
    outcome = messages.read_answer(messages.unpack(_unframed(data), CAP), request())
    if not isinstance(outcome, rounds.Outcome) or (outcome.adapter.profile, outcome.adapter.number) != ("aa" * 8, 1):
        raise AssertionError("somebody else's adapter")


def tested(data: bytes) -> None:
    self_test.worse(messages.read_selftest(messages.unpack(_unframed(data), CAP)))


def adapter(data: bytes) -> None:
    adapter_file.encode(adapter_file.decode(data))


def example(data: bytes) -> None:
    if ledger.decode(data).spans.shape[1:] != (18, 96):
        raise AssertionError("no spans")
