"""Wyoming for Home Assistant and its like: a wake service and a speech-to-text service, for sound that a client sends.

| from the client | what comes of it |
| --- | --- |
| describe | `info`: every phrase that can be waited for, as it is now |
| detect {names?}, then audio | a `detection` each time; `not-detected` at audio-stop if there was none |
| transcribe {language?}, then audio | one `transcript`: as soon as a phrase is certain, else "" at audio-stop |
| audio-start, audio-chunk..., audio-stop, without either | as after `detect` without names |
| ping | `pong` with its text |
| anything else | nothing: a later version may know more |

With ``microphone`` a client that sends no audio is told what the daemon's own microphone hears: a `detection` for each
phrase that it waits for, and after `transcribe` the `transcript` of the turn.

Home Assistant reads a transcript after its audio-stop; who streams on is not kept waiting for that. There is no
authentication in Wyoming and nobody knows who is at the other end of a TCP proxy, so nothing here changes anything:
what clients send is not learnt from, counted or kept. What one of them can do to us is bounded, in this order:

1. new connections of one uid: 400 a second in the long run, 256 at once, beyond that they are cut off;
2. ``max_clients`` connections: for one more the oldest that does nothing has to go, or where all are at something the
   newcomer (``guests``); either gets an `error` "too-many-clients";
3. events are capped and have to be complete in time (``connection``); one that is not ends the connection with an
   `error` whose code names the field, and nobody else notices;
4. who asks too often is read more slowly (``guests``);
5. what has been asked for and is not done yet is bounded, whatever it is, and its sender waits (``backlog``);
6. who asks for nothing is cut off after a minute, and who does not take what is sent after ten seconds.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from wyoming.asr import Transcript
from wyoming.error import Error
from wyoming.event import Event
from wyoming.ping import Pong
from wyoming.wake import Detection, NotDetected

from idiolect.control.peers import peer_of
from idiolect.control.serving import Acceptor, Seldom
from idiolect.control.sockets import Listener
from idiolect.control.wyoming.connection import EventError, Limits, Wire, text, whole
from idiolect.control.wyoming.guests import Guest, Pace, Places
from idiolect.control.wyoming.info import info, speaks
from idiolect.events import EventStream, LaggedError
from idiolect.listening.sound import Heard, Hearing, Sound, SoundError, Stream

log = logging.getLogger(__name__)

REFUSED = 8
"""Connections that are being told that there is no place for them."""
SEND_BYTES = 32_768
"""Bytes that the kernel holds of answers that a client does not read."""
MAX_NAMES = 128
NAME_LENGTH = 128
LANGUAGE_LENGTH = 35
PING_LENGTH = 1_024
LATEST_MS = 1 << 53
"""Largest time stamp: what JSON carries exactly."""
_HEARTBEAT_S = 60.0


class Refusals:
    """Counts what was refused and writes it to the journal: at most a line a minute, without content."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._seldom, self._count = Seldom(clock), 0

    def note(self, code: str) -> None:
        """Count one more; ``code`` is one of ours."""
        self._count += 1
        if self._seldom.now():
            log.warning("wyoming: %d times refused or cut off, the last time for: %s", self._count, code)
            self._count = 0


class WyomingServer:
    """Serves ``hearing`` on a socket that ``opening`` opens, from ``start()`` to ``stop()``."""

    def __init__(
        self, hearing: Hearing, hub: EventStream, opening: Callable[[], Listener], *, microphone: bool = False,
        max_clients: int = 32, limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self.hearing, self.limits = hearing, limits or Limits()
        self.hub = hub if microphone else None
        self.refusals = Refusals()
        self.places = Places(max_clients, self.limits, lambda: asyncio.get_running_loop().time())
        self._clients: set[asyncio.Task[None]] = set()
        self._refused: set[asyncio.Task[None]] = set()
        self._acceptor = Acceptor(opening, self._accept)

    @property
    def connected(self) -> int:
        """Return how many clients are served."""
        return len(self._clients)

    async def start(self) -> None:
        """Open the socket and serve. Raises ``ListenError``, and leaves nothing behind then."""
        await self._acceptor.start()

    async def stop(self) -> None:
        """Cut everybody off and remove the socket: within 300 ms."""
        await self._acceptor.stop()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer, self.limits)
        uid = peer_of(wire.socket).uid
        if not self.places.knock(uid):  # 1
            self.refusals.note("too many connections at once")
            wire.abort()
            return
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        guest = self.places.enter(uid)
        if guest is not None:
            self._serve(guest, wire)
        elif len(self._refused) < REFUSED:
            self._acceptor.spawn(self._refuse(wire), self._refused)
        else:
            wire.abort()

    def _serve(self, guest: Guest, wire: Wire) -> None:
        task = self._acceptor.spawn(Client(self, wire, guest).serve(), self._clients)
        task.add_done_callback(lambda _: self.places.leave(guest))

        def go() -> None:
            self.refusals.note("max_clients")
            wire.dismiss(_too_many())
            task.cancel()

        guest.go = go

    async def _refuse(self, wire: Wire) -> None:
        self.refusals.note("max_clients")
        with suppress(ConnectionError):
            await wire.write(_too_many())  # 2
        await wire.close()


