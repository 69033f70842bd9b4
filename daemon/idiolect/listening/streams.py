"""Hears what clients send as the microphone is heard: a chain for each of them, and one thread for them all.

Goes in: sound from clients, in any format that ``check_sound`` lets through. Comes out: phrases that were heard in it.
The microphone's thread has nothing to do with it: no event is published, and nothing is counted, learnt or kept.

How it works: what is listened for, who is addressed and what people taught is the microphone's, from the next chunk of
sound on. A chain costs 0.3 MiB and, where several clients speak at once, half a millisecond a block; encoders are
shared (``pipeline.encoder_pool``). The work that the thread has not come to yet is bounded for each client, whatever it
is: a client who sends more waits (``listening.backlog``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from idiolect.listening.audio.convert import MIN_RATE, AudioConverter
from idiolect.listening.backlog import Backlog, Job, Piece, Turns
from idiolect.listening.pipeline.chain import Chain
from idiolect.listening.pipeline.decoder import Listening, State, Thresholds
from idiolect.listening.pipeline.earlier import EarlierModel
from idiolect.listening.pipeline.encoder_pool import EncoderPool, PooledEncoder
from idiolect.listening.pipeline.household import Household
from idiolect.listening.recognizer import Recognizer
from idiolect.listening.sound import Heard, Known, Sound, SoundError
from idiolect.values import BLOCK, GUEST, SAMPLE_RATE, WINDOW, Captured, Detection

MAX_RATE = 192_000
MAX_CHANNELS = 8
PIECE_BYTES = 4_096
"""Sound, at 16 kHz, that is heard without looking whether the client's turn is over."""
FIT_BYTES = 4_096
"""Price of a change of what is waited for: that of as much sound."""
MARKS = 256
"""Time stamps remembered per stream."""
PAD_S = 0.2
"""Silence behind the end, through the resampler: what it and an unfinished block hold back comes out."""
PAD_BYTES = round(2 * PAD_S * SAMPLE_RATE)
TAIL = np.zeros(12 * BLOCK, np.int16)
"""More of it, for the chain: by its end every phrase that was begun has been decided."""
LEAD = np.zeros(WINDOW * BLOCK, np.int16)
"""Before the start: clients begin in mid-breath, and a window is never half empty."""
Fit = Callable[[Listening], Listening]
"""Makes of what is listened for at all what one stream waits for."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The things that the microphone's chain is told: what to listen for and for whom (``Inference.listen_for``)."""

    listening: Listening
    household: Household | None = None
    profile: str = GUEST
    carried: EarlierModel | None = None


def for_detection(base: Listening, names: Collection[str] | None) -> Listening:
    """Return what a stream listens for that waits for phrases at any time, each with its threshold of an open room.

    A wake word opens a turn for one block and no more: somebody else will listen to what follows.

    Args:
        names: the phrases; None for the wake words.
    """
    asked = base.wake if names is None else np.array([name in names for name in base.classes], np.bool_)
    wake = base.wake & asked
    others = (base.phrases | base.always_on) & asked
    return replace(
        base, wake=wake, phrases=others, always_on=others, turn_thresholds=base.thresholds, mode=State.IDLE, timeout=1,
        by_profile={profile: Thresholds(own.free, own.free) for profile, own in base.by_profile.items()},
    )  # fmt: skip


def for_transcription(base: Listening) -> Listening:
    """Return what a stream listens for that waits for every phrase at any time, with its threshold of a turn.

    Wake words count for nothing.
    """
    return replace(
        base, wake=np.zeros_like(base.wake), thresholds=base.turn_thresholds, mode=State.OPEN,
        by_profile={profile: Thresholds(own.turn, own.turn) for profile, own in base.by_profile.items()},
    )  # fmt: skip


