"""Run in an environment with Home Assistant: what its Wyoming integration needs besides, as its manifests say."""

from __future__ import annotations

import json
from pathlib import Path

import homeassistant.components

FOLDER = Path(next(iter(homeassistant.components.__path__)))


def main() -> None:
    """Print the requirements of the integration and of all that it depends on, one a line."""
    seen: set[str] = set()
    needed: set[str] = set()
    todo = ["wyoming"]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        manifest = json.loads((FOLDER / name / "manifest.json").read_text())
        needed.update(manifest.get("requirements", []))
        todo += manifest.get("dependencies", [])
    print(*sorted(needed), sep="\n")


if __name__ == "__main__":
    main()
