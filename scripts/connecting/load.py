"""Many clients at once: how late are they told, and what does the daemon grow by? ``arguments`` explains it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from wyoming.audio import AudioChunk, AudioStart
from wyoming.client import AsyncClient
from wyoming.wake import Detect

from connecting.arguments import parse
from connecting.running import Running, daemon
from tests.support.speech import SOUNDS, digit, recording, silence
from tests.support.wyoming_talk import spoken

CHUNK = 1_024
"""Samples that a client sends at once (64 ms)."""
GAP_S = 4.0
"""From one word to the next in a client's sound."""
LATENCY_MS, GROWTH_MIB = 300.0, 16.0
"""What is to be reached: 95th percentile, and all clients together."""


@dataclass
class Told:
    """Delays in ms, and words that nobody was told of."""

    delays: list[float] = field(default_factory=list)
    words: int = 0

    def summary(self) -> dict[str, object]:
        """For JSON."""
        if not self.delays:
            return {"events": 0, "words": self.words}
        p50, p95, most = np.percentile(self.delays, (50, 95, 100)).round(1).tolist()
        return {"words": self.words, "events": len(self.delays), "p50_ms": p50, "p95_ms": p95, "max_ms": most}


def talk(number: int, seconds: float) -> tuple[NDArray[np.int16], list[int]]:
    """A client's sound without a pause in it, and where in it the words end that are waited for (in samples)."""
    order = np.random.default_rng(number)
    prompts = sorted(path for path in SOUNDS.glob("*.wav") if path.stat().st_size > 30_000)
    word = spoken("computer", ("en-us", "en-gb", "en-us+m3")[number % 3])
    loud = np.flatnonzero(np.abs(word.astype(int)) > 300)
    word = word[loud[0] : loud[-1] + 1]
    parts, ends, length = [], [], 0
    while length < seconds * 16_000:
        filler = [recording(prompts[order.integers(len(prompts))]), digit(int(order.integers(10)))]
        before = np.concatenate([*filler, silence(0.4)])[-round(GAP_S * 16_000) :]
        parts += [before, word, silence(0.5)]
        ends.append(length + len(before) + len(word))
        length += len(before) + len(word) + 8_000
    return np.concatenate(parts), ends


async def wyoming_client(running: Running, number: int, seconds: float, told: Told) -> None:
    """Stream in real time and note when detections come."""
    samples, ends = talk(number, seconds)
    samples = samples[: round(seconds * 16_000)]
    ends = [end for end in ends if end + 16_000 < len(samples)]
    async with AsyncClient.from_uri(f"unix://{running.wyoming}") as it:
        await it.write_event(Detect(names=["computer"]).event())
        await it.write_event(AudioStart(16_000, 2, 1).event())
        begun = time.monotonic() + number * 0.003  # they do not all send in the same instant
        told.words += len(ends)
        listening = asyncio.ensure_future(_note(it, begun, list(ends), told))
        for first in range(0, len(samples), CHUNK):
            piece = samples[first : first + CHUNK]
            await asyncio.sleep(begun + (first + len(piece)) / 16_000 - time.monotonic())
            now = first * 1000 // 16_000
            await it.write_event(AudioChunk(16_000, 2, 1, piece.tobytes(), now).event())
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening


async def _note(it: AsyncClient, begun: float, ends: list[int], told: Told) -> None:
    while (event := await it.read_event()) is not None:
        at = (time.monotonic() - begun) * 16_000
        near = min(ends, key=lambda end: abs(end - at), default=None)
        if event.type == "detection" and near is not None and abs(at - near) < 16_000:
            ends.remove(near)
            told.delays.append((at - near) / 16)
        elif event.type == "error":
            raise SystemExit(f"refused: {event.data}")


async def listener(running: Running, told: Told) -> None:
    """Follow the event stream."""
    reader, writer = await asyncio.open_unix_connection(running.control)
    writer.write(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    try:
        while line := await reader.readline():
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if event.get("kind") in ("wake", "phrase"):
                    told.delays.append((time.time() - event["time"]) * 1000)
    finally:
        writer.transport.abort()


async def _watch(running: Running, seen: list[float]) -> None:
    while True:
        seen.append(running.memory_mib())
        await asyncio.sleep(0.2)


async def everybody(running: Running, arguments: argparse.Namespace, seconds: float) -> dict[str, object]:
    """All of them for ``seconds``."""
    wake, events, seen = Told(), Told(), list[float]()
    before, cpu, begun = running.memory_mib(), running.cpu_s(), time.monotonic()
    watching = [asyncio.ensure_future(_watch(running, seen))]
    watching += [asyncio.ensure_future(listener(running, events)) for _ in range(arguments.listeners)]
    await asyncio.gather(*(wyoming_client(running, n, seconds, wake) for n in range(arguments.clients)))
    used = (running.cpu_s() - cpu) / (time.monotonic() - begun)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    events.words = len(events.delays)
    return {
        "wyoming": wake.summary(), "sse": events.summary(), "rss_before_mib": round(before, 1),
        "rss_most_mib": round(max(seen), 1), "cores_used": round(used, 3),
    }  # fmt: skip


def main() -> int:
    """Exit 1 where a target is missed."""
    arguments = parse()
    room = np.concatenate([silence(2.0), spoken("computer"), digit(7), silence(2.0)])  # what listeners hear of
    with daemon(room) as running:
        time.sleep(3.0)
        alone = running.memory_mib()
        result = asyncio.run(everybody(running, arguments, arguments.seconds))
        later = []
        for _ in range(arguments.rounds - 1):
            time.sleep(1.0)
            later.append(asyncio.run(everybody(running, arguments, arguments.seconds)))
    wyoming, sse = result["wyoming"], result["sse"]
    growth = round(max(float(str(each["rss_most_mib"])) for each in (result, *later)) - alone, 1)
    late = [each["p95_ms"] for each in (wyoming, sse) if isinstance(each, dict) and "p95_ms" in each]
    well = bool(late) and max(late) <= LATENCY_MS and growth <= GROWTH_MIB
    print(
        json.dumps(
            {
                "clients": arguments.clients, "listeners": arguments.listeners, "seconds": arguments.seconds,
                "rss_alone_mib": round(alone, 1), "growth_mib": growth, **result,
                "growth_of_later_rounds_mib": [round(float(str(each["rss_most_mib"])) - alone, 1) for each in later],
                "targets": {"p95_ms": LATENCY_MS, "growth_mib": GROWTH_MIB, "reached": well},
            },
            indent=1,
        )
    )  # fmt: skip
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
