"""What the documentation tells people to do, step by step, and doing just that."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from product import Product

DOCS = Path(__file__).resolve().parents[1] / "docs"
_YAML = re.compile(r"^In `(?P<path>/[^`]+)`:\n\n```yaml\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)

EDITOR = '#!/bin/sh\nfor last; do :; done\ncat /root/hw-typed > "$last"\n'
"""Somebody who types: the file is the last argument, and newer systemds give a line number before it."""


@dataclass(frozen=True)
class Port:
    """How one TCP port is opened: settings in a file, a drop-in, and the commands after it."""

    unit: str
    path: str
    settings: str
    drop_in: str
    commands: tuple[str, ...]

    @property
    def number(self) -> int:
        """The port."""
        return int(self.drop_in.strip().rpartition(":")[2])

    def open(self, product: Product) -> None:
        """As it is printed: the file, `systemctl edit` with somebody who types, the commands."""
        product.configure(self.settings, self.path)
        product.target.put(self.drop_in, "/root/hw-typed")
        product.target.put(EDITOR, "/usr/local/lib/hw-editor", 0o755)
        edit = f"SYSTEMD_EDITOR=/usr/local/lib/hw-editor systemctl edit {self.unit}"
        product.target.check(f"script -qec {shlex.quote(edit)} /dev/null")  # it wants a terminal
        product.touched(f"/etc/systemd/system/{self.unit}.d")
        for command in self.commands:
            product.target.check(command, timeout=120)

    def close(self, product: Product) -> None:
        """Undo that, whatever came of it."""
        service = self.unit.replace(".socket", ".service")
        product.target.run(f"systemctl disable --now {self.unit}; systemctl stop {service}")
        product.target.unlink(f"/etc/systemd/system/{self.unit}.d", self.path)
        product.target.run(f"systemctl daemon-reload; systemctl reset-failed {self.unit} {service}")


def port(page: str, name: str) -> Port:
    """How ``page`` says that the port of ``name`` is opened."""
    text = (DOCS / page).read_text()
    settings = next(found for found in _YAML.finditer(text) if f"{name}:" in found["text"])
    unit = f"idiolect-tcp@{name}.socket"
    block = next(found[0] for found in _BLOCK.finditer(text) if f"systemctl edit {unit}" in found[0])
    lines = [line.removeprefix("    ").rstrip() for line in block.splitlines()]
    typed = [line.strip() for line in lines if line.startswith(" ")]
    commands = [line.removeprefix("sudo ") for line in lines if not line.startswith(" ")]
    assert commands[0] == f"systemctl edit {unit}", commands
    return Port(unit, settings["path"], settings["text"], "\n".join(typed) + "\n", tuple(commands[1:]))
