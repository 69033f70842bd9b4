"""The configuration: YAML in, one frozen Config out, or every problem at once with its line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from idiolect.config.files import MAIN, VENDOR, config_files, files_for, installed_files
from idiolect.config.schema import Person, as_dict, check_phrases, defaults, load, parse
from idiolect.errors import ConfigError

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "config" / "idiolect.yaml"
VENDOR_FILE, INSTALLED = ROOT / "config" / "vendor.yaml", ROOT / "config" / "installed.yaml"
EXAMPLES = sorted((ROOT / "config" / "examples").glob("*.yaml"))
WAKE_WORDS = ("computer", "jarvis", "alexa")
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
PHRASES = (*COMMANDS, "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


# ---- defaults and the shipped files


def test_shipped_file_equals_defaults_and_names_every_key() -> None:
    assert load([SHIPPED]) == defaults() == parse("", "f") == load([])
    assert yaml.safe_load(SHIPPED.read_text()) == as_dict(defaults())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_load_over_the_shipped_file_and_fit_the_default_bundle(path: Path) -> None:
    config = load([SHIPPED, path])
    assert check_phrases(config, WAKE_WORDS, PHRASES) == ()
    assert config.audio.device.startswith("plughw:CARD=")


def test_the_package_lets_its_group_in_and_sets_nothing_else() -> None:
    config = load([VENDOR_FILE])
    assert config.control.roles.user == ("idiolect",)
    assert set(config.places) == {"schema", "control.roles.user"}
    assert "Do not edit" in VENDOR_FILE.read_text()


def test_what_is_installed_to_be_edited_sets_nothing_yet() -> None:
    config = load([INSTALLED])
    assert config == defaults()
    assert set(config.places) == {"schema"}
    assert load([VENDOR_FILE, INSTALLED]) == load([VENDOR_FILE])
    for path in (VENDOR, MAIN):
        assert str(path) in INSTALLED.read_text()


def test_the_examples_in_the_installed_file_are_valid() -> None:
    lines = INSTALLED.read_text().splitlines()
    examples = [line.removeprefix("#") for line in lines if re.match("#( {2})*[a-z]", line)]
    config = parse("\n".join(examples), "f")
    assert (config.keystore, config.bundle) == ("tpm", "installed")
    assert set(config.places) == {"audio.device", "keystore", "bundle"}


@pytest.mark.parametrize("path", [SHIPPED, VENDOR_FILE, INSTALLED, *EXAMPLES], ids=lambda path: path.stem)
def test_what_we_ship_is_written_for_the_current_schema(path: Path) -> None:
    assert "schema: 2\n" in path.read_text()
    assert load([path]).outdated == ()


def test_there_are_examples() -> None:
    assert {path.name for path in EXAMPLES} >= {
        *("pi-speaker.yaml", "pi5-hat.yaml", "pi-zero-2w.yaml", "jetson.yaml"),
    }


# ---- values


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        (
            "listening: {phrases: [yes, no, on, off, 1, 0x1f, null2, True]}",
            "phrases",
            "yes no on off 1 0x1f null2 True",
        ),
        ("listening:\n  phrases:\n  - off\n  - 'no'\n  - hey acme", "phrases", ["off", "no", "hey acme"]),
        ("listening: {always_on: []}", "always_on", []),
        ("listening: {wake_words: [Ko\u0308ln, हिन्दी]}", "wake_words", ["Köln", "हिन्दी"]),
        ("listening: {gate: off}", "gate", False),
        ("listening: {gate: Yes}", "gate", True),
        ("listening: {timeout_s: 60}", "timeout_s", 60.0),
        ("listening: {timeout_s: 1e1}", "timeout_s", 10.0),
        ("listening: {sensitivity: .25}", "sensitivity", 0.25),
    ],
)
def test_scalars_are_read_as_their_key_expects(text: str, field: str, value: object) -> None:
    expected = value.split() if isinstance(value, str) else value
    got = getattr(parse(text, "f").listening, field)
    assert got == (tuple(expected) if isinstance(expected, list) else expected)


def test_every_kind_of_value_arrives_typed() -> None:
    config = parse(
        """
        schema: 2
        audio: {device: 'hw:1,0', channel: 3, gain_db: -2}
        bundle: /srv/acme
        state_dir: /srv/state
        listening: {mode: always, wake_words: [computer], thresholds: {stop: 0.5, on: 0.25}}
        control: {socket: /run/x.sock, roles: {admin: [sudo, no]}, max_clients: 2}
        people: {Ko\u0308ln: {users: [anna, root]}, bob: {}, eve: }
        log_level: debug
        """,
        "f",
    )
    assert (config.audio.device, config.audio.channel, config.audio.gain_db) == ("hw:1,0", 3, -2.0)
    assert type(config.audio.channel) is int
    assert type(config.audio.gain_db) is float
    assert (config.bundle, config.state_dir) == (Path("/srv/acme"), Path("/srv/state"))
    assert dict(config.listening.thresholds) == {"stop": 0.5, "on": 0.25}
    assert config.listening.wake_words == ("computer",)
    assert config.control.roles.admin == ("sudo", "no")
    assert config.control.socket == Path("/run/x.sock")
    assert dict(config.people) == {"Köln": Person(("anna", "root")), "bob": Person(), "eve": Person()}
    assert config.places["people.Köln.users"].line == config.places["people.bob"].line == 8
    with pytest.raises(TypeError):
        config.listening.thresholds["go"] = 0.1  # type: ignore[index]


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "---\n", "\ufeffaudio:\n", "audio:\nlistening:\n  thresholds:\n", "{}"]
)
def test_nothing_given_is_the_defaults(text: str) -> None:
    assert parse(text, "f") == defaults()
    assert parse(text.encode(), "f") == defaults()


def test_places_are_remembered_but_not_compared() -> None:
    config = parse("audio:\n  gain_db: 0.0\nlistening:\n  always_on:\n    - stop\n", "f")
    assert config == defaults()
    assert hash(config) == hash(defaults())
    assert "places" not in repr(config)
    assert config.places["audio.gain_db"].line == 2
    assert config.places["listening.always_on"].items == (5,)


# ---- several files


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_later_files_win_key_by_key(tmp_path: Path) -> None:
    main = write(
        tmp_path / "main.yaml",
        "audio: {device: hw, gain_db: 3}\nlistening:\n  phrases: [yes, no]\n  thresholds: {go: 0.5, on: 0.6}\n",
    )
    b = write(tmp_path / "conf.d" / "20-b.yaml", "audio:\n  device: b\nlistening: {thresholds: {on: 0.7}}\n")
    a = write(tmp_path / "conf.d" / "10-a.yaml", "\naudio: {device: a}\nlistening: {phrases: [up]}\n")
    write(tmp_path / "conf.d" / ".#20-b.yaml", "broken: [")
    write(tmp_path / "conf.d" / "README", "not: [yaml")
    assert config_files(main) == (main, a, b)
    config = load(config_files(main))
    assert (config.audio.device, config.audio.gain_db) == ("b", 3.0)
    assert config.listening.phrases == ("up",)
    assert dict(config.listening.thresholds) == {"go": 0.5, "on": 0.7}
    assert (config.places["audio.device"].source, config.places["audio.device"].line) == (str(b), 2)
    assert config.places["listening.phrases"].source == str(a)


def test_problems_of_all_files_are_sorted_by_file_and_line(tmp_path: Path) -> None:
    b = write(tmp_path / "b.yaml", "\nlog_level: x\naudio: [a\n")
    a = write(tmp_path / "a.yaml", "bundle: x\nlog_level: x\n")
    missing = tmp_path / "c.yaml"
    with pytest.raises(ConfigError) as caught:
        load([b, missing, a])
    assert [(p.source, p.line) for p in caught.value.problems] == [
        (str(a), 1),
        (str(a), 2),
        (str(b), 2),
        (str(b), 3),
        (str(missing), 1),
    ]


def test_one_persons_settings_from_several_files(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", "people: {ann: {users: [x]}, bob: }\n")
    b = write(tmp_path / "b.yaml", "people:\n  ann: {}\n  bob: {users: [y]}\n")
    config = load([a, b])
    assert dict(config.people) == {"ann": Person(("x",)), "bob": Person(("y",))}
    assert config.places["people.ann.users"].source == str(a)


def test_the_layers_of_a_machine_are_those_that_are_there(tmp_path: Path) -> None:
    vendor, main, extra = tmp_path / "lib.yaml", tmp_path / "etc" / "idiolect.yaml", tmp_path / "etc/conf.d/1.yaml"
    assert installed_files(main, vendor) == ()
    write(vendor, "control: {max_clients: 3, roles: {user: [idiolect]}}\n")
    assert installed_files(main, vendor) == (vendor,)
    (tmp_path / "etc").mkdir()
    write(extra, "control: {max_clients: 5}\n")
    assert installed_files(main, vendor) == (vendor, extra)
    write(main, "control: {max_clients: 4, roles: {user: []}}\naudio: {device: hw}\n")
    assert installed_files(main, vendor) == (vendor, main, extra)
    assert installed_files(main, None) == (main, extra)
    config = load(installed_files(main, vendor))
    assert (config.control.max_clients, config.control.roles.user, config.audio.device) == (5, (), "hw")


def test_a_dangling_link_among_the_layers_is_told(tmp_path: Path) -> None:
    main = tmp_path / "idiolect.yaml"
    main.symlink_to("nowhere.yaml")
    assert installed_files(main, None) == (main,)
    assert load_problem(main) == "there is no such file"


def test_a_file_that_is_named_must_be_there_and_comes_without_the_vendors(tmp_path: Path) -> None:
    assert files_for(tmp_path / "x.yaml") == (tmp_path / "x.yaml",)
    assert files_for(MAIN) == installed_files()


def test_without_conf_d_there_is_only_the_main_file(tmp_path: Path) -> None:
    assert config_files(tmp_path / "main.yaml") == (tmp_path / "main.yaml",)


def test_conf_d_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "conf.d", "")
    with pytest.raises(ConfigError, match=r"conf\.d:1: file: cannot be listed"):
        config_files(tmp_path / "main.yaml")


# ---- files that cannot be read


def load_problem(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load([path])
    (problem,) = caught.value.problems
    assert (problem.line, problem.field) == (1, "file")
    return problem.message


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_missing_directory_fifo_device_and_impossible_path(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    before = open_files()
    assert load_problem(tmp_path / "none.yaml") == "there is no such file"
    assert "a directory" in load_problem(tmp_path)
    assert "pipe" in load_problem(tmp_path / "fifo")
    assert "a device" in load_problem(Path("/dev/zero"))
    assert "cannot be read: " in load_problem(tmp_path / "loop")
    assert "not a valid path" in load_problem(Path("/tmp/a\0b"))  # noqa: S108 - nothing is created there
    assert open_files() == before


@contextmanager
def as_nobody() -> Iterator[None]:
    """File access as an ordinary user, also where tests run as root."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(me)


