"""A full house: a vault with as many people, taught phrases and examples as asked for, made through the learner itself.

Each person is added with a round, and the vault is closed and opened again on the way: so its size and what it takes
are measured as it grows, and what grows faster than the house does is found out.
"""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idiolect.config.schema import Config
from idiolect.errors import LearningError, RequestError
from idiolect.learning import adapter_file
from idiolect.learning.ledger import MAX_EXAMPLES
from idiolect.learning.worker.process import Worker
from idiolect.listening.pipeline.adapter import Adapter
from idiolect.listening.pipeline.space import as_span
from idiolect.listening.recognizer import Recognizer, bundle_directory, read_bundle
from idiolect.people.consent import Consents
from idiolect.people.learner import Learner
from idiolect.people.models import model_of
from idiolect.people.people import MAX_PHRASES
from idiolect.people.review import Rights
from idiolect.trust.bundle.bundle import Bundle
from idiolect.trust.bundle.choose import Model
from idiolect.trust.device.keys import DeviceKeys
from idiolect.trust.device.provisioning import VAULT

AWAY = 2.0
"""How far taught phrases lie from what anybody says, in standard deviations: the gate lets none in that is near."""
REST_S = 4 * 3600 + 60
"""Between two people: the credit of one rotation."""
MANY_TIMES = 2.6
"""A doubled house may take so many times as long before it counts as worse than linear: the machine is noisy."""
LEAST_S = 0.08
"""Times below it are mostly noise."""
TALKS = ("adapt_corrections", "adapt_confirmations")


def person(number: int) -> str:
    """A name."""
    return f"person {number:02d}"


def phrase(number: int) -> str:
    """A phrase that no bundle knows."""
    return f"taught phrase {number:03d}"


@dataclass
class Growth:
    """What the vault takes, in seconds and bytes, by how many people are in it."""

    rows: dict[int, dict[str, float]] = field(default_factory=dict)

    def worse_than_linear(self) -> list[str]:
        """What more than doubles where the house doubles, from the last but one size that was measured to the last."""
        sizes = sorted(self.rows)
        if len(sizes) < 2 or sizes[-1] == sizes[-2]:
            return []
        before, after = self.rows[sizes[-2]], self.rows[sizes[-1]]
        allowed = MANY_TIMES / 2 * sizes[-1] / sizes[-2]
        return [
            f"{name} grows faster than the house: {before[name]:.3g} with {sizes[-2]} people, {after[name]:.3g} with"
            f" {sizes[-1]}"
            for name in sorted(before.keys() & after.keys())
            if (after[name] > LEAST_S or name.endswith("bytes")) and after[name] > allowed * max(before[name], 1e-9)
        ]


