"""Browsers: which may show the page, and for whom. A code that somebody reads off at the device lets one in.

Theory of operation. `idiolect pair NAME` asks over the control socket, so the kernel says who asks: whoever may ask
about that person (`Consents.may_withdraw`) gets a code of 8 letters, good once and for five minutes. A browser that
sends it gets a token of 256 bits in a cookie; we keep its SHA-256 and the profile, in the vault, under the device's own
key. From then on the browser may do for that one person what the Unix user who asked may. A person who is not known yet
has no profile: such a session lives in RAM until they agree to something. Whoever is erased takes their browsers along,
as no profile is found for these any more.

A code has 39 bits; the page tries one a second at most (`_TRIES`), 300 while a code is good: one in 2*10^9.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from idiolect.consent import Consents, clean_name
from idiolect.control.limits import Bucket, Rate
from idiolect.control.pairing_api import Session
from idiolect.errors import RequestError
from idiolect.personal import Personal
from idiolect.trust import certificate

log = logging.getLogger(__name__)

CODE_S = 300.0
SESSION_S = 90 * 86_400
MAX_BROWSERS = 16
"""The one that expires first makes room."""
MAX_CODES = 8
ALPHABET = "ABCDEFGHJKMNPQRSTVWXYZ23456789"
"""Without what looks like another: I, L, O, U, 0, 1."""
CODE_LENGTH = 8
_TRIES = Rate(1.0, 5)
"""Codes that may be tried: one a second, and five at once."""
PAGE, _SESSION, _CERTIFICATE = "page", "session", "certificate"
"""Purpose and kinds of our records in the vault; their profile is the device's own, ""."""


@dataclass(slots=True)
class Open:
    """A code that was given out."""

    code: str = field(repr=False)
    name: str = field(repr=False)
    user: str = field(repr=False)
    uid: int
    until: float


