"""The daemon's side of the worker against children that do everything wrong, and how fast one gives way."""

import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from benchmark.learn import sample_ledger
from idiolect.errors import LearningError, Preempted, WorkerFailed
from idiolect.learning import messages
from idiolect.learning.trainer import When
from idiolect.learning.worker import frames
from idiolect.learning.worker.process import HELLO_CAP, Worker
from tests.support.learners import model

HELLO = """
import hashlib, json, os, struct, sys, time
def frame(body): return struct.pack("<I", len(body)) + hashlib.sha256(body).digest() + body
def say(data):
    while data: data = data[os.write(1, data):]
def read(size):
    data = b""
    while len(data) < size: data += os.read(0, size - len(data)) or sys.exit(0)
    return data
def asked(): return read(struct.unpack("<I", read(36)[:4])[0])
say(frame(b'[["seccomp", true, "or so it says"]]'))
"""
CAP = 1 << 16


def child(body, *, wall_s=60.0, hello=HELLO):
    return Worker([sys.executable, "-c", hello + textwrap.dedent(body)], wall_s=wall_s)


def children():
    """Processes of this one that are still there."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_a_child_that_behaves_is_heard():
    assert child("say(frame(asked()[::-1]))").run(b"abc", CAP) == b"cba"


def test_large_messages_pass_in_both_directions():
    big = os.urandom(8 << 20)
    assert child("say(frame(asked()[::-1]))").run(big, 16 << 20) == big[::-1]


@pytest.mark.parametrize(
    ("cause", "body"),
    [
        ("crash", "asked(); sys.exit(3)"),
        ("crash", "asked(); os.abort()"),
        ("crash", "sys.exit(0)"),
        ("crash", "asked(); say(frame(b'x' * 999)[:500])"),
        ("crash", "asked(); say(frame(b'x' * 999)[:20])"),
        ("oversize", "asked(); say(frame(b'x' * (1 << 17)))"),
        ("oversize", "asked(); say(struct.pack('<I', 0xFFFFFFFF) + bytes(32) + bytes(1 << 20))"),
        ("oversize", "asked()\nwhile True: say(b'\\xff' * 4096)"),
        ("garbled", "asked(); f = bytearray(frame(b'x' * 99)); f[50] ^= 1; say(bytes(f))"),
        ("garbled", "asked(); f = bytearray(frame(b'x' * 99)); f[7] ^= 1; say(bytes(f))"),
        ("garbled", "asked(); say(bytes(4) + b'?' * 32)"),
        ("timeout", "asked(); time.sleep(60)"),
        ("timeout", "time.sleep(60)"),  # never reads: the pipe is full
        ("timeout", "asked()\nwhile True: pass"),
        ("timeout", "asked()\nwhile True: say(frame(b'x' * 60000)[:1]); time.sleep(0.5)"),
    ],
)
def test_what_goes_wrong_has_a_name_and_leaves_nobody_behind(cause, body):
    before = children()
    begin = time.monotonic()
    with pytest.raises(WorkerFailed) as caught:
        child(body, wall_s=1.5 if cause == "timeout" else 60.0).run(bytes(4 << 20), CAP)
    assert caught.value.cause == cause
    assert time.monotonic() - begin < 30.0  # half of what those take that sleep
    assert children() == before


@pytest.mark.parametrize(
    ("cause", "hello"),
    [
        ("garbled", "import os; os.write(1, b'hello, world' * 9)"),
        ("crash", "pass"),
        ("oversize", f"import os, struct; os.write(1, struct.pack('<I', {HELLO_CAP + 1}) + bytes(9999))"),
    ],
)
def test_who_does_not_say_what_confines_it_is_told_nothing(cause, hello):
    hello = hello.replace("b'hello, world' * 9", "__import__('struct').pack('<I', 12) + bytes(32) + b'hello, world'")
    with pytest.raises(WorkerFailed) as caught:
        child("", hello=hello).run(b"secret", CAP)
    assert caught.value.cause == cause


@pytest.mark.parametrize("said", [b"null", b"[]x", b"[[1]]", b'{"a": 1}', b"[" * 2000, b'[["a", true]]', b"\xff"])
def test_a_strange_hello_is_refused_or_cut_to_size(said):
    hello = f"{HELLO.rsplit('say(', 1)[0]}say(frame({said!r}))\n"
    with pytest.raises(WorkerFailed):
        child("import time; time.sleep(9)", hello=hello, wall_s=0.5).run(b"secret", CAP)


def test_a_program_that_is_not_there_is_said():
    with pytest.raises(WorkerFailed) as caught:
        Worker(["/nowhere/python"]).run(b"", CAP)
    assert caught.value.cause == "start"


HOSTILE = """
from idiolect.learning.worker import sandbox
sandbox.DATA, sandbox.CPU_S = 64 << 20, 1
held = sandbox.early(waited_for=True) + sandbox.enter()
say(frame(json.dumps([[l.name, l.held, l.detail] for l in held]).encode()))
asked()
"""


@pytest.mark.parametrize(
    "act",
    [
        "os.fork()\nwhile True: os.fork()",
        "while True: pass",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "os.system('touch /tmp/idiolect-escaped')",
        "open('/tmp/idiolect-escaped', 'w')",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "os.kill(os.getppid(), 9)",
    ],
)
def test_a_hostile_worker_within_its_confinement_only_ends_itself(act):
    hello = HELLO.rsplit("say(frame(b", 1)[0]
    worker = child(HOSTILE + act, hello=hello, wall_s=20.0)
    with pytest.raises(WorkerFailed) as caught:
        worker.run(b"secret", CAP)
    assert caught.value.cause == "crash"
    assert not Path("/tmp/idiolect-escaped").exists()  # noqa: S108 - the name it was to be written under
    assert not children()


@pytest.fixture(scope="module")
def long_round():
    """A round that takes a second or so."""
    return messages.ask(messages.Request(model(), sample_ledger(model(), 1000), When(20_000, 1)))


def test_a_patient_round_gives_way_within_a_tenth_of_a_second(long_round):
    worker, took, late = Worker(), [], 0
    chance = random.Random(1)
    for _ in range(12):
        worker.resume()
        stopped = []

        def stop(into=stopped):
            time.sleep(chance.uniform(0.0, 0.9))
            into.append((time.monotonic(), worker.stop()))

        thread = threading.Thread(target=stop)
        thread.start()
        try:
            worker.run(long_round, messages.ANSWER_CAP, patient=True)
            late += 1
        except Preempted:
            took.append(time.monotonic() - stopped[0][0])
        thread.join()
        assert not children()
    assert len(took) >= 8, f"{late} rounds were over before they were stopped"
    assert min(took) < 0.1, took  # a busy machine delays some; the bench tells the worst, on one of its own


def test_who_speaks_before_it_begins_keeps_it_from_beginning(long_round):
    worker = Worker()
    assert worker.stop() is False
    with pytest.raises(Preempted):
        worker.run(long_round, messages.ANSWER_CAP, patient=True)
    assert child("say(frame(asked()))").run(b"x", CAP) == b"x"
    worker.resume()
    threading.Timer(0.3, worker.stop).start()
    with pytest.raises(Preempted):
        worker.run(long_round, messages.ANSWER_CAP, patient=True)


def test_what_somebody_waits_for_does_not_give_way():
    worker = child("asked(); time.sleep(0.6); say(frame(b'done'))")
    threading.Timer(0.2, worker.stop).start()
    assert worker.run(b"", CAP) == b"done"
    slow = child("asked(); time.sleep(60)", wall_s=30)
    threading.Timer(0.3, slow.kill).start()
    with pytest.raises(WorkerFailed):
        slow.run(b"", CAP)


def test_nothing_of_the_daemons_environment_reaches_it(monkeypatch):
    monkeypatch.setenv("IDIOLECT_SECRET", "hunter2")
    seen = child("asked(); say(frame(json.dumps(dict(os.environ)).encode()))").run(b"", CAP)
    assert b"hunter2" not in seen
    files = child("asked(); say(frame(json.dumps(sorted(os.listdir('/proc/self/fd'))).encode()))")
    with Path("/etc/passwd").open("rb") as secret:
        os.set_inheritable(secret.fileno(), True)
        assert files.run(b"", CAP) == b'["0", "1", "2", "3"]'  # the last is the listing's own


@pytest.mark.parametrize("flip", range(0, 60, 7))
def test_a_flipped_bit_is_found(flip):
    sent = bytearray(frames.pack(b"what was sent, and nothing else"))
    sent[flip % len(sent)] ^= 1 << (flip % 8)
    with pytest.raises(LearningError):
        frames.body(bytes(sent[: frames.HEADER]), bytes(sent[frames.HEADER :]))


def test_the_worker_refuses_a_garbled_request_and_says_so():
    process = subprocess.run(
        [sys.executable, "-m", "idiolect.learning.worker.main"],
        input=frames.pack(b"not msgpack"), capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert process.returncode == 65
    assert b"LearningError" in process.stdout
    assert process.stderr == b""
