"""Knows which browsers may show the page, and for whom. A code that somebody reads off at the device lets one in.

Theory of operation. `idiolect pair NAME` asks over the control socket, so the kernel says who asks: whoever may ask
about that person (`Consents.may_withdraw`) gets a code of 10 letters, good once and for five minutes. A browser that
sends it gets a token of 256 bits in a cookie; we keep its SHA-256 and the profile, in the vault, under the device's own
key. From then on the browser may do for that one person what the Unix user who asked may. A person who is not known yet
has no profile: such a session lives in RAM until they agree to something. Whoever is erased takes their browsers along,
as no profile is found for these any more.

A code has 49 bits. Its first four letters say which of those that wait is meant, the other six are its secret; a code
whose secret was tried wrongly `TRIES` times is good no more. So however many try, at whatever rate, and if they knew
those four letters, one in 1.4*10^8 codes (30^6 / 5) is guessed. Who does not know them spoils nobody's code: it would
take 30^4 * 5 tries within five minutes, 13,500 a second, which is more than is answered. For the same reason nobody
who tries keeps the right one from being taken: the answer to a wrong one may be 429 (`_WRONG`), to the right one never.
Both are answered alike whether a code of these four letters waits or not.
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
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from idiolect.control.api.daemon import Session
from idiolect.control.limits import Bucket, Rate
from idiolect.errors import RequestError
from idiolect.people.adapters import Adapters
from idiolect.people.consent import Consents
from idiolect.trust.device import certificate
from idiolect.values import is_id, name_key

log = logging.getLogger(__name__)

CODE_S = 300.0
SESSION_S = 90 * 86_400
MAX_BROWSERS = 16
"""Browsers let in at most; of whoever let in the most of them, the one that expires first makes room."""
MAX_CODES, MAX_CODES_OF_ONE = 16, 4
"""Codes that wait at once, of all and of one Unix user; root is no exception."""
ALPHABET = "ABCDEFGHJKMNPQRSTVWXYZ23456789"
"""Letters and digits of a code, without those that look like another: I, L, O, U, 0, 1."""
CODE_LENGTH = 10
NAMING = 4
"""Letters of a code that say which one it is."""
TRIES = 5
"""Wrong secrets after which a code is good no more."""
_WRONG = Rate(1.0, 5)
"""Wrong codes that are told so: one a second, and five at once. All others are told to wait."""
PAGE, _SESSION, _CERTIFICATE = "page", "session", "certificate"
"""Purpose and kinds of our records in the vault; their profile is the device's own, ""."""


@dataclass(slots=True)
class Open:
    """A code that was given out. ``profile`` is "" for somebody who is not known yet."""

    code: str = field(repr=False)
    name: str = field(repr=False)
    profile: str
    user: str = field(repr=False)
    uid: int
    until: float
    tries: int = TRIES