class Streams:
    """All clients' streams, and what is to be known about phrases. Implements ``listening.sound.Hearing``."""

    def __init__(self, recognizer: Recognizer, listening: Listening, *, gated: bool = True) -> None:
        bundle = recognizer.bundle
        self.head, self.gated = recognizer.head, gated
        self.bundle, self.version, self.language = bundle.name, str(bundle.version), bundle.language
        self._texts = {phrase.name: phrase.text for phrase in bundle.phrases}
        self.wish = Wish(listening)
        self.worker = ThreadPoolExecutor(1, "streams")  # has no thread before the first client sends sound
        self.turns = Turns(self.worker, self.counted)
        self.pool = EncoderPool(bundle.encoder)
        before = bundle.previous
        self.earlier = EncoderPool(before.encoder, name="previous-encoder.tflite") if before else None

    def counted(self) -> int:
        """Return the work done so far, in bytes of sound that went through an encoder; replays count as well."""
        return 2 * BLOCK * self.pool.steps

    def listen_for(
        self, listening: Listening, household: Household | None, profile: str, carried: EarlierModel | None
    ) -> None:
        """Take over what the microphone listens for, called like ``Inference.listen_for``.

        Any thread may call it: a stream takes it over before its next chunk.
        """
        self.wish = Wish(listening, household, profile, carried)

    def wakers(self) -> tuple[Known, ...]:
        """Return what can be waited for at any time: wake words, phrases that are always on, and what was taught."""
        base, shipped = self.wish.listening, len(self.head.classes)
        always = base.wake | base.always_on
        always[shipped:] = True  # what people taught
        return tuple(Known(base.classes[i], self.text_of(base.classes[i])) for i in np.flatnonzero(always))

    def text_of(self, name: str) -> str:
        """Return a phrase's canonical spelling; a taught phrase is spelt as its name."""
        return self._texts.get(name, name)

    def speaker(self, profile: str) -> str:
        """Return ``profile`` where its person agreed to be known by voice, else "".

        Without the consent voice_match there is no voice in an adapter.
        """
        household = self.wish.household
        adapter = household.adapters.get(profile) if household else None
        return profile if adapter and adapter.voice is not None else ""

    def open(self, heard: Callable[[Heard], Awaitable[None]]) -> ClientStream:
        """Return a new stream; ``heard`` is called on the event loop with each phrase."""
        return ClientStream(self, heard)


