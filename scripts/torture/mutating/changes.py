"""What is changed: mutmut's operators, and besides them the ways in which a check goes missing.

mutmut itself leaves constants, properties and whatever else is decorated alone, and takes no statement away; here
every line of a file may be changed. What nobody would notice is left out, by a reason that is counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal, operator_string

_PROSE = re.compile(r"[A-Za-z,] |\{|^.?[\"'][\"']$")
_SENTENCE = re.compile(r"[a-z,:;)] [a-z('{]")
_FALSE, _TRUE, _NONE = cst.Name("False"), cst.Name("True"), cst.Name("None")
_OPPOSITE: dict[type[cst.BaseCompOp], type[cst.BaseCompOp]] = {
    cst.LessThan: cst.GreaterThanEqual,
    cst.LessThanEqual: cst.GreaterThan,
    cst.GreaterThan: cst.LessThanEqual,
    cst.GreaterThanEqual: cst.LessThan,
}
_SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any"}
_CALL_OR_RAISE = m.SimpleStatementLine(
    body=[m.Raise() | m.Expr(value=m.Call() | m.Await() | m.Yield()) | m.Del() | m.AugAssign() | m.Assert()]
)
_MESSAGE = m.Name("message") | m.Name("_FIX") | m.Name("_AGAIN") | m.Name("RESET") | m.Name("READ_AGAIN")
"""Names that hold words for people."""
_STATIC = (cst.Import, cst.ImportFrom)


def _skipped(node: cst.SimpleStatementLine) -> Iterator[cst.CSTNode]:
    """A statement that is done for its effect, left undone."""
    if m.matches(node, _CALL_OR_RAISE):
        yield node.with_changes(body=[cst.Pass()])


def _forced(node: cst.If | cst.CompIf | cst.While) -> Iterator[cst.CSTNode]:
    """A condition that always or never holds."""
    yield from (node.with_changes(test=value) for value in (_FALSE, _TRUE) if not node.test.deep_equals(value))


def _halved(node: cst.BooleanOperation) -> Iterator[cst.CSTNode]:
    """One condition of two."""
    yield from (side.with_changes(lpar=node.lpar, rpar=node.rpar) for side in (node.left, node.right))


def _shortened(node: cst.Tuple | cst.List | cst.Set) -> Iterator[cst.CSTNode]:
    """One part fewer, as of an AAD or of what is signed."""
    parts = node.elements
    for n in range(len(parts) if len(parts) > 1 else 0):
        rest = [*parts[:n], *parts[n + 1 :]]
        comma = cst.Comma() if isinstance(node, cst.Tuple) and len(rest) == 1 else cst.MaybeSentinel.DEFAULT
        yield node.with_changes(elements=[*rest[:-1], rest[-1].with_changes(comma=comma)])


def _poorer(node: cst.Dict) -> Iterator[cst.CSTNode]:
    """One field fewer."""
    parts = node.elements
    yield from (node.with_changes(elements=[*parts[:n], *parts[n + 1 :]]) for n in range(len(parts)))


def _reversed(node: cst.ComparisonTarget) -> Iterator[cst.CSTNode]:
    """The other direction."""
    if other := _OPPOSITE.get(type(node.operator)):
        yield node.with_changes(operator=other())


def _lowered(node: cst.Integer) -> Iterator[cst.CSTNode]:
    """One less; mutmut has one more."""
    if node.evaluated_value > 0:
        yield node.with_changes(value=str(node.evaluated_value - 1))


def _emptied(node: cst.Return) -> Iterator[cst.CSTNode]:
    """Nothing returned."""
    if node.value and not m.matches(node.value, m.Name("None")):
        yield node.with_changes(value=_NONE, whitespace_after_return=cst.SimpleWhitespace(" "))


def _exchanged(node: cst.Call) -> Iterator[cst.CSTNode]:
    """The other end, the other quantifier."""
    if isinstance(node.func, cst.Name) and node.func.value in _SWAPPED:
        yield node.with_changes(func=cst.Name(_SWAPPED[node.func.value]))


OPERATORS: Sequence[tuple[type | tuple[type, ...], object]] = [
    *mutation_operators,
    (cst.SimpleStatementLine, _skipped),
    ((cst.If, cst.CompIf, cst.While), _forced),
    (cst.BooleanOperation, _halved),
    ((cst.Tuple, cst.List, cst.Set), _shortened),
    (cst.Dict, _poorer),
    (cst.ComparisonTarget, _reversed),
    (cst.Integer, _lowered),
    (cst.Return, _emptied),
    (cst.Call, _exchanged),
]


@dataclass(frozen=True, slots=True)
class Place:
    """One change to one file, not made yet."""

    file: str
    line: int
    function: str
    """The outermost function or method that it is in, qualified; empty in a class or the module itself."""
    nth: int
    """Which of the functions of that name (a property and its setter share one)."""
    operator: str
    top: int
    """Which statement of the module it is in."""
    lines: tuple[int, ...]
    """A test that runs one of these runs the change."""
    names: frozenset[str]
    """Outside functions: what the statement defines."""
    node: cst.CSTNode
    new: cst.CSTNode


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change that was made."""

    place: Place
    text: str
    """The whole file."""
    was: str
    now: str
    """The lines that differ, before and after, each as one."""

    def __str__(self) -> str:
        return f"{self.place.file}:{self.place.line} {self.place.function}: {self.was}  ->  {self.now}"


