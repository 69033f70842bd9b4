"""From utterances to the figures under ``lived``: shares from 0 to 1, points, and milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .homes import Found, Reported, Row

LEAST_OF_ONE = 10
"""Utterances from which on a person can be the worst one."""
TAKEN = {
    "half_taken": "half",
    "untaught_near_taken": "untaught_near",
    "foreign_taken": "foreign",
    "guest_taken": "guest_taken",
    "shared_taken": "shared_taken",
}
TAKES = {"wrong_take_accepted": ("wrong_take", "accepted"), "good_take_refused": ("good_take", "refused")}
WRONG = ("confused", "opposite")


def joined(parts: Iterable[Found]) -> Found:
    """What all tasks found."""
    whole = Found()
    for part in parts:
        whole.rows += part.rows
        whole.reported += part.reported
    return whole


def share(rows: Sequence[Row], *results: str) -> float | None:
    """Of these, how many came out so; None of nothing."""
    return sum(row.result in results for row in rows) / len(rows) if rows else None


def figures(found: Found) -> dict[str, Any]:
    """All keys; also of real recordings alone (``.real``), and of phrases without a word of the bundle (``.apart``).

    None where nothing was said.
    """
    played = {
        row.figure for row in found.rows if row.figure[0].isdigit() or row.figure.startswith(("others", "shared-"))
    }
    names = sorted({"10-quiet", "10-few", "pairs", "pairs-few", "guest", "shared-quiet", *played})
    everybody = _keys(names, found.rows, found.reported)
    real = _keys(names, [row for row in found.rows if row.real], [each for each in found.reported if each.real])
    apart: dict[str, Any] = {}
    for name in names:
        apart |= _household(f"lived.{name}", [row for row in found.rows if row.figure == name and row.apart])
    twins = {"real": real, "apart": apart}
    return everybody | {f"{key}.{twin}": value for twin, its in twins.items() for key, value in its.items()}


COLUMNS = ("hits", "confused", "missed", "asked_back", "worst_person", "utterances")


def table(values: dict[str, Any]) -> list[str]:
    """The figures for people to read: households a line each, then the others."""
    households = sorted({key.split(".")[1] for key in values if key.startswith("lived.") and key.endswith(".missed")})
    lines = [f"  {'lived.':24s}" + "".join(f"{name:>13s}" for name in (*COLUMNS, "hits.real", "hits.apart"))]
    shown = set()
    for name in households:
        keys = [f"lived.{name}.{column}" for column in (*COLUMNS, "hits.real", "hits.apart")]
        lines.append(f"  {name:24s}" + "".join(f"{_told(values[key]):>13s}" for key in keys))
        shown |= {key for key in values if key.startswith(f"lived.{name}.")}
    for key in sorted(set(values) - shown):
        if not key.endswith((".real", ".utterances")) and not isinstance(values[key], dict):
            real, count = values.get(f"{key}.real"), values.get(f"{key}.utterances", "")
            lines.append(f"  {key:40s}{_told(values[key]):>10s}   real {_told(real):>10s}   {count}")
    return lines


def _told(value: float | str | None) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _keys(households: Sequence[str], rows: Sequence[Row], reported: Sequence[Reported]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    by: dict[str, list[Row]] = {}
    for row in rows:
        by.setdefault(row.figure, []).append(row)
    for name in households:
        values |= _household(f"lived.{name}", by.get(name, []))
    values |= _counted("lived.opposite_done", by.get("pairs", []), "opposite")
    values |= _counted("lived.opposite_done_few", by.get("pairs-few", []), "opposite")
    values |= _counted("lived.asked_back", [*by.get("10-quiet", []), *by.get("10-few", [])], "asked")
    for key, figure in TAKEN.items():
        values |= _counted(f"lived.{key}", by.get(figure, []), "taken")
    for key, (figure, result) in TAKES.items():
        values |= _counted(f"lived.{key}", by.get(figure, []), result)
    values |= _gap(by.get("10-quiet", []), [each for each in reported if each.person.startswith("10 ")])
    values |= _latency(by)
    on, off = (share(by.get(name, []), "hit") for name in ("10-voice_match", "10-voice_match_off"))
    values["lived.voice_match_cost"] = None if on is None or off is None else off - on
    return values


def _counted(key: str, rows: Sequence[Row], result: str) -> dict[str, Any]:
    return {key: share(rows, result), f"{key}.utterances": len(rows)}


def _household(key: str, rows: Sequence[Row]) -> dict[str, Any]:
    hits = {person: (share(mine, "hit") or 0.0, len(mine)) for person, mine in _by_person(rows).items()}
    worst, name = min(
        ((part, who) for who, (part, count) in hits.items() if count >= LEAST_OF_ONE), default=(None, None)
    )
    return {
        f"{key}.hits": share(rows, "hit"),
        f"{key}.confused": share(rows, *WRONG),
        f"{key}.missed": share(rows, "missed"),
        f"{key}.asked_back": share(rows, "asked"),
        f"{key}.worst_person": worst,
        f"{key}.worst_person_is": name,
        f"{key}.people": {person: round(part, 5) for person, (part, _) in hits.items()},
        f"{key}.not_woken": sum(not row.woken for row in rows),
        f"{key}.utterances": len(rows),
    }


def _by_person(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.person):
        found.setdefault(row.person, []).append(row)
    return found


def _gap(rows: Sequence[Row], reported: Sequence[Reported]) -> dict[str, Any]:
    """Errors as the device tells them less those that were lived, in points, pooled; and the worst person's."""
    said: dict[str, tuple[int, int]] = {}
    for each in reported:
        if each.held_out:
            said[each.person.partition(" ")[2]] = each.wrong, each.held_out
    lived = [row for row in rows if row.person in said and row.taught]
    key = "lived.report_gap"
    if not lived:
        return {key: None, f"{key}.worst_person": None, f"{key}.utterances": 0}
    told = sum(wrong for wrong, _ in said.values()) / sum(held for _, held in said.values())

    gaps = {name: _apart(said[name][0] / said[name][1], mine) for name, mine in _by_person(lived).items()}
    return {
        key: 100.0 * _apart(told, lived),
        f"{key}.worst_person": 100.0 * max(gaps.values()),
        f"{key}.utterances": len(lived),
        f"{key}.told": 100.0 * told,
    }


def _apart(told: float, lived: Sequence[Row]) -> float:
    """How far errors as told and as lived are apart."""
    return abs(told - 1.0 + (share(lived, "hit") or 0.0))


def _latency(by: dict[str, list[Row]]) -> dict[str, Any]:
    """95 % of hits are told no later than this behind their last sample."""
    quiet = by.get("10-quiet", [])
    groups = {
        "": [row for row in quiet if row.longer],
        "_short": [row for row in [*quiet, *by.get("guest", [])] if not row.longer],
        "_noise": [*by.get("10-10db", []), *by.get("10-music", [])],
    }
    values: dict[str, Any] = {}
    for suffix, rows in groups.items():
        late = [row.late_ms for row in rows if row.result == "hit"]
        key = f"lived.latency_ms_p95{suffix}"
        values[key] = float(np.quantile(late, 0.95)) if late else None
        values[f"{key}.utterances"] = len(late)
    return values
