"""What clients send, heard as the microphone is: a chain for each of them, and one thread for them all.

The microphone's thread has nothing to do with it: it tells no event, counts nothing, learns nothing, and is not kept.
What is listened for, who is addressed and what people taught is the microphone's, from the next chunk of sound on. A
chain costs 0.3 MiB and, where several clients speak at once, half a millisecond a block; encoders are shared
(``pipeline.encoderpool``). Sound that the thread has not come to yet is bounded for each client; who sends more waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from idiolect.assembly import Recognizer
from idiolect.control.hearing import Heard, Known, Sound, SoundError
from idiolect.host.convert import MIN_RATE, AudioConverter
from idiolect.pipeline.beside import Carried
from idiolect.pipeline.chain import Chain
from idiolect.pipeline.decoder import Listening, State, Thresholds
from idiolect.pipeline.encoderpool import EncoderPool, PooledEncoder
from idiolect.pipeline.personal import Household
from idiolect.values import BLOCK, GUEST, SAMPLE_RATE, WINDOW, Captured, Detection

MAX_RATE = 192_000
MAX_CHANNELS = 8
PENDING_BYTES = 131_072
"""Sound of one client that waits for the thread: two of the longest chunks there are."""
TURN_BYTES = 16_384
"""What one client's turn on the thread takes: half a second of 16 kHz, so that a file sent at once delays nobody."""
MARKS = 256
"""Time stamps remembered per stream."""
PAD_S = 0.2
"""Silence behind the end, through the resampler: what it and an unfinished block hold back comes out."""
TAIL = np.zeros(12 * BLOCK, np.int16)
"""More of it, for the chain: by its end every phrase that was begun has been decided."""
LEAD = np.zeros(WINDOW * BLOCK, np.int16)
"""Before the start: clients begin in mid-breath, and a window is never half empty."""
Fit = Callable[[Listening], Listening]
"""What a stream waits for, out of what is listened for at all."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the microphone's chain is told (``Inference.listen_for``)."""

    listening: Listening
    household: Household | None = None
    profile: str = GUEST
    carried: Carried | None = None


def for_detection(base: Listening, names: Sequence[str] | None) -> Listening:
    """The phrases of these names at any time, each with its threshold of an open room; None: the wake words.

    A wake word opens a turn for one block and no more: somebody else will listen to what follows.
    """
    asked = base.wake if names is None else np.array([name in names for name in base.classes], np.bool_)
    wake = base.wake & asked
    others = (base.phrases | base.always_on) & asked
    return replace(
        base, wake=wake, phrases=others, always_on=others, turn_thresholds=base.thresholds, mode=State.IDLE, timeout=1,
        by_profile={profile: Thresholds(own.free, own.free) for profile, own in base.by_profile.items()},
    )  # fmt: skip


def for_transcription(base: Listening) -> Listening:
    """Every phrase at any time, with its threshold of a turn; wake words count for nothing."""
    return replace(
        base, wake=np.zeros_like(base.wake), thresholds=base.turn_thresholds, mode=State.OPEN,
        by_profile={profile: Thresholds(own.turn, own.turn) for profile, own in base.by_profile.items()},
    )  # fmt: skip


class Streams:
    """All clients' streams, and what is to be known about phrases. Implements ``control.hearing.Hearing``."""

    def __init__(self, recognizer: Recognizer, listening: Listening, *, gated: bool = True) -> None:
        bundle = recognizer.bundle
        self.head, self.gated = recognizer.head, gated
        self.bundle, self.version, self.language = bundle.name, str(bundle.version), bundle.language
        self._texts = {phrase.name: phrase.text for phrase in bundle.phrases}
        self.wish = Wish(listening)
        self.worker = ThreadPoolExecutor(1, "streams")  # has no thread before the first client sends sound
        self.pool = EncoderPool(bundle.encoder)
        before = bundle.previous
        self.earlier = EncoderPool(before.encoder, name="previous-encoder.tflite") if before else None

    def listen_for(
        self, listening: Listening, household: Household | None, profile: str, carried: Carried | None
    ) -> None:
        """As ``Inference.listen_for``. Any thread: a stream takes it over before its next chunk."""
        self.wish = Wish(listening, household, profile, carried)

    def wakers(self) -> tuple[Known, ...]:
        """See ``Hearing``."""
        base, shipped = self.wish.listening, len(self.head.classes)
        always = base.wake | base.always_on
        always[shipped:] = True  # what people taught
        return tuple(Known(base.classes[i], self.text_of(base.classes[i])) for i in np.flatnonzero(always))

    def text_of(self, name: str) -> str:
        """See ``Hearing``: a taught phrase is called by what is said."""
        return self._texts.get(name, name)

    def speaker(self, profile: str) -> str:
        """See ``Hearing``: there is no voice in an adapter without the consent voice_match."""
        household = self.wish.household
        adapter = household.adapters.get(profile) if household else None
        return profile if adapter and adapter.voice is not None else ""

    def open(self, heard: Callable[[Heard], Awaitable[None]]) -> ClientStream:
        """See ``Hearing``."""
        return ClientStream(self, heard)


