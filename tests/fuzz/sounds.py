"""Targets that are Wyoming: bytes and whole turns at the real servers, for clients' sound and for a turn's program."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
from collections.abc import Awaitable, Callable, Iterator, Sequence

import numpy as np

from idiolect.control.http import Pieces
from idiolect.events import EventStream
from idiolect.listening.sound import Heard, Known, Sound
from idiolect.values import BLOCK, Detection, Event
from tests.fuzz.engine import MARK
from tests.fuzz.stage import converse, kept, play, settled, unopened
from tests.fuzz.web import ENDLESS


class Ears:
    """Implements ``listening.sound.Hearing``: hears something in every third piece of sound that it gets."""

    bundle, version, language = "test", "1", "en"

    def wakers(self) -> Sequence[Known]:
        return [Known("computer", "computer"), Known("stop", "stop")]

    def text_of(self, name: str) -> str:
        return name

    def speaker(self, profile: str) -> str:
        return profile if profile == "aa" * 8 else ""

    def open(self, heard: Callable[[Heard], Awaitable[None]]) -> Hears:
        return Hears(heard)


class Hears:
    """Implements ``listening.sound.Stream``."""

    def __init__(self, heard: Callable[[Heard], Awaitable[None]]) -> None:
        self._heard, self._fed, self._sound = heard, 0, Sound(16_000, 2, 1)

    async def detect(self, names: Sequence[str] | None) -> None:
        assert names is None or all(isinstance(name, str) for name in names)

    async def transcribe(self) -> None:
        """Anything counts."""

    async def start(self, sound: Sound) -> None:
        from idiolect.listening.streams import check_sound

        check_sound(sound)
        self._sound = sound

    async def feed(self, data: bytes, timestamp: int | None) -> None:
        from idiolect.listening.streams import as_16_bit

        assert len(as_16_bit(data, self._sound.width)) % (2 * self._sound.channels) == 0
        self._fed += 1
        if self._fed % 3 == 0:
            await self._heard(Heard(Known("computer", "computer"), timestamp or 0, "aa" * 8))

    async def settle(self) -> None:
        """All has been told as soon as it was fed."""

    async def finish(self) -> None:
        await asyncio.sleep(0.1)

    def close(self) -> None:
        """Nothing is kept."""


@kept
def _wyoming(kind: str):
    from idiolect.control.wyoming.connection import Limits
    from idiolect.control.wyoming.server import WyomingServer
    from tests.support.wyoming_talk import streams

    own = {"events": ENDLESS, "describes": ENDLESS, "chunks": ENDLESS}
    limits = Limits(connections=ENDLESS, **own, all_events=ENDLESS, all_describes=ENDLESS)
    ears = streams() if kind == "real" else Ears()
    return WyomingServer(ears, EventStream(), unopened, microphone=kind == "microphone", limits=limits)


async def _events(server, data: bytes) -> None:
    def happens(number: int) -> None:
        if server.hub and number % 2:
            detected = Detection("wake" if number % 4 == 1 else "phrase", "computer", 0.9, 0.5, 0.5, 0, 16_000)
            server.hub.publish(Event(str(number), 1.0, detected))

    got = await converse(lambda: Pieces(server._accept), data, happens)
    await settled(lambda: server.connected)
    for line in got.splitlines()[:1]:
        assert isinstance(json.loads(line), dict), "no event"


def wyoming(data: bytes) -> None:
    """Any bytes, at ears that cost nothing; the first byte's lowest bit says whether the microphone is told of."""
    play(_events(_wyoming("microphone" if data[:1] and data[0] & 1 else "light"), data))


def wyoming_talk(data: bytes) -> None:
    """Sound events in any order, from a grammar."""
    play(_events(_wyoming("light"), data[:1] + b"".join(_spelled(data[1:400]))))


def wyoming_ears(data: bytes) -> None:
    """The same at the real ears: encoder, gate and all."""
    play(_events(_wyoming("real"), data[:1] + b"".join(_spelled(data[1:100]))))


_FORMATS = ((16_000, 2, 1), (48_000, 2, 2), (8_000, 1, 1), (44_100, 3, 1), (16_000, 4, 8), (7_999, 2, 1), (2**60, 2, 1))
_WORDS = ("computer", "stop", MARK, "", "\ud800", "x" * 129)


