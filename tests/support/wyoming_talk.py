"""Both ends of Wyoming for tests: the real server over the real pipeline, and the protocol's own client library."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import cache

import numpy as np
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.event import Event
from wyoming.ping import Ping

from idiolect.control.sockets import make_listener
from idiolect.control.wyoming.server import WyomingServer
from idiolect.events import EventStream
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle
from idiolect.listening.streams import Streams
from tests.support import speech

PATIENCE_S = 10.0


@cache
def recognizer() -> Recognizer:
    """The shipped bundle's."""
    return Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))


def streams(**wishes):
    """The daemon's ears for clients, listening for what the shipped bundle has."""
    return Streams(recognizer(), listening(recognizer().bundle, **wishes))


@asynccontextmanager
async def serving(folder, ears=None, hub=None, **settings):
    """A Wyoming server in ``folder``; yields it. It is at ``folder/wyoming.sock``."""
    server = WyomingServer(
        ears or streams(), hub or EventStream(), lambda: make_listener(folder / "wyoming.sock", "wyoming"), **settings
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def client(folder):
    """A connection to it, of the client library."""
    return AsyncClient.from_uri(f"unix://{folder}/wyoming.sock", read_timeout=PATIENCE_S)


async def say(it, samples, *, rate=16_000, width=2, channels=1, start=True, stop=True, timestamp=None, size=1024):
    """Send sound; ``timestamp`` is the first chunk's, and each has its own then."""
    data = samples if isinstance(samples, bytes) else samples.astype("<i2").tobytes()
    if start:
        await it.write_event(AudioStart(rate, width, channels).event())
    frame = width * channels
    for first in range(0, len(data), size * frame):
        now = None if timestamp is None else timestamp + first // frame * 1000 // rate
        await it.write_event(AudioChunk(rate, width, channels, data[first : first + size * frame], now).event())
    if stop:
        await it.write_event(AudioStop().event())


async def until(it, kind) -> tuple[Event, list[str]]:
    """The next event of that type, and the types of those before it."""
    before = []
    while (event := await it.read_event()) is not None:
        if event.type == kind:
            return event, before
        before.append(event.type)
    raise AssertionError(f"no {kind}, but {before} and the end")


async def hung_up(it) -> list[Event]:
    """What comes until the other end hangs up."""
    events = []
    while (event := await it.read_event()) is not None:
        events.append(event)
    return events


@cache
def spoken(word, voice="en-us"):
    """A word as espeak-ng says it, in a quiet room."""
    return np.concatenate([speech.silence(0.5), speech.synthetic(word, voice), speech.silence(0.8)])


def words(*digits, pause=0.7):
    """Digits one after another, in a quiet room."""
    parts = [speech.silence(0.5)]
    for number in digits:
        parts += [speech.digit(number), speech.silence(pause)]
    return np.concatenate(parts)


async def idle(folder, count, *, say_something=False):
    """So many connections that do nothing; to be closed."""
    made = []
    for _ in range(count):
        it = client(folder)
        await it.connect()
        made.append(it)
        if say_something:
            await it.write_event(Ping().event())
            await until(it, "pong")
    return made


def leave(connections):
    for it in connections:
        it._writer.transport.abort()


def story(scenario):
    """A test in an event loop."""

    def test(tmp_path, sounds):
        asyncio.run(asyncio.wait_for(scenario(tmp_path), 60))

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test
