"""What README and docs tell people to type on a device: by a user in the group idiolect, by root where they say so."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest
from household import moves_in
from product import SETTINGS, Product

from tests.support.documented import ON_DEVICE, PAGES, Line, lines

USER = "hw-somebody"
STAND_INS = {"FILE": "/etc/idiolect/idiolect.yaml"}
FOR_EVER = r"^(sudo )?(idiolect listen|journalctl .*-f)"
TYPED = {r"consent grant": "yes\n", r"erase ann": "ann\n"}
"""What a command asks for."""
MAY_BE_REFUSED = r"audit verify --adapter|forget|rollback|learn --now|consent (grant|withdraw)|report"
"""They need what somebody has taught or agreed to, and may say what of it there is not."""
REFUSED, NOT_YET = 70, 1


def told() -> list[Line]:
    """What is tried here, page by page, as it stands there; what ends everything comes last."""
    found = [line for page in PAGES for line in lines(page) if line.place == ON_DEVICE]
    last = next(line for line in found if "erase" in line.text)  # once: then there is nobody left
    return [*(line for line in found if "erase" not in line.text), last]


@pytest.fixture(scope="module")
def home(installed: Product) -> Iterator[Product]:
    """The service as installed but for its microphone, the person ann, and the page, which `pair` is about."""
    installed.begin()
    target = installed.target
    target.check(f"id {USER} 2>/dev/null || useradd --create-home {USER}; usermod -aG idiolect {USER}")
    more = f"people: {{ann: {{users: [root, {USER}]}}}}\npage: {{enabled: true}}\n"
    target.put(installed.baseline() + more, SETTINGS)
    installed.restart()
    installed.running()
    moves_in(installed)
    yield installed
    target.put(installed.baseline(), SETTINGS)
    installed.restart()
    target.check(f"userdel -r {USER} 2>/dev/null; true")


@pytest.mark.anywhere
@pytest.mark.parametrize("line", told(), ids=lambda line: f"{line.page.name}: {line.text}")
def test_a_line_works_as_printed(home: Product, line: Line) -> None:
    text = re.sub(r"\b[A-Z]{4,}\b", lambda word: STAND_INS.get(word[0], word[0]), line.text).removeprefix("sudo ")
    if endless := re.match(FOR_EVER, line.text):
        text = f"timeout 3 {text}"
    if not line.as_root:
        folder = f"/home/{USER}/{line.page.name}"
        home.target.check(f"install -d -o {USER} {folder}")
        text = f"cd {folder} && setpriv --reuid {USER} --regid {USER} --init-groups sh -c {shlex.quote(text)}"
    typed = next((answer for pattern, answer in TYPED.items() if re.search(pattern, line.text)), "")
    done = home.target.run(text, timeout=120, stdin=typed.encode())
    assert "Traceback" not in done.err, done.said
    if endless:
        assert done.rc == 124, done.said
    elif re.search(MAY_BE_REFUSED, line.text):
        assert done.rc in (0, NOT_YET) or (done.rc == REFUSED and re.match(r"idiolect: \w+: \S", done.err)), done.said
    else:
        assert done.rc == 0, done.said