class Changes(cst.CSTVisitor):
    """All mutants of one file."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.found: list[Place] = []
        self.left_out: Counter[str] = Counter()
        self._top = -1
        self._classes: list[str] = []
        self._function: list[cst.FunctionDef] = []
        self._nth: Counter[str] = Counter()
        self._quiet: list[tuple[cst.CSTNode, str]] = []
        self._telling: list[cst.CSTNode] = []
        self._statements: list[cst.CSTNode] = []
        self._targets: list[cst.CSTNode] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Change ``node``, then what is in it."""
        if isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            if not self._statements:
                self._top += 1
            self._statements.append(node)
        if isinstance(node, _STATIC) or _documentation(node):
            return False
        if isinstance(node, cst.ClassDef) and not self._function:
            self._classes.append(node.name.value)
        if isinstance(node, cst.FunctionDef):
            if not self._function:
                self._nth[".".join([*self._classes, node.name.value])] += 1
            self._function.append(node)
        if reason := _unnoticed(node):
            self._quiet.append((node, reason))
        if isinstance(node, cst.AssignTarget | cst.For | cst.CompFor):
            self._targets.append(node.target)
        if _tells(node):
            self._telling.append(node)
        self._change(node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        """Forget where it was."""
        node = original_node
        for stack in (self._statements, self._function, self._telling):
            if stack and stack[-1] is node:
                stack.pop()
        if self._quiet and self._quiet[-1][0] is node:
            self._quiet.pop()
        if isinstance(node, cst.ClassDef) and not self._function:
            self._classes.pop()

    def _change(self, node: cst.CSTNode) -> None:
        for kind, operator in OPERATORS:
            if not isinstance(node, kind) or not self._statements:
                continue
            for n, new in enumerate(operator(node)):  # type: ignore[operator]
                if reason := self._reason(node, new, operator, n):
                    self.left_out[reason] += 1
                    continue
                self.found.append(self._place(node, new, operator.__name__.strip("_")))  # type: ignore[attr-defined]

    def _reason(self, node: cst.CSTNode, new: cst.CSTNode, operator: object, n: int) -> str:
        if self._quiet:
            return self._quiet[-1][1]
        if operator is operator_string and n:
            return "strings in another case"
        if _wording(node, new, telling=bool(self._telling)):
            return "wording of messages"
        if operator is operator_arg_removal and _shifted(node, new):
            return "an argument fewer before others"
        if operator is _shortened and any(part is node for part in self._targets):
            return "a target fewer"
        return ""

    def _place(self, node: cst.CSTNode, new: cst.CSTNode, operator: str) -> Place:
        span, statement = self.get_metadata(PositionProvider, node), self._statements[-1]
        whole = self.get_metadata(PositionProvider, statement)
        simple = isinstance(statement, cst.SimpleStatementLine)
        end = whole.end.line if simple else span.start.line
        lines = tuple(range(whole.start.line, max(end, whole.start.line) + 1))
        if not self._function or _at_definition(node, self._function[0]):
            return Place(self.file, span.start.line, "", 0, operator, self._top, lines, _defined(statement), node, new)
        name = ".".join([*self._classes, self._function[0].name.value])
        nth = self._nth[name] - 1
        return Place(self.file, span.start.line, name, nth, operator, self._top, lines, frozenset(), node, new)


def _documentation(node: cst.CSTNode) -> bool:
    return m.matches(node, m.SimpleStatementLine(body=[m.Expr(value=m.SimpleString() | m.ConcatenatedString())]))


def _unnoticed(node: cst.CSTNode) -> str:
    """Why a change in ``node`` is none in what the program does."""
    if isinstance(node, cst.Annotation | cst.TypeAlias) or m.matches(node, m.If(test=m.Name("TYPE_CHECKING"))):
        return "types"
    if m.matches(node, m.Call(func=m.Name("cast") | m.Name("NewType") | m.Name("TypeVar"))):
        return "types"
    if isinstance(node, cst.FormattedString | cst.ConcatenatedString) and _sentence(node):
        return "wording of messages"
    if isinstance(node, cst.Decorator):
        return "arguments of decorators"
    if m.matches(node, m.Assign(targets=[m.AssignTarget(target=m.Name("__slots__") | m.Name("__all__"))])):
        return "__slots__, __all__"
    return ""


def _tells(node: cst.CSTNode) -> bool:
    """Whether it makes an error or a finding, whose words are nobody's promise."""
    if isinstance(node, cst.Raise):
        return True
    name = node.func if isinstance(node, cst.Call) else None
    name = name.attr if isinstance(name, cst.Attribute) else name
    return isinstance(name, cst.Name) and name.value[0].isupper()


def _wording(node: cst.CSTNode, new: cst.CSTNode, *, telling: bool) -> bool:
    """Whether a message is changed, or a call's argument or a constant that is one."""
    worded = _prose if telling else _sentence
    if isinstance(node, cst.Call) and isinstance(new, cst.Call):
        gone = [a for a in node.args if not any(a is b for b in new.args)]
        return all(worded(a.value) for a in gone) and bool(gone)
    if isinstance(node, cst.Assign | cst.AnnAssign):
        return node.value is not None and _sentence(node.value)
    return isinstance(node, cst.SimpleString) and worded(node)


def _shifted(node: cst.CSTNode, new: cst.CSTNode) -> bool:
    """Whether a positional argument is gone that others follow: a call that nothing can run without an error."""
    if not isinstance(node, cst.Call) or not isinstance(new, cst.Call) or len(new.args) == len(node.args):
        return False
    gone = next(n for n, a in enumerate(node.args) if n == len(new.args) or a is not new.args[n])
    return gone + 1 < len(node.args) and node.args[gone].keyword is None and node.args[gone + 1].keyword is None


def _prose(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.FormattedString | cst.ConcatenatedString) or m.matches(node, _MESSAGE):
        return True
    return isinstance(node, cst.SimpleString) and "b" not in node.prefix and bool(_PROSE.search(node.value))


def _sentence(node: cst.CSTNode) -> bool:
    """Words for people, wherever they stand: in lower case, with a space between."""
    if isinstance(node, cst.ConcatenatedString):
        return _sentence(node.left) or _sentence(node.right)
    if isinstance(node, cst.FormattedString):
        parts = ["x" if isinstance(p, cst.FormattedStringExpression) else p.value for p in node.parts]  # type: ignore[attr-defined]
        return bool(_SENTENCE.search("".join(parts)))
    return isinstance(node, cst.SimpleString) and "b" not in node.prefix and bool(_SENTENCE.search(node.value))


def _at_definition(node: cst.CSTNode, function: cst.FunctionDef) -> bool:
    """Whether ``node`` runs when the function is defined: it or its defaults."""
    if node is function:
        return True
    params = function.params
    for param in (*params.params, *params.kwonly_params, *params.posonly_params):
        if param.default is not None and any(part is node for part in _walk(param.default)):
            return True
    return False


def _defined(statement: cst.CSTNode) -> frozenset[str]:
    """What a statement of a module or class gives a name."""
    if isinstance(statement, cst.SimpleStatementLine):
        for part in statement.body:
            if isinstance(part, cst.Assign):
                return frozenset(n.value for t in part.targets for n in _walk(t) if isinstance(n, cst.Name))
            if isinstance(part, cst.AnnAssign) and isinstance(part.target, cst.Name):
                return frozenset((part.target.value,))
    if isinstance(statement, cst.FunctionDef | cst.ClassDef):
        return frozenset((statement.name.value,))
    return frozenset()


def _walk(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield node
    for child in node.children:
        yield from _walk(child)


class Source:
    """A file, its places to change, and the changing."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        wrapper = MetadataWrapper(cst.parse_module(text), unsafe_skip_copy=True)
        self._module = wrapper.module
        visitor = Changes(file)
        wrapper.visit(visitor)
        self.places: list[Place] = visitor.found
        self.left_out = visitor.left_out
        """How many were not counted among these, by reason."""

    def made(self, place: Place) -> Mutant | None:
        """The change, unless what comes out is no Python or the same as it was."""
        body = self._module.body
        statement = body[place.top]
        changed = place.new if statement is place.node else statement.deep_replace(place.node, place.new)
        text = self._module.with_changes(body=[*body[: place.top], changed, *body[place.top + 1 :]]).code
        try:
            compile(text, "<mutant>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return None
        was, now = _difference(self.text, text)
        return Mutant(place, text, was, now) if text != self.text else None


def _difference(source: str, text: str) -> tuple[str, str]:
    """The lines that differ, squeezed into one before and one after."""
    before, after = source.splitlines(), text.splitlines()
    most = min(len(before), len(after))
    head = next((n for n in range(most) if before[n] != after[n]), most)
    tail = next((n for n in range(most - head) if before[-1 - n] != after[-1 - n]), most - head)
    return _squeezed(before[head : len(before) - tail]), _squeezed(after[head : len(after) - tail])


def _squeezed(lines: Iterable[str]) -> str:
    return " ".join(line.strip() for line in lines)
