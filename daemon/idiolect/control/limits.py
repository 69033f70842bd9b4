"""Limits how often somebody may ask: each caller has a bucket of tokens, which fills again as time goes by.

Two for each: any request takes one of 200 (50 a second come back), and those that cost a walk through the whole log or
vault, the TPM, the sound cards or the sensors, one of 10 besides (1 a second). That is far beyond what people and their
programs do, and keeps one caller who loops from taking the daemon's only event loop from the others. Pausing and
resuming have a bucket of their own, so that whoever asked too much can still pause. Whom the kernel says to be root, or
the daemon's own user, is not counted: they could stop the daemon anyway.

All who have not said who they are, browsers that are not paired among them, have one bucket together, which those who
have said so do not need. Trying a code is in no bucket: ``browsers`` bounds it.

Buckets are forgotten when they are full again, which changes nothing. Where there are ``CALLERS`` of others, who comes
next shares one bucket with all who come after: nobody gets a fresh one by coming under many names.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from idiolect.control.shares import ANONYMOUS, PAUSING, key_of, owns_it
from idiolect.errors import RequestError

if TYPE_CHECKING:
    from idiolect.control.api.requests import Caller

HEAVY = frozenset({
    "/v1/adapters/verify", "/v1/attest", "/v1/audit/export", "/v1/audit/verify", "/v1/bundle/mark-good", "/v1/devices",
    "/v1/doctor", "/v1/erase", "/v1/export", "/v1/import", "/v1/openapi.json", "/v1/reload",
})  # fmt: skip
"""Paths of requests that cost much."""
CALLERS = 64
"""Callers whose buckets are remembered."""
CODES = "/v1/session"


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` requests at once, ``per_s`` in the long run."""

    per_s: float
    burst: int


USUAL, COSTLY, PAUSES, STRANGERS = Rate(50.0, 200), Rate(1.0, 10), Rate(2.0, 20), Rate(200.0, 400)


class TooOften(RequestError):
    """Raised with status 429; ``retry_s`` are whole seconds until it is worth asking again."""

    def __init__(self, retry_s: int) -> None:
        super().__init__(429, "rate", f"too many requests: ask again in {retry_s} s")
        self.retry_s = retry_s


class Bucket:
    """Tokens, in float as time is: whatever may be had so often and no oftener."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._left, self._at = float(rate.burst), clock()

    @property
    def full(self) -> bool:
        """Return True if as many tokens are in it as in a fresh one."""
        self._fill()
        return self._left >= self._rate.burst

    def _fill(self) -> None:
        now = self._clock()
        self._left = min(self._rate.burst, self._left + max(0.0, now - self._at) * self._rate.per_s)
        self._at = now

    def take(self) -> float:
        """Take one; return 0.0 when there was one, else the seconds until there is."""
        self._fill()
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._rate.per_s


@dataclass(frozen=True, slots=True)
class _Own:
    """The three buckets of one caller: for any request, for costly ones, and for pausing."""

    usual: Bucket
    costly: Bucket
    pauses: Bucket

    @property
    def full(self) -> bool:
        return self.usual.full and self.costly.full and self.pauses.full


class Rates:
    """Everybody's buckets, of one server. Belongs to the event loop."""

    def __init__(
        self, usual: Rate = USUAL, costly: Rate = COSTLY, *, strangers: Rate = STRANGERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Set the rates; ``strangers`` is for all together who have not said who they are."""
        self._usual, self._costly, self._clock = usual, costly, clock
        self._buckets: dict[str, _Own] = {}
        self._strangers, self._others = self._fresh(strangers), self._fresh(usual)

    def check(self, caller: Caller, path: str) -> None:
        """Count a request. Raises ``TooOften`` when there were too many."""
        if owns_it(caller):
            return
        own = self._of(key_of(caller))
        if path == PAUSING:
            wait = own.pauses.take()
        elif own is self._strangers and path == CODES:
            wait = 0.0
        else:
            wait = own.usual.take() or (own.costly.take() if path in HEAVY else 0.0)
        if wait:
            raise TooOften(math.ceil(wait))

    def _of(self, key: str) -> _Own:
        if key == ANONYMOUS:
            return self._strangers
        if key not in self._buckets:
            if len(self._buckets) >= CALLERS:
                self._buckets = {known: own for known, own in self._buckets.items() if not own.full}
            if len(self._buckets) >= CALLERS:
                return self._others
            self._buckets[key] = self._fresh(self._usual)
        return self._buckets[key]

    def _fresh(self, usual: Rate) -> _Own:
        return _Own(*(Bucket(rate, self._clock) for rate in (usual, self._costly, PAUSES)))
