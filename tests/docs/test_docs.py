"""The documentation is held to the source: commands, messages, exit codes, keys, directives, links and paths."""

from __future__ import annotations

import argparse
import ast
import functools
import re
import shlex
import shutil
import ssl  # noqa: F401  # before idiolectd's main, which does without it where nobody has loaded it
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from idiolect import __main__ as daemon
from idiolect.cli import main
from idiolect.cli.doctor import PARTS
from idiolect.config import schema as config
from idiolect.errors import ConfigError
from idiolect.host.systemd import message_id

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCE = ROOT / "daemon" / "idiolect"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]
NAMES = [page.name if page.parent == ROOT else f"docs/{page.name}" for page in PAGES]
OPERATIONS = DOCS / "operations.md"
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=NAMES)


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """The source of the daemon and its command line."""
    return {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


def nodes(*names: str) -> Iterator[ast.AST]:
    """Everything in the modules that match, or in all."""
    for path, tree in trees().items():
        if not names or any(path.match(name) for name in names):
            yield from ast.walk(tree)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Code blocks, with the language that a fence names; an indented one has none."""
    text = page.read_text()
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield language, body
    rest = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for body in re.findall(r"(?:^\n|\A)((?:^ {4}.*\n|^\n(?= {4}))+)", rest, re.MULTILINE):
        yield "", re.sub(r"^ {4}", "", body, flags=re.MULTILINE)


def inline(page: Path) -> list[str]:
    """Code in running text and tables."""
    text = re.sub(r"^```\w*\n(?:.*\n)*?```$|^ {4}.*$", "", page.read_text(), flags=re.MULTILINE)
    return [" ".join((long or short).split()) for long, short in re.findall(r"`` (.+?) ``|`([^`]+)`", text, re.DOTALL)]


# -- messages ---------------------------------------------------------------------------------------------------------

LEVELS = ("debug", "info", "warning", "error", "critical")
PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


@functools.cache
def templates() -> dict[str, set[str]]:
    """Every message in the source, and the levels that it is logged at."""
    found: dict[str, set[str]] = {}
    for node in nodes():
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id in ("log", "logger", "logging")):
            continue
        level, arguments = node.func.attr, list(node.args)
        if level == "log":
            levels = {name.attr.lower() for name in ast.walk(arguments.pop(0)) if isinstance(name, ast.Attribute)}
            levels &= set(LEVELS)
        elif level in LEVELS:
            levels = {level}
        else:
            continue
        assert arguments, ast.unparse(node)
        template = arguments[0]
        assert isinstance(template, ast.Constant), f"not a fixed text: {ast.unparse(node)}"
        found.setdefault(template.value, set()).update(levels)
    return found


@functools.cache
def documented() -> dict[str, tuple[str, str]]:
    """Every message in the table: its text, priority and MESSAGE_ID."""
    row = re.compile(r"^\| (?:`` (.+?) ``|`([^`]+)`) \| ([^|]+) \| `([0-9a-f]{32})` \| .+ \|$", re.MULTILINE)
    return {long or short: (priority, ident) for long, short, priority, ident in row.findall(OPERATIONS.read_text())}


def test_every_message_is_listed_and_none_that_is_gone():
    assert sorted(documented()) == sorted(templates())


def test_messages_have_their_ids_and_priorities():
    for text, (priority, ident) in documented().items():
        assert ident == message_id(text), text
        levels = re.findall(r"\d (?:debug|info|warning|error|critical)", priority)
        assert set(levels) == {f"{PRIORITY[level]} {level}" for level in templates()[text]}, text


@EVERY_PAGE
def test_queries_name_what_there_is(page):
    text = page.read_text()
    known = {message_id(template) for template in templates()}
    assert set(re.findall(r"MESSAGE_ID=([0-9a-f]{32})", text)) <= known
    modules = {f"{path.parent.name}.{path.stem}" for path in trees()}
    assert set(re.findall(r"IDIOLECT_PART=([\w.]+)", text)) <= modules


# -- exit codes, doctor -----------------------------------------------------------------------------------------------


def exit_codes() -> set[int]:
    """What errors carry, what commands return, and what `idiolect --help` lists."""
    found = {int(code) for code in re.findall(r"(?:^|;)  (\d+)  ", main._EPILOG, re.MULTILINE)}
    for node in nodes():
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(ast.unparse(target).endswith("exit_code") for target in targets):
                found.add(node.value.value)
    for node in nodes("cli/*.py"):
        if isinstance(node, ast.Return) and node.value is not None:
            found |= _numbers(node.value)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "CommandError":
            found |= {number for argument in node.args[1:] for number in _numbers(argument)}
    return {code for code in found if code in (0, 1, 2) or 64 <= code < 256}


def _numbers(expression: ast.expr) -> set[int]:
    values = (expression.body, expression.orelse) if isinstance(expression, ast.IfExp) else (expression,)
    return {each.value for each in values if isinstance(each, ast.Constant) and type(each.value) is int}


def test_every_exit_code_is_explained():
    text = OPERATIONS.read_text()
    section = text[text.index("## Exit codes") : text.index("## The status line")]
    rows = {int(code) for codes in re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE) for code in codes.split(",")}
    assert rows == exit_codes()


def test_every_check_of_doctor_is_explained():
    names = {name for part in PARTS.values() for name in part}
    for node in nodes("doctor.py", "cli/*.py", "device/keys.py"):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Check", "_check", "_told", "Finding"):
            names |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            names |= {v.value for k, v in pairs if k and ast.unparse(k) == "'check'" and isinstance(v, ast.Constant)}
    text = OPERATIONS.read_text()
    section = text[text.index("## What `idiolect doctor` checks") : text.index("## Figures")]
    rows = {name for names in re.findall(r"^\| ([a-z, ]+) \|", section, re.MULTILINE) for name in names.split(", ")}
    assert rows - {"check"} == names


# -- commands ---------------------------------------------------------------------------------------------------------

STAND_INS = {
    "N": "3", "NAME": "ann", "PURPOSE": "usage", "EVENT": "e-1", "PHRASE": "lights please", "TIME": "2h",
    "HEX": "00" * 32, "VALUE": "00" * 32, "VALUES": "00" * 32,
}  # fmt: skip
PROGRAMS = ("idiolect", "idiolectd")


class _Refused(Exception):
    """What argparse says."""


@functools.cache
def parser() -> argparse.ArgumentParser:
    return main._parser()


def subcommands(words: list[str]) -> argparse.ArgumentParser | None:
    """The parser that these words lead to, None where they do not."""
    at = parser()
    for word in words:
        action = next((each for each in at._actions if isinstance(each, argparse._SubParsersAction)), None)
        if action is None or word not in action.choices:
            return None
        at = action.choices[word]
    return at


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of ours in a line of shell, alternatives (`a | b`) and sequences (`a; b`) included."""
    for piece in re.split(r"\s*(?:;|&&)\s*", re.sub(r"(?:^|\s)#.*$", "", text)):
        words: list[str] = []
        for alternative in re.split(r"\s\|\s", piece):
            given = _split(alternative)
            if found := _ours(given):
                words = found
            elif words and given:  # one more command, in the place of the last, or a pipe to another program
                known = (k for k in range(len(words) - 1, 0, -1) if subcommands([*words[1:k], given[0]]))
                k = next(known, 0)
                words = [*words[:k], *_arguments(given)] if k else []
            if words:
                yield words


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return []


def _ours(words: list[str]) -> list[str]:
    """From the program on, where it is one of ours and the first word, but for sudo and ssh HOST."""
    start = 2 if words[:1] == ["ssh"] else 0
    start += words[start : start + 1] == ["sudo"]
    if start >= len(words) or Path(words[start]).name not in PROGRAMS:
        return []
    return [Path(words[start]).name, *_arguments(words[start + 1 :])]


def _arguments(words: list[str]) -> list[str]:
    """Up to a redirection, with something that parses for each placeholder."""
    found: list[str] = []
    for word in words:
        if re.match(r"\d?[<>&]", word):
            break
        plain = word.strip("[]")
        found.append(STAND_INS["HEX"] if found[-1:] == ["--nonce"] else STAND_INS.get(plain, plain))
    return found


def refusal(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What the program's own parser has against a command, "" when it takes it."""

    def refuse(_: object, message: str) -> None:
        raise _Refused(message)

    monkeypatch.setattr(argparse.ArgumentParser, "error", refuse)
    try:
        if words[0] == "idiolect":
            parser().parse_args(words[1:])
        else:
            monkeypatch.setattr(sys, "argv", words)
            monkeypatch.setitem(sys.modules, "idiolect.service.service", SimpleNamespace(start=lambda _: 0))
            daemon.main()
    except _Refused as refused:
        return str(refused)
    except SystemExit as ended:  # --help, --version
        return "" if not ended.code else str(ended.code)
    return ""


def test_commands_are_found_in_what_people_write():
    assert list(commands("sudo idiolect status   # how is it")) == [["idiolect", "status"]]
    assert list(commands("idiolect audit show | verify")) == [
        ["idiolect", "audit", "show"],
        ["idiolect", "audit", "verify"],
    ]
    assert list(commands("idiolect devices | doctor | config show")) == [
        ["idiolect", "devices"], ["idiolect", "doctor"], ["idiolect", "config", "show"],
    ]  # fmt: skip
    assert list(commands("ssh HOST sudo idiolect status --json >file")) == [["idiolect", "status", "--json"]]
    assert list(commands("idiolect status --json | jq .keys")) == [["idiolect", "status", "--json"]]
    assert list(commands("apt install idiolect")) == []


@EVERY_PAGE
def test_every_command_in_a_block_is_one(page, monkeypatch):
    for _, body in blocks(page):
        for line in re.sub(r"\\\n\s*", " ", body).splitlines():
            for words in commands(line):
                said = refusal(words, monkeypatch)
                assert not said, f"{line.strip()}: {said}"


@EVERY_PAGE
def test_every_command_in_the_text_is_one(page, monkeypatch):
    """There its arguments may be left out, as in `idiolect review`."""
    for code in inline(page):
        for words in commands(code):
            if len(words) > 1 and words[1] != "...":
                said = refusal([word for word in words if word != "..."], monkeypatch)
                short = said.startswith(("the following arguments are required", "one of the arguments"))
                assert not said or short, f"{code}: {said}"


SCRIPTS = {
    "build_bundle.py": "scripts/bundlebuild/arguments.py",
    "build_deb": "scripts/debbuild/__main__.py",
    "verify_attestation.py": "scripts/verify_attestation.py",
    "lock": "scripts/packaging/lock",
}
"""Where the options of our scripts are."""


@EVERY_PAGE
def test_every_option_of_a_script_is_one(page):
    for text in [*inline(page), *(re.sub(r"\\\n\s*", " ", body) for _, body in blocks(page))]:
        for script, rest in re.findall(r"(?:^|/)([\w.]+)((?: \S+)*)", text, re.MULTILINE):
            if script in SCRIPTS:
                source = (ROOT / SCRIPTS[script]).read_text()
                options = set(re.findall(r" (--[\w-]+)", rest)) - {"--help"}
                assert all(f'"{option}"' in source or f" {option})" in source for option in options), (script, options)


# -- configuration ----------------------------------------------------------------------------------------------------

FILES = {
    *("json", "yaml", "py", "md", "db", "pem", "sig", "sock"),
    *("service", "socket", "key", "lock", "bin", "tflite", "txt"),
}


def _is_key(parts: list[str], schema: dict[str, object]) -> bool:
    for part in parts:
        properties = schema.get("properties")
        more = schema.get("additionalProperties")
        if isinstance(properties, dict) and part in properties:
            schema = properties[part]
        elif isinstance(more, dict):
            schema = more
        else:
            return False
    return True


@EVERY_PAGE
def test_every_key_is_one(page):
    schema = config.json_schema()
    for code in inline(page):
        key = re.fullmatch(r"([a-z_]+(?:\.[A-Za-z_]+)+)(?:: .+)?", code)
        parts = key[1].split(".") if key else [""]
        if parts[0] in schema["properties"] and parts[-1] not in FILES:
            assert _is_key(parts, schema), code


@EVERY_PAGE
def test_every_configuration_is_understood(page):
    texts = [body for language, body in blocks(page) if language == "yaml"]
    for code in inline(page):
        given = re.match(r"([a-z_]+(?:\.[a-z_]+)*): (?!\.\.\.)(.+)", code)
        if given and code not in templates() and (keys := given[1].split("."))[0] in config.json_schema()["properties"]:
            texts.append("".join(f"{'  ' * depth}{key}:\n" for depth, key in enumerate(keys))[:-1] + f" {given[2]}")
    for text in texts:
        try:
            assert not config.parse(text, page.name).outdated, text
        except ConfigError as error:
            pytest.fail(f"{text}: {error}")


# -- units ------------------------------------------------------------------------------------------------------------

UNITS = sorted(path for path in (ROOT / "systemd").iterdir() if path.suffix in (".service", ".socket"))
DROP_INS = {"BindPaths", "Environment", "LoadCredentialEncrypted", "ListenStream", "Storage"}
"""What a drop-in, or journald, may be told, and no unit of ours says in that form."""


def unit_texts() -> str:
    return "\n".join(path.read_text() for path in UNITS)


@EVERY_PAGE
def test_every_directive_is_in_a_unit(page):
    units = unit_texts()
    for code in inline(page):
        for name, value in re.findall(r"(?<![\w-])([A-Z][A-Za-z]+)=(\S*)", code):
            if name in DROP_INS or name.isupper():  # the latter are variables
                continue
            assert f"{name}=" in units, code
            assert not value or re.search(rf"\b{name}=.*{re.escape(value)}", units), code


def test_the_threat_model_names_all_that_confines_the_daemon():
    page = (DOCS / "threat-model.md").read_text()
    service = (ROOT / "systemd" / "idiolectd.service").read_text()
    confining = service[service.index("# -- network") : service.index("[Install]")]
    for name in dict.fromkeys(re.findall(r"^(\w+)=", confining, re.MULTILINE)):
        assert f"`{name}=" in page, name
    for name in re.findall(r"^# (\w+)=\S+ is left out", confining, re.MULTILINE):
        assert f"| `{name}` |" in page, name


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", ["idiolectd.service", "idiolect-tcp@.service"])
def test_the_exposure_is_as_it_says(unit):
    page = (DOCS / "threat-model.md").read_text()
    version = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    if "systemd 252" not in version:
        pytest.skip("the figure in the text is that of systemd 252")
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(ROOT / "systemd" / unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"exposure level for \S+: ([\d.]+ \w+)", said)
    assert found, said
    assert f"**{found[1]}**" in page


# -- links and paths --------------------------------------------------------------------------------------------------


@EVERY_PAGE
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target


@EVERY_PAGE
def test_every_path_exists(page):
    """Of files in the checkout: as they are, or below daemon/idiolect/, as the threat model names them."""
    text = page.read_text()
    for code in re.findall(r"(?<![\w/@.-])((?:tests|daemon|systemd|scripts|config|hw-tests|docs)/[\w@./*-]*\w)", text):
        assert (ROOT / code).exists() or list(ROOT.glob(code)), code
    for code in inline(page):
        if re.fullmatch(r"[a-z_]+(?:/[a-z_]+)*\.py", code) and not code.startswith(("tests/", "scripts/", "daemon/")):
            assert any((place / code).exists() for place in (SOURCE, ROOT / "scripts", ROOT)), code


def test_the_index_lists_every_page():
    index = (DOCS / "README.md").read_text()
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} == set(re.findall(r"\]\((\w[\w-]*\.md)\)", index))
