"""The demo's second half: somebody teaches the board a phrase, corrects it, and has everything forgotten again.

The voice is one recording that Debian ships ("do not disturb"), at several paces and levels, which is as near to one
person saying it several times as one recording comes. She agrees at the command line, as the person whom the
integrator paired with this user.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundlebuild.audio import resample
from bundlebuild.augment import stretch
from demo_trust import Board, Daemon
from tests.support.alsa.wavmic import WavMic
from tests.support.speech import SOUNDS, recording
from tests.support.talk import Talker

WHO = "ann"
PHRASE = "do not disturb"
TAKES = ((0.92, 1.0), (1.0, 0.6), (1.1, 0.9))
"""Pace and level of what is taught."""
FRESH = (1.05, 0.8)
"""Of what is said afterwards."""
SETTLE_S = 1.5
"""After something was said, until its event must be there."""
PATIENCE_S = 600.0
"""Until the command must have ended, on the busiest of machines."""

Audio = NDArray[np.int16]


def take(pace: float, level: float, deeper: float = 1.0) -> Audio:
    """The phrase at another pace (above 1: slower), level and pitch."""
    audio = recording(SOUNDS / "do-not-disturb.wav").astype(np.float32) * level
    if deeper != 1.0:
        audio, pace = resample(audio, 16_000, 16_000 * deeper), 1.5
    return np.clip(stretch(audio, pace), -32_768, 32_767).astype(np.int16)


@dataclass
class Visit:
    """A daemon that runs, and somebody in front of it."""

    board: Board
    daemon: Daemon
    talker: Talker

    def idiolect(self, *arguments: str, typed: str = "", good: tuple[int, ...] = (0,)) -> str:
        """The command line, as she would use it; what it prints, with what she typed to get it."""
        print(f"   $ idiolect {' '.join(f'{a!r}' if ' ' in a else a for a in arguments)}", flush=True)
        command = [sys.executable, "-m", "idiolect.cli.main", *arguments]
        environment = {**os.environ, "IDIOLECT_SOCKET": str(self.board.folder / "control.sock")}
        done = subprocess.run(command, env=environment, input=typed, capture_output=True, text=True, check=False)
        if done.returncode not in good:
            sys.exit(f"idiolect {arguments[0]} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def show(self, *arguments: str, typed: str = "", lines: int = 6, good: tuple[int, ...] = (0,)) -> str:
        """The same, and its first lines."""
        said = self.idiolect(*arguments, typed=typed, good=good)
        for line in said.splitlines()[:lines]:
            print(f"     {line}")
        return said

    def hears(self, samples: Audio) -> list[dict[str, Any]]:
        """The events of what is said now."""
        known = {str(e["id"]) for e in self._events()}
        self.talker.say(samples)
        self.talker.passed(SETTLE_S)
        time.sleep(0.1)  # from the microphone to the event
        return [e for e in self._events() if str(e["id"]) not in known]

    def _events(self) -> list[dict[str, Any]]:
        recent: list[dict[str, Any]] = self.daemon.client.get("/v1/events/recent")["events"]
        return [e for e in recent if e["kind"] in ("phrase", "wake", "rejected")]

    def teach(self) -> dict[str, Any]:
        """`idiolect enroll` at its own terminal, and she speaks whenever it listens."""
        print(f'   $ idiolect enroll {WHO} "{PHRASE}"', flush=True)
        command = [sys.executable, "-m", "idiolect.cli.main", "enroll", WHO, PHRASE]
        environment = {**os.environ, "IDIOLECT_SOCKET": str(self.board.folder / "control.sock")}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        telling = threading.Thread(target=_tell, args=(process.stdout,))
        telling.start()
        spoken, ends = 0, time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < ends:
            state = self._enrolment()
            if state["state"] == "listening" and state["attempts"] > spoken < len(TAKES):
                self.talker.say(take(*TAKES[spoken]), wait=False)
                spoken += 1
            time.sleep(0.05)
        process.wait(PATIENCE_S)
        telling.join()
        return self._enrolment()

    def _enrolment(self) -> dict[str, Any]:
        from idiolect.errors import RequestError

        try:
            return self.daemon.client.get("/v1/enrol")
        except RequestError:  # not begun yet
            return {"state": "", "attempts": 0}


def _tell(lines: Iterable[str] | None) -> None:
    """What a command says, as soon as it says it."""
    for line in lines or ():
        print(f"     {line}", end="", flush=True)


def names(events: list[dict[str, Any]]) -> list[str]:
    """What was understood."""
    return [str(e["phrase"]) for e in events if e["kind"] != "rejected"]


def learn(board: Board) -> bool:
    """The whole story; whether every step of it was as promised."""
    path = board.folder / "life.raw"
    talker = Talker(path, minutes=3.0)
    mic = WavMic(board.folder, path)
    board.pair(WHO, getpass.getuser())
    with board.daemon(mic.device, mic.environment) as daemon:
        daemon.with_keys()
        talker.follow(daemon.client)
        visit = Visit(board, daemon, talker)
        return all(step(visit) for step in (_agree, _taught, _corrected, _forgotten))


def _agree(visit: Visit) -> bool:
    before = names(visit.hears(take(*FRESH)))
    print(f"   “{PHRASE}” is said: {', '.join(before) or 'nothing'} is understood")
    said = visit.show(
        "consent", "grant", WHO, "--purpose", "enrol", "--purpose", "adapt_corrections", typed="yes\n"
    )  # fmt: skip
    return PHRASE not in before and "agreed" in said


def _taught(visit: Visit) -> bool:
    state = visit.teach()
    heard = visit.hears(take(*FRESH))
    for event in heard:
        print(f"   said once more: {event['phrase']} (score {float(event['score']):.2f}, adapter {event['adapter']})")
    proof = visit.show("audit", "verify", "--adapter", "1", "--of", WHO)
    return state["state"] == "done" and names(heard) == [PHRASE] and proof.count("ok") >= 5


def _corrected(visit: Visit) -> bool:
    """A voice so much deeper and slower that a part of the phrase is taken for a two."""
    events = visit.hears(take(*FRESH, deeper=1.35))
    if names(events) != ["two"]:
        print(f"   the phrase in a deep voice was to be mistaken for a two, and was heard as {names(events)}")
        return False
    print(f"   “{PHRASE}” in a deep voice is understood as two; she corrects it:")
    said = visit.show("correct", str(events[0]["id"]), PHRASE)
    print("   It will be learnt from when nobody has spoken for ten minutes, unless she does not want to wait:")
    visit.show("learn")
    learnt = visit.show("learn", "--now", "--timeout", "10m")
    review = visit.show("review", WHO, lines=8)
    if "learning from what is new" not in learnt or review.count(repr(PHRASE)) <= len(TAKES):
        print("   it was to be learnt from, and was not")
        return False
    return "does not count" not in said


def _forgotten(visit: Visit) -> bool:
    visit.show("forget", WHO, "--phrase", PHRASE)
    after = names(visit.hears(take(*FRESH)))
    print(f"   “{PHRASE}” is said: {', '.join(after) or 'nothing'} is understood")
    log = visit.show("audit", "verify")
    return PHRASE not in after and "OK" in log
