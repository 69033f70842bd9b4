"""The configuration: all its keys; YAML files go in, one frozen `Config` comes out.

Files written for an older schema are understood, too (`migrate`); which files are read says `files`.

Each key is a field below, annotated with its kind (what values it takes) and a sentence for people. The rest follows
from these: the checks, `schema.json` (`json_schema`) and what ``config show`` prints (`as_dict`).
`config/idiolect.yaml` repeats the defaults with comments; tests hold the three together.

Every problem of every file is reported at once, as a `ConfigError`. Messages repeat at most 40 characters of a value.
This module reads files and nothing else of the machine: whether a device, group or directory exists is asked later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_origin, get_type_hints

from idiolect.config.connect import SOCKET, Handoff, Metrics, Page, Wyoming
from idiolect.config.kinds import (
    Choice,
    Flag,
    Kind,
    Name,
    Names,
    Number,
    PersonName,
    Schema,
    Section,
    Table,
    Text,
    nearest,
    prefixes,
    unescaped,
)
from idiolect.config.migrate import understood
from idiolect.config.tree import Note, Place, Reading, label, named, read_file, read_tree, shown
from idiolect.errors import ConfigError, Problem

T = TypeVar("T")

SCHEMA = 2
"""The version of the keys below; raised, with a step in ``migrate``, when an old file would be misread."""

_DEVICE = Text(
    "an ALSA PCM name such as plughw:CARD=Array,DEV=0, or file: or fifo: and an absolute path",
    r"(?:file|fifo):/.+|(?!file:|fifo:).+",
    limit=1024,
)
_BUNDLE = Text(
    "builtin, installed, or an absolute directory",
    r"builtin|installed|/.+",
    1024,
    lambda text: Path(text) if text.startswith("/") else text,
)
_TCTI = Text("a TCTI such as device:/dev/tpmrm0 or swtpm:path=/run/swtpm.sock", r"[a-z]+(?::.*)?", 1024)
_DIRECTORY = Text("an absolute directory", r"/.+", 1024, Path)
_MACHINE = Text("an absolute directory", r"/.*", 1024, Path)
# beyond ASCII the pattern takes anything; Name then keeps to letters, marks and numbers
_PHRASE = Name("a phrase: 1 to 64 letters, digits, spaces, _ - or '", "[0-9A-Za-z '_\u00a1-\U0010ffff-]{1,64}", 256)
# the schema's pattern for editors; PersonName has the rule, which is more than a pattern can say
_PERSON = PersonName("a person's name", "(?!-)[^\u0000-\u001f\u007f-\u009f]{1,64}", 256)
_GROUP = Name("the name of a Unix group", r"[A-Za-z_][0-9A-Za-z_.-]{0,30}\$?", 32)
_HOURS = Text(
    'always, or from and to in local time such as "01:00-05:00"',
    r"always|(?:[01][0-9]|2[0-3]):[0-5][0-9]-(?:[01][0-9]|2[0-3]):[0-5][0-9]",
    11,
)
MAY_FALL_BACK = ("audio", "listening", "bundle")
"""Sections in whose place those that worked last may serve. Nobody removed from another one may come back that way."""
NOT_SET = Place("built-in defaults", 1)
"""The place of what nobody wrote."""


@dataclass(frozen=True, slots=True)
class Audio:
    """Where sound comes from."""

    device: Annotated[str, _DEVICE, "ALSA PCM name, or file:/path.wav, or fifo:/path."] = "default"
    channel: Annotated[
        int | Literal["mix"],
        Number(0, 31, whole=True, word="mix"),
        "The channel to hear, counted from 0, or the mean of all.",
    ] = "mix"
    gain_db: Annotated[float, Number(-20, 40, "dB"), "Gain applied before recognition, in dB."] = 0.0


@dataclass(frozen=True, slots=True)
class Listening:
    """What is listened for, and when."""

    mode: Annotated[
        Literal["wake", "always"],
        Choice(("wake", "always")),
        "wake: a wake word opens a turn; always: every phrase is heard at any time.",
    ] = "wake"
    wake_words: Annotated[
        tuple[str, ...] | Literal["all"],
        Names(_PHRASE, "[computer]", word="all"),
        "The bundle's wake words to listen for.",
    ] = "all"
    phrases: Annotated[
        tuple[str, ...] | Literal["all"],
        Names(_PHRASE, "[yes, no, stop]", word="all"),
        "The bundle's phrases to listen for.",
    ] = "all"
    always_on: Annotated[
        tuple[str, ...],
        Names(_PHRASE, "[stop]"),
        "Phrases of the bundle that are heard without a wake word.",
    ] = ("stop",)
    timeout_s: Annotated[float, Number(1, 60, "s"), "How long a turn waits for a phrase, in seconds."] = 6.0
    pause_ms: Annotated[
        int,
        Number(160, 2000, "ms", whole=True),
        "How long a pause ends what somebody who taught phrases says in a turn, in milliseconds.",
    ] = 160
    refractory_s: Annotated[float, Number(0.2, 5, "s"), "Quiet time after an event, in seconds."] = 0.8
    sensitivity: Annotated[
        float,
        Number(0, 1),
        "0 hears least and 1 most; 0.5 keeps the thresholds calibrated in the bundle.",
    ] = 0.5
    thresholds: Annotated[
        Mapping[str, float],
        Table(_PHRASE, Number(0.01, 0.999)),
        "The score that a phrase or wake word must reach, in place of the calibrated one.",
    ] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    gate: Annotated[bool, Flag(), "Stop the encoder in silence."] = True


@dataclass(frozen=True, slots=True)
class Roles:
    """Unix groups whose members may do what; root and the daemon's own user are always admin."""

    observer: Annotated[tuple[str, ...], Names(_GROUP, "[audio]"), "Groups that may see status and events."] = ()
    user: Annotated[tuple[str, ...], Names(_GROUP, "[audio]"), "Groups that may also pause and teach."] = ()
    admin: Annotated[tuple[str, ...], Names(_GROUP, "[sudo]"), "Groups that may do everything."] = ()


