"""The JSON Schema, the code and what `config show` prints say the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import idiolect.config.schema
from idiolect.config.schema import as_dict, defaults, json_schema, load, parse
from idiolect.errors import ConfigError
from idiolect.values import name_key, person_name

CONFIG = Path(__file__).parents[2] / "config"
FILES = (*sorted(CONFIG.glob("*.yaml")), *sorted((CONFIG / "examples").glob("*.yaml")))
SCHEMA_FILE = Path(idiolect.config.schema.__file__).with_name("schema.json")


class Yaml12(yaml.SafeLoader):
    """YAML as editors read it, where yes, no, on and off are text; PyYAML follows YAML 1.1."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the parent has it
        first: [(tag, regex) for tag, regex in pairs if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))


def flat(tree: dict[str, object], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_schema_file_is_what_the_keys_say() -> None:
    if os.environ.get("WRITE_SCHEMA"):
        SCHEMA_FILE.write_text(json.dumps(json_schema(), indent=2) + "\n")
    Draft202012Validator.check_schema(json_schema())
    assert json.loads(SCHEMA_FILE.read_text()) == json_schema(), "run WRITE_SCHEMA=1 pytest tests/config/test_schema.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_schema_accepts_the_shipped_files(path: Path) -> None:
    validator().validate(yaml.load(path.read_text(), Yaml12))  # noqa: S506 - a SafeLoader
    validator().validate(as_dict(load([path])))


VALUES: tuple[object, ...] = (
    *(None, True, False, 0, 1, -1, 2, 5, 31, 32, 0.5, 0.1, 0.2, 0.01, 0.999, 0.9991, 60, 60.5, 256, 257, 32.0, 1e300),
    *(-20, -20.01, 40, 40.01, 10**30),
    *("", "mix", "all", "file", "tpm", "builtin", "wake", "Wake", "always", "info", "true", "5", "none"),
    *("/x", "/x/", "/", "x/y", "file:/x.wav", "file:x.wav", "fifo:/x", "fifo:", "/" + "x" * 106, "/" + "x" * 107),
    *("loopback", "lan", "same", "assist"),
    *("hw:1,0", "x" * 1024, "x" * 1025, "mains", "any", "01:00-05:00", "22:30-06:00", "24:00-05:00", "1:00-5:00"),
    *([], ["stop"], ["stop", "stop"], ["stop", "go"], [1], [True], [None], [[]], [{}], [0.5], ["a.b"], [""]),
    *(["a" * 64], ["a" * 65], ["a" * 33], ["hey acme"], ["don't"], ["groß"], ["-x"], "stop"),
    *({}, {"stop": 0.5}, {"stop": 1}, {"stop": "0.5"}, {"a.b": 0.5}, {"observer": []}, {"stop": None}),
    *({"ann": {}}, {"ann": {"users": ["ann"]}}, {"ann": {"users": None}}, {"ann": {"user": []}}, {"a.b": {}}),
)


@pytest.mark.parametrize("key", [*flat(as_dict(defaults())), "audio", "listening", "control", "control.roles", "x"])
def test_schema_and_code_accept_the_same_values(key: str) -> None:
    check = validator()
    taken = 0
    for value in VALUES:
        document = value
        for part in reversed(key.split(".")):
            document = {part: document}
        try:
            parse(json.dumps(document), "f")
            accepted = True
        except ConfigError:
            accepted = False
        assert accepted == check.is_valid(document), f"{document} is {'valid' if accepted else 'refused'} in code"
        taken += accepted
    assert 0 < taken < len(VALUES) or key == "x"


_PHRASES = st.lists(st.from_regex(r"[0-9A-Za-z '_-]{1,64}", fullmatch=True), unique=True, max_size=4)


def _person(text: str) -> bool:
    try:
        return person_name(text) == text
    except ValueError:
        return False


_PEOPLE = st.dictionaries(
    st.from_regex(r"[0-9A-Za-z '_.-]{1,64}", fullmatch=True).filter(_person),
    st.fixed_dictionaries(
        {
            "users": st.lists(st.sampled_from(["ann", "bob", "no"]), unique=True),
            "sensitivity": st.just("same") | st.floats(0, 1),
        }
    ),
    max_size=3,
).filter(lambda people: len({name_key(name) for name in people}) == len(people))
_VALID = st.fixed_dictionaries(
    {},
    optional={
        "audio": st.fixed_dictionaries(
            {}, optional={"channel": st.just("mix") | st.integers(0, 31), "gain_db": st.floats(-20, 40)}
        ),
        "listening": st.fixed_dictionaries(
            {},
            optional={
                "phrases": st.just("all") | _PHRASES,
                "timeout_s": st.floats(1, 60) | st.integers(1, 60),
                "thresholds": _PHRASES.flatmap(
                    lambda names: st.fixed_dictionaries({n: st.floats(0.01, 0.999) for n in names})
                ),
                "gate": st.booleans(),
            },
        ),
        "people": _PEOPLE,
        "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
    },
)


@given(_VALID)
@settings(max_examples=50, deadline=2000)
def test_what_config_show_prints_parses_to_the_same(document: dict[str, object]) -> None:
    config = parse(json.dumps(document), "f")
    shown = as_dict(config)
    assert parse(yaml.safe_dump(shown, allow_unicode=True), "f") == config
    assert parse(json.dumps(shown), "f") == config
    validator().validate(shown)
    for section, values in document.items():
        assert shown[section] == values or shown[section] | values == shown[section]  # type: ignore[operator]
