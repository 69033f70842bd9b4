"""What learning costs: everybody's adapters while listening, a training round, and the size of an adapter on the disk.

The household is four people who have taught twenty phrases each and a shift of every base phrase; the round has 500
examples, as somebody has who enrolled fifty phrases ten times. What they say is noise in the shape of speech: none of
the arithmetic depends on it.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idiolect.learning import adapter_file, messages
from idiolect.learning.ledger import Example, Ledger
from idiolect.learning.model import Model
from idiolect.learning.trainer import When
from idiolect.learning.worker import frames
from idiolect.learning.worker.process import Worker
from idiolect.listening.pipeline.adapter import Adapter, Shift, Taught
from idiolect.listening.pipeline.household import Household
from idiolect.listening.pipeline.space import as_span
from idiolect.listening.recognizer import Recognizer, bundle_directory, read_bundle
from idiolect.people.models import model_of

PEOPLE, PHRASES, EXAMPLES = 4, 20, 500
LENGTH = 14
"""Blocks that an utterance lasts."""
ROUNDS = 5


def household(model: Model, people: int) -> Household:
    """Everybody's rows, as many as there may be."""
    return Household(model.space, model.classes, [_person(model, number) for number in range(people)])


def _person(model: Model, number: int) -> Adapter:
    rng = np.random.default_rng(number)

    def unit(length: float = 1.0) -> NDArray[np.float32]:
        v = rng.standard_normal(model.space.size)
        return np.asarray(length * v / np.linalg.norm(v), np.float32)

    return Adapter(
        profile=f"{number:016x}",
        number=1,
        shifts={name: Shift(unit(0.3), 5.0) for name in model.phrases},
        taught=tuple(Taught(f"phrase {number} {i}", unit(), 0.6) for i in range(PHRASES)),
        gain=40.0,
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """A round's wall time with the start of its process, the worker's memory, and bytes of an adapter."""

    round_s: float
    worker_mib: float
    adapter_bytes: int


def measure(bundle: str) -> Figures | None:
    """None for a bundle that nothing can be learnt with."""
    model = model_of(Recognizer.from_bundle(read_bundle(bundle_directory(bundle))))
    if model is None:
        return None
    request = messages.ask(messages.Request(model, sample_ledger(model, EXAMPLES), When(20_000, 1)))
    took = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        Worker().run(request, messages.ANSWER_CAP)
        took.append(time.perf_counter() - begin)
    taught_only = Adapter("aa" * 8, 1, taught=_person(model, 0).taught)
    return Figures(statistics.median(took), _peak_mib(request), len(adapter_file.encode(taught_only)))


def _peak_mib(request: bytes) -> float:
    """Most that one worker had resident, as the kernel counts it for the program itself (VmHWM).

    Not from rusage: there the parent's memory counts, which the child had for a moment before it became the worker.
    """
    peak = 0.0
    command = [sys.executable, "-m", "idiolect.learning.worker.main"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        telling = threading.Thread(target=worker.communicate, args=[frames.pack(request)])
        telling.start()
        while telling.is_alive():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{worker.pid}/status").read_text()
                if "idiolect" in Path(f"/proc/{worker.pid}/cmdline").read_text():
                    peak = max(peak, *(int(kb) / 1024 for kb in re.findall(r"VmHWM:\s+(\d+) kB", status)), 0.0)
            time.sleep(0.002)
    return peak


def sample_ledger(model: Model, count: int) -> Ledger:
    """Takes of the guard set's words, and of phrases that the base does not know."""
    rng = np.random.default_rng(1)
    windows = model.guard_windows
    examples = []
    for number in range(count):
        phrase = number % 50
        window = windows[(7 * phrase) % len(windows)]
        span = as_span(window)
        span = span + rng.standard_normal(span.shape) * 0.2 * window.std()
        name = model.guard_labels[(7 * phrase) % len(windows)] if phrase % 2 else f"phrase {phrase}"
        name = name if not name.startswith("_") else f"phrase {phrase}"
        made = span.astype(np.float32)[None]
        kept = Example(
            number, name, "enrolment", f"{number // 10:04x}", 20_000, "00" * 32, made, length=LENGTH, clear=40
        )  # fmt: skip
        examples.append(kept)
    return Ledger("aa" * 8, tuple(examples))
