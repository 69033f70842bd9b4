"""One target in a process of its own: what ``fuzz.py`` starts, and what the two say to each other through a folder.

    inside.py TARGET EXECUTIONS SEED FOLDER atheris|plain

In the folder: ``at`` (how many executions, and the input of the one in course: it outlives any death), ``found.jsonl``
and ``result.json``.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
for _part in (ROOT, ROOT / "scripts", ROOT / "daemon"):
    sys.path.insert(0, str(_part))

LONGEST = 8192
_HEAD = struct.Struct("<QI")
AT_BYTES = _HEAD.size + LONGEST
INSTRUMENTED = ["idiolect", "json", "h11", "wyoming", "jeepney", "yaml", "http.client", "wave"]
ADDRESSES = 4 << 30
"""Bytes of address space beyond what is in use at the start: a backstop, so that the machine survives a finding."""
MOST_FOUND = 5
"""Different findings after which a target's run ends."""


class At:
    """Where the run is, in shared memory."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(AT_BYTES)
            self._map = mmap.mmap(file.fileno(), AT_BYTES)

    def note(self, count: int, data: bytes) -> None:
        """``data`` is what comes as the ``count``-th."""
        part = data[:LONGEST]
        self._map[: _HEAD.size + len(part)] = _HEAD.pack(count, len(part)) + part

    def read(self) -> tuple[int, bytes]:
        """Number and input of the execution that was begun last."""
        count, size = _HEAD.unpack_from(self._map)
        return count, bytes(self._map[_HEAD.size : _HEAD.size + size])


class Inside:
    """The run."""

    def __init__(self, name: str, executions: int, folder: Path) -> None:
        from tests.fuzz.engine import Watch
        from tests.fuzz.targets import TARGETS

        self.target = TARGETS[name]
        self.watch = Watch(self.target)
        self._executions, self._folder = executions, folder
        self._at = At(folder / "at")
        self._seen: set[str] = set()

    def one(self, data: bytes) -> None:
        """Feed one input, and write down what came of it."""
        self._at.note(self.watch.executions + 1, data)
        found = self.watch.feed(data)
        if found is not None and f"{found.kind} {found.where}" not in self._seen:
            self._seen.add(f"{found.kind} {found.where}")
            with (self._folder / "found.jsonl").open("a") as file:
                line = {"kind": found.kind, "where": found.where, "data": found.data.hex(), "detail": found.detail}
                file.write(json.dumps(line) + "\n")
        if self.watch.executions % 1000 == 0 or self.watch.executions >= self._executions:
            self.note()
        if len(self._seen) >= MOST_FOUND or (found and found.kind == "hang"):  # an event loop may be broken now
            self.note()
            os._exit(0)

    def note(self) -> None:
        """Write down how far it came."""
        result = {"executions": self.watch.executions, "peak_mib": round(self.watch.peak_mib, 1)}
        (self._folder / "result.json").write_text(json.dumps(result))


def limit() -> None:
    """No core, and an end to memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES, used + ADDRESSES))


def die_with_parent() -> None:
    """Nothing of a run is left when it is killed: prctl(2), PR_SET_PDEATHSIG."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


def plain(name: str, executions: int, seed: int, folder: Path) -> None:
    """Mutation at random."""
    from tests.fuzz.mutate import Mutator

    inside = Inside(name, executions, folder)
    with inside.watch as watch:
        limit()
        goods = inside.target.goods()
        for good in goods[:executions]:
            inside.one(good)
        inputs = Mutator(goods, inside.target.tokens, seed)
        while watch.executions < executions:
            inside.one(inputs.next())
    inside.note()


def guided(name: str, executions: int, seed: int, folder: Path) -> None:
    """atheris, that is libFuzzer: guided by what was reached. It ends the process itself."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):  # what is imported late, by the first good input, too
        inside = Inside(name, executions, folder)
        inside.watch.__enter__()
    from tests.fuzz.mutate import PIECES

    corpus = folder / "corpus"
    corpus.mkdir()
    for number, good in enumerate(inside.target.goods()):
        (corpus / f"good-{number:03}").write_bytes(good)
    words = folder / "words"
    tokens = [each for each in (*PIECES, *inside.target.tokens) if 0 < len(each) <= 60]
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in each) + '"\n' for each in tokens))
    limits = [f"-runs={executions}", f"-max_len={LONGEST}", f"-seed={seed % 2**31 or 1}", f"-dict={words}"]
    limits += ["-timeout=120", "-rss_limit_mb=0", f"-artifact_prefix={folder}/artifact-"]
    limit()
    atheris.Setup([sys.argv[0], *limits, str(corpus)], inside.one)
    atheris.Fuzz()


def main() -> int:
    """Run it."""
    die_with_parent()
    name, executions, seed, folder, how = sys.argv[1:]
    (guided if how == "atheris" else plain)(name, int(executions), int(seed), Path(folder))
    return 0


if __name__ == "__main__":
    main()
    os._exit(0)  # threads of a target may be at work still
