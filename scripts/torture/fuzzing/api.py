"""A whole daemon's API in a process of its own: what ``fuzz.py`` starts for its parts ``api`` and ``any-order``.

    api.py api|any-order REQUESTS SEED FOLDER

It writes into the folder what ``inside.py`` does for a target.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
for _part in (ROOT, ROOT / "scripts", ROOT / "daemon"):
    sys.path.insert(0, str(_part))

from torture.fuzzing.inside import At, die_with_parent  # noqa: E402

CAPS_MIB = {"api": 96, "any-order": 320}
"""What a process with a daemon that is asked all this may take beyond what it had; a person's own copy of 16 MiB is in
it. The second keeps in mind whatever it has tried: of 20 MiB that it grew by, 0.3 were of the daemon (tracemalloc)."""
COVERAGE_CASES = 950
"""Requests that schemathesis makes of every description, before it makes up any."""
OPERATIONS = 41
STORY = 50
"""Requests of one story, about."""
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance"
)
_GENERATED = re.compile(r"(\d+) generated")


def made_up(  # noqa: PLR0917 - in the order in which it needs them
    home: Any, wanted: int, seed: int, folder: Path, counted: Callable[[], None], found: Callable[[str, str], None],
    *, which: Sequence[str] = ("--exclude-path", "/v1/events"),
) -> int:  # fmt: skip
    """Rounds of schemathesis (examples, coverage, fuzzing; sound and broken ones) until there were enough requests.

    Of all operations but the stream of events, which never ends, or those that ``which`` names.
    """
    from tests.support.proxies import Proxy

    joined: set[object] = set()

    class Counted(Proxy):
        async def _join(self, *streams: object) -> None:
            counted()
            joined.add(here := asyncio.current_task())  # nobody else holds it: the collector would end it in the middle
            try:
                await super()._join(*streams)  # type: ignore[arg-type]
            finally:
                joined.discard(here)

    done = 0
    while done < wanted:
        for name in ("ann", "eve"):
            with suppress(Exception):  # whatever the last round left of them
                home.client.resume_learning()
                home.agree(name, "enrol", "adapt_corrections", "adapt_confirmations")
                home.teach(name)
        with Counted(home.socket) as proxy:
            examples = max(1, min(100, (wanted - done - COVERAGE_CASES) // OPERATIONS))
            command = [
                *(sys.executable, "-m", "schemathesis.cli", "run", str(ROOT / "daemon/idiolect/control/openapi.yaml")),
                *("--url", f"http://127.0.0.1:{proxy.port}", "--phases", "examples,coverage,fuzzing", "--mode", "all"),
                *("--max-examples", str(examples), *which, "--checks", CHECKS),
                *("--seed", str((seed + done) % 2**31), "--generation-database", "none"),
                *("--suppress-health-check", "all"),
                *("--request-timeout", "60", "--continue-on-failure", "--no-color"),
            ]  # fmt: skip
            ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        generated = _GENERATED.search(ran.stdout)
        done += int(generated[1]) if generated else 0
        if ran.returncode or not generated:
            failures = ran.stdout.partition("FAILURES")[2] or ran.stdout + ran.stderr
            found(f"schemathesis ended with {ran.returncode}", failures[:3000])
            break
        if home.client.status()["version"] is None:
            found("no version", "")
    return done


def any_order(home: Any, overheard: Any, wanted: int, seed: int, counted: Callable[[], None]) -> None:
    """Stories until there were enough requests."""
    from hypothesis import core

    from tests.fuzz import anyorder

    done = 0

    def one() -> None:
        nonlocal done
        done += 1
        counted()

    while done < wanted:
        core.global_force_seed = seed + done
        anyorder.play(home, overheard, max(1, min(200, (wanted - done) // STORY)), one)


def main() -> int:
    """Run one part."""
    die_with_parent()
    what, requests, seed, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    from tests.fuzz import anyorder
    from tests.support.whole import whole

    at, count, lines = At(folder / "at"), 0, []

    def counted() -> None:
        nonlocal count
        count += 1
        at.note(count, b"")

    def found(where: str, detail: str, kind: str = "crash") -> None:
        lines.append(json.dumps({"kind": kind, "where": where, "data": "", "detail": detail}))

    people = {} if what == "api" else {"people": anyorder.PEOPLE}
    (folder / "home").mkdir()
    private = () if what == "api" else anyorder.PRIVATE
    with anyorder.Overheard(private) as overheard, whole(folder / "home", **people) as home:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            if what == "api":
                made_up(home, requests, seed, folder, counted, found)
            else:
                any_order(home, overheard, requests, seed, counted)
        except BaseException as error:
            found(type(error).__name__, "".join(traceback.format_exception(error))[-3000:])
        for fault in dict.fromkeys(overheard.faults):
            found(fault, "", "log")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > CAPS_MIB[what]:
        found(f"more than {CAPS_MIB[what]} MiB", f"{grown:.0f} MiB", "memory")
    if lines:
        (folder / "found.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "result.json").write_text(json.dumps({"executions": count, "peak_mib": round(grown, 1)}))
    return 0


if __name__ == "__main__":
    main()
    os._exit(0)
