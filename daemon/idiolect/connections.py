"""What is served beside the control socket: each by its section of the configuration, opened and closed together.

One that cannot be opened is said so and left out: nobody goes deaf because a port for somebody else is taken.
"""

from __future__ import annotations

import logging
from typing import Protocol

from idiolect.config import Config
from idiolect.configconnect import Page
from idiolect.control import api
from idiolect.control.listener import Listener, ListenError, make_listener
from idiolect.control.page import PageServer

log = logging.getLogger(__name__)

SECTIONS = ("wyoming", "metrics", "page", "handoff")
"""Of the configuration: what changes in there counts from the next start on."""
TCP_GROUP = "idiolect-tcp"
"""Whose members, the proxies of idiolect-tcp@.service, may connect to what is meant for a network."""


class Serving(Protocol):
    """Something that is open between these two."""

    async def start(self) -> None:
        """Raises ``ListenError``."""

    async def stop(self) -> None:
        """Within 300 ms; more than once is well."""


class Connections:
    """All of them, from ``start`` to ``stop``."""

    def __init__(self, daemon: api.Daemon, config: Config) -> None:
        self._made: dict[str, Serving] = {}
        if config.page.enabled:
            self._made["page"] = _page(daemon, config.page)

    async def start(self) -> None:
        """Open what the configuration asks for."""
        for name, serving in tuple(self._made.items()):
            try:
                await serving.start()
            except ListenError as error:
                log.error("not served: %s", error)
                del self._made[name]

    async def stop(self) -> None:
        """Close them."""
        for serving in self._made.values():
            await serving.stop()


def _page(daemon: api.Daemon, wish: Page) -> Serving:
    def opening() -> Listener:
        return make_listener(wish.socket, "page", group=TCP_GROUP)

    return PageServer(daemon, daemon.pairing, opening, tls=wish.access == "lan")
