"""The interface between the sockets for sound and the daemon: streams for what a client sends, and names of phrases.

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
        """Wait for these phrases from here on; None: for every wake word."""

    async def transcribe(self) -> None:
        """Wait for any phrase from here on, as in a turn."""

    async def start(self, sound: Sound) -> None:
        """Begin with sound in this format, after silence. Raises ``SoundError``."""

    async def feed(self, data: bytes, timestamp: int | None) -> None:
        """Hear whole frames. ``timestamp`` is the first frame's, in ms."""

    async def settle(self) -> None:
        """Return when all that was fed so far has been heard and told."""

    async def finish(self) -> None:
        """End the sound, and return when everything has been heard and told."""

    def close(self) -> None:
        """Close the stream, and drop what has not been heard."""


class Hearing(Protocol):
    """The daemon's ears for others. All methods belong to the event loop."""

    @property
    def bundle(self) -> str:
        """Return the name of the bundle in use."""

    @property
    def version(self) -> str:
        """Return the version of the bundle in use."""

    @property
    def language(self) -> str:
        """Return the language of its phrases, as a language tag."""

    def wakers(self) -> Sequence[Known]:
        """Return what can be waited for at any time: wake words, phrases that are always on, and what was taught."""

    def text_of(self, name: str) -> str:
        """Return a phrase's canonical spelling."""

    def speaker(self, profile: str) -> str:
        """Return ``profile`` where its person agreed to be known by voice, else ""."""

    def open(self, heard: Callable[[Heard], Awaitable[None]]) -> Stream:
        """Return a new stream; ``heard`` is called on the event loop with each phrase."""
