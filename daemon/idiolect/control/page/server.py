"""The page's server: the door on its socket, for a browser on the device or, under TLS 1.3, in the network."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from idiolect.control.api.daemon import Daemon, Pairing
from idiolect.control.page.door import PageDoor
from idiolect.control.server import Server
from idiolect.control.sockets import Listener, ListenError

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)

MAX_CLIENTS = 12
"""Requests at once: a browser has six. Each TLS connection costs up to half a megabyte."""


class PageServer:
    """Open from ``start`` to ``stop``. In the network nobody is heard before the vault is open: the key is in there."""

    def __init__(self, daemon: Daemon, pairing: Pairing, opening: Callable[[], Listener], *, tls: bool) -> None:
        self._daemon, self._pairing, self._opening, self._tls = daemon, pairing, opening, tls
        self._server: Server | None = None
        self._waiting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve at once, or as soon as there is a certificate. Raises ``ListenError``."""
        if not self._tls:
            await self._serve(None)
        else:
            self._waiting = asyncio.create_task(self._when_identified())

    async def stop(self) -> None:
        """Close the socket and every connection, or give up waiting for the keys."""
        if self._waiting is not None:
            self._waiting.cancel()
        if self._server is not None:
            await self._server.stop()

    async def _when_identified(self) -> None:
        try:
            await self._serve(context(await self._pairing.identity()))
        except ListenError as error:
            log.error("not served: %s", error)
        except Exception as error:  # nobody awaits this; the type only, as everywhere
            log.error("the page is not served: %s", type(error).__name__)

    async def _serve(self, tls: ssl.SSLContext | None) -> None:
        door = PageDoor(self._pairing, tls=self._tls)
        server = Server(self._daemon, door, self._opening, max_clients=MAX_CLIENTS, tls=tls, proxied=True)
        await server.start()
        self._server = server
        log.info("serving the page%s", " under TLS" if tls else "")


def context(pem: bytes) -> ssl.SSLContext:
    """Return TLS 1.3 and nothing older, with the key and certificate in ``pem``.

    On their way to OpenSSL they touch no disk.
    """
    import ssl

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.num_tickets = 0  # a session costs more memory than a handshake costs time
    with contextlib.closing(os.fdopen(os.memfd_create("certificate", os.MFD_CLOEXEC), "wb")) as file:
        file.write(pem)
        file.flush()
        made.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return made