@dataclass(frozen=True, slots=True)
class Control:
    """How other programs talk to the daemon."""

    socket: Annotated[Path, SOCKET, "Path of the Unix socket."] = Path("/run/idiolect/control.sock")
    roles: Roles = field(default_factory=Roles)
    max_clients: Annotated[int, Number(1, 256, whole=True), "Connections served at once."] = 32


@dataclass(frozen=True, slots=True)
class Idle:
    """When the device learns: only while all of these hold."""

    quiet_minutes: Annotated[float, Number(0, 1440, "min"), "How long nobody may have spoken, in minutes."] = 10.0
    hours: Annotated[str, _HOURS, 'The hours in which it may learn: always, or "01:00-05:00" in local time.'] = "always"
    power: Annotated[
        Literal["mains", "any"],
        Choice(("mains", "any")),
        "mains: only on mains or while charging; any: on battery too. Boards without a battery are on mains.",
    ] = "mains"
    battery_percent: Annotated[float, Number(0, 100, "%"), "The charge that a battery must have, in percent."] = 40.0
    celsius: Annotated[float, Number(20, 120, "C"), "The temperature above which it does not learn."] = 70.0
    pressure_percent: Annotated[
        float, Number(1, 100, "%"), "Share of the last 10 s in which others may have waited for CPU, memory or disk."
    ] = 25.0
    free_memory_mib: Annotated[float, Number(0, 65536, "MiB"), "Memory that must be available, in MiB."] = 96.0
    free_disk_mib: Annotated[float, Number(0, 1048576, "MiB"), "Space that the state directory must have."] = 32.0
    machine: Annotated[
        Path, _MACHINE, "Where /sys and /proc are looked for; another place than / is for development."
    ] = Path("/")


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose models are trusted, and the TPM."""

    keys_dir: Annotated[
        Path,
        _DIRECTORY,
        "Public keys of those who may sign bundles: *.pem, and revoked, a list of fingerprints.",
    ] = Path("/etc/idiolect/keys.d")
    tcti: Annotated[str, _TCTI, "How to reach the TPM, where keystore is tpm."] = "device:/dev/tpmrm0"


class _Key(NamedTuple):
    """A key: what values it takes, and a sentence about it."""

    kind: Kind
    about: str


def _keys(cls: type[Any]) -> dict[str, _Key]:
    """Return the keys that a dataclass declares: its annotated fields and its nested dataclasses."""
    found = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        if isinstance(hint, type) and is_dataclass(hint):
            found[name] = _Key(_section(hint), (hint.__doc__ or "").partition("\n")[0])
        elif get_origin(hint) is Annotated:
            found[name] = _Key(*hint.__metadata__)
    return found


def _section(cls: type[Any]) -> Section:
    return Section({name: key.kind for name, key in _keys(cls).items()}, cls)


@dataclass(frozen=True, slots=True)
class Person:
    """What is set for one person."""

    users: Annotated[
        tuple[str, ...],
        Names(_GROUP, "[anna]"),
        "Their Unix users: only these may agree for them, and ask about or change what is kept of them.",
    ] = ()
    sensitivity: Annotated[
        float | Literal["same"],
        Number(0, 1, word="same"),
        "In place of listening.sensitivity while they are taken to be the one who speaks.",
    ] = "same"


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set.

    ``places`` tells where each key that was set stands, and ``outdated`` which files are written for an older schema;
    equality ignores both.
    """

    schema: Annotated[int, Number(1, SCHEMA, whole=True), "Version of these keys."] = SCHEMA
    audio: Audio = field(default_factory=Audio)
    bundle: Annotated[
        Path | Literal["builtin", "installed"],
        _BUNDLE,
        "The model: builtin, installed (idiolect bundle install), or the directory of a bundle.",
    ] = "builtin"
    keystore: Annotated[
        Literal["file", "tpm"],
        Choice(("file", "tpm")),
        "Where keys are kept: tpm, or file, which is for development: not hardware protected.",
    ] = "file"
    trust: Trust = field(default_factory=Trust)
    state_dir: Annotated[Path, _DIRECTORY, "Directory for everything that is stored."] = Path("/var/lib/idiolect")
    listening: Listening = field(default_factory=Listening)
    idle: Idle = field(default_factory=Idle)
    control: Control = field(default_factory=Control)
    wyoming: Wyoming = field(default_factory=Wyoming)
    metrics: Metrics = field(default_factory=Metrics)
    page: Page = field(default_factory=Page)
    handoff: Handoff = field(default_factory=Handoff)
    people: Annotated[
        Mapping[str, Person],
        Table(_PERSON, _section(Person)),
        "People by their names, as `idiolect consent` and `idiolect profile` know them.",
    ] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Choice(("debug", "info", "warning", "error")),
        "The least severe messages that are logged.",
    ] = "info"
    places: Mapping[str, Place] = field(default_factory=dict, compare=False, repr=False)
    outdated: tuple[Note, ...] = field(default=(), compare=False, repr=False)


