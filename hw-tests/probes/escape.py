"""What somebody would try who got into the daemon: run in its place, inside its unit. Prints one JSON object.

Each attempt either comes to nothing, with the error's name, or is "allowed". The same program without a unit around it
shows that the attempts are real. Numbers of system calls are those of x86-64 and, where they differ, arm64.
"""

import ctypes
import errno
import glob
import json
import mmap
import os
import platform
import signal
import socket
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
ARM = platform.machine() == "aarch64"
CALLS = {
    "ptrace": (101, 117), "mount": (165, 40), "keyctl": (250, 219), "add_key": (248, 217), "bpf": (321, 280),
    "perf_event_open": (298, 241), "process_vm_readv": (310, 270), "memfd_secret": (447, 447), "setns": (308, 268),
    "unshare": (272, 97), "chroot": (161, 51), "sethostname": (170, 161), "settimeofday": (164, 170),
    "init_module": (175, 105), "kexec_load": (246, 104), "reboot": (169, 142), "io_uring_setup": (425, 425),
    "setuid": (105, 146), "mlock": (149, 228), "mlockall": (151, 230), "userfaultfd": (323, 282),
    "personality": (135, 92),
    "open_by_handle_at": (304, 265), "fsopen": (430, 430), "pivot_root": (155, 41), "swapon": (167, 224),
    "syslog": (103, 116), "pidfd_getfd": (438, 438),
}  # fmt: skip


