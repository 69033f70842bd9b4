"""One library in one process: says ``ready`` with its version, then times one recording a request.

Requests and answers are JSON lines on standard input and output; the clock is this process's CPU time over all
of its threads, and runs only while the library is being fed.
"""

from __future__ import annotations

import json
import re
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.listeners import OURS, PEERS, Listener

BLOCK = 1_280
CHUNK_BLOCKS = 125
"""Blocks (10 s) read at a time, so that the recording itself does not weigh on the memory measured."""


def chunks(path: str) -> Iterator[NDArray[np.int16]]:
    """The recording in pieces of shape (blocks, 1280); what is left over at the end is dropped."""
    with wave.open(path, "rb") as file:
        while True:
            samples = np.frombuffer(file.readframes(CHUNK_BLOCKS * BLOCK), dtype="<i2")
            blocks = len(samples) // BLOCK
            if blocks == 0:
                return
            yield samples[: blocks * BLOCK].reshape(blocks, BLOCK)


def measure(listener: Listener, path: str, warm_blocks: int) -> dict[str, float]:
    """CPU seconds and audio seconds of one recording; its first ``warm_blocks`` are fed and not counted."""
    cpu = 0.0
    counted = 0
    for number, chunk in enumerate(chunks(path)):
        blocks = [listener.prepare(block) for block in chunk]
        if number == 0:
            for block in blocks[:warm_blocks]:
                listener.feed(block)
            blocks = blocks[warm_blocks:]
        started = time.process_time()
        for block in blocks:
            listener.feed(block)
        cpu += time.process_time() - started
        counted += len(blocks)
    return {"cpu_s": cpu, "audio_s": counted * BLOCK / 16_000, "rss_mib": rss_mib()}


def rss_mib(pid: str = "self") -> float:
    """Resident memory of a process in MiB, shared libraries included."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return int(found.group(1)) / 1024 if found else 0.0


def main() -> None:
    """``worker NAME [BUNDLE]``: serve requests {"wav": path, "warm_blocks": n} until standard input closes."""
    name, *bundle = sys.argv[1:]
    listener = OURS[name](*bundle) if name in OURS else PEERS[name]()
    print(json.dumps({"ready": True, "version": listener.version}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(measure(listener, request["wav"], request["warm_blocks"])), flush=True)


if __name__ == "__main__":
    main()
