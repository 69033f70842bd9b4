"""All mutants of a run: which are chosen, who runs them, and what is said at the end."""

from __future__ import annotations

import argparse
import random
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from scripts.torture.harness import Run

from . import explained
from .bench import PACKAGE, Bench, Map, Tree, Verdict
from .changes import Mutant, Place, Source

KINDS = ("killed", "timeout", "survived", "explained", "uncovered")


def sample(places: Mapping[str, Sequence[Place]], number: int, seed: int) -> list[Place]:
    """``number`` places, as many of each file as it has; the same for the same seed. All for 0."""
    rng = random.Random(seed)  # noqa: S311
    shuffled = {file: rng.sample(list(each), len(each)) for file, each in places.items()}
    if not number:
        return [place for each in shuffled.values() for place in each]
    chosen: list[Place] = []
    while len(chosen) < number and any(shuffled.values()):
        chosen += [each.pop() for each in shuffled.values() if each][: number - len(chosen)]
    return chosen


@dataclass
class Tally:
    """What became of each, and what is to be said about it."""

    known: explained.Explained
    log: Path | None = None
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    uncovered: list[str] = field(default_factory=list)
    operators: dict[str, Counter[str]] = field(default_factory=dict)
    same: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, mutant: Mutant | None, verdict: Verdict | None) -> None:
        """One more; none at all when the change came to nothing."""
        with self.lock:
            if mutant is None or verdict is None:
                self.same += 1
                return
            kind = verdict.verdict
            self.counts.setdefault(mutant.place.file, Counter())[kind] += 1
            self.operators.setdefault(mutant.place.operator, Counter())[kind] += 1
            if kind in ("survived", "uncovered"):
                (self.said if kind == "survived" else self.uncovered).append(str(mutant))
                if self.log:
                    with self.log.open("a") as out:
                        out.write(f"{kind} {mutant} ({mutant.place.operator})\n")

    def figures(self) -> dict[str, object]:
        """For the summary."""
        packages: dict[str, Counter[str]] = {}
        for file, counts in self.counts.items():
            packages.setdefault(file.partition("/")[0], Counter()).update(counts)
        return {
            "mutants": sum(c.total() for c in self.counts.values()),
            "no_change": self.same,
            "by_package": {name: _row(c) for name, c in sorted(packages.items())},
            "by_file": {name: _row(c) for name, c in sorted(self.counts.items())},
            "by_operator": {name: _row(c) for name, c in sorted(self.operators.items())},
            "not_covered": sorted(self.uncovered),
        }


def _row(counts: Counter[str]) -> dict[str, float]:
    """The counts; ``score`` is the share that was noticed of what is no equivalent, in percent."""
    judged = counts.total() - counts["explained"]
    score = 100 * (counts["killed"] + counts["timeout"]) / judged if judged else 100.0
    return {"mutants": counts.total(), **{kind: counts[kind] for kind in KINDS}, "score": round(score, 1)}


def run(run: Run, wish: argparse.Namespace, files: Sequence[str], tests: Sequence[str]) -> int:
    """Do it; the exit code."""
    tally = Tally(explained.Explained.read(wish.explained or explained.FILE), wish.log)
    with ExitStack() as undo:
        trees = []
        for _ in range(max(1, wish.jobs)):
            trees.append(Tree(wish.root))
            undo.callback(trees[-1].close)
        sources = {file: Source(file, (trees[0].path / PACKAGE / file).read_text()) for file in files}
        left_out: Counter[str] = sum((s.left_out for s in sources.values()), Counter())
        known = Map(trees[0], tests, wish.keep, run.show)
        chosen = sample({file: s.places for file, s in sources.items()}, wish.sample, run.seed)
        work = _Work(run, sources, known, chosen, tally)
        work.patience = wish.patience
        dropped = work.control(trees[0], tests)
        threads = [threading.Thread(target=work.go, args=(tree, tests), daemon=True) for tree in trees]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    figures = {
        "tests": len(known.seconds),
        "tests_left_out": known.left_out + dropped,
        **tally.figures(),
        "not_run": work.left,
        "left_out": dict(sorted(left_out.items())),
    }
    if not tally.counts:
        work.broken.append("not one mutant was run: give it more time, or other files")
    return run.finish(figures, sorted(tally.said) + work.broken)