class _Ear:
    """What the thread has of one client: converter, chain, clock. Only the thread touches it."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._chain: Chain | None = None
        self._encoder: PooledEncoder | None = None
        self._earlier: PooledEncoder | None = None
        self._adopted: tuple[Wish, Fit] | None = None
        self.fit: Fit = lambda base: for_detection(base, None)
        self._marks: deque[tuple[int, int]] = deque(maxlen=MARKS)

    def start(self, sound: Sound) -> None:
        """Everything anew, but for what is listened for."""
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
        chain.process(LEAD)
        self._origin = chain.position

    def hear(self, data: bytes, timestamp: int | None) -> list[Heard]:
        """Whole frames; what became certain."""
        if timestamp is not None:
            self._marks.append((self._frames * SAMPLE_RATE // self._sound.rate, timestamp))
        self._frames += len(data) // (self._sound.width * self._sound.channels)
        return self._take(self._converter.feed(as_16_bit(data, self._sound.width)))

    def end(self) -> list[Heard]:
        """Silence, until everything is certain."""
        frames = round(PAD_S * self._sound.rate) * self._sound.channels
        heard = self._take(self._converter.feed(bytes(2 * frames)))
        return heard if self._chain is None else heard + self._told(self._chain.process(TAIL))

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

    def _own(self, carried: Carried | None) -> Carried | None:
        """The same with an encoder of the clients': the microphone's is its own."""
        if carried is None or self._streams.earlier is None:
            return None
        if self._earlier is None:
            self._earlier = self._streams.earlier.stream()
        return Carried(self._earlier, carried.head, carried.household)

    def _told(self, detections: Sequence[Detection]) -> list[Heard]:
        streams = self._streams
        return [
            Heard(Known(d.phrase, streams.text_of(d.phrase)), self._ms(d.end), streams.speaker(d.profile))
            for d in detections
            if d.kind != "rejected"
        ]

    def _ms(self, position: int) -> int:
        """A position of the chain on the client's clock."""
        sample = max(0, position - self._origin)
        start, stamp = next((mark for mark in reversed(self._marks) if mark[0] <= sample), (0, 0))
        return stamp + (sample - start) * 1000 // SAMPLE_RATE


class ClientStream:
    """One client's sound. Implements ``control.hearing.Stream``."""

    def __init__(self, streams: Streams, heard: Callable[[Heard], Awaitable[None]]) -> None:
        self._streams, self._heard = streams, heard
        self._ear = _Ear(streams)
        self._todo: deque[tuple[int, Callable[[], list[Heard] | None]]] = deque()  # bytes, and what to do with them
        self._pending = 0
        self._room = asyncio.Event()
        self._job: asyncio.Task[None] | None = None

    def detect(self, names: Sequence[str] | None) -> None:
        """See ``Stream``."""
        wanted = None if names is None else tuple(names)
        self._fit(lambda base: for_detection(base, wanted))

    def transcribe(self) -> None:
        """See ``Stream``."""
        self._fit(for_transcription)

    def _fit(self, fit: Fit) -> None:
        self._do(0, lambda: setattr(self._ear, "fit", fit))

    def start(self, sound: Sound) -> None:
        """See ``Stream``."""
        check_sound(sound)
        self._do(0, lambda: self._ear.start(sound))

    async def feed(self, data: bytes, timestamp: int | None) -> None:
        """See ``Stream``."""
        while self._pending > PENDING_BYTES - len(data) and self._pending:
            self._room.clear()
            await self._room.wait()
        self._do(len(data), lambda: self._ear.hear(data, timestamp))

    async def finish(self) -> None:
        """See ``Stream``."""
        self._do(0, self._ear.end)
        while self._job is not None:
            await asyncio.shield(self._job)

    def close(self) -> None:
        """See ``Stream``."""
        self._todo.clear()
        job, self._job = self._job, None  # no circle: a chain's memory is to come back now
        if job is not None and not job.cancel() and not job.cancelled():
            job.exception()  # nobody else will ask, and asyncio would put it into the journal with its text
        with suppress(RuntimeError):  # the interpreter is going down
            self._streams.worker.submit(self._ear.release)

    def _do(self, size: int, what: Callable[[], list[Heard] | None]) -> None:
        """Put something at the end of what the thread has to do for us. Raises what went wrong with it before."""
        if self._job is not None and self._job.done():
            self._job.result()
        self._todo.append((size, what))
        self._pending += size
        if self._job is None:
            self._job = asyncio.ensure_future(self._work_off())

    async def _work_off(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._todo:
                size, heard = await loop.run_in_executor(self._streams.worker, self._turn)
                self._pending -= size
                self._room.set()
                for each in heard:
                    await self._heard(each)
        except BaseException:
            self._room.set()  # who waits for room is to find out
            self._pending = 0
            raise
        self._job = None

    def _turn(self) -> tuple[int, list[Heard]]:
        """On the thread: some of what is to do; the bytes that this took, and what was heard in them."""
        done, heard = 0, list[Heard]()
        while done < TURN_BYTES:
            try:
                size, what = self._todo.popleft()
            except IndexError:
                break
            heard += what() or ()
            done += size
        return done, heard


def check_sound(sound: Sound) -> None:
    """``SoundError`` for what is not converted: it names each field that would have to be another."""
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
    """Samples of ``width`` bytes as S16_LE: 8 bits are unsigned, of more than 16 the lowest go."""
    if width == 1:
        return ((np.frombuffer(data, np.uint8).astype("<i2") - 128) << 8).astype("<i2").tobytes()
    if width > 2:
        return np.frombuffer(data, np.uint8).reshape(-1, width)[:, width - 2 :].tobytes()
    return data
