"""Opens and closes what is served beside the control socket: Wyoming, the handoff, the metrics, the page.

Goes in: the configuration, each service by its section. One that cannot be opened is logged and left out, so that a
port that is taken never keeps the daemon from listening.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from idiolect.config.connect import Handoff, Metrics, Page, Wyoming
from idiolect.config.schema import Config
from idiolect.control.api import metrics, requests
from idiolect.control.api.daemon import Daemon
from idiolect.control.doors import OpenDoor
from idiolect.control.limits import USUAL, Rates
from idiolect.control.page.server import PageServer
from idiolect.control.peers import Role
from idiolect.control.server import Server
from idiolect.control.sockets import Listener, ListenError, make_listener
from idiolect.listening.sound import Hearing
from idiolect.listening.turns import Tap

log = logging.getLogger(__name__)
T = TypeVar("T", bound="Counted")

TCP_GROUP = "idiolect-tcp"
"""The group whose members, the proxies of idiolect-tcp@.service, may connect to what is meant for a network."""
METRICS_CLIENTS = 4
"""Clients that may ask for numbers at once."""


class Serving(Protocol):
    """Something that can be opened with ``start`` and closed with ``stop``."""

    async def start(self) -> None:
        """Open it. Raises ``ListenError``."""

    async def stop(self) -> None:
        """Close it within 300 ms; calling it more than once is allowed."""


class Counted(Serving, Protocol):
    """A ``Serving`` that knows how many clients it has."""

    @property
    def connected(self) -> int:
        """Return who is served; where only one is, whether that one is there."""


class Served(Daemon, Protocol):
    """The service, with what it offers beside the control API."""

    @property
    def streams(self) -> Hearing:
        """Return the ears for sound that clients send."""


class Microphone(Protocol):
    """``Inference``, for whoever gets the sound of turns."""

    tap: Tap | None


class Connections:
    """All that the configuration asks for, from ``start`` to ``stop``."""

    def __init__(self, daemon: Served, config: Config, microphone: Microphone) -> None:
        self._made: dict[str, Serving] = {}
        self._user, self._program = config.handoff.user, None
        self.clients: dict[str, Callable[[], int]] = {}
        """By service, a way to count who is connected to it."""
        if config.wyoming.enabled:
            self._add("wyoming", lambda: _wyoming(daemon, config.wyoming))
        if config.handoff.user:
            self._program = self._add("handoff", lambda: _handoff(daemon, config.handoff, microphone))
        if config.metrics.enabled:
            self._made["metrics"] = _metrics(daemon, config.metrics)
        if config.page.enabled:
            self._made["page"] = _page(daemon, config.page)

    def _add(self, name: str, make: Callable[[], T]) -> T | None:
        """Make one that speaks Wyoming: the library is loaded here, where somebody wants it."""
        try:
            made = self._made[name] = make()
        except ImportError:
            log.error("not served: %s needs the Python package wyoming, which is missing", name)
            return None
        self.clients[name] = lambda: int(made.connected)
        return made

    @property
    def handoff(self) -> dict[str, object]:
        """Return whom the sound of turns may go to ("": nobody), and whether that program is connected."""
        return {"user": self._user, "connected": bool(self._program and self._program.connected)}

    async def start(self) -> None:
        """Open what the configuration asks for; log and leave out what cannot be opened."""
        for name, serving in tuple(self._made.items()):
            try:
                await serving.start()
            except ListenError as error:
                log.error("not served: %s", error)
                del self._made[name]

    async def stop(self) -> None:
        """Close everything that is open."""
        for serving in self._made.values():
            await serving.stop()


def _metrics(daemon: Daemon, wish: Metrics) -> Serving:
    def opening() -> Listener:
        return make_listener(wish.socket, "metrics", group=TCP_GROUP)

    door = OpenDoor({"/metrics": {"GET": requests.Route(Role.OBSERVER, metrics.show)}})
    return Server(daemon, door, opening, max_clients=METRICS_CLIENTS, rates=Rates(strangers=USUAL), proxied=True)


def _page(daemon: Daemon, wish: Page) -> Serving:
    def opening() -> Listener:
        return make_listener(wish.socket, "page", group=TCP_GROUP)

    return PageServer(daemon, daemon.pairing, opening, tls=wish.access == "lan")


def _wyoming(daemon: Served, wish: Wyoming) -> Counted:
    from idiolect.control.wyoming.server import WyomingServer  # two MiB that few need

    def opening() -> Listener:
        return make_listener(wish.socket, "wyoming", group=TCP_GROUP)

    return WyomingServer(daemon.streams, daemon.hub, opening, microphone=wish.microphone, max_clients=wish.max_clients)


def _handoff(daemon: Served, wish: Handoff, microphone: Microphone) -> Counted:
    from idiolect.control.wyoming.handoff import HandoffServer  # as above

    def opening() -> Listener:
        listener = make_listener(wish.socket, "handoff")
        wish.socket.chmod(0o666)  # nobody's group is that user's: who may come in is decided when he is there
        return listener

    def attach(tap: Tap | None) -> None:
        microphone.tap = tap

    return HandoffServer(daemon.streams, wish.user, opening, attach)
