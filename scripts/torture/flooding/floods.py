"""Every flood by its name: at which socket, in which role, and what each of its connections sends."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from idiolect.control.api import routes
from torture.flooding.pouring import Stream

USUAL = {"rate": 16_000, "width": 2, "channels": 1}
WIDE = {"rate": 192_000, "width": 4, "channels": 8}
NARROW = {"rate": 8_000, "width": 1, "channels": 1}
NOISE = (np.random.default_rng(1).standard_normal(32_768) * 3_000).astype("<i2").tobytes()
BODY_BYTES = (16 << 20) - 64
"""A little less than the longest body there may be: it is the structure that has to be refused, not the length."""


@dataclass(frozen=True)
class Flood:
    """``socket`` is its section of the configuration; ``role`` that of who floods there, "" for nobody's."""

    socket: str
    streams: Callable[[], Sequence[Stream]]
    role: str = ""
    per_s: float = 0.0


def event(kind: str, data: object = None, payload: bytes = b"", *, apart: bool = False) -> bytes:
    """A Wyoming event; ``apart`` puts its data behind the header and not into it."""
    head: dict[str, object] = {"type": kind}
    behind = json.dumps(data).encode() if apart else b""
    if data is not None and not apart:
        head["data"] = data
    head |= ({"data_length": len(behind)} if behind else {}) | ({"payload_length": len(payload)} if payload else {})
    return json.dumps(head).encode() + b"\n" + behind + payload


START, STOP = event("audio-start", USUAL), event("audio-stop")


def sound(payload: bytes, what: dict[str, int] | None = None) -> bytes:
    """A chunk."""
    return event("audio-chunk", what or USUAL, payload)