def _spelled(data: bytes) -> Iterator[bytes]:  # noqa: C901 - a grammar
    """Two bytes an event: what, and with what."""
    sound = dict(zip(("rate", "width", "channels"), _FORMATS[0], strict=True))
    for kind, how in zip(data[::2], data[1::2], strict=False):
        match kind % 12:
            case 0:
                yield event("describe")
            case 1:
                yield event("detect", {"names": [_WORDS[how % 2], _WORDS[how // 2 % 6]][: how % 3]})
            case 2:
                yield event("transcribe", {"language": _WORDS[how % 6] if how % 5 else "en", "name": MARK})
            case 3:
                sound = dict(zip(sound, _FORMATS[how % 7], strict=True))
                yield event("audio-start", sound)
            case 4 | 5 | 6:
                payload = bytes([how]) * (16 * how * sound["width"] * sound["channels"] % 65_537)
                yield event("audio-chunk", {**sound, **({"timestamp": how << how % 50} if how % 2 else {})}, payload)
            case 7:
                yield event("audio-stop", {"timestamp": how})
            case 8:
                yield event("ping", {"text": _WORDS[how % 6] * (1 + how % 3)})
            case 9:
                yield event(MARK, {"text": MARK}, bytes(how))
            case 10:
                yield event("audio-chunk", {**sound, "rate": how}, bytes(how))
            case _:
                yield bytes([how]) if how < 32 else event("detect", {"names": None})


def event(kind: str, data: dict[str, object] | None = None, payload: bytes = b"") -> bytes:
    """An event as it goes over the wire; more data than a header takes go behind it."""
    text = json.dumps(data or {}).encode()
    behind = text if len(text) > 60 else b""
    header = {"type": kind, "version": "1.10.0", **({"data_length": len(behind)} if behind else {"data": data or {}})}
    return (
        json.dumps(header | ({"payload_length": len(payload)} if payload else {})).encode() + b"\n" + behind + payload
    )


def events() -> list[bytes]:
    """Whole turns."""
    sound = {"rate": 16_000, "width": 2, "channels": 1}
    chunk = event("audio-chunk", {**sound, "timestamp": 5}, bytes(640))
    said = event("audio-start", sound) + chunk * 4 + event("audio-stop", {"timestamp": 9})
    return [
        b"\0" + event("describe") + event("ping", {"text": MARK}),
        b"\x03" + event("detect", {"names": ["computer"]}) + said,
        b"\x40" + event("transcribe", {"language": "en"}) + said * 2,
        b"\x81" + said + event("detect", {"names": [MARK]}),
        b"\xc1" + event("transcribe"),
        b"\x01" + b'{"type": "' + MARK.encode() + b'", "data_length": 2, "payload_length": 3}\n{}abc',
    ]


def talks() -> list[bytes]:
    """For the grammar: a turn of each kind."""
    start, sound, stop = b"\x03\x00", b"\x04\x0a", b"\x07\x01"
    return [
        b"\0\0\0" + b"\1\2" + start + sound * 6 + stop,
        b"\0\2\5" + start + sound * 4 + stop + b"\x08\x02",
        b"\x85" + start + b"\4\xff" * 3 + b"\2\0" + stop,
        b"\0\x09\1\x08\4\x0a\7\x0b\1",
        b"\x42" + b"".join(bytes([3, n, 4, 33, 7, 0]) for n in range(5)),
    ]


WYOMING_TOKENS = (
    b'{"type": "', b"describe", b"detect", b"transcribe", b"audio-start", b"audio-chunk", b"audio-stop", b"ping",
    b"}\n",
    b'"data"', b'"data_length": ', b'"payload_length": ', b'"names": [', b'"rate": ', b'"width": ', b'"channels": ',
    b'"timestamp": ', b'"text": "\\ud800"', b'"language"',
)  # fmt: skip


@kept
def _handoff():
    from idiolect.control.wyoming.handoff import HandoffServer

    taps: list[object] = []
    return HandoffServer(Ears(), pwd.getpwuid(os.geteuid()).pw_name, unopened, taps.append), taps


async def _handed(data: bytes) -> None:
    server, taps = _handoff()
    taps.clear()

    def happens(number: int) -> None:
        tap = taps[-1] if taps else None
        if tap is not None:
            end = (number + 1) * BLOCK
            found = [Detection("wake", "computer", 0.9, 0.5, 0.5, 0, end - 100)] if number % 5 == 0 else []
            found += [Detection("phrase", "stop", 0.9, 0.5, 0.5, 0, end, "aa" * 8)] if number % 5 == 3 else []
            tap(np.zeros(BLOCK, np.int16), found, end, "listening")

    await converse(lambda: Pieces(server._accept), data, happens)
    await settled(lambda: server.connected)
    assert taps[-1] is None, "inference still copies sound"


def handoff(data: bytes) -> None:
    """What the program that takes turns over sends, while turns go out to it."""
    play(_handed(data))
