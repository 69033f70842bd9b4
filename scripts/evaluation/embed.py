"""Clips to embeddings on all cores, kept under .cache/ by content, condition and encoder, with a progress bar."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundlebuild.audio import Audio, digest, read
from bundlebuild.corpus import Clip, speech_span
from bundlebuild.features import Embedder

from .conditions import CONDITIONS, LEAD, SLICES, Condition, present, seconds


@dataclass(frozen=True, slots=True)
class Heard:
    """One clip after the encoder: embeddings (steps, 96) by condition, its length and the digest of its content."""

    clip: Clip
    digest: bytes
    seconds: float
    end: int
    """Sample of the presentation at which its speech ends."""
    embeddings: dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs for every clip."""

    models: dict[str, bytes]
    kitchen: Audio | None
    cache: Path | None
    users: frozenset[str] = frozenset()
    """Speakers who are adapted to: their clips are heard in SLICES, too."""


_job: Job
_embedders: dict[str, Embedder]


def _start(job: Job) -> None:
    global _job, _embedders  # noqa: PLW0603 - one per worker process, set when it starts
    _job = job
    _embedders = {graph: Embedder(model) for graph, model in job.models.items()}


def _cached(key: str) -> Path | None:
    return _job.cache / key[:2] / f"{key}.npy" if _job.cache else None


def _embed(audio: Audio, known: bytes, condition: Condition) -> NDArray[np.float32]:
    model = hashlib.sha256(_job.models[condition.graph]).hexdigest()
    sound = b"" if condition.snr_db is None or _job.kitchen is None else _job.kitchen.tobytes()
    key = hashlib.sha256(known + repr(condition).encode() + model.encode() + hashlib.sha256(sound).digest())
    path = _cached(key.hexdigest())
    if path and path.is_file():
        try:
            return np.asarray(np.load(path), np.float32)
        except (ValueError, OSError, EOFError):  # an interrupted run's half file
            path.unlink(missing_ok=True)
    embeddings = _embedders[condition.graph](present(audio, known, condition, _job.kitchen)).astype(np.float16)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.npy")
        np.save(scratch, embeddings)
        scratch.replace(path)
    return embeddings.astype(np.float32)


def _work(clip: Clip) -> Heard:
    audio, known = read(clip.path), digest(clip.path)
    wanted = [c for c in CONDITIONS if c.graph in _embedders and (c.snr_db is None or _job.kitchen is not None)]
    if clip.source in ("coffee_orders", "phrases"):  # negatives and wake words: hours of them, so one graph is enough
        wanted = [c for c in wanted if c.graph == "int8"]
    if clip.speaker not in _job.users:
        wanted = [c for c in wanted if c.name not in SLICES]
    if clip.running:
        wanted = [c for c in wanted if c.name == "clean"]
    end = LEAD + speech_span(audio)[1]
    return Heard(clip, known, seconds(audio), end, {c.name: _embed(audio, known, c) for c in wanted})


def bar(done: int, total: int, since: float, what: str = "clips") -> None:
    """One line on standard error, redrawn; every tenth of the work where that is no terminal."""
    if sys.stderr.isatty():
        filled = 30 * done // max(1, total)
        left = (time.monotonic() - since) / max(1, done) * (total - done)
        print(
            f"\r  [{'#' * filled}{'.' * (30 - filled)}] {done}/{total} {what}, {left:4.0f} s left ",
            end="",
            file=sys.stderr,
        )
        if done == total:
            print(file=sys.stderr)
    elif done % max(1, total // 10) == 0:
        print(f"  {done}/{total} {what}", file=sys.stderr)


def embed_all(clips: Iterable[Clip], job: Job, processes: int) -> Iterator[Heard]:
    """Every clip's embeddings, in order; what was heard before comes from the cache."""
    todo = list(clips)
    since = time.monotonic()
    with multiprocessing.get_context("fork").Pool(processes, _start, (job,)) as pool:
        for done, heard in enumerate(pool.imap(_work, todo, chunksize=8), 1):
            bar(done, len(todo), since)
            yield heard
