"""All of the product that writes to the state directory, without ears: custody, vault, learner, rights, pauses, slots.

``OPERATIONS`` are what people and the daemon do with it; ``view`` is what is to be seen of it afterwards, without
anything that is drawn at random.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from idiolect.config.schema import Config
from idiolect.control.api.daemon import Session
from idiolect.control.page.browsers import Pairing
from idiolect.learning.worker.process import Worker
from idiolect.learning.worker.sandbox import Layer
from idiolect.listening.audio.capture import BlockQueue, Capture
from idiolect.people.consent import Consents
from idiolect.people.feedback import observe
from idiolect.people.learner import Learner
from idiolect.people.review import Rights
from idiolect.people.versions import rollback
from idiolect.service.pause import Pausing
from idiolect.trust.bundle.choose import Model
from idiolect.trust.bundle.slots import FOLDER, Slots
from idiolect.trust.device.keys import DeviceKeys, View
from idiolect.trust.device.provisioning import factory_reset
from idiolect.trust.vault.vault import Vault
from tests.support.learners import invented, model, span

DAY = 86_400
NOW = 20_000 * DAY + 43_200
ANN, BEN, CAT = "Annabella", "Benedict", "Catharina"
PHRASE, OTHER = "lights please", "good night"
SECRETS = (ANN, BEN, CAT, PHRASE, OTHER)
"""What must not lie in the state directory as it is."""
FILES = {"device.json", "keystore.json", "vault.db", "listening.json", "bundles"}
DRAFTS = {".listening.json.new", ".device.json.new"}
"""What may lie there at rest; a draft without a secret in it is written over by the next one."""
_ENCODER = "e" * 64


class Remembering:
    """A ``Backend`` that asks the real worker once for each request: rounds are the same every time."""

    def __init__(self) -> None:
        self._worker = Worker()
        self.answers: dict[bytes, bytes] = {}
        self.layers: tuple[Layer, ...] = ()

    def run(self, request: bytes, cap: int, *, patient: bool = False) -> bytes:
        """See ``Backend``."""
        key = hashlib.sha256(request).digest()
        if key not in self.answers:
            self.answers[key] = self._worker.run(request, cap, patient=patient)
        return self.answers[key]

    def stop(self) -> bool:
        """See ``Backend``."""
        return self._worker.stop()

    def resume(self) -> None:
        """See ``Backend``."""
        self._worker.resume()

    def kill(self) -> None:
        """See ``Backend``."""
        self._worker.kill()


class Stack:
    """One start of it. ``learner`` and ``review`` are there once ``open`` has released the keys."""

    def __init__(self, home: Path, backend: Remembering, now: float = NOW) -> None:
        self.state = home / "state"
        self.now = now
        self.config: Config = replace(Config(), state_dir=self.state, keystore="file")
        self._backend = backend
        self.custody = DeviceKeys(self.config, Model("x", 1, "d" * 64), clock=lambda: self.now)
        self.learner: Learner | None = None

    def open(self, *, refresh: bool = True) -> View:
        """As a start of the daemon does, and ``tend`` later; without ``refresh`` stale adapters stay as they are."""
        view = self.custody.tend() if self.custody.view.state != "waiting" else self.custody.open()
        if view.released and self.learner is None:
            consents = Consents(self.custody.vault, {}, wall=lambda: self.now)
            learner = Learner(consents, model(), _ENCODER, self._backend, lambda: self.now)
            if refresh:
                learner.refresh()
            self.learner = learner
        return view

    def close(self) -> None:
        """In order."""
        self.custody.close()

    @property
    def vault(self) -> Vault:
        """The open one."""
        return self.custody.vault

    @property
    def known(self) -> Learner:
        """The learner, where there are keys."""
        if self.learner is None:
            raise RuntimeError("there are no keys")
        return self.learner

    @property
    def rights(self) -> Rights:
        """Over the learner."""
        return Rights(self.known)

    @property
    def slots(self) -> Slots:
        """For bundles."""
        return Slots(self.state / FOLDER)

    def profile(self, name: str) -> str:
        """Of somebody who is known."""
        return self.known.consents.find(name).profile

    def agree(self, name: str, *purposes: str) -> None:
        """Somebody says yes aloud."""
        self.known.consents.begin(name, purposes)
        self.known.consents.heard_yes()

    def teach(self, name: str, phrase: str, number: int) -> None:
        """Three takes of a phrase, in use at once."""
        takes = [invented(number, take) for take in range(3)]
        self.known.add(self.profile(name), "enrolment", phrase, takes, f"{number:02x}")
        self.known.round(self.profile(name), at_once=True)

    def correct(self, name: str, label: str = "yes", number: int = 0) -> None:
        """Something was meant otherwise."""
        self.known.add(self.profile(name), "correction", label, [span(label, number)], "0a")

    @contextlib.contextmanager
    def pausing(self) -> Iterator[Pausing]:
        """The pause of listening; within an event loop."""
        yield Pausing(Capture(_no_microphone, BlockQueue(1), lambda: None), self.state, lambda: None)

    def view(self) -> Any:
        """What is to be seen: of people, of the device, of the pause and of the slots."""
        learner, vault = self.known, self.vault
        people = {}
        for person in learner.consents.people():
            mine = person.profile
            people[person.name] = {
                "purposes": sorted(person.purposes),
                "receipts": len(learner.consents.history(mine)),
                "examples": [[e.sequence, e.phrase, e.source] for e, _ in learner.examples(mine)],
                "versions": [[v.number, v.state.value] for v in learner.versions(mine)],
                "usage": [[r.id, json.loads(r.payload)] for r in vault.items(mine, "usage", "count")],
                "round": bool(learner.last_round(mine)),
                "retired": bool(learner.retired(mine)),
                "tested": bool(learner.selftest(mine)),
            }
            for version in learner.versions(mine):
                learner.sealed(mine, version.number)  # signed, and whose it says
        return {
            "people": people,
            "checkpoint": self.custody.checkpoint_time(),
            "browsers": len(vault.items("", "page", "session")),
            "anchor": vault.counts().audit_entries == vault.audit_head().count,
        }

    def beside(self) -> Any:
        """What needs no keys; the slots' minimum is a hint only."""
        slots = self.slots.state()
        bundles = [self.slots.directory(name) for name in (slots.current, slots.previous) if name]
        whole = [sorted((p.name, len(p.read_bytes())) for p in each.iterdir()) for each in bundles]

        async def pause() -> Any:
            with self.pausing() as found:
                found.restore()
                return [found.active, found.until is not None]

        return {"pause": asyncio.run(pause()), "slots": [slots.current, slots.previous, whole]}


