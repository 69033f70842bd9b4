"""Files written for an older schema: understood as they are, and rewritten with everything else in its place."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from idiolect.config.migrate import STEPS
from idiolect.config.rewrite import migrate
from idiolect.config.schema import SCHEMA, Config, Person, defaults, load, parse
from idiolect.errors import ConfigError

OLD = "schema: 1\ncontrol:\n  people:\n    ann: [anna, root]\n"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return [str(problem) for problem in caught.value.problems]


def migrated(text: str) -> str:
    done = migrate(text.encode(), "f")
    assert done is not None
    return done.data.decode()


# ---- understood


@pytest.mark.parametrize("text", [OLD, OLD.removeprefix("schema: 1\n"), OLD + "people: {bob: {users: [bob]}}\n"])
def test_an_old_file_is_understood_and_noted_once(text: str) -> None:
    config = parse(text, "f")
    assert config.people["ann"] == Person(("anna", "root"))
    assert config.schema == SCHEMA
    line = 1 if text.startswith("schema") else 2
    assert [str(note) for note in config.outdated] == [
        f"f:{line}: written for schema 1; `idiolect config migrate f` rewrites it"
    ]


@pytest.mark.parametrize("text", ["", "schema: 2\n", "people: {ann: {}}\n", "control: {max_clients: 3}\n"])
def test_a_current_file_is_not_noted(text: str) -> None:
    assert parse(text, "f").outdated == ()
    assert migrate(text.encode(), "f") is None


def test_places_are_those_of_the_old_key() -> None:
    config = parse("control:\n  people:\n    ann:\n      - x\n      - y\n", "f")
    place = config.places["people.ann.users"]
    assert (place.line, place.items) == (3, (4, 5))
    assert not any(key.startswith("control") for key in config.places)
    assert "schema" not in config.places


def test_files_of_both_schemas_are_read_together(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(OLD + "    bob: [bob]\n")
    new.write_text("schema: 2\npeople: {ann: {users: [other]}}\n")
    config = load([old, new])
    assert dict(config.people) == {"ann": Person(("other",)), "bob": Person(("bob",))}
    assert [note.source for note in config.outdated] == [str(old)]
    assert load([new, old]).people["ann"] == Person(("anna", "root"))


@pytest.mark.parametrize(
    "text",
    [
        "control:\n  people:\n    ann: [x]\npeople:\n  ann:\n    users: [y]\n",
        "people:\n  ann:\n    users: [y]\ncontrol:\n  people:\n    ann: [x]\n",
        "schema: 1\ncontrol: {people: {\nKo\u0308ln: [x]}}\npeople: {\nK\u00f6ln: {}}\n",
    ],
)
def test_a_person_under_both_keys_is_a_problem_with_both_lines(text: str) -> None:
    name = "ann" if "ann" in text else "K\u00f6ln"
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line.strip()[:2] == name[:2]]
    lines = lines if len(lines) == 2 else [3, 5]
    assert problems(text) == [f"f:{lines[1]}: people.{name}: is given twice, first on line {lines[0]}"]


@pytest.mark.parametrize(
    ("text", "line", "field", "message"),
    [
        ("schema: 1\ncontrol:\n  people:\n    ann: root\n", 4, "people.ann.users", "the text 'root', expected a list"),
        ("control:\n  people:\n    ann: [x, x]\n", 3, "people.ann.users[1]", "listed twice"),
        ("control:\n  people: [x]\n", 2, "people", "is a list"),
        ("control:\n  people: {ann: [x], ann: [y]}\n", 2, "people.ann", "given twice"),
        ("control:\n  people: 5\npeople: {ann: {}}\n", 2, "control.people", "unknown key"),
        ("control:\n  people: {ann: [x]}\npeople: 5\n", 2, "control.people", "unknown key"),
        ("schema: 2\ncontrol:\n  people: {ann: [x]}\n", 3, "control.people", 'did you mean "people"?'),
    ],
)
def test_what_is_wrong_in_an_old_file_has_its_line(text: str, line: int, field: str, message: str) -> None:
    assert problems(text)[0].startswith(f"f:{line}: {field}: ")
    assert message in problems(text)[0]
    with pytest.raises(ConfigError):
        migrate(text.encode(), "f")


@pytest.mark.parametrize("number", ["3", "17", "99999999999999999999999"])
def test_a_newer_file_is_refused_in_one_sentence(number: str) -> None:
    (problem,) = problems(f"# new\nschema: {number}\nwonders:\n  more: [a]\naudio: 5\n")
    assert problem.startswith(f"f:2: schema: is {number}, and this idiolect knows schemas up to 2: install the newer")
    assert "restore the copy that `idiolect config migrate` kept, f.schema-2" in problem
    with pytest.raises(ConfigError):
        migrate(f"schema: {number}\n".encode(), "f")


def test_a_newer_file_does_not_hide_the_problems_of_another(tmp_path: Path) -> None:
    new, bad = tmp_path / "a.yaml", tmp_path / "b.yaml"
    new.write_text("schema: 3\nwonders: 1\n")
    bad.write_text("adio: 1\n")
    with pytest.raises(ConfigError) as caught:
        load([new, bad])
    assert [(p.source, p.field) for p in caught.value.problems] == [(str(new), "schema"), (str(bad), "adio")]


def test_there_is_a_step_from_every_schema_to_the_next() -> None:
    assert sorted(STEPS) == list(range(1, SCHEMA))


# ---- rewritten: what a person would have done by hand


CASES = {
    "a block with comments everywhere": (
        """\
        # mine
        schema: 1  # one

        control:  # c0
          socket: /x   # c1
          # People with an account
          people:      # c2
            # ann is the boss
            ann: [ann, root]  # c3
            bob:   # c4
              - bob    # c5
              # c6
              - "root"
            'eve':
            - eve
            # zoe: [x]
          # about clients
          max_clients: 3

        # log
        log_level: info
        """,
        """\
        # mine
        schema: 2  # one

        control:  # c0
          socket: /x   # c1
          # about clients
          max_clients: 3

        # People with an account
        people:      # c2
          # ann is the boss
          ann:
            users: [ann, root]  # c3
          bob:   # c4
            users:
              - bob    # c5
              # c6
              - "root"
          'eve':
            users:
              - eve
          # zoe: [x]

        # log
        log_level: info
        """,
    ),
    "the last of a section": (
        "control:\n  max_clients: 3\n  people: {ann: [a]}\nlog_level: info\n",
        "schema: 2\ncontrol:\n  max_clients: 3\npeople:\n  ann:\n    users: [a]\nlog_level: info\n",
    ),
    "all of a section": (
        "control:\n  people: {ann: [a]}\nlog_level: info\n",
        "schema: 2\npeople:\n  ann:\n    users: [a]\nlog_level: info\n",
    ),
    "all of a section but a comment": (
        "control:\n  # nothing else\n\n  people: {ann: [a]}\n",
        "schema: 2\ncontrol:\n  # nothing else\n\npeople:\n  ann:\n    users: [a]\n",
    ),
    "nobody": (
        "schema: 1\ncontrol:\n  # nobody yet\n  people: {}\n  max_clients: 3\n",
        "schema: 2\ncontrol:\n  max_clients: 3\n# nobody yet\npeople: {}\n",
    ),
    "brackets": (
        """\
        schema: 1
        control: {
          socket: /x,  # the socket
          people: {  # who
            # a
            ann: [me,
                  you], # b
            "bob": [x]   # c
            # d
          },  # e
          max_clients: 2
        }
        """,
        """\
        schema: 2
        control: {
          socket: /x,  # the socket
            # e
          max_clients: 2
        }
        people:  # who
          # a
          ann:
            users: [me,
                  you] # b
          "bob":
            users: [x]   # c
          # d
        """,
    ),
    "brackets, the last": (
        "control: {socket: /x, people: {ann: [a]}}  # c\n",
        "schema: 2\ncontrol: {socket: /x}  # c\npeople:\n  ann:\n    users: [a]\n",
    ),
    "JSON": (
        '{"schema": 1, "control": {"people": {"ann": ["a"]}, "max_clients": 3}, "log_level": "info"}',
        '{"schema": 2, "control": {"max_clients": 3}, "people": {"ann": {"users": ["a"]}}, "log_level": "info"}',
    ),
    "JSON without schema": (
        '{\n  "control": {\n    "people": {"ann": ["a"]}\n  }\n}\n',
        '{\n  "schema": 2, "control": {}, "people": {"ann": {"users": ["a"]}}\n}\n',
    ),
    "beside new ones": (
        "control:\n  people:\n    # a\n    ann: [a]  # b\npeople:\n    bob:\n        users: [b]\nlog_level: info\n",
        "schema: 2\npeople:\n    bob:\n        users: [b]\n    # a\n    ann:\n      users: [a]  # b\nlog_level: info\n",
    ),
    "only the number": ("schema: 1\naudio:  \n  gain_db: 1", "schema: 2\naudio:  \n  gain_db: 1"),
    "indented, document marks": (
        "%YAML 1.1\n---\n  control:\n    people: {ann: [a]}\n...\n",
        "%YAML 1.1\n---\n  schema: 2\n  people:\n    ann:\n      users: [a]\n...\n",
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("eol", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_rewritten(name: str, eol: str, bom: str) -> None:
    before, after = (bom + dedent(text).replace("\n", eol) for text in CASES[name])
    assert migrated(before) == after
    assert migrate(after.encode(), "f") is None
    assert parse(after, "f") == parse(before, "f")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("schema: 1\ncontrol:\n  people:\n    ann: [a]\npeople: # nobody\nlog_level: info\n", 5),
        ("control:\n  # why\n  people:\n    ann: [a]\npeople: {bob: {}}\n", 3),
        ("control:\n  ? people\n  : {ann: [a]}\n", 2),
        ('{"control": {"people": { # who\n"ann": ["a"]}}}\n', 1),
    ],
)
def test_what_cannot_be_rewritten_safely_is_refused_with_the_way_out(text: str, line: int) -> None:
    parse(text, "f")
    with pytest.raises(ConfigError) as caught:
        migrate(text.encode(), "f")
    (problem,) = caught.value.problems
    assert (problem.source, problem.line) == ("f", line)
    assert "write schema: 2 and people: {NAME: {users: [USER]}} in place of control.people by hand" in problem.message


def test_a_full_size_file_is_rewritten_soon() -> None:
    people = "".join(f"    # {n}\n    p{n}: [u]\n" for n in range(1900))
    began = time.process_time()
    assert migrated(f"control:\n  people:\n{people}").count("users:") == 1900
    assert time.process_time() - began < 15


# ---- any file


_COMMENTS = st.sampled_from(["", "", "", "  # note", "  #\ttab\there", "  # {: [- '\" #", "  # \u00fcber", "   "])
_ABOVE = st.lists(st.sampled_from(["# above", "#", "#\ttab", "", "# \u0939\u093f"]), max_size=2)
_PLAIN = (
    "ann",
    "Bob",
    "K\u00f6ln",
    "Ko\u0308ln2",
    "\u0939\u093f\u0928\u094d\u0926\u0940",
    "no",
    "1",
    "O'Neil",
    "x y",
    "z-",
    "St. John",
)
_USERS = st.lists(st.sampled_from(["anna", "root", "_x", "no", "svc$"]), max_size=3, unique=True)


@st.composite
def _quoted(draw: st.DrawFn, text: str) -> str:
    ways = [text] if not text.startswith("-") else []
    ways += [f'"{text}"', "'" + text.replace("'", "''") + "'"]
    return draw(st.sampled_from(ways))


@st.composite
def _list(draw: st.DrawFn, indent: int, wide: bool) -> list[str]:
    """A list as it follows a key: the rest of its line, and more lines."""
    items = [draw(_quoted(item)) for item in draw(_USERS)]
    style = draw(st.sampled_from(["line", "lines", "block"])) if items else "line"
    pad = " " * (indent + (2 if wide else 0))
    if style == "line":
        return [f" [{draw(st.sampled_from([', ', ',', ' , '])).join(items)}]" + draw(_COMMENTS)]
    if style == "lines":
        middle = [f"{pad}  {item}," + draw(_COMMENTS) for item in items]
        return [" [" + draw(_COMMENTS), *middle, f"{pad} ]" + draw(_COMMENTS)]
    return [draw(_COMMENTS), *(f"{pad}- {item}" + draw(_COMMENTS) for item in items)]


@st.composite
def _people(draw: st.DrawFn, indent: int) -> list[str]:
    names = draw(st.lists(st.sampled_from(_PLAIN), max_size=4, unique=True))
    pad = " " * indent
    if not names or draw(st.booleans()):
        inner = [f"{draw(_quoted(name))}: [{', '.join(draw(_USERS))}]" for name in names]
        if draw(st.booleans()):
            return [f"{pad}people: {{{', '.join(inner)}}}" + draw(_COMMENTS)]
        middle = [f"{pad}  {each}," + draw(_COMMENTS) for each in inner]
        return [f"{pad}people: {{" + draw(_COMMENTS), *middle, f"{pad}  }}" + draw(_COMMENTS)]
    lines = [f"{pad}people:" + draw(_COMMENTS)]
    deeper = indent + draw(st.integers(1, 4))
    for name in names:
        first, *more = draw(_list(deeper, draw(st.booleans())))
        lines += [" " * deeper + each if each else "" for each in draw(_ABOVE)]
        lines += [" " * deeper + draw(_quoted(name)) + draw(st.sampled_from([":", " :"])) + first, *more]
    return lines


@st.composite
def _files(draw: st.DrawFn) -> str:
    """A valid file of schema 1."""
    indent = draw(st.integers(1, 5))
    pad = " " * indent
    parts = [[f"{pad}socket: /x" + draw(_COMMENTS)], [f"{pad}max_clients: 3" + draw(_COMMENTS)], draw(_people(indent))]
    chosen = draw(st.permutations(parts[: draw(st.integers(0, 2))] + parts[2:]))
    control = ["control:" + draw(_COMMENTS)]
    for part in chosen:
        control += [pad + each if each else "" for each in draw(_ABOVE)] + part
    sections = [control, ["audio: {gain_db: 1}" + draw(_COMMENTS)], ["schema: 1" + draw(_COMMENTS)]]
    if draw(st.booleans()):
        sections.append(["listening:", "  thresholds:", "    people: 0.5", "  phrases: [people]" + draw(_COMMENTS)])
    if draw(st.booleans()):
        sections.append(["people:" + draw(_COMMENTS), "  new:", "    users: [new]"])
    lines = []
    for section in draw(st.permutations(sections)):
        lines += [*draw(_ABOVE), *section]
    lines += draw(st.sampled_from([[], [""], ["", ""], ["# end"]]))
    return draw(st.sampled_from(["", "\ufeff"])) + draw(st.sampled_from(["\n", "\r\n"])).join(lines)


def untouched(text: str) -> list[str]:
    """The lines outside the sections that are concerned."""
    kept, inside = [], False
    for line in text.removeprefix("\ufeff").splitlines():
        if line and not line.startswith((" ", "\t", "#")):
            inside = line.startswith(("control", "people", "schema"))
        if not inside and line.strip() and not line.startswith("#"):
            kept.append(line)
    return kept


@given(_files())
@example("control:\n people:\n  ann:\n  - a # x\n  # y\n\n   # z")
@settings(max_examples=300, deadline=4000)
def test_the_rewritten_text_means_what_the_old_one_is_understood_to_mean(text: str) -> None:
    meant = parse(text.encode(), "f")
    assert len(meant.outdated) == 1
    try:
        done = migrate(text.encode(), "f")
    except ConfigError:  # only where new ones stand beside old ones, and comments have no place to go
        assert "\npeople:" in f"\n{text}".replace("\r", "").replace("\ufeff", "")
        assert "#" in text
        return
    assert done is not None
    after = done.data.decode()
    now = parse(done.data, "f")
    assert now == meant
    assert now.outdated == ()
    assert now.places["schema"].source == "f"
    assert migrate(done.data, "f") is None
    assert untouched(after) == untouched(text)
    assert after.startswith("\ufeff") == text.startswith("\ufeff")
    assert ("\r\n" in after) == ("\r\n" in text)
    if "\r\n" in after:
        assert after.count("\r\n") == after.count("\n")
    assert sorted(line.partition("#")[2] for line in after.splitlines() if "#" in line) == sorted(
        line.partition("#")[2] for line in text.splitlines() if "#" in line
    )


_MARKS = ("\n  ", ": ", "- ", "# x\n", "? ", "|\n", "\u2028", "\x85", *"[]{},:-?|>'\"# \t\n\r")
_FRAGMENTS = st.sampled_from((*_MARKS, "people", "control", "schema: 1", "ann", "users", "[a]", "{}", "~"))


@given(st.lists(_FRAGMENTS | st.text(max_size=2), max_size=5).map("".join), st.data())
@settings(max_examples=300, deadline=4000)
def test_a_damaged_old_file_is_rewritten_rightly_or_refused(damage: str, data: st.DataObject) -> None:
    case = dedent(CASES[data.draw(st.sampled_from(sorted(CASES)))][0])
    at = data.draw(st.integers(0, len(case)))
    text = case[:at] + damage + case[data.draw(st.integers(at, min(len(case), at + 8))) :]
    meant: Config | None = None
    try:
        raw = text.encode()
        meant = parse(raw, "f")
        done = migrate(raw, "f")
    except UnicodeEncodeError:
        return
    except ConfigError:
        return
    if done is None:
        assert meant.outdated == ()
        return
    now = parse(done.data, "f")
    assert now == meant
    assert now.outdated == ()


def test_the_shipped_examples_of_the_old_schema_keep_every_line_but_one() -> None:
    for path in sorted((Path(__file__).parents[2] / "config" / "examples").glob("*.yaml")):
        old = path.read_text().replace("schema: 2", "schema: 1")
        pairs = itertools.zip_longest(old.splitlines(), migrated(old).splitlines())
        assert [pair for pair in pairs if pair[0] != pair[1]] == [("schema: 1", "schema: 2")]
    assert parse(migrated("schema: 1"), "f") == defaults()
