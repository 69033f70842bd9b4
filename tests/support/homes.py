"""A daemon that learns, but for its ears: real vault, real worker, real windows; a board of files and turned clocks."""

import asyncio
import threading
from dataclasses import replace

from idiolect.config.schema import Config, Idle
from idiolect.events import EventStream
from idiolect.host.clock import Moment
from idiolect.learning.worker.process import Worker
from idiolect.listening.audio.capture import BlockQueue
from idiolect.listening.inference import EventIds, Inference
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle
from idiolect.people.adapters import Adapters
from idiolect.service.idle.scheduler import IdleScheduler
from idiolect.trust.bundle.choose import Model
from idiolect.trust.device.keys import DeviceKeys
from idiolect.trust.device.vault_thread import VaultThread
from tests.support.boards import Board
from tests.support.learners import invented, model, span

DAY = 86_400
ENCODER = "e" * 64


class Home:
    """All of the daemon that learns, but for its ears: on a board of files, with a calendar that can be turned."""

    def __init__(self, folder, wishes=None, known=None, worker=None):
        self.board = Board(folder / "board")
        self.wishes = wishes or Idle(machine=self.board.root)
        self.quiet, self.wall = 3600.0, float(20_000 * DAY + 12 * 3600)
        self.synchronized, self.boot = True, 1000.0
        self.set_by = 0.0  # how far somebody set the wall clock; without it turning the calendar lets time pass
        self.worker = worker or Worker()
        bundle = read_bundle(bundle_directory("builtin"))
        chain = Recognizer.from_bundle(bundle).chain(listening(bundle))
        self.hub, names = EventStream(), EventIds()
        self.inference = Inference(chain, BlockQueue(8), self.hub, names, lambda: None)
        config = replace(Config(), state_dir=folder / "state", keystore="file")
        custody = DeviceKeys(config, Model("x", 1, "d" * 64, (), False, ""), clock=lambda: self.wall)
        self.keys = VaultThread(custody, lambda _: None)
        self.personal = Adapters(
            self.keys, self.inference, self.hub, known or model(), ENCODER, people={}, state_dir=folder / "state",
            names=names, listen=lambda *_: None, backend=self.worker, synchronized=lambda: self.synchronized,
            moment=lambda: Moment(self.wall, self.wall - self.set_by, "home", self.synchronized),
        )  # fmt: skip
        self.windows = IdleScheduler(
            self.personal, self.worker, wishes=lambda: self.wishes, state_dir=folder / "state",
            quiet=lambda: (self.quiet, False), custody=custody, synchronized=lambda: self.synchronized,
            minute=lambda: 720, now=lambda: self.boot,
        )  # fmt: skip
        self.thread = threading.Thread(target=self.keys.run)

    async def __aenter__(self):
        self.thread.start()
        self.keeping = asyncio.create_task(self.keys.keep())
        while not self.keys.view.released:
            await asyncio.sleep(0.01)
        await self.personal.opened()
        self.learner.clock = lambda: self.wall
        return self

    async def __aexit__(self, *_):
        self.keeping.cancel()
        self.keys.stop()
        await asyncio.to_thread(self.thread.join, 20)

    @property
    def learner(self):
        return self.personal._learner

    async def do(self, work):
        return await self.personal.do(work)

    async def agree(self, name="Ann", *purposes):
        def work(learner):
            pending = learner.consents.begin(name, purposes or ("enrol", "adapt_corrections", "usage"))
            assert learner.consents.heard_yes()
            return pending.profile

        return await self.do(work)

    async def teach(self, profile, number=1, takes=3, phrase="lights please"):
        def work(learner):
            learner.add(profile, "enrolment", phrase, [invented(number, t) for t in range(takes)], "01")
            return learner.round(profile, at_once=True)

        return await self.personal.changed(work)

    async def correct(self, profile, label="yes", number=0):
        return await self.personal.changed(
            lambda learner: learner.add(profile, "correction", label, [span(label, number)], f"{number:02x}")
        )

    async def versions(self, profile):
        return await self.do(lambda learner: learner.versions(profile))

    async def kinds(self, limit=40):
        return [e.kind for e in await self.do(lambda learner: learner.vault.audit_entries(limit))]

    @property
    def status(self):
        return self.windows.status()


def story(scenario):
    """A test in the event loop."""

    def test(tmp_path, monkeypatch):
        asyncio.run(asyncio.wait_for(scenario(tmp_path, monkeypatch), 100))

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test
