"""The service's life: start, status, death, hanging, reload, stop, a second one, a configuration that is wrong."""

import statistics
import time

import pytest
from product import SETTINGS, SOCKET, UNIT, Refused, Unanswered

READY_S, STOP_S, BACK_S = 2.0, 1.0, 3.0


def listening_again(product, old, seconds=30):
    """Another process than ``old`` hears the microphone."""

    def new():
        try:
            status = product.status()
        except Unanswered:
            return False
        return product.pid not in (0, old) and status["microphone"]["state"] == "running"

    product.target.wait(new, seconds, "listening again", every=0.05)


@pytest.mark.quick
def test_it_is_ready_within_two_seconds_and_gone_within_one(product, measure):
    up, down = [], []
    for _ in range(3):
        product.stop()
        down.append(span(product, "ActiveExitTimestampMonotonic", "InactiveEnterTimestampMonotonic"))
        product.start()
        up.append(span(product, "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic"))
    product.running()
    measure("start to READY, median of 3", statistics.median(up), "s", READY_S)
    measure("stop, the longest of 3", max(down), "s", STOP_S)


def span(product, begin, end):
    """Seconds between two of systemd's time stamps."""
    return (int(product.show(end)) - int(product.show(begin))) / 1e6


@pytest.mark.quick
@pytest.mark.anywhere
def test_the_status_line_says_what_it_does(product):
    assert product.line.startswith(f"listening to {product.device}"), product.line
    assert "bundle default v" in product.line
    product.idiolect("pause listening").checked()
    assert product.line.startswith("paused: idiolect resume listening"), product.line
    product.idiolect("resume listening").checked()
    product.target.wait(lambda: product.line.startswith("listening to"), 5, "the status line says that it listens")


@pytest.mark.arm64
@pytest.mark.quick
def test_killed_it_listens_again_within_three_seconds(product, measure, stopwatch):
    old = product.pid
    began = stopwatch()
    product.target.check(f"kill -9 {old}")
    listening_again(product, old)
    measure("kill -9 to listening again", stopwatch() - began, "s", BACK_S)
    product.understands(4)
    assert product.show("NRestarts") != "0"


@pytest.mark.anywhere
def test_a_client_that_asks_while_it_is_away_is_answered(product):
    """The socket outlives the process: who connects meanwhile waits."""
    product.target.check(f"kill -9 {product.pid}")
    assert product.status()["version"]


@pytest.mark.anywhere
def test_a_client_wakes_it_up(product):
    product.target.check(f"systemctl stop {UNIT}")
    assert product.show("ActiveState") == "inactive"
    assert product.status()["version"]
    product.target.wait(lambda: product.show("ActiveState") == "active", 5, "the service is up")


@pytest.mark.quick
def test_hung_it_is_replaced(product, measure, stopwatch):
    product.drop_in("[Service]\nWatchdogSec=4\n")
    product.restart()
    product.running()
    old = product.pid
    began = stopwatch()
    product.target.check(f"kill -STOP {old}")
    product.target.wait(lambda: product.pid not in (0, old), 40, "another process", every=0.2)
    measure("hung to replaced, with WatchdogSec=4", stopwatch() - began, "s", 9.0)
    listening_again(product, old)
    assert "watchdog" in product.journal().lower()
    product.understands(2)


@pytest.mark.anywhere
def test_it_stays_up_under_a_short_watchdog_without_a_microphone(product):
    """The watchdog is fed by work: the search for a microphone is work, too, at most 8 s a step."""
    product.drop_in("[Service]\nWatchdogSec=10\n")
    product.restart()
    product.running()
    pid = product.pid
    product.target.unplug()
    try:
        time.sleep(14)
        assert product.pid == pid, product.journal()
    finally:
        product.target.plug()
    product.running(20)
    assert product.pid == pid


@pytest.mark.quick
@pytest.mark.anywhere
def test_its_socket_is_there_after_every_restart(product):
    """It is systemd's file, and outlives the daemon, whatever Python that runs on."""
    for restart in (product.restart, product.restart, lambda: (product.stop(), product.start())):
        restart()
        product.running()
        assert product.target.check("stat -c '%a %U:%G' /run/idiolect/control.sock") == "660 idiolect:idiolect"
        assert product.idiolect("status").rc == 0