class _Work:
    """The queue, and those who take from it."""

    def __init__(self, run: Run, sources: Mapping[str, Source], known: Map, chosen: list[Place], tally: Tally) -> None:
        self._run = run
        self._sources = sources
        self._map = known
        self._waiting = chosen[::-1]
        self._cold = known.cold(place for s in sources.values() for place in s.places)
        self._all = len(chosen)
        self._tally = tally
        self._lock = threading.Lock()
        self._made: set[tuple[str, int]] = set()
        self._killers: dict[tuple[str, str], list[str]] = {}
        self.broken: list[str] = []
        self.patience = 1.0

    @property
    def left(self) -> int:
        """How many were not run when the time was over."""
        return len(self._waiting)

    def control(self, tree: Tree, tests: Sequence[str]) -> int:
        """Run all tests on what is unchanged, and drop those that fail in a fork; their number.

        Without this every mutant would seem to be killed by them.
        """
        files = self._map.doubtful()
        file, dropped = next(iter(self._sources)), 0
        source = self._sources[file]
        place = next((p for p in source.places if p.function), None)
        if place is None:
            return 0
        unchanged = Mutant(place, source.text, "", "")
        with Bench(tree, tests, self.patience) as bench:
            for each, names in files.items():
                self._run.show(f"the tests of {each}, on what is unchanged")
                while names:
                    verdict = bench.run(unchanged, names, self._map.seconds, cold=False)
                    if verdict.verdict == "survived":
                        break
                    names.remove(verdict.test)
                    self._map.drop(verdict.test)
                    dropped += 1
                self._map.sound(each)
            quick = [min(names, key=self._map.seconds.__getitem__) for names in files.values() if names]
            if quick:
                verdict = bench.run(unchanged, quick, self._map.seconds, cold=True)
                if verdict.verdict != "survived":
                    raise RuntimeError(f"{verdict.test} does not pass on what is unchanged: {verdict.verdict}")
        return dropped

    def _next(self) -> Place | None:
        with self._lock:
            if self._run.over or self.broken or not self._waiting:
                return None
            done = self._all - len(self._waiting)
            self._run.show(f"{done} of {self._all}, {len(self._tally.said)} survived")
            return self._waiting.pop()

    def go(self, tree: Tree, tests: Sequence[str]) -> None:
        """Take one after the other until there are none, or the time is over."""
        try:
            with Bench(tree, tests, self.patience) as bench:
                while place := self._next():
                    self._judge(bench, place)
        except Exception as error:
            self.broken.append(f"the harness itself: {error}")

    def _known(self, mutant: Mutant) -> bool:
        """Whether another operator has made the same change."""
        key = mutant.place.file, hash(mutant.text)
        with self._lock:
            known = key in self._made
            self._made.add(key)
        return known

    def _judge(self, bench: Bench, place: Place) -> None:
        mutant = self._sources[place.file].made(place)
        if mutant is None or self._known(mutant):
            self._tally.note(None, None)
            return
        if self._tally.known.reason(mutant):  # it would run every test, for nothing
            self._tally.note(mutant, Verdict("explained"))
            return
        key = (place.file, place.function)
        tests = self._map.tests(place)
        first = [t for t in self._killers.get(key, ()) if t in tests]
        ordered = [*first, *(t for t in tests if t not in first)]
        cold = not place.function or key in self._cold
        verdict = bench.run(mutant, ordered, self._map.seconds, cold=cold)
        if verdict.verdict == "killed" and verdict.test in tests:
            killers = [verdict.test, *(t for t in self._killers.get(key, []) if t != verdict.test)]
            self._killers[key] = killers[:6]
        self._tally.note(mutant, verdict)
