"""Whose the package's parts are: licences of the wheels, and Debian's copyright file (DEP-5) made from them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from debbuild.targets import MATERIAL, ROOT, BuildError

_FILE = re.compile(r"\.dist-info/(licenses/)?([^/]*(LICEN[CS]E|COPYING|NOTICE|AUTHORS)[^/]*)$", re.IGNORECASE)
_HOLDER = re.compile(r"^[^\w\n]*copyright\s+((?:\(c\)|©|\d{4}).*)$", re.IGNORECASE | re.MULTILINE)
# What packages say in words of their own, or in old classifiers, as SPDX has it.
_SPDX = {
    "ai-edge-litert": "Apache-2.0",
    "h11": "MIT",
    "pyalsaaudio": "PSF-2.0",
    "tpm2-pytss": "BSD-2-Clause",
    "wyoming": "MIT",
}


@dataclass(frozen=True, slots=True)
class Licence:
    """A package's licence: an SPDX expression, and the texts that its wheel carries."""

    expression: str
    texts: Mapping[str, str]

    @property
    def holders(self) -> list[str]:
        """The lines that name a copyright, each once."""
        lines = (line.strip() for text in self.texts.values() for line in _HOLDER.findall(text))
        return list(dict.fromkeys(line for line in lines if "[" not in line and "{" not in line))


def of_wheel(name: str, wheel: Path) -> Licence:
    """Read from the whole wheel: the tree has its metadata only."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        texts = {m[2]: archive.read(n).decode("utf-8", "replace") for n in names if (m := _FILE.search(n))}
        (meta,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        stated = re.search(r"(?m)^License-Expression: (.+)$", archive.read(meta).decode())
    expression = stated[1].strip() if stated else _SPDX.get(name, "")
    if not expression or not texts:
        raise BuildError(f"{wheel.name} does not say under which licence it is: see debbuild/licences.py")
    return Licence(expression, texts)


def copyright_file(site: str, licences: Mapping[str, tuple[Licence, tuple[str, ...]]]) -> str:
    """DEP-5. ``licences`` maps a package to its licence and the names that it has below ``site``."""
    own = Licence("Apache-2.0", {"LICENSE": (ROOT / "LICENSE").read_text(), "NOTICE": (ROOT / "NOTICE").read_text()})
    parts = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/",
        "Upstream-Name: idiolect",
        f"Comment:\n{_indented((MATERIAL / 'copyright.head').read_text())}",
        "",
        _paragraph("idiolect", ["*"], ["The Idiolect authors"], own),
    ]
    for name, (licence, places) in sorted(licences.items()):
        files = [f"{site}/{place}{'' if '.' in place else '/*'}" for place in places]
        parts += ["", _paragraph(name, files, licence.holders or [f"the authors of {name}"], licence)]
    return "\n".join(parts) + "\n"


def _paragraph(name: str, files: list[str], holders: list[str], licence: Licence) -> str:
    texts = "\n\n".join(f"{file}:\n\n{text.strip()}" for file, text in sorted(licence.texts.items()))
    body = "\n           ".join(holders)
    return (
        f"Files: {' '.join(files)}\nCopyright: {body}\n"
        f"License: {licence.expression.replace(' OR ', ' or ').replace(' AND ', ' and ')}\n"
        f"{_indented(f'The licence of {name}, as it comes with it.' + chr(10) * 2 + texts)}"
    )


def _indented(text: str) -> str:
    return "\n".join(f" {line.rstrip()}" if line.strip() else " ." for line in text.strip().splitlines())
