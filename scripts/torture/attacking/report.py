"""The adversary's summary as a page to read: by class of attack the attempts, the successes, and what stopped them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Lines = list[str]


def written(figures: Mapping[str, Any], found: Sequence[str], seed: int) -> str:
    """The page."""
    lines = ["# The adversary's report", "", f"Seed {seed}. Found: {len(found) or 'nothing'}.", ""]
    lines += [f"* {what}" for what in found] + ([""] if found else [])
    for name, part in figures.items():
        lines += [f"## {TITLES[name]}", ""]
        lines += [f"Left out: {part['skipped']}"] if "skipped" in part and len(part) == 1 else SHOWN[name](part)
        lines.append("")
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Lines:
    every = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |" for row in every]


def _attacks(part: Mapping[str, Any]) -> Lines:
    rows = [
        (name, row["attempts"], row["successes"], "; ".join(row["claims"]) or "see the page", ", ".join(row["not_run"]))
        for name, row in part["by_attacker"].items()
    ]
    return _table(["attacker", "attempts", "successes", "what was tried, and is stopped", "not run"], rows)


def _poison(part: Mapping[str, Any]) -> Lines:
    return [
        f"{part['attacks']} attacks of up to ten corrections on {part['owners']} owners: {part['successes']} successes,"
        f" so at most {part['at_most_95']:.2%} (95 %). The same corrections, had they been believed, would have cost "
        f"an utterance in {part['control_successes_without_admission']} cases: admission and gate stopped them."
    ]


def _timing(part: Mapping[str, Any]) -> Lines:
    rows = [
        (name, row["measurements"], row["t"], row["z"], row["effect_ns"], _differs(row))
        for name, row in part.items()
        if isinstance(row, Mapping)
    ]
    return _table(["refusal", "measurements", "t of both halves", "z", "effect, ns", "difference"], rows)


def _differs(row: Mapping[str, Any]) -> str:
    if not row["differs"]:
        return "none"
    return f"yes; {row['known_anyway']}" if "known_anyway" in row else "yes"


def _memory(part: Mapping[str, Any]) -> Lines:
    lines: Lines = []
    for kind, seen in part.items():
        if "skipped" in seen and len(seen) == 1:
            lines += [f"{kind}: left out, {seen['skipped']}"]
            continue
        rows = [(n, r["guarded"], r["locked"], r["loose"] or "none") for n, r in seen["keys"].items()]
        core = seen["core"]
        lines += [f"{kind}, vault open:", "", *_table(["key", "out of cores", "never swapped", "elsewhere"], rows), ""]
        gone = sum(bool(r["guarded"] or r["loose"]) for r in seen["destroyed"].values())
        lines += [
            f"* after withdrawal and erasure: {len(seen['destroyed'])} keys destroyed, {gone} of them found",
            f"* sound while it listens: {seen['sound']['seconds']} s, the oldest {seen['sound']['oldest_s']} s old; "
            f"after the microphone was released: {seen['released']['seconds']} s",
            f"* killed by a signal: {len(core['daemon']['cores'])} cores; a process of ours that dumps: "
            f"{core['control']['found']} keys found in its core",
            "",
        ]
    return lines


def _watch(part: Mapping[str, Any]) -> Lines:
    lines = [f"* steps: {', '.join(part['steps'])}", f"* bytes written or sent: {part['bytes_written']}"]
    lines += [f"* calls: {part['sockets']}", f"* opened for writing: {', '.join(sorted(part['opened_for_writing']))}"]
    lines += [f"* pieces of sound on the hand-off's socket, where they belong: {part['handed_over_pieces']}", ""]
    return lines + _table(["a daemon made to leak", "what was noticed"], list(part.get("controls", {}).items()))


def _stranger(part: Mapping[str, Any]) -> Lines:
    rows = []
    for name, both in part["strangers"].items():
        for how, seen in both.items():
            rows.append((f"{name}, sockets {'open to all' if how == 'wide' else 'as installed'}", seen["attempts"],
                         ", ".join(seen["worked"]) or "nothing", seen["refused"]))  # fmt: skip
    own = part["own user"]
    rows.append(("another process of the daemon's user", own["attempts"], ", ".join(own["worked"]), own["refused"]))
    return [*_table(["who", "attempts", "what worked", "refusals"], rows), "",
            f"To see for everybody: `{part['public']['cmdline']}`. Root, with the same probe: "
            f"{part['controls']['root']['worked']} of {part['controls']['root']['attempts']} worked."]  # fmt: skip


TITLES = {
    "attacks": "Attack tests", "poison": "Poisoning", "timing": "Timing of refusals", "memory": "Memory and cores",
    "watch": "A session under watch", "stranger": "Another local user",
}  # fmt: skip
SHOWN: Mapping[str, Callable[[Mapping[str, Any]], Lines]] = {
    "attacks": _attacks, "poison": _poison, "timing": _timing, "memory": _memory, "watch": _watch,
    "stranger": _stranger,
}  # fmt: skip
