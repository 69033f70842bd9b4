"""In which order things degrade as the board gets slower, and whether listening is the last of them.

A *figure* is one function at one share of a core. It degrades at the first share, from the fastest down, at which it is
beyond its limit. The promise: by the share at which listening misses its first word, everything else that is measured
has degraded, and by that at which its events come late, everything that costs much has; the same share will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MISSED, LATE = "listening: word missed", "listening: event late"
LISTENING = (MISSED, LATE)
COSTLY = ("review", "confirm", "round", "start", "keys")
"""What takes tenths of a second of a whole core, and has to stand back first."""


@dataclass(frozen=True, slots=True)
class Limit:
    """``most`` is the largest figure that is well; ``unit`` for people."""

    most: float
    unit: str
    what: str


LIMITS: Mapping[str, Limit] = {
    MISSED: Limit(0.0, "words", "words spoken of which nobody is told within 4 s"),
    LATE: Limit(250.0, "ms", "95th percentile from a phrase's end to its event at a client"),
    "status": Limit(1.0, "s", "95th percentile of GET /v1/status"),
    "review": Limit(1.0, "s", "95th percentile of GET /v1/review of 250 examples"),
    "metrics": Limit(1.0, "s", "95th percentile of GET /metrics"),
    "page": Limit(1.0, "s", "95th percentile of the page's own file"),
    "wyoming": Limit(1.0, "s", "95th percentile of a Wyoming server's description"),
    "confirm": Limit(1.0, "s", "POST /v1/confirm of an event just heard"),
    "round": Limit(1.0, "s", "from POST /v1/learn in a quiet room to the end of the round: its budget"),
    "start": Limit(2.0, "s", "from the start to the first block heard, with the full vault"),
    "keys": Limit(5.0, "s", "from the start to everybody's adapters in use"),
}
"""Beyond these a function counts as degraded."""

Figures = Mapping[str, float | None]
"""By function: None where it did not come at all, which is beyond any limit. A function left out was not measured."""


def beyond(name: str, figure: float | None) -> bool:
    """Whether a figure is beyond its limit."""
    return figure is None or figure > LIMITS[name].most


def first_degraded(table: Mapping[float, Figures]) -> dict[str, float | None]:
    """By function the largest share at which it is beyond its limit; None where it never is."""
    names = [name for name in LIMITS if any(name in row for row in table.values())]
    return {
        name: max((share for share, row in table.items() if name in row and beyond(name, row[name])), default=None)
        for name in names
    }


def order(table: Mapping[float, Figures]) -> list[str]:
    """What degrades, first to last, with its share; at the same share in the order of ``LIMITS``, listening last."""
    found = [(share, name) for name, share in first_degraded(table).items() if share is not None]
    names = list(LIMITS)
    found.sort(key=lambda each: (-each[0], each[1] in LISTENING, names.index(each[1])))
    return [f"{name} at {100 * share:g} %" for share, name in found]


def broken(table: Mapping[float, Figures]) -> list[str]:
    """Where listening is not the last to degrade, a line each."""
    first = first_degraded(table)
    others = [name for name in first if name not in LISTENING]
    costly = [name for name in others if name in COSTLY]
    return [
        f"listening{what} at {100 * at:g} % of a core, where {name} is still well"
        for what, at, before in (
            (" misses a word", first.get(MISSED), others),
            ("'s events come late", first.get(LATE), costly),
        )
        if at is not None
        for name in before
        if (first[name] or 0.0) < at
    ]
