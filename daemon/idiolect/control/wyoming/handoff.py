"""Sends the sound of a turn to one program on this device, which goes on after the wake word. Off unless configured.

It speaks Wyoming, in one direction: `detection` at the wake word, `audio-start`, `audio-chunk`s of what the microphone
hears from the end of the wake word on, `audio-stop` when the turn ends (after a phrase, when time is up, after 15
seconds at the latest), and a `transcript` where a phrase of ours was understood. It may send `ping`, and nothing else.

1. The kernel says who is there: only processes of the configured user, and root's, get in.
2. One at a time: whoever comes second is told so and not served.
3. While nobody is there, nothing is copied anywhere. What is on its way lies in memory, two seconds at most; a
   program that does not read is cut off, and gets nothing of what it missed.
"""

from __future__ import annotations

import asyncio
import logging
import pwd
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from wyoming.asr import Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.ping import Pong
from wyoming.wake import Detection as Detected

from idiolect.control.peers import peer_of
from idiolect.control.serving import Acceptor, Seldom
from idiolect.control.sockets import Listener
from idiolect.control.wyoming.connection import EVENTS, EventError, Limits, Wire, text
from idiolect.control.wyoming.guests import Reserve
from idiolect.listening.sound import Hearing
from idiolect.listening.turns import Message, Tap, TurnTap
from idiolect.values import SAMPLE_RATE

log = logging.getLogger(__name__)

QUEUE = 32
"""Messages on their way: what comes at once after a hiccup of inference, whose own queue holds two seconds."""
STALLED_S = 1.0
"""Seconds without sound after which an open turn has ended: the microphone was released."""
PING_LENGTH = 1_024
_SEND_BYTES = 32_768
"""Bytes that the kernel may hold for a program that does not read: a second, which it doubles."""
_LIMITS = Limits(write_s=1.0)


class HandoffServer:
    """Serves the program of ``user`` on a socket that ``opening`` opens, from ``start()`` to ``stop()``."""

    def __init__(
        self,
        hearing: Hearing,
        user: str,
        opening: Callable[[], Listener],
        attach: Callable[[Tap | None], None],
    ) -> None:
        """Set up the server; ``attach`` tells inference whom to tell of blocks, None: nobody."""
        self.user = user
        self._hearing, self._attach = hearing, attach
        self._client: asyncio.Task[None] | None = None
        self._seldom = Seldom()
        self._refused: set[asyncio.Task[None]] = set()
        self._acceptor = Acceptor(opening, self._accept)

    @property
    def connected(self) -> bool:
        """Return True if a program gets the sound of turns now."""
        return self._client is not None

    async def start(self) -> None:
        """Open the socket and serve. Raises ``ListenError``, and leaves nothing behind then."""
        await self._acceptor.start()

    async def stop(self) -> None:
        """Cut the program off and remove the socket: within 300 ms."""
        await self._acceptor.stop()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer, _LIMITS)
        if not self._may(wire):  # 1
            if self._seldom.now():
                log.warning("handoff: a process of another user than handoff.user was refused")
            self._refuse(wire, Error("only processes of the configured user get in: see handoff.user", "user"))
        elif self._client is not None:  # 2
            if self._seldom.now():
                log.warning("handoff: a second program was refused: there is one already")
            self._refuse(wire, Error("somebody is connected already", "busy"))
        else:
            self._client = self._acceptor.spawn(self._serve(wire))

    def _may(self, wire: Wire) -> bool:
        uid = peer_of(wire.socket).uid
        try:
            return uid in (0, pwd.getpwnam(self.user).pw_uid)
        except KeyError:
            return uid == 0

    def _refuse(self, wire: Wire, error: Error) -> None:
        async def told() -> None:
            with suppress(ConnectionError):
                await wire.write(error.event())
            await wire.close()

        if len(self._refused) > 8:
            wire.abort()
            return
        self._acceptor.spawn(told(), self._refused)

    async def _serve(self, wire: Wire) -> None:
        """Serve one program, until one of us hangs up."""
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        queue: asyncio.Queue[Message] = asyncio.Queue(QUEUE)
        loop = asyncio.get_running_loop()

        def put(message: Message) -> None:
            try:
                queue.put_nowait(message)
            except asyncio.QueueFull:  # 3
                wire.abort()

        def send(message: Message) -> None:
            with suppress(RuntimeError):  # the daemon is stopping
                loop.call_soon_threadsafe(put, message)

        self._attach(TurnTap(send))
        log.info("handoff: the program of handoff.user gets the sound of turns from now on")
        telling = asyncio.ensure_future(self._tell(wire, queue))
        try:
            await self._listen(wire)
        finally:
            self._attach(None)
            telling.cancel()
            wire.abort()
            self._client = None
            log.info("handoff: it is gone, nobody gets any sound")

    async def _listen(self, wire: Wire) -> None:
        """Answer its pings, and read past all else, until it hangs up or has been cut off."""
        pace = Reserve(EVENTS, asyncio.get_running_loop().time)
        with suppress(ConnectionError, EventError):
            while (event := await wire.read(None)) is not None:
                if event.type == "ping":
                    await wire.write(Pong(text(event.data, "text", PING_LENGTH)).event())
                await asyncio.sleep(pace.take())

    async def _tell(self, wire: Wire, queue: asyncio.Queue[Message]) -> None:
        begun = ended = 0  # the newest turn of which it was told so
        with suppress(ConnectionError):
            while True:
                try:
                    async with asyncio.timeout(STALLED_S if begun > ended else None):
                        message = await queue.get()
                except TimeoutError:
                    ended = begun
                    await wire.write(AudioStop().event())
                    continue
                begun = max(begun, message.turn)
                if message.turn == ended and message.kind != "phrase":
                    continue  # more of a turn that had stalled
                ended = message.turn if message.kind == "stop" else ended
                for event in self._events(message):
                    await wire.write(event)
        wire.abort()

    def _events(self, message: Message) -> Sequence[Event]:
        ms, found = message.position * 1000 // SAMPLE_RATE, message.detection
        if message.kind == "sound":
            return [AudioChunk(SAMPLE_RATE, 2, 1, message.sound, ms).event()]
        if message.kind == "stop" or found is None:
            return [AudioStop(ms).event()]
        speaker = self._hearing.speaker(found.profile)
        context = {"profile": speaker} if speaker else None
        if message.kind == "phrase":
            return [Transcript(self._hearing.text_of(found.phrase), context, self._hearing.language).event()]
        heard = Detected(found.phrase, ms, speaker or None, context)
        return [heard.event(), AudioStart(SAMPLE_RATE, 2, 1, ms).event()]
