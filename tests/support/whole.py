"""The whole service in this process: all of it real, in a thread of its own; its microphone is a pipe full of silence.

What a person would have said is put where inference keeps it: windows of the shipped guard set.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from idiolect.client import Client
from idiolect.config.schema import load
from idiolect.host.systemd import Notifier
from idiolect.service.service import Service
from idiolect.service.starting import begin
from idiolect.values import Detection, Event
from tests.support.learners import invented, span

ME = getpass.getuser()
BLOCK_S = 0.08


class Loop(asyncio.SelectorEventLoop):
    """The service installs handlers for signals, which only a main thread may."""

    def add_signal_handler(self, *_: object) -> None:
        """Not here."""


class Whole:
    """``with whole(folder) as home``. ann and eve are paired with the user who runs the tests, bob is not."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.socket = folder / "control.sock"
        self.client = Client(str(self.socket), timeout=60)
        self._fifo = folder / "audio.fifo"
        if not self._fifo.exists():
            os.mkfifo(self._fifo)
        wishes = {
            "audio": {"device": f"fifo:{self._fifo}"},
            "state_dir": str(folder / "state"),
            "control": {"socket": str(self.socket)},
            "listening": {"mode": "always"},
            "people": {"ann": {"users": [ME]}, "eve": {"users": [ME]}, "bob": {"users": ["somebody-else"]}},
            "page": {"enabled": True, "socket": str(folder / "page.sock")},
        }
        (folder / "idiolect.yaml").write_text(yaml.safe_dump(wishes | settings))
        self._ending = threading.Event()

    def start(self) -> Whole:
        """Run it, until it serves, has its keys and hears silence."""
        self._ending.clear()
        file = self.folder / "idiolect.yaml"
        self.service = Service(begin(lambda without: load((file,), without)), lambda: (file,), Notifier())
        self._threads = [threading.Thread(target=self._run), threading.Thread(target=self._feed)]
        for thread in self._threads:
            thread.start()
        deadline = time.monotonic() + 60
        while not self._up():
            assert time.monotonic() < deadline, "the service did not come up"
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """As SIGTERM would."""
        self.loop.call_soon_threadsafe(self.service._stop.set)
        self._ending.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=Loop) as runner:
            self.loop = runner.get_loop()
            runner.run(self.service._main())

    def _feed(self) -> None:
        pipe = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK)
        while not self._ending.wait(BLOCK_S):
            with suppress(BlockingIOError):
                os.write(pipe, bytes(2 * round(16_000 * BLOCK_S)))
        os.close(pipe)

    def _up(self) -> bool:
        if not self.socket.exists():
            return False
        with suppress(Exception):
            status = self.client.status()
            return status["personalization"]["state"] != "off" and status["microphone"]["state"] == "running"
        return False

    def on_loop(self, coroutine):
        """The result of a coroutine, run where the service runs."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def agree(self, name: str = "ann", *purposes: str) -> str:
        """Somebody who is paired agrees; the profile."""
        asked = self.client.ask_consent(name, purposes or ("enrol", "adapt_corrections", "adapt_confirmations"))
        self.client.agree(asked["token"])
        return asked["profile"]

    def teach(self, name: str = "ann", phrase: str = "lights please", number: int = 1) -> dict[str, object]:
        """As ``Enrolment`` does when it has its samples."""
        profile = self.on_loop(self.service.people.may_teach(name, phrase, ME))
        return self.on_loop(self.service.people.taught(profile, phrase, [invented(number, take) for take in range(3)]))

    def hears(self, said: str, heard: str, profile: str, number: int = 0) -> str:
        """An utterance of ``said`` that was understood as ``heard``; the id of its event."""
        kind = "phrase" if heard else "rejected"
        event = Event(self.service._names(), time.time(), Detection(kind, heard, 0.9, 0.3, 0.5, 0, 16_000, profile))
        self.service._inference.recent.keep(event, span(said, number)[0])
        self.service.hub.publish(event)
        return event.id


@contextmanager
def whole(folder: Path, **settings: object) -> Iterator[Whole]:
    """A running service; ``settings`` override sections of its configuration."""
    home = Whole(folder, **settings).start()
    try:
        yield home
    finally:
        home.stop()