def call(name: str, *arguments: object) -> int:
    """A system call by its name."""
    ctypes.set_errno(0)
    result = LIBC.syscall(CALLS[name][ARM], *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return int(result)


def network() -> None:
    """All ways to a socket that is not a Unix one."""
    families = {"inet": 2, "inet6": 10, "netlink": 16, "packet": 17, "alg": 38, "vsock": 40, "bluetooth": 31, "can": 29}
    for name, family in families.items():
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            attempt(f"socket {name}", lambda family=family, kind=kind: socket.socket(family, kind).close())


def inherited(target: str) -> None:
    """A listener that systemd passed: turned round by connect(AF_UNSPEC), then to the host's network."""
    if "LISTEN_FDS" not in os.environ:
        return

    def turn() -> None:
        own = socket.socket(fileno=3)
        if LIBC.connect(3, struct.pack("=H14x", socket.AF_UNSPEC), 16):
            raise OSError(ctypes.get_errno(), "connect")
        host, _, port = target.rpartition(":")
        own.settimeout(2)
        own.connect((host, int(port)))
        own.sendall(b"a voice")

    attempt("inherited TCP listener", turn)


def files(state: str) -> None:
    """Places that are not its own."""
    for folder in (
        "/etc",
        "/etc/idiolect",
        "/usr/lib/idiolect",
        "/usr/local",
        "/var/lib",
        "/var/log",
        "/root",
        "/home",
    ):
        attempt(f"write {folder}", lambda folder=folder: write(f"{folder}/hw-escape"))
    for folder in ("/run", "/sys/fs/cgroup", "/proc/sys/kernel", "/dev", "/boot", "/srv", "/var/spool", "/dev/shm"):
        attempt(f"write {folder}", lambda folder=folder: write(f"{folder}/hw-escape"))
    attempt("write /proc/sys/kernel/hostname", lambda: write("/proc/sys/kernel/hostname", remove=False))
    for path in ("/etc/shadow", "/root/.", "/home/.", "/etc/credstore/.", "/proc/1/environ", "/proc/kcore"):
        attempt(f"read {path}", lambda path=path: os.listdir(path) if path.endswith("/.") else open(path, "rb").read(1))
    attempt("read the journal", lambda: open(glob.glob("/var/log/journal/*/*.journal")[0], "rb").read(1))
    attempt("own state", lambda: write(f"{state}/hw-escape"))
    attempt("own runtime directory", lambda: write("/run/idiolect/hw-escape"))
    attempt("set a file's owner bit", lambda: setuid_file(f"{state}/hw-suid"))
    attempt("give a file to root", lambda: give_away(f"{state}/hw-given", 0, -1))
    attempt("give a file to a group that is not its own", lambda: give_away(f"{state}/hw-given", -1, 0))


def give_away(path: str, owner: int, group: int) -> None:
    """A file of its own that is somebody else's from then on."""
    write(path, remove=False)
    try:
        os.chown(path, owner, group, dir_fd=os.open("/", os.O_RDONLY))  # fchownat(2)
    finally:
        os.unlink(path)


def setuid_file(path: str) -> None:
    """A program that runs as its owner."""
    write(path, remove=False)
    try:
        os.chmod(path, 0o4755)
    finally:
        os.unlink(path)


def write(path: str, remove: bool = True) -> None:
    """Make a file and take it away again."""
    with open(path, "w") as file:
        file.write("x")
    if remove:
        os.unlink(path)


def devices() -> None:
    """Devices that are neither a microphone nor a TPM."""
    for path in (
        "/dev/mem",
        "/dev/kmsg",
        "/dev/fuse",
        "/dev/vda",
        "/dev/tty1",
        "/dev/ttyS0",
        "/dev/net/tun",
        "/dev/hwrng",
    ):
        if os.path.exists(path):
            attempt(f"device {path}", lambda path=path: os.close(os.open(path, os.O_RDWR)))
    attempt(
        "mknod",
        lambda: (
            os.mknod("/var/lib/idiolect/hw-node", 0o20666, os.makedev(1, 1)),
            os.unlink("/var/lib/idiolect/hw-node"),
        ),
    )


def memory() -> None:
    """Memory that can be written and executed."""

    def wx() -> None:
        where = LIBC.mmap(None, 4096, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC, 0x22, -1, 0)
        if where in (None, 2**64 - 1):
            raise OSError(ctypes.get_errno(), "mmap")

    def later() -> None:
        where = LIBC.mmap(None, 4096, mmap.PROT_READ | mmap.PROT_WRITE, 0x22, -1, 0)
        if LIBC.mprotect(ctypes.c_void_p(where), ctypes.c_size_t(4096), 5):
            raise OSError(ctypes.get_errno(), "mprotect")

    attempt("memory writable and executable", wx)
    attempt("memory made executable", later)
    attempt("lock a page", lambda: call("mlock", ctypes.c_void_p(id(attempt) & ~4095), 4096))
    attempt("lock a lot of memory", lock_much)
    attempt("lock all memory", lambda: call("mlockall", 3))


def lock_much() -> None:
    """More than its keys need: memory that the system would miss."""
    held = mmap.mmap(-1, 64 << 20)
    where = ctypes.addressof((ctypes.c_char * (64 << 20)).from_buffer(held))
    call("mlock", ctypes.c_void_p(where), ctypes.c_size_t(64 << 20))


def kernel() -> None:
    """The kernel's sharper tools."""
    attempt("ptrace own child", trace)
    attempt("read another user's memory", lambda: peek(1))
    attempt("mount", lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None))
    attempt("fsopen", lambda: os.close(call("fsopen", b"tmpfs", 0)))
    attempt("chroot", lambda: call("chroot", b"/"))
    attempt("pivot_root", lambda: call("pivot_root", b".", b"."))
    attempt("setns", lambda: call("setns", os.open("/proc/self/ns/net", os.O_RDONLY), 0))
    for name, flag in (("user", 0x10000000), ("mount", 0x20000), ("net", 0x40000000), ("pid", 0x20000000)):
        attempt(f"unshare {name}", lambda flag=flag: aside(lambda: call("unshare", flag)))
    attempt("keyctl", lambda: call("keyctl", 0, -3, 1))
    attempt("add_key", lambda: call("add_key", b"user", b"hw", b"x", 1, -2))
    attempt("bpf", lambda: os.close(call("bpf", 0, (ctypes.c_uint32 * 32)(2, 4, 4, 1), 72)))
    attempt("perf_event_open", lambda: call("perf_event_open", (ctypes.c_uint32 * 32)(1, 128), 0, -1, -1, 0))
    attempt("io_uring", lambda: os.close(call("io_uring_setup", 4, (ctypes.c_uint32 * 32)())))
    attempt("userfaultfd", lambda: os.close(call("userfaultfd", 1)))
    attempt("memfd_secret", lambda: os.close(call("memfd_secret", 0)))
    attempt("open_by_handle_at", lambda: call("open_by_handle_at", -100, (ctypes.c_uint32 * 32)(8, 1), 0))
    attempt("pidfd_getfd", lambda: call("pidfd_getfd", os.pidfd_open(os.getpid()), 1, 0))
    attempt("sethostname", lambda: call("sethostname", b"idiolect-hw", 11))
    attempt("settimeofday", lambda: call("settimeofday", None, (ctypes.c_int * 2)(0, 0)))
    attempt("init_module", lambda: call("init_module", b"", 0, b""))
    attempt("kexec_load", lambda: call("kexec_load", 0, 0, None, 0))
    attempt("swapon", lambda: call("swapon", b"/nonexistent", 0))
    attempt("syslog", lambda: call("syslog", 10, None, 0))
    attempt("setuid 0", lambda: aside(lambda: call("setuid", 0)))
    attempt("personality", lambda: aside(lambda: call("personality", 0x0400000)))
    attempt("real-time priority", lambda: aside(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))))
    attempt("another user's process", lambda: os.kill(1, 0))
    attempt("see others' processes", others)
    attempt("execute a setuid program", lambda: os.stat("/usr/bin/su") and gain())


