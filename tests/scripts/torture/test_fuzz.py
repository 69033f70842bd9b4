"""The fuzzing harness: how executions are dealt out, and that it reports what a target's process cannot say itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS
from torture import fuzz
from torture.fuzzing import api
from torture.fuzzing.inside import At

SCRIPT = Path(fuzz.__file__)


def test_a_million_is_dealt_to_every_target():
    names = [*TARGETS, fuzz.API, fuzz.ORDER]
    plan = fuzz.dealt(fuzz.FULL, names)
    assert plan.keys() == set(names)
    assert fuzz.FULL <= sum(plan.values()) <= fuzz.FULL * 1.001 + len(names)
    assert all(plan[name] >= target.least for name, target in TARGETS.items())
    assert all(
        plan[name] >= 10_000 for name in names if name not in ("worker-confined", "worker-child", "wyoming-ears")
    )


@pytest.mark.parametrize("executions", [10, 5000, 300_000])
def test_less_is_dealt_as_well(executions):
    plan = fuzz.dealt(executions, list(TARGETS))
    assert min(plan.values()) >= 1
    assert sum(plan.values()) <= 1.01 * executions + 2 * len(TARGETS)
    assert sum(fuzz.dealt(executions, ["control", "page"]).values()) == pytest.approx(executions, abs=3)


def child(folder, text):
    """A target's process that does ``text``, after it has begun its 7th execution."""
    folder.mkdir(exist_ok=True)
    begin = f"""
import sys, os, signal, time
sys.path[:0] = {sys.path!r}
from pathlib import Path
from torture.fuzzing.inside import At
folder = Path({str(folder)!r})
At(folder / "at").note(7, b"the last input")
"""
    said = (folder / "said").open("wb")
    return subprocess.Popen([sys.executable, "-c", begin + text], stdout=said, stderr=said)


GOOD = """(folder / "result.json").write_text('{"executions": 9, "peak_mib": 1.5}')"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", ("crash", "the process ended with -11")),
        ("sys.exit('no such module')", ("crash", "the process ended with 1")),
        ("signal.signal(signal.SIGPROF, signal.SIG_IGN)\nwhile True: pass", ("hang", "in code that hears no signal")),
        (GOOD + "\nprint('cov: 12 ft: 1\\ncov: 34 ft: 2')", None),
    ],
)
def test_what_kills_a_process_or_holds_it_is_reported_with_its_input(tmp_path, text, found):
    outcome = fuzz.supervised(child(tmp_path, text), tmp_path, 9, lambda: False, stuck_s=0.5)
    if found is None:
        assert (outcome.found, outcome.executions, outcome.peak_mib, outcome.edges) == ([], 9, 1.5, 34)
        return
    (finding,) = outcome.found
    assert (finding["kind"], finding["where"]) == found
    assert bytes.fromhex(finding["data"]) == b"the last input"
    assert outcome.executions == 7


def test_a_run_without_time_ends(tmp_path):
    outcome = fuzz.supervised(
        child(tmp_path, "time.sleep(1000)"), tmp_path, 9, lambda: At(tmp_path / "at").read()[0] == 7
    )
    assert (outcome.found, outcome.executions) == ([], 7)


def run(*arguments):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--seed", "1", *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def test_the_command_counts(tmp_path):
    code, summary = run("--plain", "--executions", "400", "--jobs", "2", "pem", "slots")
    assert (code, summary["found"]) == (0, [])
    assert summary["executions"] >= 400
    assert summary["targets"]["pem"]["executions"] == summary["targets"]["pem"]["wanted"]
    assert summary["targets"]["pem"].keys() >= {
        "crashes",
        "hangs",
        "over_cap",
        "in_logs",
        "peak_mib",
        "cap_mib",
        "edges",
    }


def test_atheris_counts_as_well():
    pytest.importorskip("atheris", reason="atheris is not installed: pip install '.[fuzz]'")
    code, summary = run("--executions", "300", "canonical")
    assert (code, summary["found"], summary["how"]) == (0, [], "atheris")
    assert summary["executions"] >= 300
    assert summary["targets"]["canonical"]["edges"] > 10


def test_too_little_is_a_finding_and_an_unknown_target_a_mistake():
    code, summary = run("--plain", "--executions", "10000000", "--seconds", "1", "pem")
    assert code == 1
    assert "only" in summary["found"][0]
    code, text = run("nonsense")
    assert (code, "no such target" in text) == (2, True)


def test_a_finding_is_in_the_summary_and_the_exit_code(tmp_path, monkeypatch, capsys):
    plan = {"pem": 3}
    outcome = fuzz.Outcome(3, 3, found=[{"kind": "crash", "where": "x.py:1", "data": "00ff", "detail": "why"}])
    wish = fuzz._arguments().parse_args(["--seed", "1"])
    assert fuzz._finish(fuzz.harness.Run("fuzz", wish), plan, {"pem": outcome}, "plain") == 1
    summary = json.loads(capsys.readouterr().out)
    assert summary["crashes"] == 1
    assert summary["targets"]["pem"]["crashes"] == 1
    assert summary["found"] == ["pem: crash: x.py:1: 00ff: why"]


def test_schemathesis_finds_a_daemon_that_is_not_as_described(tmp_path):
    pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install '.[fuzz]'")
    from tests.support.fake_daemon import FakeDaemon, running

    class Wrong(FakeDaemon):
        """Answers what the description does not have."""

        async def devices(self):
            return [{"name": 5}]

    class Home:
        """As far as the part needs one."""

        socket = tmp_path / "control.sock"

    found = []
    with running(Home.socket, Wrong()):
        counted, which = [], ("--include-path", "/v1/devices")
        api.made_up(Home(), 3, 1, tmp_path, lambda: counted.append(1), lambda *it: found.append(it), which=which)
    assert counted
    assert len(found) == 1
    assert "/v1/devices" in found[0][1]
