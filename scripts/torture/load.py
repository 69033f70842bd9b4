#!/usr/bin/env python3
"""A full house on ever slower boards: what degrades, in what order, and that listening degrades last.

A vault is filled through the learner itself: 20 people (as many as there may be), 100 taught phrases, 5,000 examples.
A real idiolectd with it sits in a control group that gives it ever less of a core, and at every share

* words are spoken into its microphone in real time, each of which has to become an event at a client;
* a household asks what it usually asks: status, review, metrics, the page, Wyoming;
* an event is confirmed and learnt in a quiet room, and at the larger shares it is started anew.

Beside that: the vault as it grows (nothing may grow faster than the house), the person who has as much as one may
have (and is told so), less and less memory, and everybody at once.

It must hold that

1. at the share where listening misses its first word, everything else is degraded already (see ``loading/order.py``),
   and where its events come late, everything that costs much is;
2. with a whole core, and with everybody at once, no word is missed, no block lost, and events are in time; and
   what nobody waits for any more keeps nobody else waiting;
3. nothing in the vault takes more than in proportion; what is too much is refused with a sentence;
4. with the unit's 320 MiB nothing is missed and rounds are done; the figures say with how much less they still are.

    scripts/torture/load.py --json FILE --plot FILE.svg

About twelve minutes, most of which it waits: one core is enough.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the daemon does: before numpy comes in
ROOT = Path(__file__).resolve().parents[2]
for part in (ROOT, ROOT / "scripts", ROOT / "daemon"):
    sys.path.insert(0, str(part))

from options import some_of  # noqa: E402
from torture import harness  # noqa: E402

PARTS = ("crowd", "memory", "starts", "shares")
"""Methods of ``Load``, in this order."""
SHARES = "100,50,20,10,5,3,2,1"


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = harness.arguments(
        __doc__ or "", seconds=900.0, people=(20, "profiles"), phrases=(100, "taught phrases, of all"),
        examples=(5000, "examples, of all"), words=(10, "words spoken at each share"),
        listeners=(50, "clients of the event stream at once"), satellites=(20, "Wyoming clients at once"),
        spike=(100, "percent of a core for everybody at once"),
    )  # fmt: skip
    parser.add_argument("--shares", default=SHARES, metavar="LIST", help=f"percents of a core ({SHARES})")
    parser.add_argument(
        "--only", type=some_of(PARTS), default=PARTS, metavar="LIST", help=f"of {','.join(PARTS)} (all)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it, as SVG or PNG; needs matplotlib")
    return parser


if __name__ == "__main__":
    harness.help_first(arguments)

from tests.support.alsa import wavmic  # noqa: E402
from torture.harness import Run, lacking  # noqa: E402
from torture.loading import order, plot, talk  # noqa: E402
from torture.loading.board import Board, board  # noqa: E402
from torture.loading.household import House, person  # noqa: E402
from torture.loading.running import Daemon, Failed, ask, daemon  # noqa: E402
from torture.loading.spike import limited, spike  # noqa: E402
from torture.loading.step import learnt, spoken, step  # noqa: E402

MEMORY = (512, 320, 256, 128, 96, 72)
"""MiB; the unit gives 320."""
UNIT_MIB = 320
START_CAP_S = 20.0
MINUTES = 14.0
"""Of the microphone's file: longer than all steps."""