def _homes(cls: type[Any], prefix: str = "") -> dict[str, str]:
    """Return the dotted name of each key by its last part."""
    found: dict[str, str] = {}
    for name, key in _keys(cls).items():
        found[name] = prefix + name
        if isinstance(key.kind, Section):
            found |= _homes(key.kind.of, f"{prefix}{name}.")
    return found


_ROOT = _section(Config)
_HOMES = _homes(Config)


def defaults() -> Config:
    """Return the configuration of an empty file."""
    return Config()


def parse(text: str | bytes, source: str) -> Config:
    """Read one file's content; ``source`` names it in problems. Raises ConfigError."""
    return _merge([_read(text, Reading(named(source), _HOMES))])


def load(paths: Sequence[Path], without: Collection[str] = ()) -> Config:
    """Read several files in order: a later one's keys win one by one, its lists replace whole. Raises ConfigError.

    Of the sections named by ``without`` nothing counts, neither what is right in them nor what is wrong.
    """
    readings = []
    for path in paths:
        reading = Reading(named(path), _HOMES)
        readings.append(_read(read_file(path, reading), reading))
    return _merge(readings, without)


def as_dict(config: Config) -> dict[str, object]:
    """Return the configuration as YAML and JSON carry it; to parse it again gives an equal one."""
    return {name: _plain(getattr(config, name)) for name in _keys(Config)}


def check_phrases(config: Config, wake_words: Sequence[str], phrases: Sequence[str]) -> tuple[Problem, ...]:
    """Return the names in ``config`` that a bundle offering ``wake_words`` and ``phrases`` lacks, with their lines.

    Only what somebody wrote is checked: where the default of always_on names a phrase that the bundle does not have,
    nothing is listened for, and nothing is wrong.
    """
    roles = (
        ("wake_words", wake_words, phrases, "a phrase"),
        ("phrases", phrases, wake_words, "a wake word"),
        ("always_on", phrases, wake_words, "a wake word"),
    )
    problems = []
    for key, offered, others, other in roles:
        names = getattr(config.listening, key)
        place = config.places.get(f"listening.{key}")
        if place is None:
            continue
        for index, name in enumerate(() if names == "all" else names):
            if name not in offered:
                line = place.items[index] if place.items else place.line
                why = f"{shown(name)} is {other} in the bundle" if name in others else _unknown(name, offered)
                problems.append(Problem(place.source, line, f"listening.{key}[{index}]", why, "listening"))
    for name in config.listening.thresholds:
        if name not in wake_words and name not in phrases:
            place = config.places.get(f"listening.thresholds.{name}", NOT_SET)
            why = _unknown(name, (*wake_words, *phrases))
            problems.append(Problem(place.source, place.line, f"listening.thresholds.{label(name)}", why, "listening"))
    return _sorted(problems)