@pytest.mark.quick
def test_a_reload_takes_new_settings_over_and_loses_no_audio(product):
    if "fresh" not in product.target.facts.lacks and not product.emulated:
        assert product.target.run("test -e /bin/kill").rc, "a minimal Debian has no procps, and a reload works on it"
    pid, before = product.pid, product.status()["microphone"]
    product.configure(product.baseline().replace("zero, one, two, three,", "three,"))
    product.target.check(f"systemctl reload {UNIT}")
    product.target.wait(lambda: "reloaded" in product.journal(), 10, "reloaded")
    with product.hears("three", "five"):
        product.say(3, 1, 5)
    after = product.microphone()
    assert (after["reopened"], after["overruns"]) == (before["reopened"], before["overruns"])
    assert product.pid == pid


@pytest.mark.anywhere
def test_a_word_during_a_reload_is_heard(product):
    with product.hears("eight"):
        product.target.room.say(digit_of(8), wait=False)
        for _ in range(3):
            product.target.check(f"systemctl reload {UNIT}")
        time.sleep(2.5)
    product.target.wait(lambda: product.journal().count("reloaded") >= 3, 10, "three reloads")


def digit_of(number):
    from product import digit

    return digit(number)


@pytest.mark.quick
@pytest.mark.anywhere
def test_a_reload_with_a_mistake_is_refused_and_says_where(product):
    pid = product.pid
    product.configure("audio:\n  device: 7\nlistenning: {}\n", "/etc/idiolect/conf.d/60-bad.yaml")
    done = product.systemctl(f"reload {UNIT}")
    assert done.rc != 0, "systemctl must tell"
    assert "60-bad.yaml:2" in product.journal() + done.said
    # and where somebody sends the signal by himself
    product.target.check(f"kill -HUP {pid}")
    product.target.wait(lambda: "configuration refused" in product.line, 5, "the status line says so")
    assert "60-bad.yaml:2" in product.line
    assert "reload refused" in product.journal()
    product.understands(6)
    assert product.pid == pid
    product.target.unlink("/etc/idiolect/conf.d/60-bad.yaml")
    product.target.check(f"systemctl reload {UNIT}")
    product.target.wait(lambda: product.line.startswith("listening"), 5, "the status line is good again")


@pytest.mark.anywhere
def test_a_start_with_a_mistake_fails_once_and_says_where(product, measure):
    # ten starts by clients as shipped, however slow this machine is
    product.drop_in("[Socket]\nTriggerLimitIntervalSec=1h\n", unit=SOCKET)
    product.configure("schema: 2\nlistening:\n  timeout_s: 0\n", "/etc/idiolect/conf.d/60-bad.yaml")
    done = product.systemctl(f"restart {UNIT}")
    assert done.rc != 0
    time.sleep(2)
    assert product.show("ExecMainStatus") == "78"
    assert product.show("NRestarts") == "0"
    assert product.show("ActiveState") == "failed"
    assert "60-bad.yaml:3" in product.line, product.line
    assert "60-bad.yaml:3" in product.told
    # a client wakes it again, and is told why it does not come up: one start for each, and the socket stays
    for client in range(1, 4):
        done = product.idiolect("status")
        assert done.rc == 69
        assert "idiolectd did not start: " in done.err, done.said
        assert "60-bad.yaml:3" in done.err
        assert "systemctl restart idiolectd" in done.err
        assert product.journal().count("did not start") == 1 + client
    assert product.idiolect("doctor").rc == 1
    assert product.show("ActiveState", SOCKET) == "active"
    # somebody who asks all the time is stopped by systemd, not for ever, and nobody is told a wrong reason then
    starts = 0
    while product.show("ActiveState", SOCKET) == "active" and starts < 40:
        with pytest.raises((Unanswered, Refused)):
            product.api("/v1/status", seconds=10)
        starts += 1
    before = product.journal().count("did not start")
    measure("starts that one wrong configuration leads to", before, "", 16, timing=False)
    assert product.show("Result", SOCKET) == "trigger-limit-hit"
    done = product.idiolect("status")
    assert done.rc == 69
    assert "idiolectd failed (exit-code, exit status 78): did not start: " in done.err, done.said
    assert product.journal().count("did not start") == before
    # mended and restarted, both are back
    product.target.unlink("/etc/idiolect/conf.d/60-bad.yaml")
    product.target.check(f"systemctl restart {UNIT}", timeout=90)
    product.running()
    assert product.target.check(f"systemctl is-active {UNIT} {SOCKET}").split() == ["active", "active"]
    assert product.idiolect("status").rc == 0


