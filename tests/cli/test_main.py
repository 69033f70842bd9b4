"""The command line as people and scripts meet it: a real process, a real socket, output and exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from idiolect.cli import doctor, main
from idiolect.cli import output as show
from idiolect.errors import RequestError
from tests.support.fake_daemon import FakeDaemon, running, wait_for

DAEMON = Path(__file__).parents[2] / "daemon"
ENV = {**os.environ, "PYTHONPATH": str(DAEMON), "TZ": "UTC", "LC_ALL": "C.UTF-8"}


def command(path: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "idiolect.cli.main", "--socket", str(path), *arguments]


def idiolect(path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(path, *arguments), capture_output=True, text=True, timeout=20, env=ENV | env, check=False
    )


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(path, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
        # Whoever runs the tests in the background of a shell has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


# -- asking ---------------------------------------------------------------------------------------------------------


def test_status_for_people(run, path):
    done = idiolect(path, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "idiolectd   0.1.0, up 1 h 2 min",
        "listening   waiting for a wake word",
        "microphone  running, plughw:Seeed, 16000 Hz, 1 channel, 0 dBFS, 2 overruns",
        "bundle      default version 3, unsigned",
        "encoder     abc123 on litert",
        "keystore    file (not hardware protected)",
        "keys        released from a file: not hardware protected; for development",
        "personal    off: the keys are not released: everybody gets the base model",
        "learning    due: 2 rebuild, waits for nobody speaking for 10 min (so far 12 s)",
        "events      0 since the start",
    ]


def test_learn_says_what_it_waits_for_and_does_it_when_asked(run, path):
    done = idiolect(path, "learn")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "due: 2 rebuild, waits for nobody speaking for 10 min (so far 12 s)",
        "  waits for: nobody speaking for 10 min (so far 12 s)",
        "  gave way 3 times, failed 0 times; last: somebody spoke",
        "  the worker runs without: landlock (idiolect doctor)",
    ]
    done = idiolect(path, "learn", "--now")
    assert (done.returncode, done.stdout) == (0, "done: learning from what is new (2)\n")
    assert json.loads(idiolect(path, "learn", "--now", "--json").stdout)["state"] == "nothing due"
    assert idiolect(path, "learn", "--now").stdout == "there is nothing to learn\n"


def test_learn_now_that_fails_says_so(run, path):
    run.daemon.windows.broken = True
    done = idiolect(path, "learn", "--now")
    assert (done.returncode, "it failed" in done.stdout) == (1, True)


def test_learn_now_that_has_to_wait_says_for_what(run, path):
    run.daemon.windows.hot = True
    done = idiolect(path, "learn", "--now", "--timeout", "1s")
    assert done.returncode == 1
    assert "81 C" in done.stdout
    assert "it goes on as soon as it can" in done.stdout


@pytest.mark.parametrize("arguments", [("--json", "status"), ("status", "--json")])
def test_status_for_programs(run, path, arguments):
    done = idiolect(path, *arguments)
    assert json.loads(done.stdout) == run.daemon.status()


def test_the_socket_may_come_from_the_environment(run, path):
    done = subprocess.run(
        [sys.executable, "-m", "idiolect.cli.main", "devices"],
        capture_output=True,
        text=True,
        env=ENV | {"IDIOLECT_SOCKET": str(path)},
        check=True,
    )
    assert done.stdout == "plughw:CARD=Seeed,DEV=0  Seeed 2-mic\n"


def test_pause_and_resume(run, path):
    done = idiolect(path, "pause", "listening", "--for", "2h")
    assert done.returncode == 0
    assert re.fullmatch(r"paused until \d\d:\d\d \(2 h; idiolect resume listening\)\n", done.stdout)
    assert run.daemon.paused
    assert idiolect(path, "resume", "listening").stdout == "waiting for a wake word\n"
    assert not run.daemon.paused
    assert idiolect(path, "pause", "listening").stdout == "paused until resumed (idiolect resume listening)\n"
    assert json.loads(idiolect(path, "pause", "listening", "--json").stdout)["listening"]["paused_until"] is None


def test_config_show(run, path):
    assert yaml.safe_load(idiolect(path, "config", "show").stdout) == run.daemon.config()
    assert json.loads(idiolect(path, "config", "show", "--json").stdout) == run.daemon.config()


def test_config_show_origin(run, path):
    said = idiolect(path, "config", "show", "--origin").stdout
    assert said == "/etc/idiolect/idiolect.yaml:7: audio.gain_db: 3.0\n"
    answer = json.loads(idiolect(path, "config", "show", "--origin", "--json").stdout)
    assert answer == {"config": run.daemon.config(), "origin": run.daemon.origins()}


# -- listening ------------------------------------------------------------------------------------------------------


def test_listen_for_people(run, path):
    process = start(path, "listen", "--count", "2", "--timeout", "10s")
    run.await_subscribers(1)
    run.publish("seven", "evil\x1b[31m\u202e")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == [
        "22:13:20.250  phrase    seven             score 0.91  margin 0.40  guest",
        r"22:13:20.250  phrase    evil\x1b[31m\u202e  score 0.91  margin 0.40  guest",
    ]


def test_listen_for_programs(run, path):
    process = start(path, "listen", "--json", "--count", "1")
    run.await_subscribers(1)
    run.publish("sieben \u00fc")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [json.loads(line) for line in out.splitlines()] == run.daemon.hub.recent()


@pytest.mark.parametrize(("count", "code"), [(("--count", "2"), 1), ((), 0)])
def test_listen_until_time_is_up(run, path, count, code):
    process = start(path, "listen", "--timeout", "0.7", *count)
    run.await_subscribers(1)
    run.publish("one")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, len(out.splitlines()), err) == (code, 1, "")


def test_ctrl_c_ends_listen_cleanly(run, path):
    process = start(path, "listen")
    run.await_subscribers(1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130
    run.await_subscribers(0)


def test_a_reader_that_goes_away_ends_listen_cleanly(run, path):
    process = start(path, "listen")
    run.await_subscribers(1)
    run.publish("one")
    assert "one" in process.stdout.readline()
    process.stdout.close()
    run.publish("two")
    assert process.wait(60) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_listen_survives_a_restart_of_the_daemon(path):
    with running(path) as before:
        process = start(path, "listen", "--json", "--count", "3")
        before.await_subscribers(1)
        before.publish("one", "two")
        assert [json.loads(process.stdout.readline())["id"] for _ in range(2)] == ["one", "two"]
    with running(path) as after:
        after.publish("three")  # before anybody listens: it is in the ring, and new to whoever knew the old daemon
        out, err = process.communicate(timeout=60)
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["three"]
    assert process.returncode == 0
    assert "waiting for it" in err


# -- when something is wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["status"], ["listen"], ["pause", "listening"], ["devices"], ["config", "show"], ["status", "--json"]]
)
def test_without_a_daemon(path, arguments):
    done = idiolect(path, *arguments)
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith(f"idiolect: idiolectd is not running (nobody answers at {path}): start it with")


def test_a_socket_path_that_cannot_be(tmp_path):
    done = idiolect(tmp_path / ("x" * 200), "status")
    assert done.returncode == 69
    assert "is --socket right?" in done.stderr


def test_without_permission(path):
    with running(path, _Refusing()):
        done = idiolect(path, "pause", "listening")
    assert done.returncode == 77
    assert "join the group" in done.stderr


class _Refusing(FakeDaemon):
    def pause(self, seconds):  # noqa: ARG002
        raise RequestError(403, "role", "this needs the role user: join the group x")


def test_a_bug_in_the_daemon(path):
    with running(path, FakeDaemon(broken=True)):
        done = idiolect(path, "status")
    assert (done.returncode, done.stdout) == (70, "")
    assert "journal" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ([], "COMMAND"),
        (["stauts"], "status"),
        (["pause"], "listening"),
        (["pause", "hearing"], "learning"),
        (["pause", "listening", "--for", "soon"], "30s, 15m, 2h or 1d"),
        (["pause", "listening", "--for", "8d"], "from 1s to 7d"),
        (["pause", "listening", "--for", "0"], "from 1s to 7d"),
        (["listen", "--count", "0"], "above 0"),
        (["listen", "--timeout", "-1"], "--timeout"),
        (["config"], "COMMAND"),
        (["config", "show", "FILE"], "unrecognized"),
    ],
)
def test_wrong_usage(path, arguments, hint):
    done = idiolect(path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert hint in done.stderr


def test_help_names_the_exit_codes(path):
    text = idiolect(path, "--help").stdout
    assert all(re.search(rf"^  {code} +\w", text, re.MULTILINE) for code in (0, 1, 2, 69, 70, 77, 78, 130))


# -- configuration files ----------------------------------------------------------------------------------------------


def test_config_check(path, tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("schema: 2\n")
    bad.write_text("schema: 2\nlistening:\n  timeout_s: 900\nadio: {}\n")
    assert idiolect(path, "config", "check", str(good)).stdout == "OK\n"
    done = idiolect(path, "config", "check", str(good), str(bad))
    assert done.returncode == 78
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == [f"{bad}:3:", f"{bad}:4:"]
    listed = json.loads(idiolect(path, "config", "check", "--json", str(bad)).stdout)["problems"]
    assert [(each["line"], each["field"]) for each in listed] == [(3, "listening.timeout_s"), (4, "adio")]
    assert idiolect(path, "config", "check", str(tmp_path / "none.yaml")).returncode == 78


# -- doctor -----------------------------------------------------------------------------------------------------------


def test_doctor_asks_the_daemon_too(path, tmp_path):
    config = tmp_path / "idiolect.yaml"
    config.write_text("schema: 2\n")
    check = {"check": "microphone", "ok": False, "level": "fail", "detail": "absent", "fix": "plug it in"}
    with running(path, FakeDaemon(checks=[check])) as run:
        done = idiolect(path, "doctor", "--config", str(config))
        assert done.returncode == 1
        assert "ok    config: " in done.stdout
        assert "ok    daemon: is running and answers\n" in done.stdout
        assert "fail  microphone: absent\n               -> plug it in\n" in done.stdout
        assert done.stdout.startswith("audio    ")  # one screen, by parts
        parts = [line[:7].strip() for line in done.stdout.splitlines()]
        assert [part for part in parts if part] == ["audio", "service"]
        run.daemon.checks[0]["level"] = "warn"
        assert idiolect(path, "doctor", "--config", str(config)).returncode == 0


def test_doctor_helps_without_a_daemon(path, tmp_path):
    config = tmp_path / "idiolect.yaml"
    config.write_text("schema: 2\nadio: {}\n")
    done = idiolect(path, "doctor", "--json", "--config", str(config))
    assert (done.returncode, done.stderr) == (1, "")
    checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["daemon"]["level"] == "fail"
    assert "start it with" in checks["daemon"]["fix"]
    assert f"{config}:2: adio" in checks["config"]["detail"]
    assert "idiolect config check" in checks["config"]["fix"]
    assert set(checks) == {"config", "sound", "daemon"}


@pytest.mark.parametrize(
    ("state", "level", "said"),
    [
        ({}, "ok", "active (running), started at boot"),
        ({"NRestarts": "3"}, "warn", "restarted 3 times"),
        ({"UnitFileState": "disabled"}, "warn", "not started at boot"),
        ({"NeedDaemonReload": "yes"}, "warn", "files were changed"),
        ({"ActiveState": "inactive", "SubState": "dead"}, "fail", "inactive (dead)"),
        (
            {"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "78", "StatusText": "did not start: x"},
            "fail",
            "failed (exit-code, exit status 78): did not start: x",
        ),
        ({"LoadState": "masked", "ActiveState": "inactive"}, "fail", "is masked"),
    ],
)
def test_doctor_says_the_worst_of_the_unit_and_what_mends_it(state, level, said):
    good = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "UnitFileState": "enabled"}
    check = doctor._unit_check({**good, "NRestarts": "0", "NeedDaemonReload": "no", "StatusText": "", **state})
    assert (check["check"], check["level"]) == ("unit", level)
    assert said in check["detail"]
    assert bool(check["fix"]) == (level != "ok")


def test_every_check_has_its_place_on_the_screen():
    """Those of the daemon too: their names are read from its source."""
    where = ("cli/doctor.py", "service/doctor.py", "trust/device/keys.py")
    source = "".join((DAEMON / "idiolect" / name).read_text() for name in where)
    names = set(re.findall(r'(?:Check|Finding|_told)\(\s*"([a-z ]+)"', source)) | {
        "config",
        "sound",
        "unit",
        "pcr",
        "daemon",
    }
    assert len(names) > 15
    placed = doctor.one_screen({"check": name} for name in sorted(names))
    assert [each["check"] for each in placed if not each["part"]] == []
    order = list(doctor.PARTS)
    assert [order.index(each["part"]) for each in placed] == sorted(order.index(each["part"]) for each in placed)


def test_doctor_warns_of_a_card_that_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_SOUND", tmp_path)
    assert doctor.local_checks(tmp_path / "none.yaml")[1]["detail"] == "no capture device"
    (tmp_path / "pcmC0D0c").write_text("")
    assert doctor.local_checks(tmp_path / "none.yaml")[1]["level"] == "ok"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "usermod -aG audio" in doctor.local_checks(tmp_path / "none.yaml")[1]["fix"]


# -- how things are written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0.5", 0.5),
        ("30s", 30),
        ("15m", 900),
        ("2h", 7200),
        ("1d", 86_400),
        ("1h30m", 5400),
        ("1.5h", 5400),
    ],
)
def test_durations(text, seconds):
    assert show.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "2 h", "-1", "2w", "1e3", "1h30", "\u0662h", "nan", "."])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        show.parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min"), (3661, "1 h 1 min"), (90_000, "1 d 1 h"), (60, "1 min")]
)
def test_durations_in_words(seconds, text):
    assert show.duration(seconds) == text


def test_a_change_of_state_on_one_line():
    data = {"id": "1", "time": 0, "kind": "state", "listening": "paused", "microphone": {"state": "busy"}}
    assert show.event_line(data).endswith("state     paused, microphone busy")


def test_colours_only_where_they_are_wanted(monkeypatch):
    assert show.coloured("x", "fail") == "x"  # no terminal here
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert show.coloured("x", "fail") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert show.coloured("x", "fail") == "x"


def test_main_returns_the_exit_code(path, capsys):
    assert main.main(["--socket", str(path), "status"]) == 69
    assert "not running" in capsys.readouterr().err


def test_waiting_for_a_daemon_has_an_end(run, path, monkeypatch, capsys):
    monkeypatch.setattr(main, "_PATIENCE_S", 0.2)
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main.main(["--socket", str(path), "listen"])))
    thread.start()
    run.await_subscribers(1)
    run.stop()
    thread.join(60)
    wait_for(lambda: codes == [69])
    assert "not running" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "ann", "--out", "there.json"], "there.json: File exists: name another file, or remove that one"),
        (["export", "ann", "--out", "nowhere/x.json"], "nowhere/x.json: No such file or directory: check the path"),
        (["import", "ann", "missing.json"], "missing.json: No such file or directory: check the path and the disk"),
    ],
)
def test_a_file_that_cannot_be_had_is_named_without_a_traceback(run, arguments, said, monkeypatch, capsys):
    folder = run.path.parent
    monkeypatch.chdir(folder)
    (folder / "there.json").write_text("{}")
    monkeypatch.setenv("IDIOLECT_SOCKET", str(run.path))
    monkeypatch.setattr("idiolect.client.client.Client.export", lambda *_: {})
    assert main.main(arguments) == 74
    assert said in capsys.readouterr().err
    assert (folder / "there.json").read_text() == "{}"