class House:
    """The vault below ``state``. Its calendar begins in the past and has reached today when all are in."""

    def __init__(self, state: Path, bundle: Bundle | None = None, people: int = 20) -> None:
        self.state = state
        self.bundle = bundle or read_bundle(bundle_directory("builtin"))
        model = model_of(Recognizer.from_bundle(self.bundle))
        if model is None:
            raise SystemExit("the bundle has no personal space")
        self.model = model
        self._others = [i for i, said in enumerate(model.guard_labels) if said not in model.phrases]
        self.people = 0
        self.taught = self.examples = 0
        self.growth = Growth()
        self._wall = time.time() - people * REST_S
        state.mkdir(parents=True, exist_ok=True)

    def open(self) -> tuple[DeviceKeys, Learner]:
        """As the daemon does."""
        said = Model(self.bundle.name, self.bundle.version, self.bundle.digest)
        custody = DeviceKeys(replace(Config(), state_dir=self.state), said, clock=lambda: self._wall)
        if not custody.open().released:
            raise SystemExit(f"the vault does not open: {custody.view.detail}")
        learner = Learner(
            Consents(custody.vault, {}, wall=lambda: self._wall), self.model, self.bundle.encoder_id, Worker(),
            lambda: self._wall,
        )  # fmt: skip
        return custody, learner

    def add(self, phrases: int, examples: int) -> str:
        """Somebody agrees, teaches so many phrases with so many examples in all, and is learnt; the profile."""
        custody, learner = self.open()
        try:
            profile = self._agree(learner, person(self.people))
            for name, spans in self._said(phrases, examples):
                learner.add(profile, "enrolment", name, spans, f"{self.people:02x}")
            learner.round(profile, at_once=True)
        finally:
            custody.close()
        self.people, self.taught, self.examples = self.people + 1, self.taught + phrases, self.examples + examples
        self._wall = min(time.time(), self._wall + REST_S)
        return profile

    @staticmethod
    def _agree(learner: Learner, name: str) -> str:
        pending = learner.consents.begin(name, ("enrol", *TALKS, "usage"))
        if not learner.consents.heard_yes():
            raise SystemExit("nobody agreed")
        return pending.profile

    def _said(self, phrases: int, examples: int) -> list[tuple[str, list[NDArray[np.float32]]]]:
        """What this person says: by phrase, each take (1, 18, 96)."""
        shares = [examples // phrases + (i < examples % phrases) for i in range(phrases)]
        numbers = range(self.taught, self.taught + phrases)
        return [
            (phrase(number), [self._invented(number, take) for take in range(share)])
            for number, share in zip(numbers, shares, strict=True)
        ]

    def _invented(self, number: int, take: int) -> NDArray[np.float32]:
        """A take of a phrase like no other: four pieces of what the guard set has of no phrase, and a way off them."""
        windows = self.model.guard_windows
        chance = np.random.default_rng([7, number])
        pieces = [windows[row][4 * i : 4 * i + 4] for i, row in enumerate(chance.choice(self._others, 4))]
        window = np.concatenate(pieces)
        window = window + chance.standard_normal(window.shape) * AWAY * window.std()
        return self._noisy(window, [8, self.people, number, take])

    @staticmethod
    def _noisy(window: NDArray[np.float32], seed: list[int]) -> NDArray[np.float32]:
        span = as_span(window)
        noise = np.random.default_rng(seed).standard_normal(span.shape) * 0.1 * window.std()
        return np.asarray((span + noise)[None], np.float32)

    def adapters(self) -> list[Adapter]:
        """Everybody's, as the daemon takes them over."""
        custody, learner = self.open()
        try:
            return [adapter_file.accept(data, digest) for data, digest in learner.files()]
        finally:
            custody.close()

    def measure(self, *, proofs: bool = True) -> dict[str, float]:
        """What the vault takes as it is; kept in ``growth``."""
        row: dict[str, float] = {"vault_bytes": float((self.state / VAULT).stat().st_size)}
        clock = _Clock(row)
        with clock("open_s"):
            custody, learner = self.open()
        try:
            profiles = learner.vault.profiles()
            last = learner.consents.find(person(self.people - 1))
            with clock("audit_s"):
                custody.audit_verify()
            with clock("refresh_s"):  # what a start does besides opening
                learner.refresh()
            with clock("due_s"):
                for profile in profiles:
                    learner.due(profile)
            with clock("review_s"):
                Rights(learner).review(last)
            if proofs:
                with clock("proofs_s"):
                    self._prove(learner, profiles)
            with clock("round_s"):
                learner.round(last.profile)
            with clock("forget_s"):  # with its rekeying, its rotation and its round
                Rights(learner).forget(last, {"example": 1})
            learner.add(last.profile, "enrolment", *self._again(), "ff")
            self._wall += REST_S
        finally:
            custody.close()
        custody, learner = self.open()  # with credit for it again
        try:
            with clock("rotation_s"), learner.vault.change("put", True, profile=profiles[0], count=0):
                pass
            learner.round(last.profile, at_once=True)
        finally:
            custody.close()
        self.growth.rows[self.people] = row
        return row

    def _again(self) -> tuple[str, list[NDArray[np.float32]]]:
        """In place of what was forgotten."""
        number = self.taught - 1
        return phrase(number), [self._invented(number, 99)]

    @staticmethod
    def _prove(learner: Learner, profiles: list[str]) -> None:
        for profile in profiles:
            for version in learner.versions(profile):
                if version.in_use and not learner.verify(profile, version.number)["ok"]:
                    raise SystemExit("an adapter is not what its examples make")

    def copy(self, state: Path) -> House:
        """Another house that is the same so far."""
        shutil.copytree(self.state, state)
        other = House(state, self.bundle)
        other.people, other.taught, other.examples, other._wall = self.people, self.taught, self.examples, self._wall
        return other

    def teach_the_most(self) -> dict[str, object]:
        """Bring the last person to as much as one may have; what that takes, and how more is refused."""
        row: dict[str, float] = {}
        clock, name = _Clock(row), person(self.people - 1)
        custody, learner = self.open()
        try:
            profile = learner.consents.find(name).profile
            kept = learner.examples(profile)
            phrases = MAX_PHRASES - len({example.phrase for example, _ in kept})
            for said, spans in self._said(phrases, MAX_EXAMPLES - len(kept)):
                learner.add(profile, "enrolment", said, spans, "fe")
            with clock("round_s"):
                refused = _quiet(lambda: learner.round(profile, at_once=True))
            used = [v for v in learner.versions(profile) if v.in_use]
            data = learner.sealed(profile, used[0].number).data if used else b""
            with clock("review_s"):
                Rights(learner).review(learner.consents.find(name))
            with clock("export_s"):
                document = Rights(learner).export(learner.consents.find(name))
            one_more = _quiet(lambda: learner.add(profile, "enrolment", *self._again(), "ff"))
        finally:
            custody.close()
        self.taught, self.examples = self.taught + phrases, self.examples + MAX_EXAMPLES - len(kept)
        self._wall += REST_S
        return {
            "phrases": MAX_PHRASES, "examples": MAX_EXAMPLES, "in_use": bool(used), "adapter_bytes": len(data),
            "export_bytes": len(json.dumps(document)), **row, "refused": refused, "one_example_more": one_more,
        }  # fmt: skip


def _quiet(work: Callable[[], object]) -> str:
    """What it was refused with, "" when it was not."""
    try:
        work()
    except (LearningError, RequestError) as error:
        return str(error)
    return ""


def _cpu_s() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


class _Clock:
    """``with clock("name")`` puts the seconds of CPU that it took into a row, workers that have ended included."""

    def __init__(self, row: dict[str, float]) -> None:
        self._row, self._name, self._began = row, "", 0.0

    def __call__(self, name: str) -> _Clock:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._began = _cpu_s()

    def __exit__(self, *_: object) -> None:
        self._row[self._name] = round(_cpu_s() - self._began, 4)
