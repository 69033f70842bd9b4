"""Gives everybody a share: of connections, and of requests that are served at once.

Connections (``Guests``). At most ``most`` are open, and so many more for root and the daemon's own user (``KEPT``).
Where the kernel tells who connects, one user has at most half of them. Who comes when a share or the whole is full
takes the place of a connection that owes us something: of the user who has most of these, the oldest that has not yet
said what it wants, else the oldest that has its answer and still does not go. Only where there is none is the newcomer
turned away.

Requests (``Places``). At most ``most`` are served at once, event streams included, and a few more of the short ones; a
few beyond these are for pausing, and a few beyond those for root and the daemon's own user. One caller has at most
three quarters of ``most``; all who have not said who they are have half of it together.
"""

from __future__ import annotations

import enum
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from idiolect.errors import RequestError

if TYPE_CHECKING:
    from idiolect.control.api.requests import Caller

KEPT = 8
"""Connections and requests that only root and the daemon's own user may have, beyond everybody's."""
SHORT, URGENT = 4, 4
"""Requests beyond ``most`` that are short, and beyond these, that pause or resume listening."""
PAUSING = "/v1/listening"
ANONYMOUS = "anonymous"


def trusted(uid: int) -> bool:
    """Return True for root and the daemon's own user: either could stop the daemon anyway."""
    return uid in (0, os.geteuid())


def key_of(caller: Caller) -> str:
    """Return the key of a caller's share: a person's, whatever browser she uses, or a Unix user's."""
    if caller.person:
        return f"person {caller.person}"
    return ANONYMOUS if caller.uid < 0 else f"uid {caller.uid}"


def owns_it(caller: Caller) -> bool:
    """Return True for a ``trusted`` caller; a browser is not trusted, whoever let it in."""
    return not caller.person and trusted(caller.uid)


class Stage(enum.IntEnum):
    """How far a connection has come; who is to go is looked for in this order."""

    ASKING = 0
    ANSWERED = 1
    SERVED = 2


@dataclass(eq=False, slots=True)
class Guest:
    """One connection, and how far it has come; ``drop`` cuts it off."""

    uid: int
    drop: Callable[[], None]
    stage: Stage = Stage.ASKING


class Guests:
    """Who is connected, the first to come first."""

    def __init__(self, most: int, *, known: bool) -> None:
        """Begin empty. ``known``: the kernel tells who connects; else all come from one proxy, and none has a share."""
        self._most, self._share = most, max(1, most // 2) if known else most
        self._here: dict[Guest, None] = {}

    def enter(self, uid: int, drop: Callable[[], None]) -> Guest | None:
        """Let a connection in; return None where there is no place for it."""
        ours = trusted(uid)
        own = [guest for guest in self._here if guest.uid == uid]
        if len(own) >= self._share and not ours and not self._make_room(own):
            return None
        most = self._most + (KEPT if ours else 0)
        if len(self._here) >= most and not self._make_room(list(self._here)):
            return None
        guest = Guest(uid, drop)
        self._here[guest] = None
        return guest

    def leave(self, guest: Guest) -> None:
        """Free the place of a connection that is gone; more than once is well."""
        self._here.pop(guest, None)

    def _make_room(self, among: list[Guest]) -> bool:
        for stage in (Stage.ASKING, Stage.ANSWERED):
            found = [guest for guest in among if guest.stage is stage]
            if found:
                counts = Counter(guest.uid for guest in found)
                most = max(counts, key=lambda uid: (not trusted(uid), counts[uid]))
                gone = next(guest for guest in found if guest.uid == most)
                self.leave(gone)
                gone.drop()
                return True
        return False


class Places:
    """Counts the requests that are being served, of all and of each caller."""

    def __init__(self, most: int) -> None:
        self._most, self._by = most, Counter[str]()
        self.taken = 0
        """Places that are taken."""

    @contextmanager
    def take(self, caller: Caller, path: str, *, short: bool) -> Iterator[None]:
        """Hold a place for a request as long as it is served. Raises ``RequestError`` 503 where there is none."""
        key, ours = key_of(caller), owns_it(caller)
        extra = (SHORT if short else 0) + (URGENT if path == PAUSING else 0)
        share = self._most // 2 if key == ANONYMOUS else 3 * self._most // 4
        if self.taken >= self._most + extra + (KEPT if ours and short else 0):
            raise RequestError(503, "", "too many clients: close an event stream, or raise control.max_clients")
        if not ours and self._by[key] >= max(1, share) + extra:
            raise RequestError(503, "", "too many requests of yours are running: close an event stream, or wait")
        self.taken += 1
        self._by[key] += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._by[key] -= 1
            if not self._by[key]:
                del self._by[key]
