"""Answers `/metrics`: the daemon's numbers go in, Prometheus's text format comes out, by way of prometheus-client.

No label has a value that somebody said or that names anybody: what is no number is one of a few words of ours, or the
bundle's name. prometheus-client is loaded at the first request: whoever has no Prometheus does not pay for it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from idiolect.control.api.measures import Measures, Spread
from idiolect.errors import RequestError

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.metrics_core import HistogramMetricFamily

    from idiolect.control.api.daemon import Daemon
    from idiolect.control.api.requests import Call, Reply

PACKAGE = "prometheus-client"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MICROPHONE = ("opening", "running", "absent", "busy", "stalled", "format", "failed", "ended", "paused")
CONFIGURATION = ("in-force", "refused", "fallback")
LISTENING = ("idle", "listening", "always", "paused")
LEARNING = ("off", "paused", "idle", "waiting", "running")
KEYS = (
    *("waiting", "released", "fallback", "absent", "busy", "lockout", "full", "readonly", "unprovisioned"),
    *("refused", "failed", "damaged", "foreign", "cleared", "older", "newer"),
)
ADAPTERS = ("shadow", "canary", "active", "superseded", "rolled-back")
ROUNDS = ("made", "refused", "failed", "preempted")
VERDICTS = ("passed", "1", "2", "3", "4", "5", "6", "7")
JOBS = ("expire", "rebuild", "selftest", "checkpoint")


async def show(daemon: Daemon, call: Call) -> Reply:
    """Answer GET /metrics. Raises ``RequestError`` 503 without prometheus-client."""
    from idiolect.control.api.requests import Reply, check_keys

    check_keys(call.query, ())
    library = await asyncio.to_thread(_library)
    return Reply(text(library, await daemon.measuring.measures()), CONTENT_TYPE)


def text(library: ModuleType, now: Measures) -> bytes:
    """Return the measures as Prometheus reads them."""
    registry = library.CollectorRegistry(auto_describe=False)
    registry.register(_Collector(library, now))
    written: bytes = library.generate_latest(registry)
    return written


def _library() -> ModuleType:
    """Load prometheus-client, which wants TLS for servers of its own that nobody starts here."""
    modules: dict[str, ModuleType | None] = dict(sys.modules)
    if modules.get("ssl", sys) is None:  # see __main__: asyncio has done without it by now
        del sys.modules["ssl"]
    try:
        import prometheus_client
    except ModuleNotFoundError:
        fix = f"install {PACKAGE} beside the daemon, in its environment: pip install {PACKAGE}"
        raise RequestError(503, "metrics", f"are not available: {fix}") from None
    return prometheus_client


class _Collector:
    """Builds the families, in the order in which a person would look at them."""

    def __init__(self, library: ModuleType, now: Measures) -> None:
        self._core: Any = library.metrics_core
        self._now = now

    def describe(self) -> Iterable[Metric]:
        """Return nothing: names are known when they are collected, and there is one collector."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all families, part by part."""
        yield from self._about()
        yield from self._heard()
        yield from self._sound()
        yield from self._kept()
        yield from self._machine()

    def _about(self) -> Iterator[Metric]:
        now = self._now
        name, version, signed = now.bundle
        yield self._info("idiolect_build", "The daemon.", {"version": now.version})
        labels = {"name": name, "version": str(version), "signed": str(signed).lower()}
        yield self._info("idiolect_bundle", "The bundle that is listened with.", labels)
        about = "Whether in force is what the files say: 1 for what holds."
        yield self._state("idiolect_configuration_state", about, now.configuration, CONFIGURATION)
        about = "Whether a turn is open: 1 for what holds."
        yield self._state("idiolect_listening_state", about, now.listening, LISTENING)
        yield self._gauge("idiolect_playback_active", "Whether the box says that it plays something.", now.playback)
        about = "Who is connected, by what to."
        yield self._gauges("idiolect_clients", about, "connection", now.clients)

    def _heard(self) -> Iterator[Metric]:
        now = self._now
        events = self._core.CounterMetricFamily(
            "idiolect_events", "Events by kind, and by whose phrase it was: the bundle's or taught.",
            labels=["kind", "class"],
        )  # fmt: skip
        for (kind, own), count in sorted(now.events.items()):
            events.add_metric([kind, own], count)
        yield events
        about = "From the end of what was said until the event was out; rejected ones wait for a pause of 0.56 s."
        latency = self._core.HistogramMetricFamily("idiolect_event_latency_seconds", about, labels=["kind"])
        for kind, spread in sorted(now.latency.items()):
            _add(latency, [kind], spread)
        yield latency
        about = "What recognition took of each block of 0.08 s."
        processing = self._core.HistogramMetricFamily("idiolect_block_processing_seconds", about, labels=[])
        _add(processing, [], now.processing)
        yield processing

    def _sound(self) -> Iterator[Metric]:
        now = self._now
        about = "How capture is doing: 1 for what holds."
        yield self._state("idiolect_microphone_state", about, now.microphone, MICROPHONE)
        yield self._counter("idiolect_microphone_overruns", "Times that sound was lost in the device.", now.overruns)
        yield self._counter("idiolect_microphone_reopened", "Times that capture came back after a fault.", now.reopened)
        about = "Blocks of 0.08 s that were dropped because recognition was too slow."
        yield self._counter("idiolect_dropped_blocks", about, now.dropped_blocks)
        yield self._gauge("idiolect_queue_blocks", "Blocks that wait for recognition, of 25 at most.", now.queue_blocks)

    def _kept(self) -> Iterator[Metric]:
        now = self._now
        yield self._state("idiolect_keys_state", "Where the keys are: 1 for what holds.", now.keys, KEYS)
        yield self._gauge("idiolect_keys_hardware_protected", "Whether hardware keeps the keys.", now.protected)
        yield self._state("idiolect_learning_state", "What learning does: 1 for what holds.", now.learning, LEARNING)
        about = "Pieces of work done in idle windows."
        yield self._counters("idiolect_idle_jobs", about, "kind", now.jobs, JOBS)
        learnt = now.learnt
        if learnt is None:  # no keys: nobody knows, and 0 would be a lie
            return
        yield self._gauge("idiolect_profiles", "People who are known.", learnt.profiles)
        about = "Versions of adapters that are kept, by state."
        yield self._gauges("idiolect_adapters", about, "state", learnt.adapters, ADAPTERS)
        yield self._gauge("idiolect_adapter_version_max", "The highest version in use, of anybody.", learnt.newest)
        about = "What the gate said of candidates: passed, or the number of the first check that failed."
        yield self._counters("idiolect_gate_verdicts", about, "verdict", learnt.verdicts, VERDICTS)
        about = "Rounds of learning, by what came of them."
        yield self._counters("idiolect_learning_rounds", about, "outcome", learnt.rounds, ROUNDS)
        about = "Steps of adapters in their rollout, by the state that they came to."
        yield self._counters("idiolect_adapter_moves", about, "state", learnt.moves, ADAPTERS)
        if learnt.checkpoint is not None:
            about = "When the audit log was last checked as a whole."
            yield self._gauge("idiolect_last_checkpoint_timestamp_seconds", about, learnt.checkpoint)

    def _machine(self) -> Iterator[Metric]:
        now, process = self._now, self._now.process
        yield self._counter("process_cpu_seconds", "CPU time of the daemon.", process.cpu_s)
        yield self._gauge("process_resident_memory_bytes", "Memory of the daemon.", process.resident)
        yield self._gauge("process_open_fds", "Open files and sockets.", process.files)
        yield self._gauge("process_start_time_seconds", "When the daemon was started.", process.started)
        about = "CPU time of training workers that have ended."
        yield self._counter("idiolect_worker_cpu_seconds", about, process.worker_cpu_s)
        if now.celsius is not None:
            yield self._gauge("idiolect_temperature_celsius", "The hottest thermal zone.", now.celsius)
        about = "Whether the machine is slowed down for heat, voltage or current."
        yield self._gauge("idiolect_throttled", about, now.throttled)

    # -- families ------------------------------------------------------------------------------------------------

    def _info(self, name: str, about: str, labels: dict[str, str]) -> Metric:
        family: Metric = self._core.InfoMetricFamily(name, about, value=labels)
        return family

    def _gauge(self, name: str, about: str, value: float) -> Metric:
        family: Metric = self._core.GaugeMetricFamily(name, about, value=float(value))
        return family

    def _counter(self, name: str, about: str, value: float) -> Metric:
        family: Metric = self._core.CounterMetricFamily(name, about, value=value)
        return family

    def _counters(self, name: str, about: str, label: str, values: Mapping[str, int], known: tuple[str, ...]) -> Metric:
        return self._filled(self._core.CounterMetricFamily(name, about, labels=[label]), values, known)

    def _gauges(
        self, name: str, about: str, label: str, values: Mapping[str, int], known: tuple[str, ...] = ()
    ) -> Metric:
        return self._filled(self._core.GaugeMetricFamily(name, about, labels=[label]), values, known)

    @staticmethod
    def _filled(family: Any, values: Mapping[str, int], known: tuple[str, ...]) -> Metric:
        """Add a value for each word; what is ``known`` is there from the beginning, as 0: so growth can be seen."""
        for word, count in {**dict.fromkeys(known, 0), **values}.items():
            family.add_metric([word], count)
        found: Metric = family
        return found

    def _state(self, name: str, about: str, state: str, states: tuple[str, ...]) -> Metric:
        """Add 1 for the state that holds and 0 for the others; one that is new is told, too."""
        return self._gauges(name, about, "state", {state: 1}, states)


def _add(family: HistogramMetricFamily, labels: list[str], spread: Spread) -> None:
    """Add one histogram: counts up to each bound."""
    so_far, buckets = 0, []
    for bound, count in zip((*map(str, spread.bounds), "+Inf"), spread.counts, strict=True):
        so_far += count
        buckets.append((bound, so_far))
    family.add_metric(labels, buckets, spread.total)
