"""Keeps a listening Unix socket and the tasks of those connected together, for every server here.

Both are opened and closed together.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from idiolect.control.http import Pieces, SecurePieces
from idiolect.control.sockets import BACKLOG, Listener

if TYPE_CHECKING:
    import ssl  # only where it is used: it costs memory

_GRACE_S = 0.05
"""Seconds for connections to end by themselves when told so, and again when they are cut off."""
MINUTE_S = 60.0
_AT_ONCE = 4
"""Connections taken before anybody else has a turn: asyncio would take a hundred, and all others wait that long."""
_FILES_STAY: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""From Python 3.13 on asyncio removes a socket's file when its server closes, unless told not to. One that systemd made
outlives us, and one of ours is removed by its ``Listener``, which looks whether it still is ours."""


class Seldom:
    """At most once a minute: nobody fills the journal by knocking."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._said = clock, -MINUTE_S

    def now(self) -> bool:
        """Return True if the last time is a minute ago or more; this time is the last one then."""
        now = self._clock()
        if now - self._said < MINUTE_S:
            return False
        self._said = now
        return True


class _Greeting(asyncio.Protocol):
    """A connection before it speaks TLS: nothing is read until somebody takes it over."""

    def __init__(self, connected: Callable[[asyncio.Transport], None]) -> None:
        self._connected = connected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pause reading, and hand over the connection."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what a stream socket has
        transport.pause_reading()
        self._connected(transport)


class Acceptor:
    """Hands each connection to ``accept``, from ``start()`` to ``stop()``; ``spawn`` runs what serves it.

    With ``tls`` that is after its handshake. Before that, when the connection has cost nothing, ``admit`` is asked
    whether it may stay; ``lost`` is told of one whose handshake fails.
    """

    def __init__(
        self, opening: Callable[[], Listener], accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None],
        *, tls: ssl.SSLContext | None = None, handshake_s: float = 5.0,
        admit: Callable[[asyncio.WriteTransport], bool] = lambda _: True,
        lost: Callable[[asyncio.WriteTransport], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._opening, self._accept, self._tls, self._handshake_s = opening, accept, tls, handshake_s
        self._admit, self._lost = admit, lost
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: Listener | None = None
        self._server: asyncio.Server | None = None

    @property
    def busy(self) -> int:
        """Return how many connections are being served."""
        return len(self._tasks)

    async def start(self) -> None:
        """Open the socket and serve. Raises ``ListenError``, and leaves nothing behind then."""
        self._listener = self._opening()
        self._server = await asyncio.get_running_loop().create_unix_server(
            self._protocol, sock=self._listener.socket, backlog=_AT_ONCE, **_FILES_STAY
        )
        self._listener.socket.listen(BACKLOG)  # to asyncio, the one number is the other

    def _protocol(self) -> asyncio.BaseProtocol:
        return Pieces(self._connected) if self._tls is None else _Greeting(self._greeted)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._admit(writer.transport):
            self._accept(reader, writer)
        else:
            writer.transport.abort()

    def _greeted(self, transport: asyncio.Transport) -> None:
        if self._admit(transport):
            self.spawn(self._handshake(transport))
        else:
            transport.abort()

    async def _handshake(self, transport: asyncio.Transport) -> None:
        assert self._tls is not None  # noqa: S101 - see _protocol
        pieces, secure = SecurePieces(self._accept), None
        try:
            secure = await asyncio.get_running_loop().start_tls(
                transport, pieces, self._tls, server_side=True, ssl_handshake_timeout=self._handshake_s
            )
            if secure is not None:  # it is where the connection was cut off meanwhile
                pieces.connection_made(secure)
        except OSError:
            pass  # who speaks no TLS, or not in time
        finally:
            if secure is None:
                transport.abort()
                self._lost(transport)

    def spawn(self, work: Coroutine[Any, Any, None], *counted: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        """Run ``work`` until it ends or the server stops; meanwhile it is in each of ``counted``, too."""
        task = asyncio.ensure_future(work)
        for tasks in (self._tasks, *counted):
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        return task

    async def stop(self, farewell: Callable[[], None] | None = None) -> None:
        """Close within 300 ms: those who are told so by ``farewell`` may end by themselves; cut the others off."""
        if self._server is None or self._listener is None:
            return
        self._server.close()
        if farewell is not None:
            farewell()
            await self._wait()
        for task in self._tasks:
            task.cancel()  # who has not asked for anything, waits for an answer, or does not read it
        await self._wait()
        self._listener.close()
        self._server = None

    async def _wait(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GRACE_S)
