"""The unit from inside: what a program in the daemon's place can do, and the same without the unit."""

import json
import re

import pytest
from conftest import HERE
from product import SETTINGS, SOCKET, UNIT

PROBE = "/usr/local/lib/hw-escape.py"
COPY = "hw-probe"
FREE = {"own state", "own runtime directory", "interfaces", "lock a page"}
"""What it may do."""
PORT = 19
ELSEWHERE = 20
SOCKET_UNIT = f"[Socket]\nListenStream=127.0.0.1:{PORT}\n"
BARE = (
    f"[Service]\nType=oneshot\nPrivateNetwork=yes\nExecStart=/usr/bin/python3 {PROBE} 127.0.0.1:{ELSEWHERE} network\n"
)
OUTSIDE = f"""\
import socket
s = socket.create_server(("127.0.0.1", {ELSEWHERE}))
open("/run/hw-outside", "w").write("listens")
s.settimeout(60); c, _ = s.accept(); open("/run/hw-outside", "a").write("reached" + c.recv(100).decode())
"""


@pytest.fixture(scope="module")
def probes(installed):
    """A copy of the unit that runs the probe in the daemon's place; under another name, so that it gets no socket."""
    target = installed.target
    target.put(HERE / "probes/escape.py", PROBE)
    yield target
    target.run(f"rm -rf /run/systemd/system/{COPY}* {PROBE}; systemctl daemon-reload")


def confined(target, arguments=""):
    """Run the probe inside a copy of our unit; what it found."""
    fragment = target.check(f"systemctl show {UNIT} -p FragmentPath --value")
    target.check(f"cp {fragment} /run/systemd/system/{COPY}.service")
    override = (
        "[Unit]\nWants=\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStartPre=\nExecReload=\n"
        f"ExecStart=\nExecStart=/usr/lib/idiolect/bin/python3 -I {PROBE} 127.0.0.1:{ELSEWHERE} {arguments}\n"
    )
    target.put(override, f"/run/systemd/system/{COPY}.service.d/50-probe.conf")
    return started(target, f"{COPY}.service")


def started(target, unit):
    cursor = re.search(r"cursor: (\S+)", target.run("journalctl -n 0 --show-cursor -q").out)
    after = f"--after-cursor='{cursor.group(1)}'" if cursor else ""
    target.check("systemctl daemon-reload", timeout=60)
    done = target.run(f"systemctl start {unit}", timeout=90)
    said = target.run(f"journalctl --sync; journalctl --no-pager -q -o cat {after} -u {unit}").out
    found = [line for line in said.splitlines() if line.startswith("PROBE ")]
    assert found, f"{done.said}\n{said}"
    return json.loads(found[-1].removeprefix("PROBE "))


@pytest.mark.quick
def test_systemd_finds_it_well_confined_and_nothing_wrong(product, measure):
    said = product.target.run(f"systemd-analyze security --no-pager {UNIT}").out
    level = float(re.search(r"exposure level for \S+: ([\d.]+)", said).group(1))
    measure("systemd-analyze security, exposure", level, "", 1.5, timing=False)
    assert product.target.run(f"systemd-analyze security --threshold=15 {UNIT}").rc == 0
    verified = product.target.run(f"systemd-analyze verify --man=no {UNIT} idiolectd.socket")
    assert verified.said == ""


@pytest.mark.arm64
@pytest.mark.quick
def test_nothing_is_possible_from_inside_but_its_own_work(product, probes):
    found = confined(probes)
    escapes = {name: how for name, how in found.items() if how == "allowed" and name not in FREE}
    assert escapes == {}
    assert found["own state"] == "allowed", "the probe runs where the daemon would"
    assert found["interfaces"] in ("", "lo")
    bare = json.loads(probes.check(f"python3 {PROBE} 127.0.0.1:1", timeout=90).partition("PROBE ")[2])
    possible = {name for name, how in bare.items() if how == "allowed"} - FREE
    real = {"socket inet", "socket netlink", "memory writable and executable", "ptrace own child", "write /etc"}
    real |= {"give a file to root", "give a file to a group that is not its own", "lock a lot of memory"}
    assert real <= possible, f"without the unit these must work, or the probe proves nothing: {real - possible}"
    print(f"{len(possible)} of {len(bare)} attempts succeed without the unit, none in it")


