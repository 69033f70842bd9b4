"""What the journal hears of the microphone: the lines, how many of them, and that the last one is always true."""

from __future__ import annotations

import asyncio
import logging

import pytest

from idiolect.listening.audio.outages import BURST, EVERY_S, Outages
from idiolect.values import MicrophoneHealth

GONE = MicrophoneHealth("absent", "hw:1: no such device", "plug it in")
BUSY = MicrophoneHealth("busy", "hw:1: held by another program", "stop that program")
HERE = MicrophoneHealth("running")


class Journal:
    """An ``Outages`` under a clock of the test's own; ``lines`` are what it logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = 1000.0
        self.outages = Outages(lambda: self.clock)
        self._caplog = caplog
        caplog.set_level(logging.INFO)

    def is_(self, health: MicrophoneHealth, after: float = 1.0) -> None:
        self.clock += after
        self.outages.changed(health)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records]

    @property
    def levels(self) -> list[str]:
        return [record.levelname for record in self._caplog.records]


@pytest.fixture
def journal(caplog: pytest.LogCaptureFixture) -> Journal:
    return Journal(caplog)


def test_one_line_when_it_goes_and_one_when_it_is_back(journal: Journal) -> None:
    journal.is_(HERE)
    journal.is_(GONE)
    journal.is_(MicrophoneHealth("absent", "another reason", "plug it in"))
    journal.is_(HERE, after=83)
    assert journal.lines == [
        "no sound from the microphone (absent): hw:1: no such device; plug it in",
        "the microphone is back after 84 s",
    ]
    assert journal.levels == ["WARNING", "INFO"]


def test_another_fault_is_another_line_and_the_time_counts_from_the_first(journal: Journal) -> None:
    for health in (GONE, BUSY, HERE):
        journal.is_(health, after=100)
    assert [line.partition(":")[0] for line in journal.lines] == [
        "no sound from the microphone (absent)",
        "no sound from the microphone (busy)",
        "the microphone is back after 3 min",
    ]


def test_a_start_without_one_is_told_and_a_good_one_is_not(journal: Journal) -> None:
    journal.is_(HERE)
    journal.is_(MicrophoneHealth("ended", "the recording is over"))
    assert journal.lines == []
    journal.is_(GONE)
    assert len(journal.lines) == 1


def test_a_pause_is_no_fault_and_does_not_bring_it_back(journal: Journal) -> None:
    journal.is_(MicrophoneHealth("paused"))
    journal.is_(MicrophoneHealth("opening"))
    journal.is_(GONE)
    journal.is_(MicrophoneHealth("paused"))
    journal.is_(MicrophoneHealth("opening"))
    journal.is_(HERE)
    assert len(journal.lines) == 1


def test_one_that_comes_and_goes_fills_no_journal_and_the_end_is_told(journal: Journal) -> None:
    async def flap() -> None:
        for _ in range(500):
            journal.is_(GONE, after=0.1)
            journal.is_(HERE, after=0.1)
        assert len(journal.lines) == BURST
        journal.is_(GONE, after=0.1)
        journal.clock += EVERY_S
        journal.outages._tell()  # as its timer would
        assert len(journal.lines) == BURST + 1
        assert journal.lines[-1].endswith("times since this was said last")
        journal.is_(HERE, after=EVERY_S)
        assert journal.lines[-1].startswith("the microphone is back after 4 min")
        journal.outages.close()

    asyncio.run(flap())


def test_what_could_not_be_said_at_once_is_said_later(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idiolect.listening.audio.outages.EVERY_S", 0.05)

    async def flap() -> None:
        journal.outages = Outages()
        for _ in range(BURST):
            journal.is_(GONE)
            journal.is_(HERE)
        journal.is_(GONE)
        while not journal.lines[-1].startswith("no sound"):
            await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(flap(), 20))