class Pairing:
    """See the module. Belongs to the event loop."""

    def __init__(
        self, personal: Personal, access: str, *, wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """``access`` is that of the configuration's section ``page``: "" where there is no page."""
        self._personal, self._access = personal, access
        self._wall, self._monotonic = wall, monotonic
        self._open: list[Open] = []
        self._nameless: dict[str, Session] = {}  # of people without a profile, by the token's digest
        self._tries = Bucket(_TRIES, monotonic)

    # -- at the device ------------------------------------------------------------------------------------------

    async def begin(self, name: object, user: str, uid: int) -> dict[str, object]:
        """POST /v1/pair."""
        if not self._access:
            raise RequestError(409, "page", "is off: set page.enabled in the configuration, then restart idiolectd")
        person = await self._personal.keep(lambda consents: _named(consents, name, user))
        fingerprint = (await self._certificate())[1] if self._access == "lan" else ""
        self._forget_codes()
        self._open = [each for each in self._open if each.name.casefold() != person.casefold()]
        if len(self._open) >= MAX_CODES:
            raise RequestError(429, "profile", f"{MAX_CODES} codes wait already: use one, or wait five minutes")
        code = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
        self._open.append(Open(code, person, user, uid, self._monotonic() + CODE_S))
        return {
            "code": f"{code[:4]}-{code[4:]}", "person": person, "expires_s": int(CODE_S), "access": self._access,
            "fingerprint": fingerprint,
        }  # fmt: skip

    async def browsers(self, user: str, admin: bool) -> dict[str, object]:
        """GET /v1/pair."""
        found = await self._personal.keep(self._all)
        mine = await self._personal.keep(lambda consents: [s for s in found if admin or _may(consents, s.person, user)])
        return {"browsers": [session.public() for session in mine]}

    async def forget(self, what: Mapping[str, object], user: str, admin: bool) -> dict[str, object]:
        """POST /v1/pair/forget."""
        wanted = what.get("profile")

        def work(consents: Consents) -> list[str]:
            meant = [
                s for s in self._all(consents)
                if what.get("all") or s.ident == what.get("id") or wanted in (s.profile, s.person)
            ]  # fmt: skip
            gone = [s.ident for s in meant if admin or _may(consents, s.person, user)]
            if len(gone) < len(meant) and not what.get("all"):
                raise RequestError(403, "profile", "is somebody else's: only that person's Unix user may ask")
            _delete(consents, gone)
            return gone

        gone = await self._personal.keep(work)
        self._nameless = {digest: s for digest, s in self._nameless.items() if s.ident not in gone}
        return {"forgotten": len(gone)}

    # -- at the browser -----------------------------------------------------------------------------------------

    async def redeem(self, code: object) -> tuple[str, Session]:
        """POST /v1/session on the page: a token, once, for a code that was given out."""
        if self._tries.take():
            raise RequestError(429, "code", "was tried too often: wait a few seconds")
        given = code.upper().replace("-", "").replace(" ", "") if isinstance(code, str) and len(code) < 32 else ""
        self._forget_codes()
        found = [each for each in self._open if hmac.compare_digest(each.code.encode(), given.encode())]
        if not found:
            raise RequestError(401, "code", "is wrong, or older than five minutes: get another with `idiolect pair`")
        opened = found[0]
        self._open.remove(opened)
        token = secrets.token_urlsafe(32)
        digest, now = _digest(token), int(self._wall())
        session = Session(digest[:16], opened.name, "", opened.user, opened.uid, now, now + SESSION_S)
        session = await self._personal.keep(lambda consents: self._keep(consents, digest, session))
        log.info("page: a browser was paired")
        return token, session

    async def session(self, token: str) -> Session | None:
        """Whose browser it is; None when it is nobody's."""
        digest = _digest(token)
        return await self._personal.keep(lambda consents: self._find(consents, digest))

    async def end(self, token: str) -> None:
        """DELETE /v1/session on the page."""
        digest = _digest(token)
        self._nameless.pop(digest, None)
        await self._personal.keep(lambda consents: _delete(consents, [digest[:16]]))

    def _forget_codes(self) -> None:
        now = self._monotonic()
        self._open = [each for each in self._open if each.until > now]

    # -- in the vault, on the keys thread -----------------------------------------------------------------------

    def _keep(self, consents: Consents, digest: str, session: Session) -> Session:
        """Keep a session: in the vault if its person has a profile, else in RAM until they do."""
        try:
            person = consents.find(session.person)
        except RequestError:
            self._nameless[digest] = session
            while len(self._nameless) > MAX_BROWSERS:
                del self._nameless[next(iter(self._nameless))]
            return session
        kept = replace(session, person=person.name, profile=person.profile)
        record = {
            "created": kept.created, "expires": kept.expires, "hash": digest, "profile": kept.profile, "uid": kept.uid,
            "user": kept.user,
        }  # fmt: skip
        vault, before = consents.vault, self._stored(consents)
        for old in sorted(before, key=lambda s: s.expires)[: max(0, len(before) - MAX_BROWSERS + 1)]:
            _delete(consents, [old.ident])
        with vault.change("browser-paired", False, profile=kept.profile) as change:
            if PAGE not in vault.purposes(""):
                change.add_key("", PAGE, "")
            change.put("", PAGE, _SESSION, kept.ident, json.dumps(record).encode())
        return kept

    def _find(self, consents: Consents, digest: str) -> Session | None:
        waiting = self._nameless.get(digest)
        if waiting is not None:
            if waiting.expires <= self._wall():
                return None
            kept = self._keep(consents, digest, waiting)
            if kept.profile:
                self._nameless.pop(digest, None)
            return kept
        payload = consents.vault.get("", PAGE, _SESSION, digest[:16])
        return None if payload is None else self._read(consents, digest[:16], payload, digest)

    def _read(self, consents: Consents, ident: str, payload: bytes, digest: str = "") -> Session | None:
        """A session as it was kept, or None: expired, another token's, or of somebody who was erased."""
        record = json.loads(payload)
        if record["expires"] <= self._wall() or (digest and not hmac.compare_digest(record["hash"], digest)):
            return None
        if record["profile"] not in consents.vault.profiles():
            return None
        person = consents.find(record["profile"])
        return Session(
            ident, person.name, person.profile, record["user"], record["uid"], record["created"], record["expires"]
        )

    def _stored(self, consents: Consents) -> list[Session]:
        """The sessions in the vault; those that hold no more are removed."""
        kept, gone = [], []
        for record in consents.vault.items("", PAGE, _SESSION):
            session = self._read(consents, record.id, record.payload)
            if session is None:
                gone.append(record.id)
            else:
                kept.append(session)
        _delete(consents, gone)
        return kept

    def _all(self, consents: Consents) -> list[Session]:
        return [*self._stored(consents), *self._nameless.values()]

    # -- the certificate ----------------------------------------------------------------------------------------

    async def identity(self) -> bytes:
        """The device's TLS key and certificate, PEM, as soon as the keys are there; made at first use."""
        while not self._personal.keyed:
            await asyncio.sleep(1.0)
        return (await self._certificate())[0]

    async def _certificate(self) -> tuple[bytes, str]:
        def work(consents: Consents) -> tuple[bytes, str]:
            vault = consents.vault
            pem = vault.get("", PAGE, _CERTIFICATE, "00")
            if pem is None:
                pem = certificate.make(socket.gethostname())
                digest = certificate.fingerprint(pem).replace(":", "").lower()
                with vault.change("certificate-made", False, digest=digest) as change:
                    if PAGE not in vault.purposes(""):
                        change.add_key("", PAGE, "")
                    change.put("", PAGE, _CERTIFICATE, "00", pem)
            return pem, certificate.fingerprint(pem)

        return await self._personal.keep(work)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _named(consents: Consents, name: object, user: str) -> str:
    """The name of somebody for whom ``user`` may ask: of the one who is known, or as it was given."""
    wanted = clean_name(name)
    try:
        person = consents.find(wanted)
    except RequestError:
        person = None
    shown = person.name if person else wanted
    if not _may(consents, shown, user):
        raise RequestError(403, "profile", "is somebody else's: only that person's Unix user may ask")
    return shown


def _may(consents: Consents, name: str, user: str) -> bool:
    users = consents.users_of(name)
    return not users or user in users


def _delete(consents: Consents, idents: list[str]) -> None:
    kept = {record.id for record in consents.vault.items("", PAGE, _SESSION)}
    gone = [ident for ident in idents if ident in kept]
    if gone:
        with consents.vault.change("browsers-forgotten", False, count=len(gone)) as change:
            for ident in gone:
                change.delete("", PAGE, _SESSION, ident)