class Load:
    """One run: what was measured, and what did not hold."""

    def __init__(self, run: Run, wish: argparse.Namespace, folder: Path, board: Board) -> None:
        self._run, self._wish, self._folder, self._board = run, wish, folder, board
        self.table: dict[float, dict[str, float | None]] = {}
        self.details: dict[str, Any] = {}
        self.figures: dict[str, Any] = {"board": board.how}
        self.found: list[str] = []

    def prepare(self) -> None:
        """Fill the house, and choose the words."""
        wish = self._wish
        self.house = house = House(self._folder / "state", people=wish.people)
        sizes = {max(1, wish.people // 4), max(1, wish.people // 2), wish.people}
        for number in range(wish.people):
            self._run.show(f"person {number + 1} of {wish.people}")
            phrases, examples = _share(wish.phrases, wish.people, number), _share(wish.examples, wish.people, number)
            profile = house.add(phrases, examples)
            if number + 1 in sizes:
                house.measure()
        adapters = house.adapters()
        self.figures["house"] = {
            "people": house.people, "phrases": house.taught, "examples": house.examples, "adapters": len(adapters),
        }  # fmt: skip
        self.figures["growth"] = house.growth.rows
        self.found += house.growth.worse_than_linear()
        if len(adapters) < house.people:
            self.found.append(f"only {len(adapters)} of {house.people} people got an adapter")
        self.words = talk.certain(talk.ears(house, adapters, profile), wish.seed)
        self.who = person(house.people - 1)
        self.most = house.copy(self._folder / "most")
        self.figures["most"] = most = self.most.teach_the_most()
        if not most["one_example_more"] or not most["in_use"]:
            self.found.append("who has as much as one may have is not told so, or not heard with it")

    def _said(self, number: int) -> list[talk.Word]:
        first = self._run.seed % len(self.words)
        chosen = self.words[first:] + self.words[:first]
        return [chosen[(i * 7 + number) % len(chosen)] for i in range(self._wish.words)]

    def crowd(self) -> None:
        """Everybody at once."""
        self._run.show("everybody at once")
        with limited(self._board, self._wish.spike / 100):
            words = [word for number in range(2) for word in self._said(number)]
            self.figures["at_once"], found = spike(self._folder / "crowd", self.most, self._board, words, self._wish)
        self.found += found

    def memory(self) -> None:
        """Ever less of it, with a whole core."""
        rows: dict[int, dict[str, object]] = {}
        for mib in MEMORY if self._board.killed() >= 0 else ():
            self._run.show(f"{mib} MiB")
            rows[mib] = row = self._with(mib)
            if mib >= UNIT_MIB and (row.get("failed") or row.get("missed") or row.get("round_s") is None):
                self.found.append(f"with {mib} MiB: {row}")
        self.figures["memory"] = rows

    def _with(self, mib: int) -> dict[str, object]:
        killed = self._board.killed()
        row: dict[str, object] = {}
        with limited(self._board, 1.0, mib):
            try:
                with daemon(self._folder / f"memory-{mib}", self.house, self._board, seconds=START_CAP_S) as it:
                    ask(it.control, "POST", "/v1/profile", {"profile": self.who})
                    late, events, _ = spoken(it, self._said(mib)[:4], ())
                    done = learnt(it, events)
                    row = {"missed": sum(each is None for each in late), "round_s": _short(done["round"])}
                    row |= it.figures() | {"alive": it.process.poll() is None}
            except (Failed, OSError) as error:
                row["failed"] = str(error).partition("\n")[0][:120]
        return row | {"killed": self._board.killed() - killed}

    def starts(self) -> None:
        """Started anew with the full vault, until that takes too long."""
        for share in self._shares():
            self._run.show(f"start at {100 * share:g} %")
            with limited(self._board, share):
                it = Daemon(self._folder / f"start-{share}", self.house, self._board, 1.0)
                it.start()
                try:
                    serving, known = it.ready(START_CAP_S)
                finally:
                    self._board.limit(1.0)
                    it.stop()
            self.table.setdefault(share, {}).update({"start": serving, "keys": known})
            if serving is None and known is None:
                return

    def shares(self) -> None:
        """Ever less of a core."""
        with daemon(self._folder / "daemon", self.house, self._board, minutes=MINUTES) as it:
            ask(it.control, "POST", "/v1/profile", {"profile": self.who})
            time.sleep(2.0)
            for number, share in enumerate(self._shares()):
                if self._run.over:
                    self.details["left_out"] = [f"{100 * left:g} %" for left in self._shares()[number:]]
                    break
                self._run.show(f"{100 * share:g} % of a core")
                with limited(self._board, share):
                    figures, detail = step(it, self._board, self.who, self._said(number))
                self.table.setdefault(share, {}).update(figures)
                self.details[f"{100 * share:g} %"] = detail
                if it.process.poll() is not None:
                    self.found.append(f"the daemon ended at {100 * share:g} % of a core")
                    break

    def judge(self) -> None:
        """What follows from the table."""
        self.figures["order"] = order.order(self.table)
        self.found += order.broken(self.table)
        best = max((share for share, row in self.table.items() if order.MISSED in row), default=None)
        if best is None:
            self.found.append("listening was not measured")
            return
        self.found += [
            f"{name} is beyond its limit with {100 * best:g} % of a core"
            for name, figure in self.table[best].items()
            if order.beyond(name, figure)
        ]

    def _shares(self) -> list[float]:
        return sorted((float(text) / 100 for text in self._wish.shares.split(",")), reverse=True)

    def summary(self) -> dict[str, object]:
        """For JSON."""
        limits = {name: f"{limit.what}: {limit.most:g} {limit.unit}" for name, limit in order.LIMITS.items()}
        table = {
            f"{100 * share:g} %": {name: _short(figure) for name, figure in row.items()}
            for share, row in sorted(self.table.items(), reverse=True)
        }
        return {"limits": limits, "table": table, **self.figures, "steps": self.details}


def _share(total: int, parts: int, number: int) -> int:
    return total // parts + (number < total % parts)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def main() -> int:
    """See the module."""
    wish = arguments().parse_args()
    try:
        wavmic.build()
    except wavmic.PluginError as error:
        return lacking("load", str(error))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(harness.FOUND))  # not without tidying up
    slow = board()
    run = Run("load", wish)
    with tempfile.TemporaryDirectory(prefix="idiolect-load-", ignore_cleanup_errors=True) as folder:
        load = Load(run, wish, Path(folder), slow)
        try:
            slow.limit(1.0)
            load.prepare()
            if not load.words:
                return lacking("load", "no recorded words: apt install asterisk-core-sounds-en-wav")
            for name in PARTS:
                if name in wish.only:
                    getattr(load, name)()
        except Failed as error:
            load.found.append(str(error))
        finally:
            slow.close()
        if load.table:
            load.judge()
    if wish.plot:
        try:
            plot.draw(wish.plot, load.table)
        except ImportError:
            print(plot.HINT, file=sys.stderr)
    return run.finish(load.summary(), load.found)


if __name__ == "__main__":
    sys.exit(main())