@pytest.mark.quick
def test_an_inherited_tcp_listener_is_a_way_out_of_a_private_network_and_not_out_of_ours(product, probes):
    """Both: what the service's PrivateNetwork= is worth, and what our socket unit makes of a port that somebody adds.

    In force for a socket is what the unit says that it was made for, and not the one that uses it.
    """
    target = probes
    target.put(SOCKET_UNIT, f"/run/systemd/system/{COPY}-bare.socket")
    target.put(BARE, f"/run/systemd/system/{COPY}-bare.service")
    assert escapes(target, f"{COPY}-bare", lambda: started(target, f"{COPY}-bare.service")), "the trick is real"
    target.run(f"systemctl stop {COPY}-bare.socket")
    fragment = target.check(f"systemctl show {SOCKET} -p FragmentPath --value")
    target.check(f"cp {fragment} /run/systemd/system/{COPY}.socket")
    # each layer by itself, where the kernel has the second
    layers = ["IPAddressDeny="] + (["PrivateNetwork=no"] if target.facts.enforces_cgroups else [])
    for without in layers:
        port = f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{PORT}\n{without}\n"
        target.put(port, f"/run/systemd/system/{COPY}.socket.d/50-port.conf")
        reached = escapes(target, COPY, lambda: confined(target, "network"))
        target.run(f"systemctl stop {COPY}.socket")
        assert not reached, f"with {without}"
    target.run(f"rm -rf /run/systemd/system/{COPY}.socket*; systemctl daemon-reload")


def escapes(target, unit, run):
    """Whether what runs reaches a server on the host's network."""
    target.put(OUTSIDE, "/usr/local/lib/hw-outside.py")
    target.run("rm -f /run/hw-outside; systemctl stop hw-outside.service; systemctl reset-failed hw-outside.service")
    target.check("systemd-run -q --unit=hw-outside python3 -u /usr/local/lib/hw-outside.py; systemctl daemon-reload")
    target.wait(lambda: "listens" in target.run("cat /run/hw-outside").out, 20, "the server outside")
    target.check(f"systemctl start {unit}.socket")
    found = run()
    assert "inherited TCP listener" in found, found
    reached = "reached" in target.run("sleep 0.3; cat /run/hw-outside").out
    assert reached == (found["inherited TCP listener"] == "allowed"), found
    target.run("systemctl stop hw-outside.service")
    return reached


@pytest.mark.arm64
def test_the_running_daemon_has_what_the_unit_promises(product):
    """Not a copy: the process itself."""
    status = product.target.check(f"cat /proc/{product.pid}/status")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert fields["CapEff"].strip() == fields["CapPrm"].strip() == fields["CapBnd"].strip() == "0" * 16
    assert fields["NoNewPrivs"].strip() == "1"
    assert fields["Seccomp"].strip() == "2"
    assert fields["Uid"].split() == [product.target.check("id -u idiolect")] * 4
    links = product.target.check(
        f"nsenter -t {product.pid} -n ls /sys/class/net; readlink /proc/{product.pid}/ns/net /proc/1/ns/net"
    )
    namespaces = links.splitlines()[-2:]
    assert namespaces[0] != namespaces[1]
    sockets = product.target.check(
        f"nsenter -t {product.pid} -n cat /proc/net/tcp /proc/net/udp /proc/net/packet | grep -vc sl; true"
    )
    assert int(sockets) <= 1  # the heading of /proc/net/packet
    held = product.target.check(f"ls -l /proc/{product.pid}/fd")
    assert "/dev/mem" not in held
    assert "TCP" not in held


@pytest.mark.quick
def test_its_keys_are_on_locked_pages(product):
    """Where swap is on and the kernel has no memory controller, nothing else keeps them off the disk."""
    product.target.wait(lambda: product.status()["keys"]["state"] == "released", 30, "keys")
    status = product.target.check(f"cat /proc/{product.pid}/status")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert 0 < int(fields["VmLck"].split()[0]) <= 4096, "KiB"
    assert int(product.show("LimitMEMLOCK")) == 4 << 20


