"""How often somebody may ask: a bucket of tokens for each caller, which fills again as time goes by.

Two for each: any request takes one of 200 (50 a second come back), and those that cost a walk through the whole log or
vault, or the TPM, one of 10 besides (1 a second). That is far beyond what people and their programs do, and keeps one
caller who loops from taking the daemon's only event loop from the others. Whom the kernel says to be root, or the
daemon's own user, is not counted: they could stop the daemon anyway.
"""

from __future__ import annotations

import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from idiolect.errors import RequestError

if TYPE_CHECKING:
    from idiolect.control.api import Caller

HEAVY = frozenset({
    "/v1/adapters/verify", "/v1/attest", "/v1/audit/export", "/v1/audit/verify", "/v1/bundle/mark-good", "/v1/erase",
    "/v1/export", "/v1/import", "/v1/openapi.json", "/v1/reload",
})  # fmt: skip
"""Paths of requests that cost much."""
CALLERS = 64
"""Whose buckets are remembered: those who asked last."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` requests at once, ``per_s`` in the long run."""

    per_s: float
    burst: int


USUAL, COSTLY = Rate(50.0, 200), Rate(1.0, 10)


class TooOften(RequestError):
    """429; ``retry_s`` whole seconds until it is worth asking again."""

    def __init__(self, retry_s: int) -> None:
        super().__init__(429, "rate", f"too many requests: ask again in {retry_s} s")
        self.retry_s = retry_s


class Bucket:
    """Tokens, in float as time is: whatever may be had so often and no oftener."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._left, self._at = float(rate.burst), clock()

    def take(self) -> float:
        """Take one: 0.0 when there was one, else the seconds until there is."""
        now = self._clock()
        self._left = min(self._rate.burst, self._left + max(0.0, now - self._at) * self._rate.per_s)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._rate.per_s


class Rates:
    """Everybody's buckets, of one server. Belongs to the event loop."""

    def __init__(
        self, usual: Rate = USUAL, costly: Rate = COSTLY, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._usual, self._costly, self._clock = usual, costly, clock
        self._buckets: OrderedDict[str, tuple[Bucket, Bucket]] = OrderedDict()

    def check(self, caller: Caller, path: str) -> None:
        """Count a request. ``TooOften`` when there were too many."""
        if not caller.person and caller.uid in (0, os.geteuid()):
            return
        key = f"person {caller.person}" if caller.person else f"uid {caller.uid}"
        if key not in self._buckets:
            self._buckets[key] = Bucket(self._usual, self._clock), Bucket(self._costly, self._clock)
        self._buckets.move_to_end(key)
        usual, costly = self._buckets[key]
        if len(self._buckets) > CALLERS:
            self._buckets.popitem(last=False)
        wait = usual.take() or (costly.take() if path in HEAVY else 0.0)
        if wait:
            raise TooOften(math.ceil(wait))