def peek(pid: int) -> None:
    """A few bytes of another process."""
    here = ctypes.create_string_buffer(16)
    pair = (ctypes.c_uint64 * 2)(ctypes.addressof(here), 16)
    call("process_vm_readv", pid, pair, ctypes.c_ulong(1), pair, ctypes.c_ulong(1), ctypes.c_ulong(0))


def gain() -> None:
    """Whether privileges could still be gained by exec."""
    status = open("/proc/self/status").read()
    if "NoNewPrivs:\t1" in status:
        raise OSError(errno.EPERM, "no new privileges")


def others() -> None:
    """Processes of other users in /proc."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if os.stat(f"/proc/{pid}").st_uid != os.getuid():
            return
    raise OSError(errno.ENOENT, "none")


def trace() -> None:
    """Attach to a child of ours."""
    child = os.fork()
    if not child:
        signal.pause()
    try:
        call("ptrace", 16, child, 0, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def aside(work: object) -> None:
    """In a child, as it would change ourselves."""
    child = os.fork()
    if not child:
        try:
            work()  # type: ignore[operator]
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        raise OSError(errno.ECANCELED, f"killed by {signal.Signals(-code).name}")
    if code:
        raise OSError(code, os.strerror(code))


def interfaces() -> list[str]:
    """Of its own network namespace. (/sys/class/net shows those of whoever mounted /sys, which is the host.)"""
    with open("/proc/self/net/dev") as file:
        return sorted(line.partition(":")[0].strip() for line in file if ":" in line)


FOUND: dict[str, str] = {}


def attempt(name: str, work: object) -> None:
    """Note what comes of it; one success is enough."""
    if FOUND.get(name) == "allowed":
        return
    try:
        work()  # type: ignore[operator]
    except OSError as error:
        FOUND[name] = errno.errorcode.get(error.errno or 0, str(error))
    except Exception as error:
        FOUND[name] = repr(error)
    else:
        FOUND[name] = "allowed"


if __name__ == "__main__":
    inherited(sys.argv[1])
    if len(sys.argv) < 3:
        files("/var/lib/idiolect")
        network()
        devices()
        memory()
        kernel()
    FOUND["interfaces"] = ",".join(interfaces())
    print("PROBE " + json.dumps(FOUND), flush=True)