def json_schema() -> Schema:
    """Return the content of `schema.json`, for editors: JSON Schema 2020-12."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Idiolect configuration"}
    return schema | _described(Config) | {"type": ["object", "null"]}


def _read(data: str | bytes, reading: Reading) -> Reading:
    tree = read_tree(data, reading)
    if tree is not None:
        tree = understood(tree, reading, SCHEMA)
    if tree is not None:
        _ROOT.read(tree, "", reading)
    return reading


def section_of(key: str) -> str:
    """Return the section, or key at the top, to which a dotted name belongs."""
    return key.partition(".")[0]


def replaced(config: Config, other: Config, sections: Collection[str]) -> Config:
    """Return ``config`` with whole sections of another one, and the places where these were set."""
    places = {key: place for key, place in config.places.items() if section_of(key) not in sections}
    places |= {key: place for key, place in other.places.items() if section_of(key) in sections}
    values: dict[str, Any] = {name: getattr(other, name) for name in sections}
    return replace(config, **values, places=MappingProxyType(places))


def _merge(readings: Sequence[Reading], without: Collection[str] = ()) -> Config:
    problems = [each for reading in readings for each in reading.problems if each.section not in without]
    if problems:
        raise ConfigError(_sorted(problems))
    values: dict[str, object] = {}
    places: dict[str, Place] = {}
    first: dict[str, str] = {}
    for reading in readings:
        kept = {key: value for key, value in reading.values.items() if section_of(key) not in without}
        known = {key: place for key, place in reading.places.items() if section_of(key) not in without}
        values |= _respelled(kept, reading.spellings, first)
        places |= _respelled(known, reading.spellings, first)
    outdated = tuple(reading.outdated for reading in readings if reading.outdated)
    return _build(Config, values, "", places=MappingProxyType(places), outdated=outdated)


def _respelled(given: Mapping[str, T], spellings: Mapping[str, str], first: dict[str, str]) -> dict[str, T]:
    """Return a file's entries, each name in the spelling in which an earlier file has it; ``first`` remembers those."""
    found: dict[str, T] = {}
    for key, value in given.items():
        own = next((each for each in prefixes(key) if each in spellings), "")
        found[first.setdefault(spellings[own], own) + key.removeprefix(own) if own else key] = value
    return found


def _build(cls: type[T], values: Mapping[str, object], prefix: str, **given: object) -> T:
    """Return an instance of a dataclass from dotted keys; what is not there keeps its default."""
    for name, key in _keys(cls).items():
        dotted = prefix + name
        if isinstance(key.kind, Section):
            given[name] = _build(key.kind.of, values, f"{dotted}.")
        elif isinstance(key.kind, Table):
            given[name] = MappingProxyType(_table(key.kind, values, f"{dotted}."))
        elif dotted in values:
            given[name] = values[dotted]
    return cls(**given)


def _table(table: Table, values: Mapping[str, object], prefix: str) -> dict[str, object]:
    inside = {each.removeprefix(prefix): value for each, value in values.items() if each.startswith(prefix)}
    kind = table.value
    if not isinstance(kind, Section):
        return inside
    names = [name for name, value in inside.items() if value is None]  # a section's fields have values
    return {unescaped(name): _build(kind.of, values, f"{prefix}{name}.") for name in names}


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _unknown(name: str, offered: Sequence[str]) -> str:
    return f"the bundle does not offer {shown(name)}{nearest(name, offered)}"


def _described(cls: type[Any]) -> Schema:
    """Return a section's rules with a description and a default for each key."""
    standard = cls()
    properties: Schema = {}
    for name, key in _keys(cls).items():
        rules = {"default": _plain(getattr(standard, name))} | key.kind.schema()
        if isinstance(key.kind, Section):
            rules = _described(key.kind.of)
        elif isinstance(key.kind, Table) and isinstance(key.kind.value, Section):
            rules["additionalProperties"] = _described(key.kind.value.of)
        properties[name] = {"description": key.about} | rules
    return {"type": ["object", "null"], "additionalProperties": False, "properties": properties}


def _sorted(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: (problem.source, problem.line)))
