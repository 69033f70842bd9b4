"""A boot: how long it takes until the service is ready, by the machine's own clock; and a restart."""

import pytest
from product import CONTROL, SOCKET, UNIT

BOOT_S = 60
MICROSECONDS = 1e6


def stamp(product, name, unit=UNIT):
    """One of systemd's time stamps, in seconds since the kernel's start."""
    return int(product.show(name, unit)) / MICROSECONDS


@pytest.mark.arm64
@pytest.mark.quick
def test_booted_it_is_ready_by_itself_and_hears(product, measure):
    """Nobody starts it. Its clock counts from the kernel's start; in a container that is the host's."""
    target = product.target
    before = target.check("cat /proc/sys/kernel/random/boot_id; systemctl show -p UserspaceTimestampMonotonic")
    target.reboot()
    product.mark()
    product.running(BOOT_S)
    assert target.check("cat /proc/sys/kernel/random/boot_id; systemctl show -p UserspaceTimestampMonotonic") != before
    ready = stamp(product, "ActiveEnterTimestampMonotonic")
    began = stamp(product, "InactiveExitTimestampMonotonic")
    if not target.facts.lacks.get("own clock"):
        measure("boot: kernel's start to READY, by its own clock", ready)
    measure("boot: the service's start to READY", ready - began)
    assert product.show("NRestarts") == "0"
    product.understands(7)


@pytest.mark.arm64
@pytest.mark.quick
def test_restarted_its_control_socket_is_still_there(product):
    """systemd made the socket's file; who listens on it in the service's place must not take it away."""
    for _ in range(2):
        pid = product.pid
        product.restart()
        assert product.target.run(f"test -S {CONTROL}").rc == 0
        assert product.status()["version"]
        assert product.pid not in (0, pid)
    assert product.target.check(f"systemctl is-active {SOCKET} {UNIT}").split() == ["active", "active"]
    assert product.idiolect("status").rc == 0
    product.running()
    product.understands(3)
