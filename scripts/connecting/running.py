"""A whole idiolectd with a Wyoming socket, in front of a microphone that plays a quiet room; and a TCP port for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from idiolect.client import Client  # noqa: E402
from tests.alsa.wavmic import WavMic  # noqa: E402
from tests.speech import silence  # noqa: E402

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
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_s(self) -> float:
        """Processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


@contextmanager
def tcp_port(path: Path) -> Iterator[int]:
    """A port of this machine in front of a Unix socket, as idiolect-tcp@.service has it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = await asyncio.open_unix_connection(path)
        await asyncio.gather(pass_on(reader, inner[1]), pass_on(inner[0], writer))

    async def start() -> asyncio.Server:
        return await asyncio.start_server(serve, "127.0.0.1", 0)

    async def end() -> None:
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(5)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()