class _Ear:
    """The thread's part of one client: converter, chain, clock. Only the thread touches it."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._chain: Chain | None = None
        self._encoder: PooledEncoder | None = None
        self._earlier: PooledEncoder | None = None
        self._adopted: tuple[Wish, Fit] | None = None
        self.fit: Fit = lambda base: for_detection(base, None)
        self._marks: deque[tuple[int, int]] = deque(maxlen=MARKS)

    def take_over(self, fit: Fit) -> Iterator[Piece[Heard]]:
        """Wait for something else from the next sound on."""
        self.fit = fit
        yield Piece(FIT_BYTES)

    def start(self, sound: Sound) -> Iterator[Piece[Heard]]:
        """Start anew in this format, with silence in front; what is listened for stays."""
        self._sound, self._converter = sound, AudioConverter(sound.rate, sound.channels)
        self._frames = 0
        self._marks.clear()
        chain = self._chain
        if chain is None:
            self._encoder = self._streams.pool.stream()
            wish = self.fit(self._streams.wish.listening)
            self._chain = chain = Chain(self._encoder, self._streams.head, wish, gated=self._streams.gated)
        else:
            chain.reset()
        self._adopt(chain)
        for silence in _in_pieces(LEAD):
            chain.process(silence)
            yield Piece(2 * len(silence))
        self._origin = chain.position

    def hear(self, data: bytes, timestamp: int | None) -> Iterator[Piece[Heard]]:
        """Hear whole frames, in pieces, each with what became certain. ``timestamp`` is the first frame's, in ms."""
        sound, frame = self._sound, self._sound.width * self._sound.channels
        if timestamp is not None:
            self._marks.append((self._frames * SAMPLE_RATE // sound.rate, timestamp))
        most = max(1, min(PIECE_BYTES // frame, PIECE_BYTES // 2 * sound.rate // SAMPLE_RATE)) * frame
        for first in range(0, len(data), most):
            part = data[first : first + most]
            self._frames += len(part) // frame
            heard = self._take(self._converter.feed(as_16_bit(part, sound.width)))
            yield Piece(price_of(sound, part), heard)

    def end(self) -> Iterator[Piece[Heard]]:
        """Hear silence until everything is certain."""
        frames = round(PAD_S * self._sound.rate) * self._sound.channels
        yield Piece(PAD_BYTES, self._take(self._converter.feed(bytes(2 * frames))))
        if (chain := self._chain) is not None:
            for silence in _in_pieces(TAIL):
                yield Piece(2 * len(silence), self._told(chain.process(silence)))

    def release(self) -> None:
        """Leave the encoders to others."""
        for encoder in (self._encoder, self._earlier):
            if encoder is not None:
                encoder.close()

    def _take(self, blocks: Sequence[Captured]) -> list[Heard]:
        chain = self._chain
        if chain is None:
            return []
        self._adopt(chain)
        return [heard for block in blocks for heard in self._told(chain.process(block.samples))]

    def _adopt(self, chain: Chain) -> None:
        """Take over what is listened for now, where that has changed."""
        wish, before = self._streams.wish, self._adopted
        if before and before[0] is wish and before[1] is self.fit:
            return
        self._adopted = wish, self.fit
        chain.listen_for(self.fit(wish.listening), wish.household, self._own(wish.carried))
        chain.address(wish.profile)

    def _own(self, carried: EarlierModel | None) -> EarlierModel | None:
        """Return an earlier model with an encoder of the clients', as the microphone's serves its own stream only."""
        if carried is None or self._streams.earlier is None:
            return None
        if self._earlier is None:
            self._earlier = self._streams.earlier.stream()
        return EarlierModel(self._earlier, carried.head, carried.household)

    def _told(self, detections: Sequence[Detection]) -> list[Heard]:
        streams = self._streams
        return [
            Heard(Known(d.phrase, streams.text_of(d.phrase)), self._ms(d.end), streams.speaker(d.profile))
            for d in detections
            if d.kind != "rejected"
        ]

    def _ms(self, position: int) -> int:
        """Return a position of the chain in ms on the client's clock."""
        sample = max(0, position - self._origin)
        start, stamp = next((mark for mark in reversed(self._marks) if mark[0] <= sample), (0, 0))
        return stamp + (sample - start) * 1000 // SAMPLE_RATE


class ClientStream:
    """One client's sound. Implements ``listening.sound.Stream``."""

    def __init__(self, streams: Streams, heard: Callable[[Heard], Awaitable[None]]) -> None:
        self._streams = streams
        self._ear = _Ear(streams)
        self._sound = Sound(SAMPLE_RATE, 2, 1)
        self.backlog = Backlog(streams.turns, heard)

    async def detect(self, names: Sequence[str] | None) -> None:
        """Wait for these phrases from here on; None: for every wake word."""
        wanted = None if names is None else frozenset(names)
        await self._wait_for(lambda base: for_detection(base, wanted))

    async def transcribe(self) -> None:
        """Wait for any phrase from here on, as in a turn."""
        await self._wait_for(for_transcription)

    async def _wait_for(self, fit: Fit) -> None:
        await self.backlog.put(Job(FIT_BYTES, lambda: self._ear.take_over(fit), "fit"))

    async def start(self, sound: Sound) -> None:
        """Begin with sound in this format, after silence.

        Raises:
            SoundError: the format is not understood.
        """
        check_sound(sound)
        self._sound = sound
        await self.backlog.put(Job(2 * len(LEAD), lambda: self._ear.start(sound), "start"))

    async def feed(self, data: bytes, timestamp: int | None) -> None:
        """Queue whole frames. ``timestamp`` is the first frame's, in ms."""
        if data:
            await self.backlog.put(Job(price_of(self._sound, data), lambda: self._ear.hear(data, timestamp)))

    async def settle(self) -> None:
        """Return when all that was fed so far has been heard and told."""
        await self.backlog.drained()

    async def finish(self) -> None:
        """End the sound, and return when everything has been heard and told."""
        await self.backlog.put(Job(2 * len(TAIL) + PAD_BYTES, self._ear.end))
        await self.backlog.drained()

    def close(self) -> None:
        """Drop whatever has not been heard, and leave the encoders to others."""
        self.backlog.close()
        with suppress(RuntimeError):  # the interpreter is going down
            self._streams.worker.submit(self._ear.release)


def price_of(sound: Sound, data: bytes) -> int:
    """Return the price of hearing ``data``: its bytes, or those it becomes at 16 kHz, 16 bits, if these are more."""
    frames = len(data) // (sound.width * sound.channels)
    return max(len(data), 2 * frames * SAMPLE_RATE // sound.rate)


def _in_pieces(silence: NDArray[np.int16]) -> Iterator[NDArray[np.int16]]:
    return (silence[first : first + PIECE_BYTES // 2] for first in range(0, len(silence), PIECE_BYTES // 2))


def check_sound(sound: Sound) -> None:
    """Check that a format can be converted.

    Raises:
        SoundError: it cannot; the message names each field that would have to be another.
    """
    wrong = [
        text
        for fits, text in (
            (MIN_RATE <= sound.rate <= MAX_RATE, f"rate from {MIN_RATE} to {MAX_RATE} Hz"),
            (sound.width in (1, 2, 3, 4), "width of 1 to 4 bytes"),
            (1 <= sound.channels <= MAX_CHANNELS, f"channels from 1 to {MAX_CHANNELS}"),
        )
        if not fits
    ]
    if wrong:
        raise SoundError(f"needs a {', a '.join(wrong)}; best is 16000 Hz, 2 bytes, 1 channel")


def as_16_bit(data: bytes, width: int) -> bytes:
    """Return samples of ``width`` bytes as S16_LE: 8 bits are unsigned, of more than 16 the lowest go."""
    if width == 1:
        return ((np.frombuffer(data, np.uint8).astype("<i2") - 128) << 8).astype("<i2").tobytes()
    if width > 2:
        return np.frombuffer(data, np.uint8).reshape(-1, width)[:, width - 2 :].tobytes()
    return data
