"""Fuzz the parsers that read bytes of strangers with atheris (pip install atheris), one process a target.

    scripts/fuzz                            every target, a minute each
    scripts/fuzz signature --seconds 600    one of them, for longer

Exits with 0 when nothing was found, 1 when something was (the input lies in the corpus folder), 69 without atheris.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "daemon", ROOT / "scripts"):
    sys.path.insert(0, str(folder))

UNAVAILABLE = 69  # EX_UNAVAILABLE
_INSIDE = "--inside"
"""Begins the command line of the process that fuzzes."""


def main() -> int:
    """Run the targets that were asked for."""
    if sys.argv[1:2] == [_INSIDE]:
        return _fuzz(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", choices=sorted(TARGETS), help="without one, all of them")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="for each target (60)")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="keep inputs here; without it they are thrown away")
    options = parser.parse_args()
    try:
        import atheris  # noqa: F401
    except ImportError:
        message = (
            f"atheris is not installed: {sys.executable} -m pip install atheris (it has wheels for some versions of "
            f"Python only; this is {sys.version_info.major}.{sys.version_info.minor}). tests/fuzz runs the same "
            "targets with Hypothesis"
        )
        print(message, file=sys.stderr)
        return UNAVAILABLE
    names = [options.target] if options.target else sorted(TARGETS)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = options.corpus or Path(scratch)
        return max(_supervise(name, options.seconds, corpus / name) for name in names)


def _supervise(name: str, seconds: int, corpus: Path) -> int:
    """One target in a process of its own: libFuzzer ends the process it runs in."""
    from tests.fuzz.targets import TARGETS

    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "good").write_bytes(TARGETS[name][1])
    command = [sys.executable, __file__, _INSIDE, name, str(seconds), str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    runs = re.findall(r"(?:Done (\d+) runs|stat::number_of_executed_units: (\d+))", done.stderr + done.stdout)
    count = next((a or b for a, b in runs), "?")
    print(f"{name:<10} {count:>9} executions in {seconds} s: {'nothing found' if not done.returncode else 'FOUND'}")
    if done.returncode:
        print(done.stderr[-4000:])
    return int(bool(done.returncode))


def _fuzz(name: str, seconds: str, corpus: Path) -> int:
    import atheris

    with atheris.instrument_imports(include=["idiolect.trust", "json"]):  # before anything else imports them
        from tests.fuzz.targets import feed

    artifacts = f"-artifact_prefix={corpus}/found-"
    limits = [f"-max_total_time={seconds}", "-max_len=16384", "-timeout=2", "-rss_limit_mb=1024", artifacts]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], lambda data: feed(name, data))
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
