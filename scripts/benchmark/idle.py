"""The real daemon in real time: what it costs while nobody speaks, and how late its events are when somebody does.

Wake-ups are the kernel's count of context switches, over all threads. The latency is that of a client on the event
stream: from the moment at which the last sample of a phrase was spoken into the simulated microphone, whose clock is
known to the microsecond, to the moment at which the client has the event. Capture, queue, chain, hub, control server
and socket are all in it; an event that came before the end of its phrase has a negative one.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import daemon, latency, speech
from benchmark.daemon import ROOT, DaemonError
from benchmark.speech import RATE

SETTLE_S = 9.0
"""From the first block until the gate, which starts open, knows a room of -70 dBFS and has shut."""
TAIL_S = 1.5
"""After the last phrase: its event may still come."""
THREADS = ("main", "capture", "inference", "keys")
"""In the order in which the daemon starts them; before Python 3.14 the kernel is not told their names."""

Beside = Callable[[Path, threading.Event], None]
"""What is done to the daemon meanwhile: gets its control socket, and an event that is set when it is to return."""


@dataclass(frozen=True)
class Figures:
    """A daemon to which nobody speaks. ``cpu_percent`` of one core; the rest are context switches a second."""

    wakeups_per_s: float
    cpu_percent: float
    by_thread: dict[str, float]


@dataclass(frozen=True)
class Spoken:
    """``each``: by utterance, ms from the end of the phrase to its event at a client; None where it was not heard.

    ``spoken_at``: the monotonic time at which each phrase ended.
    """

    each: tuple[float | None, ...]
    spoken_at: tuple[float, ...]

    @property
    def heard(self) -> tuple[float, ...]:
        """The latencies of those that were heard."""
        return tuple(late for late in self.each if late is not None)

    def percentile(self, percent: float) -> float | None:
        """Of those that were heard; None when there was none."""
        return float(np.percentile(self.heard, percent)) if self.heard else None


@dataclass(frozen=True)
class _Running:
    """A daemon that listens. ``started_at``: monotonic time of the first sample."""

    pid: int
    control: Path
    started_at: float


def measure(folder: Path, seconds: float, *, patience: int | None = None) -> Figures:
    """Let a daemon with the default configuration and no client listen to a quiet room for so long, after settling.

    ``folder`` is scratch space; ``patience`` replaces ``idiolect.listening.inference.PATIENCE``, 1 being no naps.
    """
    wav = folder / "room.wav"
    speech.write_wav(wav, speech.hiss(60.0, -70.0))
    with _listening(folder, wav, {}, patience) as it:
        time.sleep(SETTLE_S)
        before, cpu, began = switches(it.pid), daemon.cpu_s(it.pid), time.monotonic()
        time.sleep(seconds)
        after, cpu, took = switches(it.pid), daemon.cpu_s(it.pid) - cpu, time.monotonic() - began
    rates = {name: (count - before.get(name, 0)) / took for name, count in after.items()}
    return Figures(sum(rates.values()), 100.0 * cpu / took, rates)


def event_latencies(
    folder: Path,
    more: dict[str, Any] | None = None,
    *,
    count: int = 40,
    patience: int | None = None,
    beside: Beside | None = None,
) -> Spoken:
    """Speak ``count`` digits, 3 s of a quiet room between any two, to a daemon that listens for digits at any time.

    ``folder`` is scratch space, ``more`` goes into the configuration, ``patience`` as in ``measure``; ``beside`` runs
    on a thread from the first digit to the last. Takes some 4 s a digit.
    """
    wishes = {"listening": {"mode": "always", "wake_words": [], "phrases": list(latency.DIGITS), "always_on": []}}
    everything = latency.utterances(None)
    if not everything:
        raise speech.NoSpeechError("no digits to speak: apt install asterisk-core-sounds-en-wav")
    chosen = [everything[i * len(everything) // count] for i in range(count)]
    room = speech.hiss(SETTLE_S, -70.0)
    starts = len(room) + np.cumsum([0, *(len(one.samples) for one in chosen)])
    tail = speech.hiss(2 * TAIL_S, -70.0)
    wav = folder / "digits.wav"
    speech.write_wav(wav, np.concatenate([room, *(one.samples for one in chosen), tail]))
    over = threading.Event()
    with _listening(folder, wav, wishes | (more or {}), patience) as it, ThreadPoolExecutor(2) as pool:
        ends_at = it.started_at + float(starts[-1]) / RATE + TAIL_S
        try:
            client = pool.submit(_listen, it.control, ends_at)
            time.sleep(max(0.0, it.started_at + len(room) / RATE - time.monotonic()))
            work = pool.submit(beside, it.control, over) if beside else None
            arrived = client.result()
        finally:
            over.set()
        if work:
            work.result()
    slots = list(zip(chosen, starts[:-1].tolist(), strict=True))
    spoken_at = tuple(it.started_at + (start + one.end + 1) / RATE for one, start in slots)
    each = (_latency(arrived, one, start, at) for (one, start), at in zip(slots, spoken_at, strict=True))
    return Spoken(tuple(each), spoken_at)


def _latency(
    arrived: list[tuple[float, dict[str, Any]]], utterance: latency.Utterance, start: int, spoken_at: float
) -> float | None:
    """ms from the utterance's end to the first event that names its digit and ends inside of it."""
    for at, event in arrived:
        if event["phrase"] == utterance.digit and start <= event["end"] < start + len(utterance.samples):
            return 1000.0 * (at - spoken_at)
    return None


