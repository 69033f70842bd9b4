"""What README and docs tell people to type, line by line: where each is tried, or why it is not.

* ON_DEVICE: in a bare Debian with the package, by hw-tests/test_documented.py
* IN_CHECKOUT: in a bare Debian with a clone, by ``scripts/fresh``: ``-m tests.support.documented`` prints what to run

Both as a user in the group idiolect, or as root where the page says sudo, or that its commands are for root. Needs the
standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOTS_PAGES = {"integrator.md", "operations.md"}
"""They say that commands on the device run as root."""
ON_DEVICE, IN_CHECKOUT = "on a device", "in a checkout"
PROGRAMS = {
    *(
        "sudo",
        "apt",
        "arecord",
        "aplay",
        "alsamixer",
        "idiolect",
        "curl",
        "systemctl",
        "journalctl",
        "dmesg",
        "ls",
        "jq",
    ),
    *("install", "python3", "printf", "mkdir", "ssh", "systemd-creds", "shred", "pip", "cp"),
}
"""What a line of shell begins with, paths aside; anything else without a language is an example of something else."""

SPEECH = "somebody has to speak: hw-tests/test_learning.py and tests/whole/test_people.py"
LONG = "takes minutes and more; has tests of its own, and tests/docs/test_docs.py holds its options"
KEYS = "changes what holds the keys: hw-tests/test_tpm.py goes these steps"
OWN = "wants the bundle that build_bundle makes in minutes: tests/scripts/test_own_bundle.py, tests/cli/test_bundle.py"
MOMENT = "names something of that moment: tests/whole/test_api_page.py tries it on a daemon with an event"
RULES: tuple[tuple[str, str], ...] = (
    (r"^\./scripts/(demo|test)$", "scripts/fresh runs these two"),
    (r"^apt install git ", "scripts/fresh makes its root with these"),
    # in a checkout
    (r"^sudo apt install python3-venv ", IN_CHECKOUT),
    (r"^(python3 -m venv ~/idiolect|~/idiolect/|printf .*>~/idiolect/|IDIOLECT_SOCKET=~/idiolect/)", IN_CHECKOUT),
    (r"--password-file|>password\)|--keys keys\.d --policy-key", OWN),
    (r"^(\./scripts/setup --demo-only|\.venv/bin/idiolect |mkdir keys\.d)", IN_CHECKOUT),
    (r"^(\./)?scripts/", LONG),
    (r"-m pytest hw-tests", "is what tries the rest"),
    # on a device, but for somebody's hands, ears, or hardware
    (r"^sudo apt install \./", "the suite installs the package with apt, too"),
    (r"^sudoedit|systemctl edit|^alsamixer|^sudo sudoedit", "opens an editor or a mixer"),
    (r"adduser .* newgrp", "opens a shell; the suite's user is in the group"),
    (r"^(arecord -D|aplay|sudo alsactl|dmesg|ls -l /dev/tpm|sudo apt install tpm2)", "that hardware"),
    (r"enable --now idiolect-tcp|avahi", "opens a port: hw-tests tries each through its proxy"),
    (
        r"^(ssh|jq|systemd-creds|shred)\b|^NONCE=|\| jq |json\.tool report",
        "more machines and programs than a minimal image has",
    ),
    (r"^(install -D|printf 'keystore)|idiolect (provision|factory-reset|bundle install)", KEYS),
    (r"^idiolect audit verify audit\.json|^\./scripts/verify", "more machines than one"),
    (r"^systemctl (stop|start) idiolectd", KEYS),
    (r"EVENT|TOKEN|Last-Event-ID", MOMENT),
    (r"^idiolect enroll|^idiolect confirm|/v1/enrol\b", SPEECH),
    (r"consent grant ann --all --language", SPEECH),
    (
        r"--seal|import ann|/v1/import",
        "asks for a passphrase, or a file of another device: tests/cli/test_main.py",
    ),
    (r"^(curl|S=)", "tests/whole/test_api_page.py tries every line of it; a minimal image has no curl"),
    (r"^(sudo )?(idiolect|systemctl|journalctl|arecord -l)\b", ON_DEVICE),
)
"""For a line the first that matches counts."""


@dataclass(frozen=True)
class Line:
    """One command as it is printed, without its comment."""

    page: Path
    text: str

    @property
    def place(self) -> str:
        """Where it is tried, or why not; "" for one that nobody thought of."""
        return next((place for pattern, place in RULES if re.search(pattern, self.text)), "")

    @property
    def as_root(self) -> bool:
        return self.text.startswith("sudo ") or self.page.name in ROOTS_PAGES


def _blocks(text: str) -> Iterator[str]:
    """Indented code, and fences that name no language or the shell's."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for language, body in fence.findall(text):
        if language in ("", "sh", "bash", "shell"):
            yield body
    for body in re.findall(r"(?:^\n|\A)((?:^ {4}.*\n|^\n(?= {4}))+)", fence.sub("", text), re.MULTILINE):
        yield re.sub(r"^ {4}", "", body, flags=re.MULTILINE)


def lines(page: Path) -> Iterator[Line]:
    """Commands of a page, in order: continued lines as one, alternatives of ours (`idiolect a | b`) one by one."""
    for body in _blocks(page.read_text()):
        for line in re.sub(r"\\\n\s*", "", body).splitlines():
            text = re.sub(r"(?:^|\s+)#(?![^']*'[^']*$).*", "", line).strip()
            if text and _is_shell(text):
                for piece in _alternatives(text):
                    yield Line(page, piece)


def _is_shell(text: str) -> bool:
    first = text.split(maxsplit=1)[0]
    return first in PROGRAMS or bool(re.match(r"(\(|\.?/?scripts/|\./|~/|\.venv/|\$|[A-Z_]+=)", text))


def _alternatives(text: str) -> list[str]:
    if not re.match(r"(sudo )?idiolect ", text):
        return [text]
    found: list[str] = []
    for sequence in re.split(r"\s*;\s*", text):
        first, *others = re.split(r" \| ", sequence)
        found.append(first)
        for other in others:  # `audit show | verify` has one word before it in common, `devices | doctor` none
            common = first.split()[:2] if first.startswith("idiolect audit ") else ["idiolect"]
            found.append(" ".join([*common, other]))
    return found


def in_checkout() -> Iterator[str]:
    """The lines that are tried in a checkout, once each: for a user who may use sudo, whose apt does not ask."""
    for line in dict.fromkeys(line.text for page in PAGES for line in lines(page) if line.place == IN_CHECKOUT):
        text = re.sub(r"\s*&$", " &\nsleep 30", line)  # a person takes as long to type the next one
        # It ends with 1 where nobody can be heard, and that machine has no microphone.
        yield f"{text} || [ $? = 1 ]" if text.endswith("idiolect status") else text


if __name__ == "__main__":
    print("set -exo pipefail")
    print("\n".join(in_checkout()))
    print("kill %1; wait")
