"""The attack tests and the poisoning suite as one report, by the attackers of `docs/threat-model.md`.

Each section of that page names the tests that try its claims. They are run once, and counted for every section that
names them: an attempt is a test, a success of the attacker one that fails. Poisoning is measured, not tried once: the
share of attacks on an owner's utterances that took one away, with the bound that so many tries allow.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from torture.harness import ROOT

MODEL = ROOT / "docs" / "threat-model.md"
DATA = Path(os.environ.get("IDIOLECT_DATA", ROOT.parent / "shared" / "data"))
SLOW = (
    "tests/package/test_package.py",
    "tests/scripts/test_build_bundle.py",
    "tests/package/test_maintainer_scripts.py",
    "tests/page",
)
"""Of the supply chain, and browsers: in a full run only."""
PART = 4
"""One recording in so many is in the attacker's hands in a short run."""
_TEST = re.compile(r"`(tests/[\w/]+(?:\.py)?)`")


@dataclass
class Section:
    """One attacker: the tests that stand for him, and what stops him, as the page says."""

    tests: list[str] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)


def sections(page: str) -> dict[str, Section]:
    """The attackers of the page who have tests."""
    found: dict[str, Section] = {}
    name = ""
    for line in page.splitlines():
        if line.startswith("## "):
            name = line[3:].strip()
        tests = _TEST.findall(line)
        if name and tests:
            section = found.setdefault(name, Section())
            section.tests += [test for test in tests if test not in section.tests]
            if line.startswith("| ") and not line.startswith("| ---"):
                section.claims.append(line.split("|")[1].strip())
    return found


def run_tests(paths: Iterable[str], seconds: float) -> dict[str, dict[str, int]]:
    """pytest once over all of them: by file, how many passed, failed and were skipped."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={out}", *sorted(paths)]
        try:
            subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=seconds)
        except subprocess.TimeoutExpired:
            return {}
        return by_file(out.read_text()) if out.exists() else {}


def by_file(junit: str) -> dict[str, dict[str, int]]:
    """A report of pytest's by file of tests."""
    found: dict[str, dict[str, int]] = {}
    for case in ElementTree.fromstring(junit).iter("testcase"):  # noqa: S314 - our own pytest's
        parts = case.get("classname", "").split(".")
        while parts and not parts[-1].startswith("test_"):
            parts.pop()
        kinds = {child.tag for child in case}
        what = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        row = found.setdefault("/".join(parts) + ".py", {"passed": 0, "failed": 0, "skipped": 0})
        row[what] += 1
    return found


def chosen(every: Mapping[str, Section], *, full: bool) -> set[str]:
    """Which of them to run."""
    paths = {test for section in every.values() for test in section.tests}
    return {path for path in paths if (ROOT / path).exists() and (full or path not in SLOW)}


def report(every: Mapping[str, Section], ran: Mapping[str, Mapping[str, int]], paths: set[str]) -> dict[str, Any]:
    """By attacker: attempts, successes of his, what was left out."""
    rows: dict[str, Any] = {}
    for name, section in every.items():
        files = [file for file in ran if any(file == test or file.startswith(f"{test}/") for test in section.tests)]
        rows[name] = {
            "attempts": sum(ran[f]["passed"] + ran[f]["failed"] for f in files),
            "successes": sum(ran[f]["failed"] for f in files),
            "skipped": sum(ran[f]["skipped"] for f in files),
            "not_run": [test for test in section.tests if test not in paths],
            "claims": section.claims,
        }
    return rows


def run(*, full: bool, seconds: float) -> tuple[dict[str, Any], list[str]]:
    """Every attack test that the threat model names."""
    every = sections(MODEL.read_text())
    paths = chosen(every, full=full)
    ran = run_tests(paths, seconds)
    rows = report(every, ran, paths)
    found = [f"an attack test fails: {file} ({row['failed']})" for file, row in ran.items() if row["failed"]]
    if not ran:
        found.append("the attack tests did not end in time")
    found += [
        f"no attempt was made as: {name}" for name, row in rows.items() if not row["attempts"] and not row["not_run"]
    ]
    return {"by_attacker": rows, "tests": sum(sum(row.values()) for row in ran.values())}, found


# -- poisoning ---------------------------------------------------------------------------------------------------------


def upper_bound(successes: int, tries: int, confidence: float = 0.95) -> float:
    """One-sided bound on a share (Clopper and Pearson; for no success about 3 / tries)."""
    if not tries or successes >= tries:
        return 1.0
    low, high = successes / tries, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        at_most = math.fsum(math.comb(tries, k) * middle**k * (1 - middle) ** (tries - k) for k in range(successes + 1))
        low, high = (middle, high) if at_most > 1 - confidence else (low, middle)
    return high


def poisoning(*, owners: int | None) -> tuple[dict[str, Any], list[str]]:
    """The poisoning suite of `scripts/evaluate`, on so many owners; None: on all."""
    if not (DATA / "digits").is_dir():
        return {"skipped": "no recordings: set IDIOLECT_DATA to a folder of them"}, []
    from bundlebuild import corpus
    from evaluation import cli
    from evaluation.embed import Job, embed_all
    from evaluation.personal import people, poison
    from evaluation.personal import run as personal
    from idiolect.listening.recognizer import Recognizer, bundle_directory, read_bundle

    folder = bundle_directory("builtin")
    recognizer = Recognizer.from_bundle(read_bundle(folder))
    clips = corpus.recordings(DATA)
    persons = people.persons(clips)
    wanted = poison.tuning(sorted(persons))[1][: None if owners is None else owners]
    if owners is not None:  # the attacker has fewer recordings, and nobody trains for an hour
        clips = [clip for number, clip in enumerate(clips) if clip.speaker in wanted or number % PART == 0]
    job = Job({"int8": recognizer.bundle.encoder}, None, ROOT / ".cache" / "embeddings", persons)
    heard = list(embed_all(clips, job, 1))
    bench = personal.Bench(recognizer, heard, cli._trained_on(folder), ROOT / ".cache" / "models")
    bench.users = {name: own for name, own in bench.users.items() if name in wanted}
    bench.prepare(["poison"], 1)
    measured = [poison.measure(n, bench.users[n], bench.models[f"user {n}"], bench.clips) for n in bench.judged]
    if not measured:
        return {
            "skipped": "no owner of whom the shipped model has heard nothing, and too few clips to train another"
        }, []
    return judge(measured, poison.figures(measured))


def judge(measured: Sequence[Any], figures: Mapping[str, float | None]) -> tuple[dict[str, Any], list[str]]:
    """Attacks of ten corrections each; a success is one that cost the owner an utterance."""
    attacks = [attack for owner in measured for attack in owner.attacks]
    won = sum(attack.lost[10] > 0 for attack in attacks)
    bound = upper_bound(won, len(attacks))
    believed = sum(max(attack.believed.values(), default=0.0) > 0 for attack in attacks)
    kept = {key: round(value, 4) for key, value in figures.items() if value is not None}
    row = {
        "owners": len(measured), "attacks": len(attacks), "successes": won, "at_most_95": round(bound, 4),
        "control_successes_without_admission": believed, "figures": kept,
    }  # fmt: skip
    found = [f"poisoning: {won} of {len(attacks)} attacks cost the owner an utterance"] if won else []
    if attacks and not believed:
        found.append("control: the same corrections, believed, do no harm either: the attacks are none")
    return row, found
