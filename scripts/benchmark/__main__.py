"""`scripts/bench`: what the daemon costs, beside what others cost, on the same speech in the same run."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark import daemon, day, idle, latency, learn, machine, speech, train, trust
from benchmark.arguments import parse
from benchmark.listeners import OURS, PEERS, WAKE_WORD
from benchmark.report import budgets, table
from benchmark.rounds import Figures, Worker, WorkerError, ratio, run_rounds

ROOT = Path(__file__).parents[2]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
SPEECH_S = 60.0
AT_HOME = list(OURS)[1:]
IDLE_S = 30.0
STARTS = 3
"""Times that the daemon is started; memory is looked at in the first run, the start time is the median."""


def main() -> int:
    """Measure, print a table, write the JSON file; 0 unless something could not be measured."""
    options = parse()
    load_before = machine.load()
    try:
        with tempfile.TemporaryDirectory(prefix="idiolect-bench-") as folder:
            report = _measure(options, Path(folder))
    except (speech.NoSpeechError, WorkerError, daemon.DaemonError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    report["machine"] = {**machine.describe(), "load_before": load_before, "load_after": machine.load()}
    spreads = {name: part["cpu_spread"] for name, part in report.items() if "cpu_spread" in part}
    report["warnings"] = machine.warnings(load_before, spreads)
    report["budgets"] = budgets(report)
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    return 0


def _measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    spoken, origin = speech.continuous_speech(SPEECH_S, options.audio)
    talk, room, nothing = folder / "speech.wav", folder / "room.wav", folder / "zeros.wav"
    speech.write_wav(talk, spoken)
    speech.write_wav(room, speech.hiss(SPEECH_S, -70.0))
    speech.write_wav(nothing, speech.hiss(SPEECH_S, -200.0))
    talking, quiet = _cpu(options, talk, (room, nothing))
    ours = talking["idiolect"]
    report: dict[str, Any] = {name: _entry(figures) for name, figures in talking.items()}
    for name, key in zip(AT_HOME, ("adapters_cpu", "adapters_cpu_always"), strict=True):
        report.setdefault("learning", {})[key] = ratio(talking[name], ours)
    report["learning"] |= _learning_figures(options)
    report["idiolect"].pop("rss_mib")  # that of the worker; the daemon's own comes below
    report["idiolect"]["gate_open_share"] = latency.open_share(options.bundle, spoken)
    report["idiolect"]["silence_cpu_per_audio_s"] = max(figures.median for figures in quiet)
    report["idiolect"] |= _daemon_figures(options, folder, talk)
    report["idiolect"] |= _latency_figures(options)
    report["trust"] = _trust_figures(folder, talk)
    report["idle"] = _idle_figures(folder)
    report["train"] = _train_figures(options, folder) | {
        "wall_s": report["learning"].get("round_s"),
        "peak_mib": report["learning"].get("worker_mib"),
    }
    report["writes"] = _writes_figures(options)
    report["ratios"] = {name: ratio(ours, figures) for name, figures in talking.items() if name in PEERS}
    report["ratios"]["silence"] = report["idiolect"]["silence_cpu_per_audio_s"] / ours.median
    report["method"] = {
        "speech": origin,
        "speech_s": len(spoken) / speech.RATE,
        "repetitions": options.repetitions,
        "cpu": "process_time of a process of its own, one thread, blocks of 80 ms, median of interleaved rounds",
        "peer_wake_word": WAKE_WORD,
        "silence": "the worse of white noise at -70 dBFS and digital zeros",
    }
    return report


def _cpu(
    options: argparse.Namespace, talk: Path, silences: tuple[Path, ...]
) -> tuple[dict[str, Figures], list[Figures]]:
    with ExitStack() as stack:
        ours = stack.enter_context(Worker("idiolect", arguments=[options.bundle]))
        workers = [ours, *(stack.enter_context(Worker(name, arguments=[options.bundle])) for name in AT_HOME)]
        if options.peers:
            workers += [stack.enter_context(Worker(name, PEERS_PYTHON)) for name in PEERS]
        _say(f"CPU time on speech: {options.repetitions} rounds of {len(workers)}")
        talking = run_rounds(workers, {worker.name: talk for worker in workers}, options.repetitions)
        _say("CPU time on silence")
        quiet = [run_rounds([ours], {"idiolect": wav}, options.repetitions)["idiolect"] for wav in silences]
    return talking, quiet


def _entry(figures: Figures) -> dict[str, Any]:
    return {
        "cpu_per_audio_s": figures.median,
        "cpu_spread": figures.spread,
        "cpu_rounds": figures.costs,
        "rss_mib": figures.rss_mib,
        "version": figures.version,
    }


def _daemon_figures(options: argparse.Namespace, folder: Path, talk: Path) -> dict[str, Any]:
    _say(f"the daemon, {options.listen:.0f} s in real time")
    more = {"bundle": options.bundle}
    first = daemon.run(folder, talk, options.listen, more)
    starts = [first, *(daemon.run(folder, talk, 0.5, more) for _ in range(STARTS - 1))]
    return {
        "rss_mib": first.rss_mib,
        "pss_mib": first.pss_mib,
        "daemon_cpu_per_audio_s": first.cpu_per_audio_s,
        "start_ms": statistics.median(run.start_ms for run in starts),
        "stop_ms": max(run.stop_ms for run in starts),
    }


def _trust_figures(folder: Path, talk: Path) -> dict[str, Any]:
    home = folder / "trust"
    home.mkdir()
    with trust.board(home) as board:
        if board is None:
            _say("no swtpm here: nothing about trust is measured")
            return {}
        _say("trust: bundle, keys, rotation, on swtpm")
        figures = trust.measure(board, home)
        return figures | {"daemon_rss_mib": daemon.run(home, talk, 3.0, board.settings()).rss_mib}


def _learning_figures(options: argparse.Namespace) -> dict[str, Any]:
    _say(f"learning: rounds with {learn.EXAMPLES} examples")
    found = learn.measure(options.bundle)
    if found is None:
        return {}
    return {"round_s": found.round_s, "worker_mib": found.worker_mib, "adapter_bytes": found.adapter_bytes}


def _idle_figures(folder: Path) -> dict[str, Any]:
    _say(f"silence: {IDLE_S:.0f} s of it")
    home = folder / "idle"
    home.mkdir()
    found = idle.measure(home, IDLE_S)
    return {
        "wakeups_per_s": found.wakeups_per_s,
        "cpu_percent": found.cpu_percent,
        "switches_by_thread": found.by_thread,
    }


def _train_figures(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    _say(f"{train.DIGITS} digits in real time, twice: without a training round and during one (5 min)")
    found = train.measure(options.bundle, folder / "train")
    return {} if found is None else asdict(found)


def _writes_figures(options: argparse.Namespace) -> dict[str, Any]:
    _say("an accelerated day of fifty interactions, with the night after it")
    found = day.measure(options.bundle, options.disk)
    if found is None:
        return {}
    return {"bytes_per_day": found.bytes_per_day, "interactions": found.interactions, "jobs": found.jobs}


def _latency_figures(options: argparse.Namespace) -> dict[str, Any]:
    spoken = latency.utterances(options.data)
    _say(f"latency over {len(spoken)} utterances")
    found = latency.measure(options.bundle, spoken)
    return {
        "latency_ms_p50": found.p50,
        "latency_ms_p95": found.p95,
        "latency_utterances": found.utterances,
        "latency_heard": found.heard,
    }


def _say(step: str) -> None:
    print(f"bench: {step}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
