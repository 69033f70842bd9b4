"""The report that somebody may send: asked of the machine itself, is there anything in it that names it?"""

import json
import re

import pytest
from conftest import REPORT
from sharing import KERNEL, MODEL, SYSTEM, shareable

WHOSE = """\
hostname; cat /etc/machine-id /etc/hostname
awk -F: '$3 >= 1000 && $3 < 60000 {print $1; print $6}' /etc/passwd
cat /sys/class/net/*/address
hostname -I 2>/dev/null | tr ' ' '\\n'
awk '/^Serial/{print $3}' /proc/cpuinfo
tr -d '\\0' < /proc/device-tree/serial-number 2>/dev/null; echo
sed -n 's/^ *ssid=//p' /etc/NetworkManager/system-connections/* /etc/wpa_supplicant/*.conf 2>/dev/null | tr -d '"'
cat /sys/class/dmi/id/*_serial 2>/dev/null
"""
COMMON = {"localhost", "nobody", "00:00:00:00:00:00", "127.0.0.1", "none", "linux", "pi"}


@pytest.mark.arm64
@pytest.mark.quick
@pytest.mark.anywhere
def test_nothing_in_the_report_says_whose_machine_it_is(product, request):
    """Its name, its users, its addresses and numbers: none of them stands in what this run would write."""
    told = {line.strip() for line in product.target.run(WHOSE).out.splitlines()}
    words = {word.lower() for word in (*SYSTEM, *KERNEL, *MODEL)}
    personal = {each for each in told if len(each) > 1 and each.lower() not in COMMON | words}
    assert personal, "a machine has a name at least"
    text = json.dumps(shareable(request.config.stash[REPORT]))
    found = [each for each in personal if re.search(rf"(?<!\w){re.escape(each)}(?!\w)", text, re.IGNORECASE)]
    assert not found, found
    assert "/home" not in text
