"""Every layer of the worker's confinement by itself: what it forbids is tried, and the kernel's refusal is seen."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from idiolect.learning import messages
from idiolect.learning import round as rounds
from idiolect.learning.ledger import Example, Ledger, decode
from idiolect.learning.trainer import When
from idiolect.learning.worker import sandbox
from idiolect.learning.worker.process import Worker
from tests.support.learners import invented, model

PRELUDE = """
import ctypes, errno, json, os, signal, socket, sys
from idiolect.learning.worker import sandbox
libc = ctypes.CDLL(None, use_errno=True)
def tried(act):
    try:
        result = act()
    except OSError as error:
        return errno.errorcode[error.errno]
    except MemoryError:
        return "MemoryError"
    return "done" if not isinstance(result, int) or result >= 0 else errno.errorcode[ctypes.get_errno()]
def say(text):
    os.write(1, text.encode())
"""


def confined(layers, act, *arguments):
    """Put on ``layers``, then evaluate ``act``: what came of it, or the name of the signal that ended it."""
    code = PRELUDE + textwrap.dedent(f"""
        sandbox._libseccomp() if "seccomp" in {layers!r} else None
        put = sandbox.put_on([getattr(sandbox, name) for name in {layers!r}])
        assert all(layer.held for layer in put), put
        say(str(tried(lambda: {act})))
        os._exit(0)
        """)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode < 0:
        return signal.Signals(-done.returncode).name
    assert done.returncode == 0, done.stderr
    return done.stdout


def need(layer):
    """Skip where this kernel does not have a layer; how often that is the case is said by the sandbox itself."""
    held = {each.name: each for each in Worker().probe()}[layer]
    if not held.held:
        pytest.skip(f"no {layer} here: {held.detail}")
    return held


@pytest.mark.parametrize(
    "act",
    [
        "socket.socket()",
        "socket.socketpair()",
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/true', ['true'])",
        "__import__('_thread').start_new_thread(print, ())",
        "os.kill(os.getppid(), 0)",
        "libc.ptrace(0, 0, 0, 0)",
        "os.memfd_create('x')",
        "libc.unshare(0x10000000)",
        "libc.mount(b'none', b'/', b'tmpfs', 0, None)",
        "libc.syscall(425, 8, ctypes.create_string_buffer(256))",  # io_uring_setup
        f"libc.syscall({321 if os.uname().machine == 'x86_64' else 280}, 0, 0, 0)",  # bpf
    ],
)
def test_seccomp_kills_for_what_only_an_attacker_would_try(act):
    need("seccomp")
    assert confined(["no_new_privs", "seccomp"], act) == "SIGSYS"


@pytest.mark.parametrize(
    "act",
    [
        "open('/etc/passwd')",
        "open('/tmp/idiolect-never', 'w')",
        "os.listdir('/')",
        "os.stat('/')",
        "os.unlink('/tmp/idiolect-never')",
        "os.mkdir('/tmp/idiolect-never')",
        "os.chmod('/', 0o700)",
        "os.symlink('/etc', '/tmp/idiolect-never')",
        "os.nice(-1)",
        "os.setuid(0)",
        "os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))",
        "libc.prlimit(0, 0, None, None)",
        "libc.prctl(4, 1, 0, 0, 0)",
        "libc.mprotect(ctypes.c_void_p(libc.sbrk(0) & ~0xfff or 4096), 4096, 7)",
    ],
)
def test_seccomp_refuses_all_that_it_does_not_know(act):
    need("seccomp")
    assert confined(["no_new_privs", "seccomp"], act) == "EPERM"


def test_nothing_becomes_executable():
    need("seccomp")
    act = "libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))"
    assert confined(["no_new_privs", "seccomp"], act) == "EPERM"
    act = "libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0)) and None"
    assert confined(["no_new_privs", "seccomp"], act) == "done"


@pytest.mark.parametrize(
    "act",
    [
        "open('/etc/passwd')",
        "open(sys.argv[1] + '/new', 'w')",
        "os.listdir('/')",
        "os.mkdir(sys.argv[1] + '/new')",
        "os.unlink(sys.argv[1] + '/old')",
        "os.rename(sys.argv[1] + '/old', sys.argv[1] + '/new')",
        "os.truncate(sys.argv[1] + '/old', 0)",
        "os.mkfifo(sys.argv[1] + '/new')",
        "os.symlink('/etc', sys.argv[1] + '/new')",
        "open('/dev/null', 'w')",
        "open('/proc/self/mem')",
    ],
)
def test_landlock_keeps_every_path_out_of_reach(act, tmp_path):
    held = need("landlock")
    if "truncate" in act and int(held.detail.split()[1]) < 3:
        pytest.skip("Landlock knows truncate from ABI 3 on")
    (tmp_path / "old").write_text("kept")
    assert confined(["no_new_privs", "landlock"], act, tmp_path) == "EACCES"
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "kept"


def test_landlock_keeps_tcp_sockets_and_processes_out_of_reach():
    abi = int(need("landlock").detail.split()[1])
    if abi < 6:
        pytest.skip(f"Landlock ABI {abi} knows no TCP (4), no abstract sockets and signals (6)")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        port = server.getsockname()[1]
        abstract.bind(f"\0idiolect-test-{os.getpid()}")
        abstract.listen()
        layers = ["no_new_privs", "landlock"]
        assert confined([], f"socket.create_connection(('127.0.0.1', {port}))") == "done"  # it is there
        assert confined(layers, f"socket.create_connection(('127.0.0.1', {port}))") == "EACCES"
        assert confined(layers, "socket.create_server(('127.0.0.1', 0))") == "EACCES"
        act = f"socket.socket(socket.AF_UNIX).connect(chr(0) + 'idiolect-test-{os.getpid()}')"
        assert confined([], act) == "done"
        assert confined(layers, act) == "EPERM"
        assert confined(layers, "os.kill(os.getppid(), 0)") == "EPERM"


def test_the_network_namespace_is_empty():
    need("namespaces")
    with socket.create_server(("127.0.0.1", 0)) as server:
        act = f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)"
        assert confined(["namespaces"], act) in ("ENETUNREACH", "ECONNREFUSED")
    assert confined(["namespaces"], "say(','.join(n for _, n in socket.if_nameindex()))") == "lodone"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
def test_no_capability_is_left():
    assert confined([], "os.chroot('/')") == "done"
    assert confined(["capabilities"], "os.chroot('/')") == "EPERM"
    assert confined(["namespaces", "capabilities"], "socket.sethostname('x')") == "EPERM"


def test_limits_hold():
    assert confined(["limits"], "len(bytearray(400 << 20))") == "MemoryError"
    assert confined(["limits"], "len(bytearray(64 << 20))") == "done"
    act = "os.write(os.open(sys.argv[1], os.O_WRONLY), b'x')"
    assert confined(["limits"], act, "/dev/null") == "done"


def test_a_file_cannot_grow(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    assert confined(["limits"], "os.write(os.open(sys.argv[1], os.O_WRONLY), b'x')", tmp_path / "f") == "EFBIG"
    assert (tmp_path / "f").read_bytes() == b""


def test_spinning_has_an_end(monkeypatch):
    code = PRELUDE + "sandbox.CPU_S = 1\nsandbox.limits()\nwhile True: pass"
    done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
    assert -done.returncode in (signal.SIGXCPU, signal.SIGKILL)


def test_it_runs_last_and_dies_first():
    act = "say(json.dumps([os.sched_getscheduler(0), open('/proc/self/oom_score_adj').read().strip()]))"
    said = confined(["idle"], act).removesuffix("done")
    assert json.loads(said) == [os.SCHED_IDLE, "1000"]
    ioprio_get = {"x86_64": 252, "aarch64": 31}.get(os.uname().machine)
    if ioprio_get:
        assert confined(["idle"], f"say(str(libc.syscall({ioprio_get}, 1, 0) >> 13))") == "3done"


def test_what_somebody_waits_for_runs_with_low_priority_and_not_last_of_all():
    """On a board that is busy for ever, SCHED_IDLE would mean never."""
    act = "say(json.dumps([os.sched_getscheduler(0), os.nice(0)]))"
    assert json.loads(confined(["nice"], act).removesuffix("done")) == [os.SCHED_BATCH, sandbox.NICE]
    request = messages.ask(messages.Request(model(), _ledger(), When(20_000, 1)))
    worker = Worker()
    for patient, layer in ((False, "nice"), (True, "idle")):
        worker.run(request, messages.ANSWER_CAP, patient=patient)
        assert worker.layers[0].name == layer


def test_it_leaves_no_core_and_is_not_traced():
    assert confined(["undumpable"], "say(str(libc.prctl(3, 0, 0, 0, 0)))") == "0done"


def test_later_layers_undo_none_of_the_earlier_ones():
    """The kernel resets some of them when credentials change (commit_creds in kernel/cred.c)."""
    layers = ["idle"] + [step.__name__ for step in (*sandbox.EARLY, *sandbox.LATE) if step is not sandbox.seccomp]
    act = """say(json.dumps([
        libc.prctl(2, ctypes.byref(signal_number := ctypes.c_int()), 0, 0, 0) or signal_number.value,
        libc.prctl(3, 0, 0, 0, 0), libc.prctl(39, 0, 0, 0, 0), os.sched_getscheduler(0)]))"""
    have = [name for name in layers if name not in _missing()]
    said = confined(have, act.replace("\n", " ")).removesuffix("done")
    assert json.loads(said) == [signal.SIGKILL, 0, 1, os.SCHED_IDLE]


def _missing():
    return {layer.name for layer in Worker().probe() if not layer.held}


def test_it_does_not_outlive_its_parent(tmp_path):
    mark = tmp_path / "pid"
    child = PRELUDE + f"sandbox.parent()\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\nsignal.pause()"
    parent = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        deadline = time.monotonic() + 60
        while not (mark.exists() and mark.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pid = int(mark.read_text())
        process.kill()
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _ledger():
    examples = [Example(n + 1, "lights please", "enrolment", "01", 20_000, "00" * 32, invented(1, n)) for n in range(3)]
    return Ledger("aa" * 8, tuple(decode(example.encode()) for example in examples))


def test_a_round_within_all_layers_makes_the_very_bytes_that_one_without_makes():
    worker = Worker()
    request = messages.Request(model(), _ledger(), When(20_000, 1))
    answer = worker.run(messages.ask(request), messages.ANSWER_CAP)
    outcome = messages.read_answer(messages.unpack(answer, messages.ANSWER_CAP), request)
    assert outcome.data == rounds.run(model(), _ledger(), When(20_000, 1)).data
    held = {layer.name for layer in worker.layers if layer.held}
    assert held >= {"nice", "parent", "limits", "undumpable", "no_new_privs", "capabilities"}
    steps = (sandbox.nice, *sandbox.EARLY, *sandbox.LATE)
    assert {step.__name__ for step in steps} == {layer.name for layer in worker.layers}


def test_a_kernel_that_lacks_layers_is_said_and_the_rest_holds(tmp_path):
    """An outer filter makes a kernel without Landlock, seccomp filters and namespaces of this one."""
    need("seccomp")
    launcher = tmp_path / "old_kernel.py"
    launcher.write_text(
        PRELUDE
        + textwrap.dedent("""
        libc.prctl(38, 1, 0, 0, 0)
        library = sandbox._libseccomp()
        context = library.seccomp_init(sandbox._ALLOW)
        for name in ("landlock_create_ruleset", "seccomp", "unshare"):
            number = library.seccomp_syscall_resolve_name(name.encode())
            number = number if number >= 0 else 444
            assert library.seccomp_rule_add_array(context, 0x00050000 | errno.ENOSYS, number, 0, None) == 0
        number = library.seccomp_syscall_resolve_name(b"prctl")
        option = (sandbox._Argument * 1)(sandbox._Argument(0, 4, 22, 0))
        assert library.seccomp_rule_add_array(
            context, 0x00050000 | errno.EINVAL, number, 1, ctypes.cast(option, ctypes.c_void_p)) == 0
        assert library.seccomp_load(context) == 0
        os.execv(sys.executable, [sys.executable, "-m", "idiolect.learning.worker.main"])
        """)
    )
    worker = Worker([sys.executable, str(launcher)])
    request = messages.Request(model(), _ledger(), When(20_000, 1))
    answer = worker.run(messages.ask(request), messages.ANSWER_CAP)
    assert messages.read_answer(messages.unpack(answer, messages.ANSWER_CAP), request).verdict.passed
    missing = {layer.name for layer in worker.layers if not layer.held}
    assert missing == {"landlock", "seccomp", "namespaces"}
    assert all(layer.detail for layer in worker.layers if not layer.held)


def test_libc_can_be_called_at_all():
    """The probes above count on it: with no layer on, the same acts succeed."""
    assert confined([], "open('/etc/passwd')") == "done"
    assert confined([], "os.fork() and None") == "donedone"
    assert ctypes.CDLL(None).getpid() == os.getpid()
