"""Whether a broken product would be found: each way to break it, and the operation and the fault that must tell."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from idiolect.errors import TrustError
from idiolect.people.consent import Consents
from idiolect.trust.device import key_file
from idiolect.trust.vault import change, schema, vault
from idiolect.trust.vault.vault import Vault
from torture.disk.bench import Bench
from torture.disk.shim import FAULTS
from torture.disk.stack import OPERATIONS, Stack


def _without_sync() -> None:
    real = schema._configure
    schema._configure = lambda connection, *pragmas: real(
        connection, *(each.replace("synchronous=FULL", "synchronous=OFF") for each in pragmas)
    )


def _in_place() -> None:
    key_file.write_durably = lambda path, data, *_: path.write_bytes(data)


def _deaf() -> None:
    real = Vault.change

    @contextlib.contextmanager
    def change(vault: Vault, *args: Any, **more: Any) -> Iterator[Any]:
        with contextlib.suppress(TrustError), real(vault, *args, **more) as made:
            yield made

    Vault.change = change  # type: ignore[method-assign]


def _raw() -> None:
    @contextlib.contextmanager
    def mapped(_: str = "") -> Iterator[None]:
        yield

    vault.mapped = change.mapped = mapped


def _plain() -> None:
    real = Consents._settle

    def settle(consents: Consents, pending: Any, *args: Any) -> Any:
        (Path(vaults[-1]) / "vault.db").with_suffix(".log").write_text(pending.name)
        return real(consents, pending, *args)

    vaults: list[str] = []
    init = Stack.__init__

    def begin(stack: Stack, home: Path, *args: Any) -> None:
        vaults.append(str(home / "state"))
        init(stack, home, *args)

    Stack.__init__, Consents._settle = begin, settle  # type: ignore[method-assign]


CONTROLS: dict[str, tuple[Callable[[], object], str, str]] = {
    "commits that are not synced": (_without_sync, "correct", "power cut"),
    "a keystore written in place": (_in_place, "mark good", "power cut"),
    "a failure that is not told": (_deaf, "correct", "full"),
    "an error of SQLite's own": (_raw, "correct", "full"),
    "a name in a file": (_plain, "agree", "eio-once"),
}
"""A product broken thus, and the operation and the fault that tell."""


def controls(bench: Bench) -> dict[str, int]:
    """How often each was found."""
    counts = {}
    for name, (patch, operation, fault) in CONTROLS.items():
        (meant,) = (each for each in OPERATIONS if each.name == operation)
        bench.tally.found.clear()
        bench.patch = patch
        course = bench.course(meant)
        if fault == "power cut":
            bench.cuts(meant, course, 2, 2)
        else:
            bench.faults(meant, course, 3, [each for each in FAULTS if each.name == fault])
        counts[name] = len(bench.tally.found)
    bench.patch = lambda: None
    bench.tally.found[:] = [f"not found: {name}" for name, count in counts.items() if not count]
    return counts
