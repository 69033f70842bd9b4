"""The figures for people: what is promised, whether it was reached, and a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# what, limit, aim, unit; a figure meets its budget when it is at most the limit
BUDGETS: tuple[tuple[str, float, float, str], ...] = (
    ("ratios.pymicro-wakeword", 0.8, 0.5, "x"),
    ("ratios.openwakeword", 1 / 9, 1 / 14, "x"),
    ("ratios.silence", 0.1, 0.1, "x"),
    ("idiolect.rss_mib", 80.0, 64.0, "MiB"),
    ("idiolect.latency_ms_p95", 250.0, 250.0, "ms"),
    ("idiolect.start_ms", 1500.0, 1500.0, "ms"),
    ("learning.adapters_cpu", 1.05, 1.02, "x"),
    ("idle.wakeups_per_s", 15.0, 10.0, "/s"),
    ("train.wall_s", 1.0, 1.0, "s"),
    ("train.peak_mib", 64.0, 64.0, "MiB"),
    ("train.listen_latency_ratio", 1.2, 1.1, "x"),
    ("train.listen_latency_added_ms", 20.0, 10.0, "ms"),
    ("train.preempt_ms", 100.0, 100.0, "ms"),
    ("writes.bytes_per_day", 4194304.0, 2097152.0, "B"),
    ("learning.adapter_bytes", 16384.0, 16384.0, "B"),
    ("trust.daemon_rss_mib", 80.0, 64.0, "MiB"),
    ("trust.verify_ms", 20.0, 20.0, "ms"),
    ("trust.keys_ms", 100.0, 100.0, "ms"),
    ("trust.rotation_ms", 50.0, 50.0, "ms"),
    ("trust.nv_writes_per_day_abused", 24.0, 24.0, ""),
)

MAY_BE_NONE = ("train.listen_latency_ratio",)
"""Figures that are nothing to judge where they are None."""


def budgets(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every budget whose figure was measured: value, limit, aim and whether it is met."""
    found = {}
    for name, limit, aim, unit in BUDGETS:
        part, key = name.split(".", 1)
        measured = report.get(part, {})
        if key in measured and not (name in MAY_BE_NONE and measured[key] is None):
            value = measured[key]
            found[name] = {
                "value": value,
                "limit": limit,
                "aim": aim,
                "unit": unit,
                "met": value is not None and value <= limit,
            }
    return found


def table(report: dict[str, Any]) -> str:
    """Figures and budgets as text, at most 100 columns wide."""
    parts = [_libraries(report), _ours(report["idiolect"]), _idle(report), _budgets(report)]
    return "\n".join([line for part in parts for line in (*part, "")] + list(_warnings(report)))


def _libraries(report: dict[str, Any]) -> Iterator[str]:
    yield f"{'library':18}{'CPU s / s of speech':>20}{'ours / theirs':>15}{'spread':>9}{'MiB':>8}  version"
    for name, part in report.items():
        if isinstance(part, dict) and "cpu_per_audio_s" in part:
            ratio = report["ratios"].get(name)
            yield (
                f"{name:18}{part['cpu_per_audio_s']:20.5f}{'' if ratio is None else f'{ratio:.3f}':>15}"
                f"{part['cpu_spread']:>9.0%}{part['rss_mib']:8.1f}  {part['version']}"
            )


def _ours(ours: dict[str, Any]) -> Iterator[str]:
    yield f"silence {ours['silence_cpu_per_audio_s']:.6f} CPU s / s"
    yield f"gate open for {ours['gate_open_share']:.1%} of the speech"
    yield f"whole daemon in real time {ours['daemon_cpu_per_audio_s']:.4f} CPU s / s; Pss {ours['pss_mib']:.1f} MiB"
    yield f"first block after {ours['start_ms']:.0f} ms, stopped after {ours['stop_ms']:.0f} ms"
    middle, late = _number(ours["latency_ms_p50"], 0), _number(ours["latency_ms_p95"], 0)
    heard = f"{ours['latency_heard']} of {ours['latency_utterances']} digits heard"
    yield f"phrase end to event: p50 {middle} ms, p95 {late} ms, {heard}"


def _idle(report: dict[str, Any]) -> Iterator[str]:
    silence, train, writes = report["idle"], report["train"], report["writes"]
    yield f"in silence {silence['wakeups_per_s']:.1f} context switches/s, {silence['cpu_percent']:.2f} % of a core"
    if "counted" in train:
        with_it, without = train["listen_latency_p95_ms"], train["listen_latency_p95_ms_without"]
        yield (
            f"phrase end to event at a client: p95 {_number(with_it, 0)} ms during a round, {_number(without, 0)} ms"
            f" without, over {train['counted']} digits; a round gives way within {_number(train['preempt_ms'], 0)} ms"
        )
    if writes:
        yield f"written in a day of {writes['interactions']} interactions: {writes['bytes_per_day'] / 2**20:.2f} MiB"


def _budgets(report: dict[str, Any]) -> Iterator[str]:
    for name, budget in report["budgets"].items():
        mark = "met" if budget["met"] else "MISSED"
        limits = f"limit {budget['limit']:.3f}, aim {budget['aim']:.3f} {budget['unit']}"
        yield f"{mark:7} {name:28}{_number(budget['value'], 3):>10}  {limits}"


def _number(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def _warnings(report: dict[str, Any]) -> Iterator[str]:
    yield from (f"warning: {text}" for text in report["warnings"])
