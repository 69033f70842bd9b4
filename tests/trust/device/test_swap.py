"""What keeps memory out of swap, as the kernel shows it, and what doctor makes of it."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from idiolect.service import doctor
from idiolect.trust.device.swap import read_swapping

SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
ON = SWAPS + "/var/swap                               file\t\t102396\t\t0\t\t-2\n"
GROUP = "system.slice/idiolectd.service"


class Machine:
    """A root directory in which the kernel's files say what they are told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/swaps", ON)
        self.write("proc/self/cgroup", f"0::/{GROUP}\n")
        self.write(f"sys/fs/cgroup/{GROUP}/memory.max", "335544320\n")
        self.write(f"sys/fs/cgroup/{GROUP}/memory.swap.max", "0\n")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def remove(self, path: str) -> None:
        (self.root / path).unlink()

    def check(self) -> doctor.Check:
        (found,) = doctor.swap(read_swapping(self.root))
        return found


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_a_limit_of_nothing_keeps_it_out(machine):
    found = machine.check()
    assert (found.level, found.fix) == ("ok", "")
    assert "memory.swap.max" in found.detail


def test_swap_that_is_off_needs_no_limit(machine):
    machine.write("proc/swaps", SWAPS)
    machine.remove(f"sys/fs/cgroup/{GROUP}/memory.swap.max")
    machine.remove(f"sys/fs/cgroup/{GROUP}/memory.max")
    assert machine.check().level == "ok"


def test_a_kernel_without_swap_has_no_file(machine):
    machine.remove("proc/swaps")
    machine.remove(f"sys/fs/cgroup/{GROUP}/memory.swap.max")
    assert machine.check().level == "ok"


def test_raspberry_pi_os_as_it_ships_switches_the_controller_off(machine):
    """cgroup_disable=memory: none of the controller's files is there, and the unit's MemorySwapMax=0 is void."""
    machine.remove(f"sys/fs/cgroup/{GROUP}/memory.swap.max")
    machine.remove(f"sys/fs/cgroup/{GROUP}/memory.max")
    found = machine.check()
    assert found.level == "fail"
    assert "/var/swap" in found.detail
    assert "no memory controller" in found.detail
    assert "cgroup_enable=memory" in found.fix
    assert "cmdline.txt" in found.fix
    assert "swapoff" in found.fix


def test_a_controller_that_counts_no_swap_does_not_help(machine):
    machine.remove(f"sys/fs/cgroup/{GROUP}/memory.swap.max")
    found = machine.check()
    assert found.level == "fail"
    assert "limits no swap" in found.detail


@pytest.mark.parametrize("limit", ["max", "1048576"])
def test_a_drop_in_that_allows_swap_is_named(machine, limit):
    machine.write(f"sys/fs/cgroup/{GROUP}/memory.swap.max", f"{limit}\n")
    found = machine.check()
    assert found.level == "fail"
    assert limit in found.detail
    assert "MemorySwapMax=0" in found.fix


def test_a_limit_further_up_holds_too(machine):
    machine.write(f"sys/fs/cgroup/{GROUP}/memory.swap.max", "max\n")
    machine.write("sys/fs/cgroup/system.slice/memory.swap.max", "0\n")
    assert machine.check().level == "ok"


@pytest.mark.parametrize("cgroup", ["11:memory:/user.slice\n1:name=systemd:/system.slice/idiolectd.service\n", "", "x"])
def test_groups_of_version_1_or_none_keep_nothing_out(machine, cgroup):
    machine.write("proc/self/cgroup", cgroup)
    machine.remove(f"sys/fs/cgroup/{GROUP}/memory.swap.max")
    machine.remove(f"sys/fs/cgroup/{GROUP}/memory.max")
    assert machine.check().level == ("fail" if "systemd" in cgroup else "warn")


def test_a_group_outside_of_what_is_seen_is_not_looked_for(machine, tmp_path):
    machine.write("proc/self/cgroup", "0::/../../elsewhere.service\n")
    found = machine.check()
    assert found.level == "warn"
    assert "cannot be told" in found.detail


def test_by_hand_it_is_a_warning(machine):
    machine.write("proc/self/cgroup", "0::/user.slice/user-1000.slice/session-1.scope\n")
    assert machine.check().level == "warn"


def test_swaps_that_cannot_be_read_count_as_on(machine):
    machine.remove("proc/swaps")
    (machine.root / "proc/swaps").mkdir()
    machine.write(f"sys/fs/cgroup/{GROUP}/memory.swap.max", "max\n")
    found = machine.check()
    assert found.level == "fail"
    assert "()" not in found.detail


def test_pages_that_the_kernel_does_not_lock_are_told(tmp_path):
    """In a process of its own, which may lock nothing, and is not root, whom no limit binds."""
    program = (
        "import os, resource, sys\n"
        "from pathlib import Path\n"
        "from idiolect.trust.device.swap import read_swapping\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
        "os.getuid() or os.setresuid(65534, 65534, 65534)\n"
        "print(read_swapping(Path(sys.argv[1])).locks)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] < 1 << 16, reason="no locked memory allowed")
def test_this_machine_can_be_asked():
    found = read_swapping(Path("/"))
    assert found.locks
    (check,) = doctor.swap(found)
    assert check.level in ("ok", "warn", "fail")


def test_without_locked_pages_it_is_a_warning(machine):
    (found,) = doctor.swap(doctor.Swapping(("/var/swap",), "", "", service=True, locks=False))
    assert found.level == "warn"
    assert "LimitMEMLOCK" in found.fix
