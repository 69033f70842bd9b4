"""`idiolect config ...`: check, show, reload and migrate the configuration. `show` and `reload` ask the daemon."""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect.cli import output as show
from idiolect.cli.files import Add, emit, files_explained
from idiolect.client import Client, NoAnswerError, NotPermittedError
from idiolect.config.files import MAIN, installed_files
from idiolect.config.kinds import parts
from idiolect.errors import ConfigError, Problem, RequestError

if TYPE_CHECKING:
    from idiolect.config.rewrite import Migrated
    from idiolect.config.tree import Note


def register(commands: Any, common: argparse.ArgumentParser, add: Add) -> None:
    """Add the commands to the parser."""
    config = commands.add_parser("config", help="check, show or migrate the configuration")
    parts = config.add_subparsers(metavar="COMMAND", required=True)
    check = add(parts, common, "check", "check configuration files, without the daemon", _check)
    about = "several are read in order, later ones override; default: those that the daemon reads by itself"
    check.add_argument("files", nargs="*", metavar="FILE", help=about)
    about = "check as for the daemon that systemd starts; the default where no FILE is named and its unit is there"
    check.add_argument("--as-unit", action="store_true", help=about)
    about = "let the daemon read its files again; what is wrong is refused, and the old configuration stays"
    reload = add(parts, common, "reload", about, _reload)
    reload.add_argument("--quiet", action="store_true", help="print nothing: the exit code says what came of it")
    shown = add(parts, common, "show", "print the configuration in force", _show)
    shown.add_argument("--origin", action="store_true", help="print where each key that is set was set: file and line")
    about = "rewrite configuration files for this version's schema; comments stay, the original is kept beside"
    migrate = add(parts, common, "migrate", about, _migrate)
    migrate.add_argument("files", nargs="*", metavar="FILE", help=f"default: {MAIN} and conf.d/*.yaml beside it")
    migrate.add_argument("--dry-run", action="store_true", help="only print what would change, as a diff")


# -- check and show -------------------------------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> int:
    from idiolect.cli.check import examined, has_unit
    from idiolect.config.schema import load

    notes: tuple[Problem, ...] = ()
    old: tuple[Note, ...] = ()
    try:
        files = [Path(file) for file in options.files] or list(installed_files())
        config = load(files)
        old = config.outdated
        found = examined(config, as_unit=options.as_unit or (not options.files and has_unit()), files=files)
        problems, notes = found.problems, found.notes
    except ConfigError as error:
        problems = error.problems
    warnings = [{"file": note.source, "line": note.line, "message": note.what} for note in old]
    warnings += [{"file": note.source, "line": note.line, "message": f"{note.field}: {note.message}"} for note in notes]
    lines = [show.plain(f"warning: {each['file']}:{each['line']}: {each['message']}") for each in warnings]
    answer = {"problems": _as_dicts(problems), "warnings": warnings}
    emit(options, answer, [*lines, *(map(show.plain, problems) if problems else ["OK"])])
    return ConfigError.exit_code if problems else 0


def _as_dicts(problems: Sequence[Problem]) -> list[dict[str, object]]:
    return [{"file": p.source, "line": p.line, "field": p.field, "message": p.message} for p in problems]


def _reload(options: argparse.Namespace) -> int:
    """Ask the daemon; where it does not answer and systemd says which process it is, tell that one by a signal."""
    try:
        answer = Client(options.socket).reload()
    except (NoAnswerError, RequestError) as error:
        pid = os.environ.get("MAINPID", "")
        if isinstance(error, NotPermittedError) or not pid.isdigit():
            raise
        os.kill(int(pid), signal.SIGHUP)
        if not options.quiet:
            print("idiolect: told by a signal; see `idiolect status` for what came of it", file=sys.stderr)
        return 0
    later = f"; takes effect at the next start: {', '.join(answer['at_next_start'])}" if answer["at_next_start"] else ""
    lines = [show.plain(f"reloaded{later}")]
    if not answer["taken"]:
        lines = [show.plain("{file}:{line}: {field}: {message}".format_map(each)) for each in answer["problems"]]
        lines.append("refused: the configuration in force stays as it is")
    if not options.quiet:
        emit(options, answer, lines)
    return 0 if answer["taken"] else ConfigError.exit_code


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
    """Return FILE:LINE: KEY: VALUE, as in the problems. A person of whom something is set needs no line of her own."""
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
    """The plan for one file: nothing is done where ``new`` is None; ``target`` is the file a link leads to."""

    path: Path
    target: Path
    like: os.stat_result
    old: bytes
    new: Migrated | None


@files_explained
def _migrate(options: argparse.Namespace) -> int:
    from idiolect.config.schema import SCHEMA

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
    """Return a plan for each file, or raise every reason against it: all is decided before anything is written."""
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
    from idiolect.config.rewrite import migrate
    from idiolect.config.tree import Reading, named, read_file

    reading = Reading(named(path))
    old = read_file(path, reading)
    if reading.problems:
        raise ConfigError(tuple(reading.problems))
    target = path.resolve()
    return _Plan(path, target, target.stat(), old, migrate(old, str(path)))


def _rewrite(plan: _Plan, new: Migrated) -> Path:
    """Write first the copy, then the file: at any time the original is there under one name or both."""
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
