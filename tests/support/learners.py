"""People for tests of learning: a real vault, the shipped model, and utterances made from the guard set's windows."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from idiolect.learning import adapter_file
from idiolect.learning.model import Model
from idiolect.learning.worker.process import Worker
from idiolect.listening.pipeline.adapter import Adapter
from idiolect.listening.pipeline.space import as_span
from idiolect.listening.recognizer import Recognizer, bundle_directory, read_bundle
from idiolect.people.consent import Consents
from idiolect.people.learner import Learner
from idiolect.people.models import model_of
from idiolect.trust.vault.vault import Vault
from tests.support.vaults import Clock

EVERYTHING = ("enrol", "adapt_corrections", "usage")


@cache
def model() -> Model:
    """The shipped bundle's."""
    found = model_of(Recognizer.from_bundle(read_bundle(bundle_directory("builtin"))))
    assert found is not None
    return found


def span(label: str, number: int = 0, seed: int = 0, noise: float = 0.15) -> NDArray[np.float32]:
    """One utterance (1, 18, 96) of a phrase, after the guard set's ``number``-th of it."""
    known = model()
    rows = [i for i, said in enumerate(known.guard_labels) if said == label]
    window = known.guard_windows[rows[number % len(rows)]]
    padded = as_span(window)
    rng = np.random.default_rng([seed, number, *label.encode()])
    return np.asarray((padded + rng.standard_normal(padded.shape) * noise * window.std())[None], np.float32)


def invented(number: int, take: int = 0) -> NDArray[np.float32]:
    """A take of a phrase that no bundle knows: two words of the guard set, one after the other."""
    known = model()
    a, b = known.guard_windows[(7 * number) % 100], known.guard_windows[(100 + 11 * number) % 400]
    window = np.concatenate([a[:9], b[9:]])
    rng = np.random.default_rng([number, take])
    padded = as_span(window)
    return np.asarray((padded + rng.standard_normal(padded.shape) * 0.15 * window.std())[None], np.float32)


class Household:
    """A vault with consents and a learner over it."""

    def __init__(self, vault: Vault, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.vault = vault
        self.consents = Consents(vault, {}, wall=lambda: self.clock.wall, monotonic=lambda: self.clock.steady)
        self.learner = Learner(self.consents, model(), "e" * 64, Worker(), lambda: self.clock.wall)

    def in_use(self) -> list[Adapter]:
        """Everybody's adapter, as the daemon would take it over."""
        return [adapter_file.accept(data, digest) for data, digest in self.learner.files()]

    def agree(self, name: str, *purposes: str) -> str:
        """Somebody says yes aloud; their profile."""
        pending = self.consents.begin(name, purposes or EVERYTHING)
        assert self.consents.heard_yes()
        return pending.profile
