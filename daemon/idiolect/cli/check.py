"""Finds for `idiolect config check`, beyond the files themselves, why a start from them would fail.

The bundle is opened and verified as a start does it, and the names of the configuration are looked up in it. For the
installed configuration it is also asked whether the unit may use every path that is named (``access``): who checks it
is another user than the daemon.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from idiolect.cli import access
from idiolect.errors import BundleError, Problem

if TYPE_CHECKING:
    from idiolect.config.schema import Config

_STANDARD_SOCKET = Path("/run/idiolect/control.sock")
_INSTALL = "install it: sudo idiolect bundle install DIR, and bundle: installed"
_ELSEWHERE = "put it below /opt or /srv, readable for everybody"


@dataclass(frozen=True, slots=True)
class Found:
    """``problems`` keep it from starting, or from working as configured; of ``notes`` one should know."""

    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...] = ()


def has_unit() -> bool:
    """Return True if this machine starts the daemon by a unit."""
    return access.installed()


def examined(config: Config, *, as_unit: bool, files: Sequence[Path] = ()) -> Found:
    """Return all problems and notes that are found.

    With ``as_unit`` the daemon is taken for one that systemd starts from ``files``.
    """
    from idiolect.trust.bundle.choose import obstacles

    unit = access.unit() if as_unit else None
    closed = (*_files_closed(files, unit), *_closed(config, unit)) if unit else ()
    closed += tuple(_taken(config))
    if any(problem.field == "bundle" for problem in closed):
        return Found(closed)  # why it cannot be read is said better so
    if unit and (shut := _shut_out(config)):
        return Found(closed, (shut,))
    return Found((*obstacles(config), *closed))


def _files_closed(files: Sequence[Path], unit: access.Unit) -> Iterator[Problem]:
    """Yield configuration files that the unit may not read, as a umask of 077 leaves them."""
    for file in files:
        if why := access.hidden(unit, file):
            yield Problem(str(file), 1, "file", f"{why}: put it below /etc/idiolect")
        elif why := access.unreadable(unit, file):
            yield Problem(str(file), 1, "file", f"{why}: sudo chmod o+r {file}, or give it to the group idiolect")


def _closed(config: Config, unit: access.Unit) -> Iterator[Problem]:
    """Yield paths that the unit may not use as it would have to."""
    for field, path, fix in _read(config):
        if why := access.unreadable(unit, path):
            yield _problem(config, field, f"{why}: {fix}")
    for field, path in _written(config):
        if why := access.unwritable(unit, path):
            unit_too = f"name {path}, owned by idiolect, in ReadWritePaths= (sudo systemctl edit idiolectd)"
            yield _problem(config, field, f"{why}: leave {field} out, or {unit_too}")


def _taken(config: Config) -> Iterator[Problem]:
    """Yield places at which something else is already, or will be by another section's wish."""
    owners: dict[str, str] = {}
    for field, path in _sockets(config):
        where = os.path.realpath(path)
        if where in owners:
            yield _problem(config, field, f"is the same as {owners[where]}: give each its own")
        elif path.exists() and not path.is_socket():
            yield _problem(config, field, f"{path} is there and no socket: remove it, or name another path")
        owners[where] = field
    parents = (config.state_dir, *config.state_dir.parents)
    if file := next((each for each in parents if each.exists() and not each.is_dir()), None):
        yield _problem(config, "state_dir", f"{file} is no directory: remove it, or name another path")


def _sockets(config: Config) -> Iterator[tuple[str, Path]]:
    """Yield sockets that the daemon will make."""
    yield "control.socket", config.control.socket
    for name in ("wyoming", "metrics", "page"):
        section = getattr(config, name)
        if section.enabled:
            yield f"{name}.socket", section.socket
    if config.handoff.user:
        yield "handoff.socket", config.handoff.socket


def _read(config: Config) -> Iterator[tuple[str, Path, str]]:
    """Yield what the daemon reads: field, path, and what to do where it may not.

    What systemd hands to the daemon is left out.
    """
    from idiolect.config.schema import Idle, Trust

    if isinstance(config.bundle, Path):
        yield "bundle", config.bundle, f"{_INSTALL}; or {_ELSEWHERE}"
    elif slot := _current_slot(config):
        yield "bundle", slot, f"give it back: sudo chown -R --reference={config.state_dir} {slot.parent}"
    if config.trust.keys_dir != Trust().keys_dir:
        yield "trust.keys_dir", config.trust.keys_dir, f"leave it out ({Trust().keys_dir}), or {_ELSEWHERE}"
    scheme, _, rest = config.audio.device.partition(":")
    if scheme in ("file", "fifo"):
        yield "audio.device", Path(rest.partition(",speed=")[0] if scheme == "file" else rest), _ELSEWHERE
    if config.idle.machine != Idle().machine:
        yield "idle.machine", config.idle.machine, _ELSEWHERE


def _current_slot(config: Config) -> Path | None:
    """Return where the installed bundle lies, as far as this user may know."""
    from idiolect.trust.bundle.choose import INSTALLED, slots

    try:
        name = slots(config).state().current if config.bundle == INSTALLED else None
    except (OSError, BundleError):
        return None
    return slots(config).directory(name) if name else None


def _written(config: Config) -> Iterator[tuple[str, Path]]:
    """Yield directories in which the daemon makes files and sockets."""
    yield "state_dir", config.state_dir
    for field, path in _sockets(config):
        if path != _STANDARD_SOCKET:  # that one systemd passes
            yield field, path.parent


def _shut_out(config: Config) -> Problem | None:
    """Return the problem that this user may not look into the bundle, as only root and the daemon may, else None."""
    from idiolect.trust.bundle.choose import BUILTIN, INSTALLED

    if os.geteuid() == 0 or config.bundle == BUILTIN:
        return None
    path = config.state_dir if config.bundle == INSTALLED else Path(config.bundle)
    if not path.is_dir() or os.access(path, os.R_OK | os.X_OK):
        return None
    return _problem(config, "bundle", f"was not looked at, as you may not read {path}: try again with sudo")


def _problem(config: Config, field: str, message: str) -> Problem:
    from idiolect.config.schema import NOT_SET, section_of

    place = config.places.get(field, NOT_SET)
    return Problem(place.source, place.line, field, message, section_of(field))