class Client:
    """One connection, and what it has asked for."""

    def __init__(self, server: WyomingServer, wire: Wire, guest: Guest) -> None:
        self._server, self._wire, self._hearing, self._guest = server, wire, server.hearing, guest
        self._pace = Pace(server.limits, server.places.of(guest.uid), server.places.clock)
        self._stream: Stream | None = None
        self._sound: Sound | None = None
        self._transcribing = self._told = False  # what was asked for, and whether it has been answered
        self._names: Sequence[str] | None = None
        self._turn = False  # of the microphone's
        self._following: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Serve it from its first event to its last; never raises but when cancelled."""
        try:
            while (kind := await self._answer_one()) is not None:
                await self._pace.keep(kind)  # 4; at once others have a turn: what has come already would let nobody
        except EventError as error:
            await self._complain(error.code, str(error))
        except SoundError as error:
            await self._complain("audio-format", str(error))
        except ConnectionError:
            pass
        except Exception as error:  # in place of asyncio's traceback, which could quote what was sent
            log.error("wyoming: a connection failed: %s", type(error).__name__)
        finally:
            self._unfollow()
            if self._stream is not None:
                self._stream.close()
                self._stream = None  # which knows us: its memory would come back when Python looks for circles
            self._wire.abort()

    async def _answer_one(self) -> str | None:
        """Read an event and answer it; return its type, None at the end."""
        event = await self._wire.read(self._patience)
        if event is None:
            return None
        self._guest.spoke = True
        if answer := _ANSWERS.get(event.type):
            await answer(self, event)
        return event.type

    @property
    def _patience(self) -> float | None:
        """Return how long it may say nothing: for ever (None), while it waits for the microphone."""
        return None if self._following else self._server.limits.idle_s

    async def _complain(self, code: str, message: str) -> None:
        self._server.refusals.note(code)
        with suppress(ConnectionError):
            await self._wire.write(Error(f"{code}: {message}", code).event())
        await self._wire.close()

    # -- what is asked ------------------------------------------------------------------------------------------

    async def _describe(self, _: Event) -> None:
        await self._wire.write(info(self._hearing).event())

    async def _ping(self, event: Event) -> None:
        await self._wire.write(Pong(text(event.data, "text", PING_LENGTH)).event())

    async def _detect(self, event: Event) -> None:
        self._names = self._wanted(event.data)
        await self._ask(transcribing=False)

    async def _transcribe(self, event: Event) -> None:
        language = text(event.data, "language", LANGUAGE_LENGTH)
        if language and not speaks(self._hearing, language):
            raise EventError("language", f"phrases are in {self._hearing.language}: ask for that, or for none")
        await self._ask(transcribing=True)

    def _wanted(self, data: Mapping[str, object]) -> Sequence[str] | None:
        names = data.get("names") or None
        if names is None:
            return None
        if not isinstance(names, list) or len(names) > MAX_NAMES or not all(isinstance(name, str) for name in names):
            raise EventError("names", f"must be a list of at most {MAX_NAMES} names")
        known = {each.name for each in self._hearing.wakers()}
        if not known.issuperset(names):
            raise EventError("unknown-name", "names holds one that nothing is heard for: ask with describe")
        return tuple(names)

    async def _ask(self, *, transcribing: bool) -> None:
        """Begin a new question of the client, about the sound that is coming or else about the microphone."""
        if self._stream is not None and self._sound:
            await self._stream.settle()  # what came before is answered as it was asked for
        self._transcribing, self._told = transcribing, False
        if self._stream is not None and self._sound:
            await self._set()
        elif self._server.hub and not self._following:
            room = self._server.places.may_follow(self._guest)
            self._following = asyncio.ensure_future(self._follow(self._server.hub) if room else self._turn_away())

    async def _set(self) -> None:
        if self._stream is None:
            return
        if self._transcribing:
            await self._stream.transcribe()
        else:
            await self._stream.detect(self._names)

    # -- a client's sound ---------------------------------------------------------------------------------------

    async def _start(self, event: Event) -> None:
        self._unfollow()
        self._stream = self._stream or self._hearing.open(self._heard)
        self._sound = None
        sound = _sound(event.data)
        self._guest.announces(self._server.places.clock())
        await self._set()
        await self._stream.start(sound)
        self._sound, self._told = sound, False

    async def _chunk(self, event: Event) -> None:
        if self._sound is None:  # some leave audio-start out
            await self._start(event)
        sound, payload, stamp = _sound(event.data), event.payload or b"", event.data.get("timestamp")
        if sound != self._sound:
            raise SoundError("changes within the sound: send audio-stop first")
        if len(payload) % (sound.width * sound.channels):
            raise EventError("payload_length", "must be whole samples of every channel")
        timestamp = None if stamp is None else whole(event.data, "timestamp", 0, LATEST_MS)
        frames = len(payload) // (sound.width * sound.channels)
        self._guest.sends(frames / sound.rate, self._server.places.clock())
        if self._stream is not None and not (self._transcribing and self._told):
            await self._stream.feed(payload, timestamp)

    async def _stop(self, _: Event) -> None:
        if self._stream is None or self._sound is None:
            return
        self._sound, self._guest.finishing = None, True
        await self._stream.finish()
        self._guest.finishing, self._guest.sending_until = False, 0.0
        if self._transcribing and not self._told:
            await self._transcript("")
        elif not self._told:
            await self._wire.write(NotDetected().event())
        self._transcribing = self._told = False

    async def _heard(self, heard: Heard) -> None:
        try:
            if not self._transcribing:
                await self._detection(heard.known.name, heard.ms, heard.speaker)
            elif not self._told:
                await self._transcript(heard.known.text, heard.speaker)
        except ConnectionError:
            self._wire.abort()  # which ends the reading, too

    async def _detection(self, name: str, ms: int, speaker: str) -> None:
        self._told = True
        context = {"profile": speaker} if speaker else None
        await self._wire.write(Detection(name, ms, speaker or None, context).event())

    async def _transcript(self, said: str, speaker: str = "") -> None:
        self._told = True
        context = {"profile": speaker} if speaker else None
        await self._wire.write(Transcript(said, context, self._hearing.language).event())

    # -- the microphone -----------------------------------------------------------------------------------------

    def _unfollow(self) -> None:
        if self._following is not None:
            self._following.cancel()
            self._following = None
            self._guest.following = False

    async def _turn_away(self) -> None:
        """End it: too many wait for the microphone. Unless it sends sound of its own, for which it has a moment."""
        await asyncio.sleep(self._server.limits.sound_s)
        self._server.refusals.note("too many wait for the microphone")
        with suppress(ConnectionError):
            await self._wire.write(_too_many())
        self._wire.abort()

    async def _follow(self, hub: EventStream) -> None:
        try:
            while True:
                with hub.subscribe() as subscription, suppress(LaggedError):  # then from now on
                    while (entries := await subscription.take(_HEARTBEAT_S)) is not None:
                        for entry in entries:
                            await self._tell(entry.data)
                    break
        except ConnectionError:
            pass
        self._wire.abort()

    async def _tell(self, data: Mapping[str, object]) -> None:
        """Tell the client what happened at the microphone, if it has asked for that."""
        kind, name, speaker = data["kind"], str(data.get("phrase", "")), self._hearing.speaker(str(data.get("profile")))
        if kind == "state":
            await self._state(data.get("listening"))
        elif self._transcribing:
            if kind == "phrase":
                await self._end(self._hearing.text_of(name), speaker)
        elif kind == "wake" if self._names is None else name in self._names:
            await self._detection(name, int(str(data["end"])) // 16, speaker)
        self._turn |= kind == "wake"

    async def _state(self, listening: object) -> None:
        state = listening.get("state") if isinstance(listening, Mapping) else None
        if state == "listening":
            self._turn = True
        elif state is not None:
            if self._turn and self._transcribing:
                await self._end("", "")
            self._turn = False

    async def _end(self, said: str, speaker: str) -> None:
        await self._transcript(said, speaker)
        self._transcribing = False


_ANSWERS = {
    "describe": Client._describe,
    "ping": Client._ping,
    "detect": Client._detect,
    "transcribe": Client._transcribe,
    "audio-start": Client._start,
    "audio-chunk": Client._chunk,
    "audio-stop": Client._stop,
}


def _too_many() -> Event:
    return Error("too many clients: close one, or raise wyoming.max_clients", "too-many-clients").event()


def _sound(data: Mapping[str, object]) -> Sound:
    """Return the format that an audio event names. Raises ``EventError`` where it names none."""
    try:
        return Sound(*(whole(data, field, 0, LATEST_MS) for field in ("rate", "width", "channels")))
    except EventError as error:
        raise EventError("audio-format", f"{error.code} {error}") from None
