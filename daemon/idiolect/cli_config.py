"""`idiolect config ...`: check, show and migrate the configuration. Only `show` asks the daemon."""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect import cli_output as show
from idiolect.cli_files import Add, emit, files_explained
from idiolect.client import Client
from idiolect.configfiles import MAIN, installed_files
from idiolect.configkinds import parts
from idiolect.errors import ConfigError, Problem

if TYPE_CHECKING:
    from idiolect.configedit import Migrated


def register(commands: Any, common: argparse.ArgumentParser, add: Add) -> None:
    """Add the commands to the parser."""
    config = commands.add_parser("config", help="check, show or migrate the configuration")
    parts = config.add_subparsers(metavar="COMMAND", required=True)
    check = add(parts, common, "check", "check configuration files, without the daemon", _check)
    about = "several are read in order, later ones override; default: those that the daemon reads by itself"
    check.add_argument("files", nargs="*", metavar="FILE", help=about)
    shown = add(parts, common, "show", "print the configuration in force", _show)
    shown.add_argument("--origin", action="store_true", help="print where each key that is set was set: file and line")
    about = "rewrite configuration files for this version's schema; comments stay, the original is kept beside"
    migrate = add(parts, common, "migrate", about, _migrate)
    migrate.add_argument("files", nargs="*", metavar="FILE", help=f"default: {MAIN} and conf.d/*.yaml beside it")
    migrate.add_argument("--dry-run", action="store_true", help="only print what would change, as a diff")


# -- check and show -------------------------------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> int:
    from idiolect.config import load

    try:
        config = load([Path(file) for file in options.files] or installed_files())
    except ConfigError as error:
        problems = [{"file": p.source, "line": p.line, "field": p.field, "message": p.message} for p in error.problems]
        lines = [show.plain(problem) for problem in error.problems]
        emit(options, {"problems": problems, "warnings": []}, lines)
        return error.exit_code
    warnings = [{"file": note.source, "line": note.line, "message": note.what} for note in config.outdated]
    lines = [f"warning: {show.plain(note)}" for note in config.outdated]
    return emit(options, {"problems": [], "warnings": warnings}, [*lines, "OK"])


def _show(options: argparse.Namespace) -> int:
    client = Client(options.socket)
    if options.origin:
        answer = client.config_origin()
        return emit(options, answer, _origin_lines(answer) or ["nothing is set: the defaults hold"])
    config = client.config()
    return emit(options, config, [] if options.json else [_as_yaml(config)])


def _as_yaml(config: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True).rstrip()


def _origin_lines(answer: Mapping[str, Any]) -> list[str]:
    """FILE:LINE: KEY: VALUE, as in the problems. A person of whom something is set needs no line of her own."""
    origin: Mapping[str, Any] = answer.get("origin", {})
    lines = []
    for key, place in origin.items():
        if any(other.startswith(f"{key}.") for other in origin):
            continue
        value: Any = answer.get("config", {})
        for part in parts(key):
            value = value.get(part) if isinstance(value, Mapping) else None
        written = json.dumps(value, ensure_ascii=False)
        lines.append(show.plain(f"{place.get('file', '?')}:{place.get('line', '?')}: {key}: {written}"))
    return lines


# -- migrate --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done with a file: nothing where ``new`` is None. ``target`` is what a link leads to."""

    path: Path
    target: Path
    like: os.stat_result
    old: bytes
    new: Migrated | None


@files_explained
def _migrate(options: argparse.Namespace) -> int:
    from idiolect.config import SCHEMA

    files = [Path(file) for file in options.files] or installed_files(vendor=None)
    done, lines = [], []
    for plan in _plans(files):
        entry: dict[str, Any] = {"file": str(plan.path), "state": "current", "schema": SCHEMA}
        said = [show.plain(f"{plan.path}: is current (schema {SCHEMA})")]
        if plan.new and options.dry_run:
            said = list(_diff(plan, plan.new, SCHEMA))
            entry |= {"state": "outdated", "from": plan.new.schema, "diff": "\n".join(said)}
        elif plan.new:
            kept = _rewrite(plan, plan.new)
            said = [show.plain(f"{plan.path}: rewritten for schema {SCHEMA}; the original is kept as {kept}")]
            entry |= {"state": "migrated", "from": plan.new.schema, "kept": str(kept)}
        done.append(entry)
        lines += said
    return emit(options, {"files": done}, lines or [f"there is nothing to migrate: no {MAIN} and no conf.d"])


def _plans(files: Sequence[Path]) -> list[_Plan]:
    """A plan for each file, or every reason against it: all is decided before anything is written."""
    plans: dict[Path, _Plan] = {}
    problems: list[Problem] = []
    for path in files:
        try:
            plan = _plan(path)
        except ConfigError as error:
            problems += error.problems
        else:
            plans.setdefault(plan.target, plan)
    if problems:
        raise ConfigError(tuple(problems))
    return list(plans.values())


def _plan(path: Path) -> _Plan:
    from idiolect.configedit import migrate
    from idiolect.configparse import Reading, named, read_file

    reading = Reading(named(path))
    old = read_file(path, reading)
    if reading.problems:
        raise ConfigError(tuple(reading.problems))
    target = path.resolve()
    return _Plan(path, target, target.stat(), old, migrate(old, str(path)))


def _rewrite(plan: _Plan, new: Migrated) -> Path:
    """First the copy, then the file: whatever happens in between, the original is there under one name or both."""
    from idiolect.host.files import write_beside, write_durably

    for number in itertools.count(1):
        again = f".{number}" if number > 1 else ""
        copy = plan.target.with_name(f"{plan.target.name}.schema-{new.schema}{again}")
        try:
            write_beside(copy, plan.old, plan.like)
            break
        except FileExistsError:
            continue
    write_durably(plan.target, new.data, like=plan.like)
    return copy


def _diff(plan: _Plan, new: Migrated, schema: int) -> Iterator[str]:
    before, after = (data.decode().splitlines() for data in (plan.old, new.data))
    names = (str(plan.path), f"{plan.path} (schema {schema})")
    for line in difflib.unified_diff(before, after, *names, lineterm=""):
        yield "\t".join(show.plain(part) for part in line.split("\t"))