@pytest.mark.anywhere
def test_a_second_one_is_refused_and_does_no_harm(product):
    pid = product.pid
    done = product.target.run("runuser -u idiolect -- /usr/sbin/idiolectd", timeout=30)
    assert done.rc in (73, 74), done.said
    assert done.err.strip()
    assert product.pid == pid
    product.understands(1)


@pytest.mark.anywhere
def test_what_it_logs_has_its_fields_and_no_phrase(product):
    product.understands(9)
    fields = product.journal(arguments="-o json")
    assert '"MESSAGE_ID"' in fields
    assert '"IDIOLECT_PART"' in fields
    said = product.journal()
    assert "event: phrase" in said
    assert "nine" not in said


@pytest.mark.anywhere
def test_clients_in_crowds_and_silent_ones_do_not_stop_it(product):
    """More than it serves at once, and some who say nothing: others are still answered."""
    crowd = (
        "import socket, time\n"
        "held = []\n"
        "for _ in range(60):\n"
        "    s = socket.socket(socket.AF_UNIX); s.settimeout(1)\n"
        "    try: s.connect('/run/idiolect/control.sock')\n"
        "    except OSError: pass\n"
        "    held.append(s)\n"
        "time.sleep(1)\n"
        "for s in held[:30]:\n"
        "    try: s.sendall(b'G' * 100000)\n"
        "    except OSError: pass\n"
    )
    product.target.python(crowd).checked()
    assert product.status()["version"]
    product.understands(3)


def test_limits_of_memory_and_tasks_are_enforced(product, measure):
    """A program in the daemon's place that takes too much of either."""
    product.target.need("cgroup limits")
    greedy = (
        "import os, threading, time\n"
        "made = 0\n"
        "try:\n"
        "    for _ in range(200):\n"
        "        threading.Thread(target=time.sleep, args=(2,), daemon=True).start(); made += 1\n"
        "except RuntimeError: pass\n"
        "print('tasks', made, flush=True)\n"
        "time.sleep(3)\n"
        "kept = []\n"
        "for n in range(1000):\n"
        "    kept.append(bytearray(os.urandom(1 << 20))); print('mib', n + 1, flush=True)\n"
    )
    product.target.put(greedy, "/usr/local/lib/hw-greedy.py")
    product.stop(socket=True)
    product.drop_in(
        "[Service]\nType=exec\nWatchdogSec=0\nRestart=no\nExecStartPre=\nExecStart=\n"
        "ExecStart=/usr/bin/python3 -u /usr/local/lib/hw-greedy.py\n"
    )
    product.target.check(f"systemctl start {UNIT}", timeout=60)
    product.target.wait(lambda: product.show("ActiveState") != "active", 120, "it is stopped", every=1)
    told = product.journal()
    tasks = int(told.partition("tasks ")[2].split()[0])
    mib = max(int(line.split()[1]) for line in told.splitlines() if line.startswith("mib "))
    measure("threads a program could start in the unit", tasks, "", 64, timing=False)
    measure("memory a program could take in the unit", mib, "MiB", 320, timing=False)
    assert "oom" in (product.show("Result") + told).lower()
    product.touched(SETTINGS)


@pytest.mark.anywhere
def test_stopped_means_stopped(product):
    product.target.check(f"systemctl stop {SOCKET} {UNIT}")
    with pytest.raises(Unanswered):
        product.api("/v1/status", seconds=2)
    done = product.idiolect("status")
    assert done.rc == 69
    assert "systemctl" in done.err
    product.target.check(f"systemctl start {SOCKET} {UNIT}")
