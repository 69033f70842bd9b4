"""The page's door decides who comes in from a browser, and keeps others from coming in through that browser.

What is checked, in this order:

1. the host that was asked for is this device (421): a name that an attacker points at it (DNS rebinding) is not;
2. what a page elsewhere sends is refused (403): anything but GET needs an Origin that is ours, and Sec-Fetch-Site,
   where a browser sends it, must not say "cross-site". Bodies are JSON, which no form sends, and the cookie is
   SameSite=Strict besides;
3. the path exists (404) and takes the method (405);
4. everything but the page's own files and the exchange of a code for a session needs a session (401), which is for one
   person: `page.routes` confines it. The files are for everybody, and a browser that is paired gets them as its person,
   so that strangers who load them without end do not keep it from them (`limits`).

Every answer carries a Content-Security-Policy without a single external source.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from idiolect.control.api import requests
from idiolect.control.api.daemon import Daemon, Pairing, Session
from idiolect.control.http import Request
from idiolect.control.limits import Bucket, Rate
from idiolect.control.page import routes
from idiolect.control.peers import Credentials, Role
from idiolect.errors import RequestError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(?::[0-9]{1,5})?")
_ADDRESS = re.compile(r"\[[0-9a-f:.]+\]|[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_SEEN = 32
"""Sessions that are known without a look into the vault: twice as many as there may be."""
_LOOKS = Rate(5.0, 20)
"""Looks into the vault for whoever loads a file with a token that is not known."""
_TOKEN = re.compile(r"[0-9A-Za-z_-]{43}")


class PageDoor:
    """``tls``: for the network; else for a browser on the device itself."""

    def __init__(self, pairing: Pairing, *, tls: bool) -> None:
        self._pairing, self._tls = pairing, tls
        self._seen: dict[str, Session] = {}
        self._looks = Bucket(_LOOKS)
        # The prefix binds it to this host, to TLS and to no domain above: RFC 6265bis, 4.1.3.2.
        self._cookie = "__Host-idiolect" if tls else "idiolect"
        session = {
            "GET": requests.Route(Role.USER, self._who), "POST": requests.Route(Role.OBSERVER, self._enter),
            "DELETE": requests.Route(Role.USER, self._leave),
        }  # fmt: skip
        self.routes: requests.Routes = {**routes.routes(), "/v1/session": session}
        self.headers: Mapping[str, str] = {
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }

    async def admit(self, sock: Credentials, request: Request) -> tuple[requests.Caller, requests.Route]:  # noqa: ARG002
        """Make the checks of the module in their order, and return who asks and the route.

        Raises:
            RequestError: 421, 403, 404, 405 or 401.
        """
        self._check_host(request)  # 1
        self._check_origin(request)  # 2
        route = requests.find_route(self.routes, request.method, request.path)  # 3
        token = self._token(request)
        if route.role < Role.USER:
            return await self._visitor(token), route
        session = await self._pairing.session(token)  # 4
        if session is None:
            raise RequestError(
                401, "session", "this browser is not paired, or no more: get a code with `idiolect pair`"
            )
        self._remember(token, session)
        return requests.Caller(session.user, session.uid, Role.USER, session, token), route

    async def _visitor(self, token: str) -> requests.Caller:
        """Return who loads a file: a person, where that is known or may be looked up, else nobody."""
        session = self._seen.get(token) if token else None
        if session is None and token and not self._looks.take():
            session = await self._look(token)
        return requests.Caller(session.user, session.uid, Role.OBSERVER, session) if session else requests.Caller()

    async def _look(self, token: str) -> Session | None:
        try:
            session = await self._pairing.session(token)
        except RequestError:  # no keys yet: the files are there all the same
            return None
        if session is not None:
            self._remember(token, session)
        return session

    def _remember(self, token: str, session: Session) -> None:
        """Remember a session for files only: for everything else it is asked anew whether it still holds."""
        self._seen[token] = session
        while len(self._seen) > _SEEN:
            del self._seen[next(iter(self._seen))]

    def _check_host(self, request: Request) -> None:
        host = request.headers.get("host", "").lower()
        found = _HOST.fullmatch(host)
        if found is not None:
            name = found[1]
            ours = socket.gethostname().lower()
            if name in _LOOPBACK or (self._tls and (_ADDRESS.fullmatch(name) or name.partition(".")[0] == ours)):
                return
        where = "by its name or address" if self._tls else "as http://localhost, on the device itself"
        raise RequestError(421, "host", f"is not this device: open the page {where}")

    def _check_origin(self, request: Request) -> None:
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin")
        ours = f"{'https' if self._tls else 'http'}://{request.headers.get('host', '')}".lower()
        foreign = origin is not None and origin.lower() != ours
        # A link from elsewhere to the page itself is nothing bad: it is "cross-site" and a plain GET of "/".
        crossed = site in ("cross-site", "same-site") and (request.method, request.path) != ("GET", "/")
        if foreign or crossed or (origin is None and request.method not in ("GET", "HEAD")):
            raise RequestError(403, "origin", "must be the page itself: other sites may not speak for you")

    def _token(self, request: Request) -> str:
        try:
            morsel = SimpleCookie(request.headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return morsel.value if morsel is not None and _TOKEN.fullmatch(morsel.value) else ""

    async def _enter(self, daemon: Daemon, call: requests.Call) -> requests.Reply:  # noqa: ARG002
        requests.check_keys(call.body, ("code",))
        token, session = await self._pairing.redeem(call.body.get("code"))
        return self._with_cookie(_mine(session), token, 400 * 86_400)

    async def _who(self, daemon: Daemon, call: requests.Call) -> dict[str, object]:  # noqa: ARG002
        requests.check_keys(call.query, ())
        return _mine(call.caller.session) if call.caller.session else {}

    async def _leave(self, daemon: Daemon, call: requests.Call) -> requests.Reply:  # noqa: ARG002
        await self._pairing.end(call.caller.token)
        return self._with_cookie({}, "", 0)

    def _with_cookie(self, answer: Mapping[str, object], token: str, seconds: int) -> requests.Reply:
        """Return an answer that sets the cookie.

        400 days are the most that a browser takes; the session ends before.
        """
        secure = "; Secure" if self._tls else ""
        cookie = f"{self._cookie}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
        return requests.Reply(requests.encode(answer), headers={"Set-Cookie": cookie})


def _mine(session: Session) -> dict[str, object]:
    return {"person": session.person, "profile": session.profile, "expires": session.expires}
