"""What the sockets for sound need of the daemon: ears for what a client sends, and what the phrases are called.

``streams`` implements it. Nothing that is heard here is learnt from, counted or kept, and no event stream has it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from idiolect.errors import IdiolectError


@dataclass(frozen=True, slots=True)
class Sound:
    """A client's sample format: ``rate`` in Hz, ``width`` in bytes (1 is unsigned, more is little-endian signed)."""

    rate: int
    width: int
    channels: int


class SoundError(IdiolectError):
    """A format that is not understood; the message names what would be."""


@dataclass(frozen=True, slots=True)
class Known:
    """A phrase that can be waited for by its ``name``; ``text`` is its canonical spelling."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Heard:
    """A phrase in what a client sent. ``ms`` is its end, on the clock of the client's time stamps or from its start."""

    known: Known
    ms: int
    speaker: str
    """The profile of who is taken to have said it, "" where that is nobody in particular or not to be told."""


class Stream(Protocol):
    """One client's sound. All methods belong to the event loop, and wait while too much has not been done yet."""

    async def detect(self, names: Sequence[str] | None) -> None:
        """Wait for these phrases from here on, None: for every wake word."""

    async def transcribe(self) -> None:
        """Wait for any phrase from here on, as in a turn."""

    async def start(self, sound: Sound) -> None:
        """Sound in this format follows, after silence. ``SoundError``."""

    async def feed(self, data: bytes, timestamp: int | None) -> None:
        """Whole frames. ``timestamp`` is the first frame's, in ms."""

    async def settle(self) -> None:
        """Return when all that was fed so far has been heard and told."""

    async def finish(self) -> None:
        """That was all: returns when everything has been heard and told."""

    def close(self) -> None:
        """Drop it, whatever has not been heard."""


class Hearing(Protocol):
    """The daemon's ears for others. All methods belong to the event loop."""

    @property
    def bundle(self) -> str:
        """Name of the bundle in use."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def language(self) -> str:
        """What its phrases are in, a language tag."""

    def wakers(self) -> Sequence[Known]:
        """What can be waited for at any time: wake words, phrases that are always on, and what was taught."""

    def text_of(self, name: str) -> str:
        """A phrase's canonical spelling."""

    def speaker(self, profile: str) -> str:
        """``profile`` where its person agreed to be known by voice, else ""."""

    def open(self, heard: Callable[[Heard], Awaitable[None]]) -> Stream:
        """A new stream; ``heard`` is told on the event loop."""
