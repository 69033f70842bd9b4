"""Takes a configuration from one schema to the next: a table of steps, each a pure function from tree to tree.

A file written for an older schema is read through the same steps that `idiolect config migrate` rewrites it by
(`rewrite`), so what it means and what it becomes cannot differ. A step builds new nodes where something changes and
keeps every other node as it is: that is how the rewriting knows what to leave alone.

1 -> 2: ``control.people: {anna: [anna]}`` becomes ``people: {anna: {users: [anna]}}``, room for more about a person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from idiolect.config.tree import NUMBER, Node, Note, Reading, shown

Entry = tuple[Node, Node]
"""A key of a map, and its value."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step from one schema to the next.

    ``sign`` finds a key that only the older one has, which tells it where ``schema:`` is left out. ``instead`` is what
    a person writes where the text cannot be rewritten.
    """

    sign: Callable[[Node], Node | None]
    apply: Callable[[Node], Node]
    instead: str


def written_for(root: Node, known: int) -> tuple[int, int]:
    """Return the schema the tree is written for, and the line that shows it; ``known`` where the key is wrong."""
    given = find(root, "schema")
    if given:
        key, value = given
        number = float(value.text) if value.plain and NUMBER.fullmatch(value.text) else 0.0
        return (int(number) if number >= 1 and number.is_integer() else known), key.line
    signs = ((number, STEPS[number].sign(root)) for number in sorted(STEPS))
    return next(((number, sign.line) for number, sign in signs if sign), (known, root.line))


def understood(root: Node, reading: Reading, known: int) -> Node | None:
    """Return the tree in the schema ``known``; None, with the only problem noted, where it is of a later one."""
    version, line = written_for(root, known)
    if version > known:
        given = find(root, "schema")
        number = shown(given[1].text if given else str(version))[1:-1]
        copy = f"the copy that `idiolect config migrate` kept, {reading.source}.schema-{known}"
        fix = f"install the newer idiolect again, or restore {copy}"
        reading.add(line, "schema", f"is {number}, and this idiolect knows schemas up to {known}: {fix}")
        return None
    if version == known:
        return root
    fix = f"`idiolect config migrate {reading.source}` rewrites it"
    reading.outdated = Note(reading.source, line, f"written for schema {version}; {fix}")
    return upgraded(root, known)


def upgraded(root: Node, known: int) -> Node:
    """Return the tree after every step that it needs, its ``schema:``, where it has one, included."""
    version, _ = written_for(root, known)
    for number in range(version, known):
        root = STEPS[number].apply(root)
    given = find(root, "schema")
    return _with_value(root, given[0], _scalar(given[0].line, str(known))) if given else root


def stamped(root: Node, known: int) -> Node:
    """Return the tree with ``schema:`` as its first key, if it had none."""
    if find(root, "schema"):
        return root
    return _with_entries(root, [(_scalar(root.line, "schema"), _scalar(root.line, str(known))), *root.entries()])


def instead(root: Node, known: int) -> str:
    """Return what a person has to write in place of the outdated keys of the tree."""
    version, _ = written_for(root, known)
    steps = [STEPS[number].instead for number in range(version, known) if STEPS[number].sign(root)]
    return " and ".join([f"schema: {known}", *steps])


def find(mapping: Node, name: str) -> Entry | None:
    """Return the first entry of that name; None also where ``mapping`` is no map."""
    entries = mapping.entries() if mapping.shape == "map" else []
    return next((each for each in entries if each[0].shape == "scalar" and each[0].text == name), None)


# -- the steps ------------------------------------------------------------------------------------------------------


def _old_people(root: Node) -> Node | None:
    control = find(root, "control")
    people = find(control[1], "people") if control else None
    return people[0] if people else None


def _people_have_sections(root: Node) -> Node:
    """Take the step 1 -> 2. Names under both keys are both kept, so that reading them refuses the second one."""
    control = find(root, "control")
    old = find(control[1], "people") if control else None
    if control is None or old is None:
        return root
    key, table = old
    new = find(root, "people")
    if new and (new[1].shape != "map" or table.shape != "map") and not (new[1].empty() or table.empty()):
        return root  # nothing that could be put together: the keys' own checks say what is wrong
    named = [(who, _section(who.line, "users", users)) for who, users in table.entries()]
    moved = _with_entries(table, named) if table.shape == "map" else table
    rest = [each for each in control[1].entries() if each[0] is not key]
    root = _with_value(root, control[0], _with_entries(control[1], rest))
    if new is None:
        at = next(number for number, each in enumerate(root.entries(), 1) if each[0] is control[0])
        entries = root.entries()
        return _with_entries(root, [*entries[:at], (key, moved), *entries[at:]])
    if new[1].empty():
        return _with_value(root, new[0], moved)
    return _with_value(root, new[0], _with_entries(new[1], [*new[1].entries(), *named])) if named else root


STEPS: Mapping[int, Step] = MappingProxyType(
    {1: Step(_old_people, _people_have_sections, "people: {NAME: {users: [USER]}} in place of control.people")}
)
"""Steps by the schema that each begins with."""


# -- trees ----------------------------------------------------------------------------------------------------------


def _scalar(line: int, text: str) -> Node:
    return Node(line, "scalar", text, plain=True)


def _section(line: int, name: str, value: Node) -> Node:
    return Node(line, "map", children=[_scalar(line, name), value])


def _with_entries(mapping: Node, entries: Sequence[Entry]) -> Node:
    return replace(mapping, children=[node for entry in entries for node in entry])


def _with_value(mapping: Node, key: Node, value: Node) -> Node:
    return _with_entries(mapping, [(k, value if k is key else v) for k, v in mapping.entries()])
