"""One step: so many words spoken at one share of a core, while a household asks for all that it usually asks for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torture.loading import talk
from torture.loading.board import Board
from torture.loading.order import LATE, LIMITS, MISSED
from torture.loading.running import Asker, Daemon, Listener, ask, describe, spread

TAIL_S = talk.LATE_S + 0.5
ROUND_S = LIMITS["round"].most
SETTLE_S = 1.0


def usual(it: Daemon, who: str) -> list[Asker]:
    """What programs ask all the time: a panel, Prometheus, a browser, Home Assistant."""
    return [
        Asker("status", 1.0, lambda: ask(it.control, "GET", "/v1/status")),
        Asker("review", 4.0, lambda: ask(it.control, "GET", f"/v1/review?profile={who.replace(' ', '%20')}")),
        Asker("metrics", 4.0, lambda: ask(it.metrics, "GET", "/metrics")),
        Asker("page", 4.0, lambda: ask(it.page, "GET", "/")),
        Asker("wyoming", 4.0, lambda: describe(it.wyoming)),
    ]


def spoken(
    it: Daemon, words: Sequence[talk.Word], askers: Sequence[Asker], tail: float = TAIL_S, settle: float = SETTLE_S
) -> tuple[list[float | None], list[dict[str, Any]], float]:
    """Say the words while everybody asks; ms by word, the events of those that were told, and CPU used per second."""
    listener = Listener(it.control)
    try:
        for asker in askers:
            asker.start()
        time.sleep(settle)
        cpu, began = it.figures().get("cpu_s", 0.0), time.monotonic()
        said = it.speaker.say(words)
        time.sleep(it.speaker.over(said))
        used = (it.figures().get("cpu_s", 0.0) - cpu) / (time.monotonic() - began)
        time.sleep(tail)
    finally:
        for asker in askers:
            asker.stop()
        listener.close()
    events = [event for _, event in listener.arrived if event.get("kind") == "phrase"]
    return talk.delays(said, listener.arrived), events, used


def learnt(it: Daemon, events: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Confirm the last event, and have it learnt in a quiet room: seconds of either."""
    confirming = Asker("confirm", 0.0, lambda: ask(it.control, "POST", "/v1/confirm", {"event": events[-1]["id"]}))
    if not events:
        return {"confirm": None, "round": None}
    confirming.once()
    before, listener = _rebuilt(it), Listener(it.control)
    try:
        began = time.monotonic()
        Asker("learn", 0.0, lambda: ask(it.control, "POST", "/v1/learn", {})).once()
        while time.monotonic() - began < ROUND_S:
            told = [(at, event.get("learning", {})) for at, event in list(listener.arrived)]
            running = [(at, learning["running"]) for at, learning in told if "running" in learning]
            if "rebuild" in [kind for _, kind in running] and running[-1][1] != "rebuild":
                made = _rebuilt(it) > before
                return {"confirm": confirming.took[0], "round": running[-1][0] - began if made else None}
            time.sleep(0.1)
    finally:
        listener.close()
    return {"confirm": confirming.took[0], "round": None}


def _rebuilt(it: Daemon) -> int:
    """Rounds that came to their end since its start; -1 where it does not say."""
    learning = it.status().get("learning", {})
    return int(learning["done"].get("rebuild", 0)) if learning else -1


def step(
    it: Daemon, board: Board, who: str, words: Sequence[talk.Word]
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """The figures of ``order.LIMITS``, and all else there is to tell."""
    before, times = it.status().get("microphone", {}), board.throttled()
    askers = usual(it, who)
    late, events, used = spoken(it, words, askers)
    figures: dict[str, float | None] = {MISSED: float(sum(each is None for each in late)), LATE: _p95(late)}
    figures |= {asker.name: _p95(asker.took) for asker in askers}
    figures |= learnt(it, events)
    after, now = it.status().get("microphone", {}), board.throttled()
    detail = {
        "words": spread(late),
        **{asker.name: spread(asker.took) | ({"why": asker.why} if asker.why else {}) for asker in askers},
        "cpu_used": round(used, 4),
        **{name: after[name] - before[name] for name in ("dropped_blocks", "overruns") if before and after},
        "throttled_s": round(now[1] - times[1], 1),
        **it.figures(),
    }
    return figures, detail


def _p95(values: Sequence[float | None]) -> float | None:
    """None where more than one in twenty failed: then the 95th percentile is beyond all measure."""
    found = spread(list(values))
    count, failed = int(found["count"] or 0), int(found["failed"] or 0)
    return None if not count or failed > count / 20 else found["p95"]
