"""A whole idiolectd with a Wyoming socket, in front of a microphone that plays a quiet room."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmark.daemon import cpu_s, memory_mib  # noqa: E402
from idiolect.client import Client  # noqa: E402
from tests.support.alsa.wavmic import WavMic  # noqa: E402
from tests.support.speech import silence  # noqa: E402

CONFIG = """\
audio: {{device: {device}}}
state_dir: {folder}/state
control: {{socket: {folder}/control.sock, max_clients: 128}}
wyoming: {{enabled: true, socket: {folder}/wyoming.sock, max_clients: 64}}
keystore: file
"""
START_S = 20.0


class Running:
    """A daemon that serves."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.control, self.wyoming = folder / "control.sock", folder / "wyoming.sock"
        self.client = Client(str(self.control))
        self.process = process

    def memory_mib(self) -> float:
        """Its resident memory, as the kernel counts it."""
        return memory_mib(self.process.pid, "status", "VmRSS")

    def cpu_s(self) -> float:
        """Processor time that it has used."""
        return cpu_s(self.process.pid)


@contextmanager
def daemon(said: np.ndarray | None = None) -> Iterator[Running]:
    """One, until the block ends; its microphone plays ``said`` over and over, or a quiet room."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        audio = folder / "audio.raw"
        audio.write_bytes((silence(10.0) if said is None else said).astype("<i2").tobytes())
        microphone = WavMic(folder, audio, eof="loop")
        config = folder / "idiolect.yaml"
        config.write_text(CONFIG.format(device=microphone.device, folder=folder))
        command = [sys.executable, "-m", "idiolect", "--config", str(config)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, env=os.environ | microphone.environment, stderr=log)
            try:
                running = Running(folder, process)
                _await(running, folder / "log")
                yield running
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(10)


def _await(running: Running, log: Path) -> None:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and running.process.poll() is None:
        with contextlib.suppress(Exception):
            if running.client.get("/v1/status")["first_block_ms"] is not None:
                return
        time.sleep(0.05)
    raise SystemExit(f"idiolectd did not start: {log.read_text()}")
