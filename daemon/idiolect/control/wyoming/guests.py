"""Decides who has a place at the Wyoming socket, who goes when there is none left, and how fast anybody may ask.

Behind the TCP proxy everybody has one uid and no address is known. So who comes is let in, and what goes is the oldest
connection that does nothing: hundreds that are opened and left keep nobody out. One that is sending sound, waits for
what it has sent to be heard, or was told to wait for the microphone keeps its place. In this order (numbered in the
code):

1. each uid may open so many connections a second (``Limits.connections``), beyond that they are cut off;
2. there are ``most`` places, and ``KEPT`` besides for uids that hold fewer than ``KEPT_EACH``, one of them for root;
3. when all are taken, a connection of the uid that holds most goes: first those that have had ``GRACE_S`` and said
   nothing, then those that do nothing now, the oldest first; nobody goes for a uid that holds more than his own does;
4. a quarter of the places is never held by those who wait for the microphone, which may take for ever;
5. events that come faster than their ``Pace`` are read later; those of one uid have one besides, or who hangs up and
   comes again would begin with a new reserve each time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from idiolect.control.limits import Bucket, Rate
from idiolect.control.wyoming.connection import Limits

KEPT, KEPT_EACH = 4, 2
GRACE_S = 1.0
STALLED_S = 10.0
"""Sound that stops for so long, without audio-stop, keeps no place any more."""
UIDS = 16
"""Uids whose shares are remembered: those who came last."""


@dataclass(eq=False, slots=True)
class Guest:
    """One connection, as far as its place is concerned. ``go`` ends it."""

    uid: int
    since: float
    go: Callable[[], None] = lambda: None
    spoke: bool = False
    """An event of its has come."""
    following: bool = False
    """It waits for the microphone."""
    finishing: bool = False
    """It has sent all its sound, which is being heard."""
    sending_until: float = 0.0
    """Until then it counts as sending sound."""

    def sends(self, seconds: float, now: float) -> None:
        """Note that ``seconds`` of sound have come, for which the connection keeps its place."""
        if seconds:
            self.sending_until = min(max(self.sending_until, now) + seconds, now + STALLED_S)

    def announces(self, now: float) -> None:
        """Note that sound is to come."""
        self.sending_until = now + STALLED_S

    def busy(self, now: float) -> bool:
        """Return True if the connection may not be sent away."""
        return self.following or self.finishing or now < self.sending_until


class Reserve:
    """Something that may be had so often. Who takes more waits until it is there, one behind the other."""

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self._rate, self._clock = rate, clock
        self._left, self._at = float(rate.burst), clock()

    def take(self) -> float:
        """Take one, and return the seconds until it is there."""
        now = self._clock()
        left = min(self._rate.burst, self._left + max(0.0, now - self._at) * self._rate.per_s) - 1
        self._left, self._at = (
            max(left, -float(self._rate.burst)),
            now,
        )  # what is owed ends: who asked may have gone since
        return max(0.0, -self._left / self._rate.per_s)


class Uid:
    """The limits that all connections of one uid share."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.knocks = Bucket(limits.connections, clock)
        self.events, self.describes = Reserve(limits.all_events, clock), Reserve(limits.all_describes, clock)


class Places:
    """Holds the connections that there are."""

    def __init__(self, most: int, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._limits, self.clock = most, limits, clock
        self._guests: list[Guest] = []  # the oldest first
        self._uids: OrderedDict[int, Uid] = OrderedDict()

    def of(self, uid: int) -> Uid:
        """Return the limits of ``uid``; the uid that was not asked for the longest is forgotten beyond UIDS."""
        if uid not in self._uids:
            self._uids[uid] = Uid(self._limits, self.clock)
        self._uids.move_to_end(uid)
        if len(self._uids) > UIDS:
            self._uids.popitem(last=False)
        return self._uids[uid]

    def knock(self, uid: int) -> bool:
        """Return True if ``uid`` may open one more connection now."""
        return not self.of(uid).knocks.take()  # 1

    def enter(self, uid: int) -> Guest | None:
        """Return a place, for which somebody else may have to go; None where there is none."""
        held = Counter(guest.uid for guest in self._guests)
        if not self._free(uid, held):
            goes = self._who_goes(uid, held)
            if goes is None:
                return None
            self.leave(goes)
            goes.go()
        guest = Guest(uid, self.clock())
        self._guests.append(guest)
        return guest

    def leave(self, guest: Guest) -> None:
        """Free the place of a connection that is gone."""
        if guest in self._guests:
            self._guests.remove(guest)

    def may_follow(self, guest: Guest) -> bool:
        """Let one more wait for the microphone; return False where too few places would be left for the others."""  # 4
        others = sum(each.following for each in self._guests if each is not guest)
        guest.following = others < self._most - self._most // 4
        return guest.following

    def _free(self, uid: int, held: Counter[int]) -> bool:
        """Return True if one more connection of ``uid`` fits without another one going (check 2)."""  # 2
        kept = 0 if held[uid] >= min(KEPT_EACH, self._most) else KEPT if uid == 0 else KEPT - 1
        return len(self._guests) < self._most + kept

    def _who_goes(self, uid: int, held: Counter[int]) -> Guest | None:
        now = self.clock()
        idle = [guest for guest in self._guests if not guest.busy(now) and held[guest.uid] >= held[uid]]

        def first(guest: Guest) -> tuple[int, bool, float]:
            return -held[guest.uid], guest.spoke or now - guest.since < GRACE_S, guest.since

        return min(idle, key=first, default=None)  # 3


class Pace:
    """How often one connection may send what: who sends more is not read for so long, and holds nothing meanwhile."""

    def __init__(self, limits: Limits, uid: Uid, clock: Callable[[], float]) -> None:
        self._uid = uid
        self._described, self._chunks = Reserve(limits.describes, clock), Reserve(limits.chunks, clock)
        self._others = Reserve(limits.events, clock)

    async def keep(self, kind: str) -> None:
        """Wait until another event may be read after one of this kind."""
        own = {"describe": self._described, "audio-chunk": self._chunks}.get(kind, self._others)
        waits = [own.take(), self._uid.events.take()]
        if kind == "describe":
            waits.append(self._uid.describes.take())
        await asyncio.sleep(max(waits))  # 5
