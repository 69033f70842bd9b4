"""Keeps the settings with which the daemon last worked, for a start that cannot use the new configuration.

A ``LastGood`` goes into a file of the state directory and comes back from it. Only `audio`, `listening` and the choice
of `bundle` are kept, as they were set, and nothing else: a role, a person or a receiver of sound that somebody removed
must never come back. The file is read with a cap, and what it says goes through the checks of every configuration; one
that does not pass them counts for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idiolect.config.schema import MAY_FALL_BACK, Config, as_dict, parse, section_of
from idiolect.errors import NONSENSE, ConfigError
from idiolect.host.files import TooLarge, read_capped, write_durably

FILE = "last-good.json"
VERSION = 1
CAP = 256 << 10
"""Bytes of the file: as much as a configuration file may have."""


@dataclass(frozen=True)
class LastGood:
    """The settings that worked last. ``heard``: sound came in with ``audio``; ``digest`` is that of the bundle."""

    config: Config
    digest: str
    heard: bool

    def same(self, other: LastGood) -> bool:
        """Return True if ``other`` would be written to the file in just the same way."""
        return (self.settings(), self.digest, self.heard) == (other.settings(), other.digest, other.heard)

    def settings(self) -> dict[str, object]:
        """Return what was set of the kept sections, as a configuration file would set it."""
        return {"schema": self.config.schema, **_set(self.config)}


def read(state_dir: Path) -> LastGood | None:
    """Return what is kept; None where there is nothing, or nothing that can be used."""
    path = state_dir / FILE
    try:
        kept: dict[str, Any] = json.loads(read_capped(path, CAP))
        if kept["version"] != VERSION or set(kept["settings"]) - {"schema", *MAY_FALL_BACK}:
            return None
        settings = json.dumps(kept["settings"], ensure_ascii=False)
        return LastGood(parse(settings, str(path)), str(kept["digest"]), kept["heard"] is True)
    except (OSError, TooLarge, ConfigError, *NONSENSE):
        return None


def write(state_dir: Path, good: LastGood) -> None:
    """Write ``good`` to the state directory.

    Raises:
        OSError: the file cannot be written.
        ValueError: it could not be read again.
    """
    kept = {"version": VERSION, "digest": good.digest, "heard": good.heard, "settings": good.settings()}
    data = json.dumps(kept, ensure_ascii=False).encode()
    if len(data) > CAP:
        raise ValueError("is too large to be kept")
    write_durably(state_dir / FILE, data)


def _set(config: Config) -> dict[str, object]:
    """Return the keys that somebody wrote in the kept sections: a default may be another one in a later version."""
    values = as_dict(config)
    found: dict[str, Any] = {}
    for key in config.places:
        if section_of(key) in MAY_FALL_BACK:
            value: Any = values
            for part in key.split("."):
                value = value[part]
            _put(found, key.split("."), value)
    return found


def _put(into: dict[str, Any], parts: list[str], value: object) -> None:
    *outer, last = parts
    for part in outer:
        into = into.setdefault(part, {})
    if not isinstance(value, Mapping):
        into[last] = value