class Pairing:
    """Knows which browsers are let in, in RAM and in the vault. Belongs to the event loop."""

    def __init__(
        self, personal: Adapters, access: str, *, wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Begin without codes. ``access`` is that of the section ``page``: "" where there is no page."""
        self._personal, self._access = personal, access
        self._wall, self._monotonic = wall, monotonic
        self._open: list[Open] = []
        self._nameless: dict[str, Session] = {}  # of people without a profile, by the token's digest
        self._wrong = Bucket(_WRONG, monotonic)

    # -- at the device ------------------------------------------------------------------------------------------

    async def begin(self, name: object, user: str, uid: int) -> dict[str, object]:
        """Answer POST /v1/pair with a fresh code for the person ``name``.

        Raises:
            RequestError: 409 where there is no page, 429 where too many codes wait.
        """
        if not self._access:
            raise RequestError(409, "page", "is off: set page.enabled in the configuration, then restart idiolectd")
        person, profile = await self._personal.keep(lambda consents: _named(consents, name, user))
        fingerprint = (await self._certificate())[1] if self._access == "lan" else ""
        self._forget_codes()
        # Another user's code for the same person stays: nobody takes it away by asking for one of his own.
        key = name_key(person)
        self._open = [each for each in self._open if (name_key(each.name), each.uid) != (key, uid)]
        own = sum(each.uid == uid for each in self._open)
        if len(self._open) >= MAX_CODES or own >= MAX_CODES_OF_ONE:
            raise RequestError(429, "profile", f"{own} codes of yours wait already: use one, or wait five minutes")
        code = self._unlike_others()
        self._open.append(Open(code, person, profile, user, uid, self._monotonic() + CODE_S))
        return {
            "code": f"{code[:NAMING]}-{code[NAMING:]}", "person": person, "expires_s": int(CODE_S),
            "access": self._access, "fingerprint": fingerprint,
        }  # fmt: skip

    async def browsers(self, user: str, admin: bool) -> dict[str, object]:
        """Answer GET /v1/pair with the browsers of whom ``user`` may ask."""
        found = await self._personal.keep(self._all)
        mine = await self._personal.keep(lambda consents: [s for s in found if admin or _may(consents, s.person, user)])
        return {"browsers": [session.public() for session in mine]}

    async def forget(self, what: Mapping[str, object], user: str, admin: bool) -> dict[str, object]:
        """Answer POST /v1/pair/forget: delete sessions by id, by person, or all."""
        wanted = str(what.get("profile", ""))
        key = name_key(wanted)

        def work(consents: Consents) -> list[str]:
            meant = [
                s for s in self._all(consents)
                if what.get("all") or (what.get("id") and what.get("id") in (s.ident, s.profile))
                or (wanted and (s.profile == wanted or (not is_id(key) and name_key(s.person) == key)))
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
        """Answer POST /v1/session on the page: return a token, once, for a code that was given out.

        Raises:
            RequestError: 401 for a wrong code, or 429 where too many were wrong.
        """
        given = code.upper().replace("-", "").replace(" ", "") if isinstance(code, str) and len(code) < 32 else ""
        self._forget_codes()
        opened = self._right(given)
        if opened is None:
            if self._wrong.take():
                raise RequestError(429, "code", "was tried too often: wait a few seconds")
            raise RequestError(401, "code", "is wrong, or older than five minutes: get another with `idiolect pair`")
        self._open.remove(opened)
        token = secrets.token_urlsafe(32)
        digest, now = _digest(token), int(self._wall())
        session = Session(digest[:16], opened.name, opened.profile, opened.user, opened.uid, now, now + SESSION_S)
        session = await self._personal.keep(lambda consents: self._keep(consents, digest, session))
        log.info("page: a browser was paired")
        return token, session

    async def session(self, token: str) -> Session | None:
        """Return whose browser it is; None when it is nobody's."""
        digest = _digest(token)
        return await self._personal.keep(lambda consents: self._find(consents, digest))

    async def end(self, token: str) -> None:
        """Answer DELETE /v1/session on the page: end the session."""
        digest = _digest(token)
        self._nameless.pop(digest, None)
        await self._personal.keep(lambda consents: _delete(consents, [digest[:16]]))

    def _right(self, given: str) -> Open | None:
        """Return the code that was given, if it waits; a wrong secret counts against the one that it names."""
        right = None
        for each in self._open:
            same = hmac.compare_digest(each.code.encode(), given.encode(errors="replace"))
            named = hmac.compare_digest(each.code[:NAMING].encode(), given[:NAMING].encode(errors="replace"))
            right = each if same else right
            each.tries -= int(named and not same)
        self._open = [each for each in self._open if each.tries > 0 or each is right]
        return right

    def _unlike_others(self) -> str:
        """Make a new code, whose first letters no other has that waits."""
        while True:
            code = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
            if all(each.code[:NAMING] != code[:NAMING] for each in self._open):
                return code

    def _forget_codes(self) -> None:
        now = self._monotonic()
        self._open = [each for each in self._open if each.until > now]

    # -- in the vault, on the keys thread -----------------------------------------------------------------------

    def _keep(self, consents: Consents, digest: str, session: Session) -> Session:
        """Keep a session: in the vault if its person has a profile, else in RAM until they do.

        Of somebody who had a profile when the code was given, and was erased since, nothing is kept at all.
        """
        person = consents.by_profile(session.profile) if session.profile else consents.look(session.person)
        if person is None:
            self._nameless[digest] = session
            for ident in _too_many(list(self._nameless.values()), MAX_BROWSERS):
                self._nameless = {known: s for known, s in self._nameless.items() if s.ident != ident}
            return session
        kept = replace(session, person=person.name, profile=person.profile)
        record = {
            "created": kept.created, "expires": kept.expires, "hash": digest, "profile": kept.profile, "uid": kept.uid,
            "user": kept.user,
        }  # fmt: skip
        vault, before = consents.vault, self._stored(consents)
        _delete(consents, _too_many(before, MAX_BROWSERS - 1))
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
        """Return a session as it was kept, or None: expired, another token's, or of somebody who was erased."""
        record = json.loads(payload)
        if record["expires"] <= self._wall() or (digest and not hmac.compare_digest(record["hash"], digest)):
            return None
        if record["profile"] not in consents.vault.profiles():
            return None
        person = consents.by_profile(record["profile"])
        return Session(
            ident, person.name, person.profile, record["user"], record["uid"], record["created"], record["expires"]
        )

    def _stored(self, consents: Consents) -> list[Session]:
        """Return the sessions in the vault; those that hold no more are removed."""
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
        """Return the device's TLS key and certificate, PEM, as soon as the keys are there; made at first use."""
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


def _named(consents: Consents, name: object, user: str) -> tuple[str, str]:
    """Return name and id of somebody for whom ``user`` may ask; the id is "" of who has not agreed to anything yet."""
    shown, profile = consents.meant(name)
    if not _may(consents, shown, user):
        raise RequestError(403, "profile", "is somebody else's: only that person's Unix user may ask")
    return shown, profile


def _may(consents: Consents, name: str, user: str) -> bool:
    users = consents.users_of(name)
    return not users or user in users


def _too_many(sessions: list[Session], most: int) -> list[str]:
    """Return the sessions that make room for ``most``: of whoever has the most, the first to expire."""
    left, gone = sorted(sessions, key=lambda session: session.expires), []
    while len(left) > most:
        counts = Counter(session.uid for session in left)
        greedy = max(counts, key=lambda uid: counts[uid])
        out = next(session for session in left if session.uid == greedy)
        left.remove(out)
        gone.append(out.ident)
    return gone


def _delete(consents: Consents, idents: list[str]) -> None:
    kept = {record.id for record in consents.vault.items("", PAGE, _SESSION)}
    gone = [ident for ident in idents if ident in kept]
    if gone:
        with consents.vault.change("browsers-forgotten", False, count=len(gone)) as change:
            for ident in gone:
                change.delete("", PAGE, _SESSION, ident)