def _listen(control: Path, until: float) -> list[tuple[float, dict[str, Any]]]:
    """The phrases on the event stream, each with the monotonic time at which it was there."""
    found: list[tuple[float, dict[str, Any]]] = []
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(control))
        client.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        received = b""
        while (left := until - time.monotonic()) > 0:
            client.settimeout(left)
            try:
                part = client.recv(65536)
            except TimeoutError:
                break
            at = time.monotonic()
            if not part:
                raise DaemonError("the event stream ended")
            received += part
            *frames, received = re.split(rb"\r?\n\r?\n", received)
            found += [(at, json.loads(data)) for frame in frames for data in re.findall(_PHRASE, frame)]
    return found


_PHRASE = re.compile(rb"^event: phrase\s.*?^data: (.*)$", re.MULTILINE | re.DOTALL)


@contextmanager
def _listening(folder: Path, wav: Path, more: dict[str, Any], patience: int | None) -> Iterator[_Running]:
    """A daemon that has heard its first block; whether it listened undisturbed is checked at the end."""
    microphones = daemon.by_path("alsa/wavmic")
    try:
        mic = microphones.WavMic(folder, wav, eof="loop")
    except microphones.PluginError as error:
        raise DaemonError(f"the simulated microphone: {error}") from None
    control, config = folder / "control.sock", folder / "idiolect.yaml"
    settings = {
        "audio": {"device": mic.device},
        "state_dir": str(folder / "state"),
        "control": {"socket": str(control)},
        "log_level": "warning",
    }
    config.write_text(json.dumps(settings | more))  # JSON is YAML
    set_patience = f"import idiolect.listening.inference as i; i.PATIENCE = {patience}; " if patience else ""
    start = f"{set_patience}import sys; from idiolect.__main__ import main; sys.exit(main())"
    variables = mic.environment | {"PYTHONPATH": str(ROOT / "daemon"), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", start, "--config", str(config)]
    process = subprocess.Popen(command, env={**os.environ, **variables}, stdin=subprocess.DEVNULL)
    try:
        _wait_for_sound(process, control)
        yield _Running(process.pid, control, mic.started_at)
        health = daemon.ask(control, "/v1/status")["microphone"]
        if health["state"] != "running" or health["overruns"] or health["dropped_blocks"]:
            raise DaemonError(f"the microphone did not run undisturbed: {health}")
    finally:
        process.kill()
        process.wait()


def _wait_for_sound(process: subprocess.Popen[bytes], control: Path) -> None:
    deadline = time.monotonic() + daemon.START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DaemonError(f"the daemon ended with exit code {process.returncode}")
        if control.exists() and daemon.ask(control, "/v1/status")["first_block_ms"] is not None:
            return
        time.sleep(0.1)
    raise DaemonError(f"no audio was processed within {daemon.START_TIMEOUT_S:.0f} s")


def switches(pid: int, *, forced: bool = True) -> dict[str, int]:
    """Context switches so far, by thread; those that were ``forced`` say how busy the machine is with other things."""
    kind = r"ctxt_switches:\s+(\d+)" if forced else r"^voluntary_ctxt_switches:\s+(\d+)"
    counts: dict[str, int] = {}
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda task: int(task.name))
    for number, task in enumerate(tasks):
        name = THREADS[number] if number < len(THREADS) else "other"
        found = re.findall(kind, (task / "status").read_text(), re.MULTILINE)
        counts[name] = counts.get(name, 0) + sum(map(int, found))
    return counts