def lines(count: int, *again: bytes, first: bytes = b"", read: bool = False) -> Callable[[], list[Stream]]:
    """So many connections that send that over and over."""
    one = b"".join(again)
    return lambda: [Stream(first, one * max(1, 4_096 // len(one)), read)] * count


def _variants() -> list[Stream]:
    """Each kind with its data in the header, behind it, and with a payload that nobody asked for."""
    many = [{}] * 900  # of two bytes each, and a comma
    kinds = ("ping", "describe", "detect", "transcribe", "audio-stop", "run-pipeline", "synthesize")
    events = [
        made
        for kind in kinds
        for made in (event(kind, {}), event(kind, {"more": many[:300]}), event(kind, {"more": many}, apart=True),
                     event(kind, payload=NOISE[:65_536]))
    ]  # fmt: skip
    return [Stream(START if number % 2 else b"", made * 4, read=True) for number, made in enumerate(events)]


WYOMING: dict[str, Flood] = {
    "audio-start": Flood("wyoming", lines(4, START)),
    "audio-start-formats": Flood("wyoming", lines(8, START, event("audio-start", WIDE), event("audio-start", NARROW))),
    "detect": Flood("wyoming", lines(8, event("detect", {"names": ["computer"]}), first=START)),
    "transcribe": Flood("wyoming", lines(8, event("transcribe"), event("detect"), first=START)),
    "audio-stop": Flood("wyoming", lines(8, START, STOP, read=True)),
    "stop-without-start": Flood("wyoming", lines(8, STOP)),
    "empty-chunks": Flood("wyoming", lines(8, sound(b""))),
    "one-sample": Flood("wyoming", lines(16, sound(b"xx"))),
    "one-sample-and-start": Flood("wyoming", lines(8, START, sound(b"xx"))),
    "sound": Flood("wyoming", lines(30, sound(NOISE[:65_536]))),
    "sound-8-bit": Flood("wyoming", lines(30, sound(NOISE[:65_536], NARROW))),
    "sound-wide": Flood("wyoming", lines(30, sound(NOISE[:65_536], WIDE))),
    "describe-unread": Flood("wyoming", lines(30, event("describe"))),
    "ping-unread": Flood("wyoming", lines(30, event("ping", {"text": "x" * 1_000}))),
    "describe": Flood("wyoming", lines(30, event("describe"), read=True)),
    "ping": Flood("wyoming", lines(30, event("ping", {"text": "x"}), read=True)),
    "unknown": Flood("wyoming", lines(30, event("run-pipeline", {"a": 1}, b"x" * 60_000))),
    "variants": Flood("wyoming", _variants),
    "idle": Flood("wyoming", lambda: [Stream()] * 300, per_s=100.0),
    "idle-after-ping": Flood("wyoming", lambda: [Stream(event("ping"))] * 300, per_s=100.0),
    "half-events": Flood("wyoming", lambda: [Stream(b'{"type":')] * 300, per_s=100.0),
    "storm": Flood("wyoming", lambda: [Stream()] * 4_000, per_s=200.0),
    "waiting": Flood("wyoming", lambda: [Stream(event("detect"))] * 100, per_s=100.0),
}
"""What anybody may do who reaches the port."""


def request(method: str, path: str, length: int | None = None) -> bytes:
    """An HTTP request, or what stands before its body."""
    kind = "" if length is None else f"Content-Type: application/json\r\nContent-Length: {length}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n".encode()


def asking(count: int, *paths: str) -> Callable[[], list[Stream]]:
    """So many connections that each ask, read the answer, and come again."""
    return lambda: [Stream(request("GET", paths[n % len(paths)])) for n in range(count)]


def objects() -> bytes:
    """As many small objects as a body holds."""
    return b'{"copy":[' + b"{}," * ((BODY_BYTES - 16) // 3) + b"{}]}"


def deep() -> bytes:
    """As many lists inside each other as a body holds."""
    return b'{"copy":' + b"[" * (BODY_BYTES // 2) + b"]" * (BODY_BYTES // 2) + b"}"


def posted(make: Callable[[], bytes], *paths: str) -> list[Stream]:
    """Two connections for each path that post that again and again."""
    body = make()
    return [Stream(request("POST", path, len(body)), body=body) for path in paths for _ in range(2)]


def with_a_body() -> list[str]:
    """Every path of the control API that takes one, but for what changes whether the microphone is heard."""
    return sorted(path for path, methods in routes.ROUTES.items() if "POST" in methods and path != "/v1/listening")


HALF = b"GET /v1/status HTTP/1.1\r\nHost: loc"

CONTROL: dict[str, Flood] = {
    "half-requests": Flood("control", lambda: [Stream(HALF)] * 160, "observer"),
    "idle-control": Flood("control", lambda: [Stream()] * 300, "observer"),
    "storm-control": Flood("control", lambda: [Stream()] * 4_000, "observer", per_s=200.0),
    "followers": Flood("control", lambda: [Stream(request("GET", "/v1/events"))] * 200, "observer"),
    "doctor": Flood("control", asking(8, "/v1/doctor"), "observer"),
    "status": Flood("control", asking(8, "/v1/status"), "observer"),
    "devices": Flood("control", asking(8, "/v1/devices"), "observer"),
    "config": Flood("control", asking(8, "/v1/config"), "user"),
    "everything": Flood(
        "control", asking(16, "/v1/doctor", "/v1/status", "/v1/devices", "/v1/events/recent", "/metrics"), "observer"
    ),
    "import": Flood("control", lambda: posted(objects, "/v1/import"), "user"),
    "import-deep": Flood("control", lambda: posted(deep, "/v1/import"), "user"),
    "bodies": Flood("control", lambda: posted(objects, *with_a_body()), "user"),
    "bodies-deep": Flood("control", lambda: posted(deep, *with_a_body()), "user"),
    "half-page": Flood("page", lambda: [Stream(HALF)] * 160),
    "page": Flood("page", asking(16, "/", "/js/api.js", "/v1/status")),
    "page-bodies": Flood("page", lambda: posted(objects, "/v1/import", "/v1/consent")),
    "half-metrics": Flood("metrics", lambda: [Stream(HALF)] * 160),
    "metrics": Flood("metrics", asking(16, "/metrics")),
}
"""What members of the household's groups, and whoever reaches the page or the numbers, may do."""

FLOODS = WYOMING | CONTROL
