"""/metrics: what Prometheus reads, that nothing said and nobody is in there, and what alerts and boards make of it."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from idiolect.config.schema import parse
from idiolect.control.api import metrics
from idiolect.learning import gate, rollout
from idiolect.learning.worker import process as worker
from idiolect.listening.audio.capture import BlockQueue
from idiolect.listening.audio.microphone import MicrophoneError
from idiolect.people.versions import rollback
from idiolect.service.connections import Connections
from idiolect.service.metrics import Measuring, Moment
from idiolect.values import MicrophoneHealth
from tests.support import speech
from tests.support.alsa import require_wavmic
from tests.support.fake_daemon import FakeDaemon
from tests.support.homes import Home, story
from tests.whole.test_people import PHRASE, take
from tests.whole.test_people import Home as Living

parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")

MONITORING = Path(__file__).parents[3] / "docs" / "monitoring"
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (package prometheus) is missing")


def get(path: Path, target: str = "/metrics") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body, over a Unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(path))
        connection = http.client.HTTPConnection("localhost")
        connection.sock = sock
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()


def scrape(path: Path) -> dict[str, float]:
    """Every sample by its name and labels, as Prometheus writes them."""
    status, _, body = get(path)
    assert status == 200, body
    found = {}
    for family in parser.text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def promtool(*arguments: str, given: bytes = b"") -> str:
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, check=False, timeout=60)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


# -- what is read -----------------------------------------------------------------------------------------------------


def test_what_was_measured_is_what_is_read(run):
    status, headers, _ = get(run.path)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    now = scrape(run.path)
    expected = {
        'idiolect_bundle_info{name="default",signed="false",version="3"}': 1,
        'idiolect_events_total{class="base",kind="phrase"}': 1,
        'idiolect_events_total{class="taught",kind="phrase"}': 0,
        'idiolect_event_latency_seconds_bucket{kind="phrase",le="0.1"}': 0,
        'idiolect_event_latency_seconds_bucket{kind="phrase",le="0.15"}': 1,
        'idiolect_event_latency_seconds_bucket{kind="phrase",le="+Inf"}': 1,
        'idiolect_event_latency_seconds_sum{kind="phrase"}': 0.12,
        'idiolect_microphone_state{state="running"}': 1,
        'idiolect_microphone_state{state="absent"}': 0,
        "idiolect_microphone_overruns_total": 2,
        "idiolect_queue_blocks": 1,
        'idiolect_keys_state{state="released"}': 1,
        "idiolect_keys_hardware_protected": 0,
        "idiolect_profiles": 2,
        'idiolect_adapters{state="active"}': 2,
        "idiolect_adapter_version_max": 3,
        'idiolect_gate_verdicts_total{verdict="2"}': 1,
        'idiolect_learning_rounds_total{outcome="made"}': 3,
        "idiolect_last_checkpoint_timestamp_seconds": 1_700_000_000,
        "idiolect_temperature_celsius": 48.5,
        "process_cpu_seconds_total": 12.5,
        "process_resident_memory_bytes": 60 << 20,
        'idiolect_clients{connection="events"}': 1,
    }
    assert {name: now.get(name) for name in expected} == expected


def test_of_several_states_one_holds(run):
    now = scrape(run.path)
    for name in ("microphone", "listening", "learning", "keys"):
        values = [value for key, value in now.items() if key.startswith(f"idiolect_{name}_state{{")]
        assert sorted(values)[-2:] == [0, 1], name


@needs_promtool
def test_prometheus_own_linter_finds_nothing(run):
    assert promtool("check", "metrics", given=get(run.path)[2]) == ""


def test_without_the_library_it_says_which(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    status, _, body = get(run.path)
    assert status == 503
    assert "pip install prometheus-client" in json.loads(body)["error"]["message"]


def test_nothing_can_be_asked_for(run):
    assert get(run.path, "/metrics?name=x")[0] == 422


def test_a_socket_of_its_own_has_only_that(tmp_path):
    config = parse(f"schema: 2\nmetrics: {{enabled: true, socket: {tmp_path}/m.sock}}\n", "test")

    async def serve() -> list[int]:
        connections = Connections(FakeDaemon(), config, SimpleNamespace(tap=None))
        await connections.start()
        try:
            targets = ("/metrics", "/v1/status", "/v1/events")
            return [(await asyncio.to_thread(get, tmp_path / "m.sock", target))[0] for target in targets]
        finally:
            await connections.stop()

    assert asyncio.run(serve()) == [200, 404, 404]


def test_off_means_no_socket(tmp_path):
    config = parse(f"schema: 2\nmetrics: {{socket: {tmp_path}/m.sock}}\n", "test")

    async def serve() -> bool:
        connections = Connections(FakeDaemon(), config, SimpleNamespace(tap=None))
        await connections.start()
        await connections.stop()
        return (tmp_path / "m.sock").exists()

    assert asyncio.run(serve()) is False


# -- words ------------------------------------------------------------------------------------------------------------


def test_every_state_that_there_is_has_a_series():
    kinds = [MicrophoneError, *MicrophoneError.__subclasses__()]
    assert {kind.state for kind in kinds} | {"opening", "running", "paused"} <= set(metrics.MICROPHONE)
    assert tuple(state.value for state in rollout.State) == metrics.ADAPTERS
    assert [*metrics.VERDICTS[1:]] == [str(number) for number in sorted(gate.CHECKS)]


# -- the daemon's own -------------------------------------------------------------------------------------------------


def measuring(home: Home) -> Measuring:
    def now() -> Moment:
        custody = home.keys.custody
        return Moment(custody._model, "in-force", home.keys.view, MicrophoneHealth("running"), "idle", home.board.root)

    return Measuring(
        home.inference, BlockQueue(2), personal=home.personal, windows=home.windows, custody=home.keys.custody, now=now
    )


@story
async def test_what_is_learnt_is_counted(folder, monkeypatch):
    async with Home(folder) as home:
        it = measuring(home)
        before = (await it.measures()).learnt
        assert (before.profiles, before.rounds, before.checkpoint) == (0, {"preempted": 0}, None)
        ann = await home.agree()
        await home.teach(ann)
        for number in range(2):
            await home.correct(ann, number=number)
        await home.do(lambda learner: rollback(learner, ann))
        await home.do(lambda _: home.keys.custody.checkpoint())
        after = (await it.measures()).learnt
        assert (after.profiles, after.newest) == (1, 0)
        assert after.adapters == {"rolled-back": 1}
        assert after.verdicts == {"passed": 1}
        assert after.rounds == {"made": 1, "preempted": 0}
        assert after.moves == {"canary": 1, "rolled-back": 1}
        assert after.checkpoint == int(home.wall)
        late = (await measuring(home).measures()).learnt  # who asks for the first time only now sees the same
        assert late == after


@story
async def test_a_round_that_fails_is_counted(folder, monkeypatch):
    broken = worker.Worker(command=[sys.executable, "-c", "raise SystemExit(3)"])
    async with Home(folder, worker=broken) as home:
        ann = await home.agree()
        with pytest.raises(Exception, match="worker"):
            await home.teach(ann)
        assert (await measuring(home).measures()).learnt.rounds["failed"] == 1


@story
async def test_nobody_waits_for_a_busy_keys_thread(folder, monkeypatch):
    async with Home(folder) as home:
        it = measuring(home)
        await home.agree()
        known = (await it.measures()).learnt
        free = threading.Event()
        sleeping = asyncio.ensure_future(home.do(lambda _: free.wait(60)))
        await asyncio.sleep(0.05)
        asked = [(await it.measures()).learnt for _ in range(3)]
        assert not sleeping.done()
        assert asked == [known] * 3
        assert home.keys._thread._calls.qsize() <= 1
        free.set()
        await sleeping


@story
async def test_a_clock_that_ticks_does_not_make_it_start_anew(folder, monkeypatch):
    async with Home(folder) as home:
        it = measuring(home)
        assert len({(await it.measures()).process.started for _ in range(5)}) == 1


# -- the whole daemon -------------------------------------------------------------------------------------------------


@pytest.fixture
def living(tmp_path, sounds):
    require_wavmic()
    home = Living(tmp_path)
    more = f"metrics: {{enabled: true, socket: {tmp_path}/metrics.sock}}\n"
    home.config.write_text(home.config.read_text() + more)
    yield home.begin()
    home.stop()


@pytest.mark.pace
def test_people_teach_and_speak_and_nothing_of_it_shows(living):
    own, control = living.folder / "metrics.sock", living.folder / "control.sock"
    first = scrape(own)
    living.agree("enrol", "adapt_corrections", "usage")
    state, seen = living.teach([take(0.92), take(1.0, 0.6), take(1.1)])
    assert state["state"] == "done", seen
    assert [e["phrase"] for e in living.say(take(1.05, 0.8))] == [PHRASE]
    (event,) = living.say(speech.digit(7))
    assert event["phrase"] == "seven"
    second = scrape(control)

    assert second['idiolect_events_total{class="taught",kind="phrase"}'] >= 1
    assert second['idiolect_events_total{class="base",kind="phrase"}'] >= 1
    heard = sum(value for name, value in second.items() if name.startswith("idiolect_event_latency_seconds_count"))
    assert heard == sum(value for name, value in second.items() if name.startswith("idiolect_events_total"))
    assert 0 < second['idiolect_event_latency_seconds_sum{kind="phrase"}'] < 2 * heard
    assert second["idiolect_block_processing_seconds_count"] > first["idiolect_block_processing_seconds_count"]
    assert (second["idiolect_profiles"], second["idiolect_adapter_version_max"]) == (1, 1)
    assert second['idiolect_learning_rounds_total{outcome="made"}'] == 1
    assert second['idiolect_listening_state{state="always"}'] == 1
    assert second["process_cpu_seconds_total"] > 0.1
    assert abs(second["process_start_time_seconds"] - time.time()) < 1200
    assert second["idiolect_worker_cpu_seconds_total"] > 0

    growing = ("_total", "_count", "_sum")
    for name, value in first.items():
        bare = name.partition("{")[0]
        if bare.endswith((*growing, "_bucket")):
            assert second[name] >= value, name

    for body in (get(own)[2].decode(), get(control)[2].decode()):
        profile = state["result"]["profile"]
        for secret in (PHRASE, "disturb", "ann", "seven", "stop", profile, profile[:6], str(living.folder)):
            assert not re.search(rf"(?<![a-z_]){re.escape(secret)}(?![a-z_])", body), secret
        words = {
            value for family in parser.text_string_to_metric_families(body) for sample in family.samples
            for name, value in sample.labels.items() if name not in ("le", "version", "name")
        }  # fmt: skip
        known = {
            *metrics.CONFIGURATION, *metrics.MICROPHONE, *metrics.LISTENING, *metrics.LEARNING, *metrics.KEYS,
            *metrics.ADAPTERS, *metrics.ROUNDS, *metrics.VERDICTS, *metrics.JOBS, "wake", "phrase", "rejected", "base",
            "taught", "none", "events", "true", "false",
        }  # fmt: skip
        assert words <= known
    if shutil.which("promtool"):
        assert promtool("check", "metrics", given=get(own)[2]) == ""


# -- what is made of it -----------------------------------------------------------------------------------------------

NAME = re.compile(r"\b(?:idiolect|process)_[a-z_]+\b")


def exported(path: Path) -> set[str]:
    return {name.partition("{")[0] for name in scrape(path)}


def expressions() -> list[str]:
    board = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(shown) > 20
    rules = (MONITORING / "alerts.yml").read_text()
    assert rules.count("alert:") > 10
    return [*shown, *re.findall(r"expr: ((?:.|\n)+?)\n +(?:for|labels):", rules)]


def test_boards_and_alerts_look_at_what_there_is(run):
    there = exported(run.path)
    for expression in expressions():
        assert (names := set(NAME.findall(expression))) or "up{" in expression, expression
        assert names <= there, expression


def test_boards_and_alerts_look_for_states_that_there_are():
    known = {
        "microphone": metrics.MICROPHONE, "listening": metrics.LISTENING, "learning": metrics.LEARNING,
        "keys": metrics.KEYS,
    }  # fmt: skip
    for expression in expressions():
        for name, words in re.findall(r'idiolect_([a-z]+)_state\{[^}]*state[=!]~?"([^"]+)"', expression):
            assert set(words.split("|")) <= set(known[name]), expression


def test_the_page_lists_every_metric_and_every_alert(run):
    page = (MONITORING / "README.md").read_text()
    families = {
        name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
        for name in exported(run.path)
    }  # fmt: skip
    assert set(NAME.findall(page)) == families
    alerts = set(re.findall(r"alert: (\w+)", (MONITORING / "alerts.yml").read_text()))
    assert set(re.findall(r"Idiolect[A-Z]\w+", page)) == alerts


@needs_promtool
def test_alerts_are_rules_and_fire_when_they_should():
    promtool("check", "rules", str(MONITORING / "alerts.yml"))
    promtool("test", "rules", str(Path(__file__).parents[2] / "docs" / "alerts.test.yml"))