def _no_microphone() -> Any:
    raise OSError("nobody listens here")


# -- what is done with it ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that is begun and then done, or refused. ``base`` is the state directory that it begins with."""

    name: str
    run: Callable[[Stack], object]
    base: str = "home"
    keys: bool = True
    """Whether the vault is open when the disk begins to fail."""


def _forget(stack: Stack) -> None:
    stack.rights.forget(stack.known.consents.find(ANN), {"phrase": PHRASE})


def _withdraw(stack: Stack) -> None:
    person = stack.known.consents.find(ANN)
    stack.known.consents.withdraw(person, "adapt_corrections")
    stack.known.round_owed(person.profile)


def _usage(stack: Stack) -> None:
    observe(stack.known, {stack.profile(ANN): {"yes": 3, PHRASE: 2}}, [])


def _import(stack: Stack) -> None:
    learner = stack.known
    document = Rights(learner).export(learner.consents.find(ANN))
    Rights(learner).bring(learner.consents.find(BEN), document)


def _pair(stack: Stack) -> None:
    pairing = Pairing(None, "local", wall=lambda: stack.now)  # type: ignore[arg-type]  # of which nothing is asked here
    session = Session("ab" * 8, BEN, "", "", 0, int(stack.now), int(stack.now) + DAY)
    pairing._keep(stack.known.consents, "ab" * 32, session)


def _pause(stack: Stack) -> None:
    async def work() -> None:
        with stack.pausing() as pausing:
            pausing.pause(3600.0)

    asyncio.run(work())


def _install(stack: Stack) -> None:
    stack.slots.install({"manifest.json": b"{}" * 900, "encoder.tflite": bytes(range(256)) * 40}, "cd" * 8)


OPERATIONS = (
    Operation("create", Stack.open, base="empty", keys=False),
    Operation("start", Stack.open, keys=False),
    Operation("start after a crash", Stack.open, base="crashed", keys=False),
    Operation("agree", lambda s: s.agree(CAT, "enrol", "usage")),
    Operation("enrol", lambda s: s.teach(BEN, OTHER, 2)),
    Operation("correct", lambda s: s.correct(ANN, "no", 3)),
    Operation("round", lambda s: s.known.round(s.profile(ANN))),
    Operation("rollback", lambda s: rollback(s.known, s.profile(ANN))),
    Operation("forget", _forget),
    Operation("withdraw", _withdraw),
    Operation("erase", lambda s: s.known.consents.erase(s.profile(ANN))),
    Operation("expire", lambda s: s.known.expire(int(s.now // DAY) + 400)),
    Operation("self-test", lambda s: s.known.test(s.profile(ANN))),
    Operation("checkpoint", lambda s: s.custody.checkpoint()),
    Operation("prune", lambda s: s.vault.prune(0), base="long"),
    Operation("export", lambda s: s.rights.export(s.known.consents.find(ANN))),
    Operation("import", _import),
    Operation("usage", _usage),
    Operation("pair", _pair),
    Operation("mark good", lambda s: s.custody.mark_good()),
    Operation("pause", _pause),
    Operation("install", _install),
    Operation("roll back a bundle", lambda s: s.slots.rollback()),
    Operation("factory reset", lambda s: factory_reset(s.config), base="crashed", keys=False),
)


def furnish(home: Path, backend: Remembering) -> None:
    """A home in which people live: somebody taught and corrected, somebody else agreed."""
    stack = Stack(home, backend)
    stack.open()
    stack.agree(ANN, "enrol", "adapt_corrections", "usage")
    stack.agree(BEN, "enrol", "adapt_corrections")
    stack.teach(ANN, PHRASE, 1)
    stack.correct(ANN)
    for number in (1, 2):
        stack.slots.install({"manifest.json": b"%d" % number, "encoder.tflite": bytes(5000)}, f"{number:016x}")
    stack.close()
