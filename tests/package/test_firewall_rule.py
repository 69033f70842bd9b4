"""The firewall's rules in docs/integrator.md: the kernel takes them, and they count connections by address."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import absent

DOC = Path(__file__).parents[2] / "docs" / "integrator.md"
TRIED = """
import fcntl, socket, struct, subprocess, sys

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_:
    fcntl.ioctl(any_, 0x8914, struct.pack("16sH14x", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
subprocess.run(["nft", "-f", "-"], input=sys.argv[1], text=True, check=True)
listening = socket.create_server(("0.0.0.0", 10400), backlog=64)

def come(address):
    it = socket.socket()
    it.settimeout(2)
    it.bind((address, 0))
    try:
        it.connect(("127.0.0.1", 10400))
    except OSError:
        return None
    return it

kept = [[come(address) for _ in range(count)] for address, count in (("127.0.0.2", 12), ("127.0.0.3", 3))]
print(*(sum(it is not None for it in each) for each in kept))
"""


def test_the_rule_is_taken_and_counts_by_address():
    if os.geteuid() or not shutil.which("nft"):
        absent("needs root, for a network namespace, and nft: apt install nftables")
    (rules,) = re.findall(r"^```\n(table inet idiolect.*?)^```$", DOC.read_text(), re.MULTILINE | re.DOTALL)
    command = ["unshare", "--net", sys.executable, "-c", TRIED, rules]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "not supported" in done.stderr.lower() or "No such file or directory" in done.stderr:
        pytest.skip(f"this kernel has no such rules: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["8", "3"]