def test_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path / "secret.yaml", "")
    path.chmod(0)
    with as_nobody():
        assert "may not be read by this user" in load_problem(path)


def test_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    assert "larger than 256 KiB" in load_problem(path)


# ---- phrases against a bundle


def test_names_unknown_to_the_bundle_have_lines_and_suggestions() -> None:
    config = parse(
        dedent("""\
            listening:
              wake_words: [computer, jarvys, stop]
              phrases:
                - yes
                - sevn
                - Stop
              always_on: [computer]
              thresholds:
                go: 0.5
                alexia: 0.5
            """),
        "f",
    )
    found = check_phrases(config, WAKE_WORDS, PHRASES)
    assert [(p.source, p.line, p.field, p.message) for p in found] == [
        ("f", 2, "listening.wake_words[1]", "the bundle does not offer 'jarvys'; did you mean \"jarvis\"?"),
        ("f", 2, "listening.wake_words[2]", "'stop' is a phrase in the bundle"),
        ("f", 5, "listening.phrases[1]", "the bundle does not offer 'sevn'; did you mean \"seven\"?"),
        ("f", 6, "listening.phrases[2]", "the bundle does not offer 'Stop'; did you mean \"stop\"?"),
        ("f", 7, "listening.always_on[0]", "'computer' is a wake word in the bundle"),
        ("f", 10, "listening.thresholds.alexia", "the bundle does not offer 'alexia'; did you mean \"alexa\"?"),
    ]


def test_defaults_fit_every_bundle_and_what_is_written_is_checked() -> None:
    assert check_phrases(defaults(), WAKE_WORDS, PHRASES) == ()
    assert check_phrases(defaults(), ["hey acme"], ["lights"]) == ()
    (problem,) = check_phrases(parse("listening: {always_on: [stop]}", "f"), ["hey acme"], ["lights"])
    assert (problem.source, problem.field) == ("f", "listening.always_on[0]")


def test_long_phrases_do_not_collide() -> None:
    config = parse(f"listening:\n thresholds:\n  {'a' * 63}b: 0.5\n  {'a' * 63}c: 0.6\n", "f")
    assert list(config.listening.thresholds.values()) == [0.5, 0.6]
    assert [p.line for p in check_phrases(config, (), ("stop",))] == [3, 4]


def test_no_numpy() -> None:
    code = "import idiolect.config.schema, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ}).returncode == 0
