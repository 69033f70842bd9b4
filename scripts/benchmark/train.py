"""What learning costs whoever speaks meanwhile: a real daemon, a real round, and a microphone with digits in it.

Everybody in the household has as many examples as one may have, so that a round takes about as long as the pause
between two digits; each event stops it (that is the product's promise, measured here too), and it is asked for again
at once. Only digits are counted for which a worker was alive until their event. The same digits in the same order
without a round, in the same run, are what it is compared with.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import threading
import time
from bisect import bisect_right
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark import idle, learn
from benchmark.daemon import UnixConnection
from idiolect.config.schema import Config
from idiolect.learning.ledger import MAX_EXAMPLES
from idiolect.learning.worker.process import Worker
from idiolect.listening.recognizer import Recognizer, bundle_directory, read_bundle
from idiolect.people.consent import Consents
from idiolect.people.learner import Learner
from idiolect.people.models import model_of
from idiolect.trust.bundle.choose import Model
from idiolect.trust.device.keys import DeviceKeys

DIGITS = 40
PEOPLE = 9
LOOK_S = 0.002
LEAST_MS = 5.0
"""Latency below which a ratio says nothing: many events come before the end of their phrase."""
BEFORE_S = 0.05
"""A worker may be gone when the event that ended it arrives at a client, but was there so long before."""


@dataclass(frozen=True)
class Figures:
    """Latencies in ms at the 95th percentile; ``counted`` digits of those with a round were heard during one.

    ``preempt_ms``: the longest from an event at its client to the end of the worker that it stopped.
    """

    listen_latency_p95_ms: float | None
    listen_latency_p95_ms_without: float | None
    listen_latency_ratio: float | None
    """Of these two; None where the event without a round is as good as at the phrase's end."""
    listen_latency_added_ms: float | None
    """95th percentile of the differences, digit by digit."""
    counted: int
    preempt_ms: float | None


def measure(bundle: str, folder: Path) -> Figures | None:
    """About five minutes. None for a bundle that nothing can be learnt with."""
    without, during = folder / "without", folder / "during"
    without.mkdir(parents=True)
    if not _household(bundle, during / "state"):
        return None
    more = {"bundle": bundle, "idle": {"machine": str(folder / "no-sensors")}}
    watch = _Watch()
    alone = idle.event_latencies(without, more, count=DIGITS)
    beside = idle.event_latencies(during, more, count=DIGITS, beside=watch)
    counted = [
        (with_it, by_itself)
        for with_it, by_itself, at in zip(beside.each, alone.each, beside.spoken_at, strict=True)
        if with_it is not None and by_itself is not None and watch.life(at + with_it / 1000.0) is not None
    ]
    stops = [max(0.0, life[1] - at) for at in watch.events if (life := watch.life(at)) is not None]
    if not counted:
        return Figures(None, None, None, None, 0, None)
    with_it, by_itself = (float(np.percentile(column, 95)) for column in zip(*counted, strict=True))
    preempt = 1000.0 * max(stops) if stops else None
    added = float(np.percentile([a - b for a, b in counted], 95))
    ratio = with_it / by_itself if by_itself > LEAST_MS else None
    return Figures(with_it, by_itself, ratio, added, len(counted), preempt)


def _household(bundle: str, state: Path) -> bool:
    """A vault of people with as many examples as there may be of each, all but the first few not learnt of yet.

    Those few have had their round: of who was taught and had none, a daemon learns when it opens the vault, and not in
    a window.
    """
    read = read_bundle(bundle_directory(bundle))
    model = model_of(Recognizer.from_bundle(read))
    if model is None:
        return False
    state.mkdir(parents=True)
    custody = DeviceKeys(replace(Config(), state_dir=state), Model(read.name, read.version, read.digest))
    custody.open()
    consents = Consents(custody.vault, {})
    learner = Learner(consents, model, read.encoder_id, Worker())
    phrases: dict[str, list[NDArray[np.float32]]] = {}
    for example in learn.sample_ledger(model, MAX_EXAMPLES).examples:
        phrases.setdefault(example.phrase, []).append(example.spans)
    for number in range(PEOPLE):
        pending = consents.begin(f"person {number}", ("enrol",))
        consents.heard_yes()
        for count, (phrase, spans) in enumerate(phrases.items()):
            learner.add(pending.profile, "enrolment", phrase, spans, f"{number:02x}")
            if count == 0:
                learner.round(pending.profile, at_once=True)
    custody.close()
    return True


class _Watch:
    """Asks for a round whenever none runs, and notes when workers lived: an ``idle.Beside``."""

    def __init__(self) -> None:
        self._lives: list[tuple[float, float]] = []
        self.events: list[float] = []

    def __call__(self, control: Path, over: threading.Event) -> None:
        pid = _server(control)
        asking = threading.Thread(target=self._ask, args=(control, over))
        hearing = threading.Thread(target=self._hear, args=(control, over))
        asking.start()
        hearing.start()
        worker, born = 0, 0.0
        while not over.wait(LOOK_S):
            there, now = _worker(pid), time.monotonic()
            if (
                there != worker
            ):  # by its number: the next may follow between two looks, and be no longer life of this one
                if worker:
                    self._lives.append((born, now))
                worker, born = there, now
        if worker:
            self._lives.append((born, time.monotonic()))
        asking.join()
        hearing.join()

    def _ask(self, control: Path, over: threading.Event) -> None:
        while not over.wait(0.2):
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = UnixConnection(control)
                connection.request("POST", "/v1/learn", json.dumps({}), {"Content-Type": "application/json"})
                connection.getresponse().read()
                connection.close()

    def _hear(self, control: Path, over: threading.Event) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(control))
            client.settimeout(0.2)
            client.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    if b"event: phrase" in client.recv(65536):
                        self.events.append(time.monotonic())

    def life(self, event: float) -> tuple[float, float] | None:
        """Birth and death of the worker that was alive right before an event got to its client."""
        at = event - BEFORE_S
        index = bisect_right(self._lives, (at, float("inf"))) - 1
        return self._lives[index] if index >= 0 and at < self._lives[index][1] else None


def _server(control: Path) -> int:
    """The pid behind a Unix socket (SO_PEERCRED, unix(7))."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(control))
        pid: int = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid


def _worker(pid: int) -> int:
    """The child of a process that lives, 0: none (proc_pid_task(5); zombies are dead)."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    return int(child)
    return 0
