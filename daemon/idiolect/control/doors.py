"""Doors: a door decides who comes in through a socket, and which routes there are. ``control.server`` serves a door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from idiolect.control.api import requests
from idiolect.control.api import routes as api
from idiolect.control.http import Request
from idiolect.control.peers import Credentials, Role, Roles, how_to_get, peer_of, role_of, user_of
from idiolect.errors import RequestError


class Door(Protocol):
    """One way in. Both may raise ``RequestError``."""

    @property
    def routes(self) -> requests.Routes:
        """Return all routes that can be asked for through this door."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the header fields that every answer carries."""

    async def admit(self, sock: Credentials, request: Request) -> tuple[requests.Caller, requests.Route]:
        """Return who asks, and the route asked for.

        Strangers are refused first, then paths that are not there, then routes that are not for them.

        Raises:
            RequestError: the request is refused.
        """


class KernelDoor:
    """The control socket's door.

    The kernel says who asks (SO_PEERCRED, SO_PEERGROUPS), the configuration what they may.
    """

    headers: Mapping[str, str] = {}

    def __init__(self, roles: Roles, routes: requests.Routes = api.ROUTES) -> None:
        self._roles = roles
        self.routes = routes

    async def admit(self, sock: Credentials, request: Request) -> tuple[requests.Caller, requests.Route]:
        """Return who asks, by the kernel's word, and the route. Raises ``RequestError`` 403, 404 or 405."""
        peer = peer_of(sock)
        role = self._need(role_of(peer, self._roles), Role.OBSERVER)
        route = requests.find_route(self.routes, request.method, request.path)
        self._need(role, route.role)
        return requests.Caller(user_of(peer), peer.uid, role), route

    def _need(self, role: Role | None, needed: Role) -> Role:
        if role is None or role < needed:
            fix = how_to_get(needed, self._roles)
            raise RequestError(403, "role", f"this needs the role {needed.name.lower()}: {fix}")
        return role


class OpenDoor:
    """The door of a socket for a few routes without secrets: everybody who can connect may ask."""

    headers: Mapping[str, str] = {}

    def __init__(self, routes: requests.Routes) -> None:
        self.routes = routes

    async def admit(self, sock: Credentials, request: Request) -> tuple[requests.Caller, requests.Route]:  # noqa: ARG002
        """Return who asks, and the route. Raises ``RequestError`` 404 or 405."""
        return requests.Caller(), requests.find_route(self.routes, request.method, request.path)