@pytest.mark.quick
def test_swap_without_a_limit_on_it_fails_in_doctor(product):
    """What Raspberry Pi OS ships: swap is on, and the kernel has no memory controller for the unit."""
    (before,) = [each for each in product.api("/v1/doctor")["checks"] if each["check"] == "swap"]
    assert before["level"] == "ok", before
    if product.target.facts.enforces_cgroups:
        group = product.show("ControlGroup")
        assert product.target.check(f"cat /sys/fs/cgroup{group}/memory.swap.max") == "0"
        return
    swaps = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/var/swap  file\t\t102396\t\t0\t\t-2\n"
    product.target.put(swaps, "/usr/local/lib/hw-swaps")
    product.drop_in("[Service]\nBindReadOnlyPaths=/usr/local/lib/hw-swaps:/proc/swaps\n")
    product.restart()
    product.running()
    doctor = product.idiolect("doctor")
    assert doctor.rc == 1, doctor.said
    (line,) = [each for each in doctor.out.splitlines() if "swap is on (/var/swap)" in each]
    assert "no memory controller" in line
    assert "cgroup_enable=memory" in doctor.out
    product.target.unlink("/usr/local/lib/hw-swaps")


def test_no_file_of_its_is_open_to_others(product):
    found = product.target.check(
        "find /var/lib/idiolect /etc/credstore -perm /o=rwx \\( -type f -o -type s \\) ! -name device.json; true"
    )
    assert found == ""
    assert product.target.check("stat -c '%a %U:%G' /run/idiolect/control.sock") == "660 idiolect:idiolect"
    assert product.target.check("stat -c '%a %U:%G' /var/lib/idiolect") == "750 idiolect:idiolect"


@pytest.mark.quick
def test_a_tcp_proxy_in_front_passes_bytes_and_reaches_nothing_else(product):
    """idiolect-tcp@: a port in front of one Unix socket; its group cannot open the control socket."""
    target = product.target
    target.put("[Socket]\nListenStream=127.0.0.1:10400\n", "/etc/systemd/system/idiolect-tcp@echo.socket.d/port.conf")
    server = (
        "import os, socket\n"
        "s = socket.socket(socket.AF_UNIX); p = '/run/idiolect/echo.sock'\n"
        "s.bind(p); os.chown(p, 0, __import__('grp').getgrnam('idiolect-tcp').gr_gid); os.chmod(p, 0o660); s.listen()\n"
        "print('listens', flush=True); c, _ = s.accept(); c.sendall(b'heard ' + c.recv(100)); c.close()\n"
    )
    target.put(server, "/usr/local/lib/hw-echo.py")
    target.run("rm -f /run/idiolect/echo.sock; systemctl reset-failed hw-echo.service")
    target.check("systemctl daemon-reload; systemd-run -q --unit=hw-echo python3 -u /usr/local/lib/hw-echo.py")
    target.wait(lambda: target.run("test -S /run/idiolect/echo.sock").rc == 0, 10, "the server behind")
    target.check("systemctl start idiolect-tcp@echo.socket")
    client = (
        "import socket; s = socket.create_connection(('127.0.0.1', 10400), 5); s.sendall(b'you'); print(s.recv(100))"
    )
    try:
        done = target.python(client)
        assert "heard you" in done.out, done.said + target.run("journalctl -q -n 20 -u 'idiolect-tcp@echo*'").out
        proxy = f"/proc/{product.show('MainPID', 'idiolect-tcp@echo.service')}/status"
        ids = [line.split()[1:] for line in target.check(f"grep -E '^(Uid|Gid|Groups):' {proxy}").splitlines()]
        group = target.check("getent group idiolect-tcp | cut -d: -f3")
        assert set(ids[0]).isdisjoint({"0", target.check("id -u idiolect")})
        assert set(ids[1]) | set(ids[2]) == {group}, "the control socket's group is not among them"
    finally:
        target.run("systemctl stop idiolect-tcp@echo.socket idiolect-tcp@echo.service hw-echo.service")
        target.unlink("/etc/systemd/system/idiolect-tcp@echo.socket.d", "/run/idiolect/echo.sock")
    product.touched(SETTINGS)
