"""What is wrong in a configuration: every problem at once with its exact line, whatever the bytes are."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from idiolect.config.schema import Config, parse
from idiolect.errors import ConfigError, Problem

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "pi-speaker.yaml"


def problems(text: str | bytes, source: str = "f") -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text, source)
    assert caught.value.exit_code == 78
    return caught.value.problems


TABLE = [  # text, line, field, what the message must say
    # wrong type: what was given, what is expected
    ("audio: {gain_db: loud}", 1, "audio.gain_db", "the text 'loud', expected a number from -20 to 40 dB"),
    ("audio: {gain_db: '5'}", 1, "audio.gain_db", "the quoted text '5'"),
    ("audio: {gain_db: [1]}", 1, "audio.gain_db", "is a list"),
    ("audio:\n  gain_db:\n", 2, "audio.gain_db", "is empty"),
    ("control: {max_clients: true}", 1, "control.max_clients", "the true/false value true, expected a whole number"),
    ("control: {max_clients: 2.5}", 1, "control.max_clients", "the number 2.5, expected a whole number from 1 to 256"),
    ("control: {max_clients: 010}", 1, "control.max_clients", "the text '010'"),
    ("control: {max_clients: 0x10}", 1, "control.max_clients", "the text '0x10'"),
    ("listening: {timeout_s: 1:30}", 1, "listening.timeout_s", "the text '1:30', expected a number from 1 to 60 s"),
    ("listening: {gate: 1}", 1, "listening.gate", "the number 1, expected true or false"),
    ("listening: {phrases: stop}", 1, "listening.phrases", "expected all or a list such as"),
    ("listening: {always_on: all}", 1, "listening.always_on", "expected a list such as [stop]"),
    ("listening: {thresholds: [stop]}", 1, "listening.thresholds", "is a list, expected a mapping"),
    ("audio: {device: 5}", 1, "audio.device", "the number 5, expected an ALSA PCM name"),
    ("audio: {device: no}", 1, "audio.device", "the true/false value no"),
    ("audio: default", 1, "audio", "expected keys such as device:, channel:, gain_db:"),
    ("- a", 1, "file", "is a list, expected keys such as schema:"),
    ("{[a]: 1}", 1, "file", "has a list as a key"),
    # out of range
    ("audio:\n  gain_db: 40.5", 2, "audio.gain_db", "the number 40.5, expected a number from -20 to 40 dB"),
    ("audio: {gain_db: .nan}", 1, "audio.gain_db", "not a finite number (.nan)"),
    ("audio: {gain_db: -.inf}", 1, "audio.gain_db", "not a finite number (-.inf)"),
    ("audio: {gain_db: 1e999}", 1, "audio.gain_db", "the number 1e999"),
    ("audio: {channel: 32}", 1, "audio.channel", "expected mix or a whole number from 0 to 31"),
    ("audio: {channel: mixed}", 1, "audio.channel", "the text 'mixed', expected mix or"),
    ("listening: {thresholds: {stop: 1}}", 1, "listening.thresholds.stop", "from 0.01 to 0.999"),
    ("schema: 0", 1, "schema", "the number 0, expected a whole number from 1 to 2"),
    ("schema: -1", 1, "schema", "the number -1, expected a whole number from 1 to 2"),
    ("schema: 1.5", 1, "schema", "the number 1.5, expected a whole number"),
    ("schema: 1e999", 1, "schema", "the number 1e999, expected a whole number"),
    ("schema: '2'", 1, "schema", "the quoted text '2', expected a whole number"),
    ("schema: two", 1, "schema", "the text 'two', expected a whole number"),
    ("schema:", 1, "schema", "is empty"),
    ("schema: [1]", 1, "schema", "is a list"),
    ("people: [ann]", 1, "people", "is a list, expected a mapping from names"),
    ("people:\n  ann: [ann]", 2, "people.ann", "is a list, expected keys such as users:"),
    ("people:\n  ann:\n    users: ann", 3, "people.ann.users", "the text 'ann', expected a list such as [anna]"),
    ("people:\n  ann: {user: [ann]}", 2, "people.ann.user", 'did you mean "users"?'),
    ("people: {Guest: {}}", 1, "people.Guest", "expected a person's name; it is a word with a meaning of its own"),
    # words
    ("listening: {mode: alway}", 1, "listening.mode", 'expected wake or always; did you mean "always"?'),
    ("log_level: INFO", 1, "log_level", 'did you mean "info"?'),
    ("keystore: vault", 1, "keystore", "expected file or tpm"),
    ("trust: {tcti: 5}", 1, "trust.tcti", "expected a TCTI such as"),
    ("trust: {keys_dir: keys.d}", 1, "trust.keys_dir", "an absolute directory"),
    ("state_dir: var/lib", 1, "state_dir", "expected an absolute directory"),
    ("bundle: ./acme", 1, "bundle", "builtin, installed, or an absolute directory"),
    ("audio: {device: 'file:x.wav'}", 1, "audio.device", "an absolute path"),
    ('audio: {device: "a\\nb"}', 1, "audio.device", r"'a\nb'"),
    ('audio: {device: "a\\ud800"}', 1, "audio.device", r"'a\ud800'"),
    (f"control: {{socket: /{'ü' * 54}}}", 1, "control.socket", "107 bytes"),
    (
        "listening:\n  phrases:\n    - yes\n    - st.op",
        4,
        "listening.phrases[1]",
        "the text 'st.op', expected a phrase",
    ),
    ("listening: {phrases: ['']}", 1, "listening.phrases[0]", "expected a phrase"),
    ("listening: {phrases: [💥]}", 1, "listening.phrases[0]", "expected a phrase"),
    ("listening:\n  phrases: [yes,\n    no, yes]", 3, "listening.phrases[2]", "listed twice, first on line 2"),
    ("listening: {phrases: [Ko\u0308ln, Köln]}", 1, "listening.phrases[1]", "listed twice"),
    ("control: {roles: {user: [1000]}}", 1, "control.roles.user[0]", "the name of a Unix group"),
    ("listening: {thresholds: {'a.b': 0.5}}", 1, "listening.thresholds.a.b", "expected a phrase"),
    # keys
    ("audio:\n  devise: hw", 2, "audio.devise", 'unknown key; did you mean "device"?'),
    ("audio:\n  gain-db: 1", 2, "audio.gain-db", 'did you mean "gain_db"?'),
    ("device: hw", 1, "device", 'did you mean "audio.device"?'),
    ("audio: {bundle: x}", 1, "audio.bundle", 'did you mean "bundle"?'),
    ("audio: {zzz: 1}", 1, "audio.zzz", "known here: device, channel, gain_db"),
    ("audio:\n  gain_db: 1\n  channel: 0\n  gain_db: 2", 4, "audio.gain_db", "given twice, first on line 2"),
    ("<<: {a: 1}", 1, "<<", "unknown key"),
    # syntax
    ("audio:\n\tdevice: hw", 2, "yaml", "column 1: a tab"),
    ("audio:\n  device:\thw", 2, "yaml", "a tab"),
    ("log_level: 'info\naudio:\n  channel: 0\n", 1, "yaml", "column 12: a quote opened here is never closed"),
    ("listening:\n  phrases: [yes, no\n  gate: true\n", 2, "yaml", 'column 12: a "["'),
    ("audio:\n  device: hw\n channel: 0\n", 3, "yaml", "wrong indentation"),
    ("listening:\n  always_on:\n    - stop\n    gate: true", 4, "yaml", "wrong indentation"),
    ("audio:\n  device: hw: 0\n", 2, "yaml", 'a ":" too many here or missing above'),
    ("listening: {phrases: [\n", 2, "yaml", "closing bracket is missing"),
    ("audio:\n  device: hw\n  channel\n", 3, "yaml", 'neither "key: value"'),
    ("audio:\n  device: @hw\n", 2, "yaml", "needs quotes"),
    ('audio:\n  device: "a\\q"\n', 2, "yaml", "escape"),
    ('audio:\n  device: "\\UFFFFFFFF"\n', 2, "yaml", "out of range"),
    ("%YAML " + "9" * 5000 + ".1\n---\n", 1, "yaml", "out of range"),
    ("%YAML 2.0\n---\n", 1, "yaml", "%YAML"),
    ("audio: {device: hw}\n---\naudio: {device: hw}", 2, "yaml", "second document"),
    ("audio: {device: !!str hw}", 1, "yaml", "tags (!)"),
    ("audio: !!python/object/apply:os.system [id]", 1, "yaml", "tags (!)"),
    ("a: !e!x 1", 1, "yaml", "tags (!)"),
    ("audio:\n  device: &d hw", 2, "yaml", "anchors (&)"),
    ("audio:\n  device: *d", 2, "yaml", "aliases (*)"),
    ("log_level: info\nbundle: \x07", 2, "yaml", "U+0007"),
    ("log_level: info\n\x00", 2, "yaml", "U+0000"),
    # caps
    ("[" * 9 + "]" * 9, 1, "yaml", "deeper than 8"),
    ("listening:\n phrases: [" + "\n,".join(f"a{n}" for n in range(10_000)) + "]", 9997, "yaml", "more than 10000"),
    ("#" * (256 * 1024 + 1), 1, "file", "larger than 256 KiB"),
    (b"log_level: info\nbundle: \xff", 2, "file", "not UTF-8"),
    ("audio: {gain_db: 1}\n".encode("utf-16"), 1, "file", "not UTF-8"),
]


@pytest.mark.parametrize(("text", "line", "field", "message"), TABLE, ids=lambda value: str(value)[:30])
def test_problem(text: str | bytes, line: int, field: str, message: str) -> None:
    found = problems(text)
    assert [(p.source, p.line, p.field) for p in found] == [("f", line, field)]
    assert message in found[0].message
    assert str(found[0]) == f"f:{line}: {field}: {found[0].message}"


def test_all_problems_at_once_in_order() -> None:
    found = problems(
        dedent("""\
            log_level: loud
            audio:
              gain_db: 99
              channel: left
              devise: hw
            listening:
              phrases: [yes, a.b]
              gate: maybe
              timeout_s: .inf
            audio: {}
            """)
    )
    assert [(p.line, p.field) for p in found] == [
        (1, "log_level"),
        (3, "audio.gain_db"),
        (4, "audio.channel"),
        (5, "audio.devise"),
        (7, "listening.phrases[1]"),
        (8, "listening.gate"),
        (9, "listening.timeout_s"),
        (10, "audio"),
    ]


def test_what_stands_above_a_syntax_error_is_still_checked() -> None:
    found = problems("log_level: loud\naudio:\n  gain_db: 99\nlistening: {phrases: [a,\ncontrol: 5\n")
    assert [(p.line, p.field) for p in found] == [(1, "log_level"), (3, "audio.gain_db"), (4, "yaml")]


def test_a_missing_colon_is_seen_where_it_is_missing() -> None:
    text, colon = problems("audio:\n  device hw\n  channel: 0\n")
    assert (text.line, text.field) == (2, "audio")
    assert "the text 'device hw" in text.message
    assert (colon.line, colon.field) == (3, "yaml")
    assert "missing above" in colon.message


def test_a_torrent_of_problems_is_cut() -> None:
    found = problems("".join(f"audio{i}: 1\n" for i in range(4000)))
    assert len(found) == 101
    assert found[-1].field == "file"
    assert "more problems" in found[-1].message


@pytest.mark.parametrize(
    "text",
    [
        f"log_level: {'x' * 5000}",
        f"{'x' * 900}: 1",
        f"audio: {{gain_db: {'9' * 5000}}}",
        "bundle: '" + "\x85" * 90 + "'",
    ],
)
def test_long_values_are_not_repeated(text: str) -> None:
    message = str(problems(text)[0])
    assert len(message) < 250
    assert "x" * 41 not in message
    assert "9" * 41 not in message
    assert message.isprintable()


# ---- any input


def outcome(data: bytes | str) -> Config | None:
    """Parse and check that only a Config or presentable problems come of it."""
    try:
        return parse(data, "f")
    except ConfigError as error:
        found = error.problems
    assert found == tuple(sorted(found, key=lambda problem: problem.line))
    for problem in found:
        assert 1 <= problem.line <= len(data.splitlines()) + 1
        assert str(problem).isprintable()
        assert len(str(problem)) < 400
    return None


_MARKS = ("\n  ", ": ", "- ", "---\n", "...\n", "<<", "\\x", "\\u", "\u2028", *"[]{},:-?&*!|>'\"%@`#~ \t\n\r.")
_WORDS = (
    "audio",
    "gain_db",
    "listening",
    "thresholds",
    "phrases",
    "schema",
    "roles",
    "null",
    "yes",
    ".nan",
    "1e9",
    "é",
)
_FRAGMENTS = st.sampled_from(_MARKS + _WORDS)


@given(st.binary(max_size=300))
@example(b"\xef\xbb\xbf")
@example(b"\xff\xfe")
@settings(max_examples=200, deadline=2000)
def test_any_bytes(data: bytes) -> None:
    outcome(data)


@given(st.lists(_FRAGMENTS | st.text(max_size=3), max_size=40).map("".join))
@settings(max_examples=250, deadline=2000)
def test_any_yaml_like_text(text: str) -> None:
    outcome(text)


@given(st.data())
@settings(max_examples=100, deadline=2000)
def test_a_damaged_file(data: st.DataObject) -> None:
    whole = EXAMPLE.read_text()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 20)))
    outcome(whole[:start] + data.draw(_FRAGMENTS | st.text(max_size=4)) + whole[end:])


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit", ["[", "{", "- ", "? ", "a: ", "a\n", "#\n", "[a,", "'x'\n", "|\n ", "%a b\n", "a: 1\n", "\\x41"]
)
def test_full_size_hostile_files_end_soon(unit: str) -> None:
    outcome((unit * (256 * 1024))[: 256 * 1024])
