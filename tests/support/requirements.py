"""What tests and scripts run and import, read off their source: programs, Debian's data files, libraries."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator

RUNNERS = {
    *("run", "Popen", "check_call", "check_output", "create_subprocess_exec", "which", "shell"),
    *("execv", "execvp", "execvpe"),
}
"""Functions whose first arguments are a command: a list, a tuple, or the program alone."""


# -- Python -----------------------------------------------------------------------------------------------------------


def programs(source: str) -> dict[str, int]:
    """Programs that a module runs by a fixed name, and a line where it does."""
    tree = ast.parse(source)
    named: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in targets:
                if isinstance(target, ast.Name):
                    named.setdefault(target.id, []).append(node.value)
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and _name(node.func) in RUNNERS:
            for word in _commands(node.args[0], named):
                if re.fullmatch(r"[a-z/][\w./+-]*", word):  # neither an option nor a line of shell
                    found.setdefault(word.rpartition("/")[2], node.lineno)
    return found


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _commands(node: ast.expr, named: dict[str, list[ast.expr]]) -> Iterator[str]:
    """The program of a command, and where it is put together of pieces, what each of them begins with."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Name):
        for value in named.get(node.id, []):
            if not isinstance(value, ast.Name | ast.Constant):
                yield from _commands(value, {})
    elif isinstance(node, ast.Starred):
        yield from _commands(node.value, named)
    elif isinstance(node, ast.List | ast.Tuple):
        for each in _pieces(node):
            yield from _commands(each, named)
    elif isinstance(node, ast.BinOp):
        yield from _commands(node.left, named)
    elif isinstance(node, ast.IfExp):
        yield from _commands(node.body, named)
        yield from _commands(node.orelse, named)


def _pieces(command: ast.List | ast.Tuple) -> Iterator[ast.expr]:
    """The first word, and in a list of several commands, one before the other, the others written out in it."""
    yield from command.elts[:1]
    if command.elts and isinstance(command.elts[0], ast.Starred):
        for each in command.elts[1:]:
            if isinstance(each, ast.Starred) and not isinstance(each.value, ast.Name):
                yield each


def libraries(source: str) -> dict[str, int]:
    """Modules from elsewhere than Python itself that a module imports, and a line where it does."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        elif isinstance(node, ast.Call) and _name(node.func) == "importorskip":
            names = [each.value for each in node.args[:1] if isinstance(each, ast.Constant)]
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names:
                found.setdefault(top, node.lineno)
    return found


def shared_files(source: str) -> dict[str, int]:
    """Folders below /usr/share that a text names, three names deep, and a line where it does."""
    found: dict[str, int] = {}
    for number, line in enumerate(source.splitlines(), 1):
        for folder in re.findall(r"[\"' =](/usr/share/[\w.-]+(?:/[\w.-]+)?)", line):
            found.setdefault(folder, number)
    return found


# -- shell ------------------------------------------------------------------------------------------------------------

BUILTINS = {
    *("if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "function", "in"),
    *(
        "select",
        "time",
        "local",
        "return",
        "exit",
        "set",
        "shift",
        "trap",
        "readonly",
        "export",
        "echo",
        "printf",
        "cd",
    ),
    *("test", "true", "false", "eval", "exec", "source", "command", "unset", "wait", "kill", "umask", "mapfile", "let"),
    *("declare", "getopts", "ulimit", "hash", "type", "break", "continue", "compgen", "jobs", "pwd", "read"),
}
_BEFORE = r"(?:\b(?:then|do|else|elif|if|while|until|exec|sudo|as_root|quietly)|!)\s"


def shell_programs(source: str) -> dict[str, int]:
    """Programs that a shell script runs by name: words where a command begins, functions and builtins aside."""
    functions = set(re.findall(r"(?m)^\s*(\w+)\s*\(\)", source))
    found = dict.fromkeys(re.findall(r"command -v ([\w.+-]+)", source))
    plain = _without_text(source)
    place = rf"(?m)(?=(?:^|[|;&(`{{]|{_BEFORE})\s*(?:[A-Za-z_]+=(?:[^\s$]|\$(?!\())*\s+)*([a-z][\w.+-]*)(?:[\s;)|&]|$))"
    found |= dict.fromkeys(re.findall(place, plain))
    lines = source.splitlines()
    return {
        word: next(n for n, line in enumerate(lines, 1) if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", line))
        for word in found
        if word not in BUILTINS | functions
    }


def _without_text(source: str) -> str:
    """A script without comments, quoted text, here documents, case labels and lists: what is left are commands."""

    def run_inside(quoted: re.Match[str]) -> str:
        return '""' + "".join(f"\n$({inner})\n" for inner in re.findall(r"\$\(([^()]*)\)", quoted[0]))

    text = re.sub(r"(^|\s)#.*", r"\1", source)
    text = re.sub(r"<<-?\s*'?(\w+)'?.*?\n\1\n", "\n", text, flags=re.DOTALL)
    text = re.sub(r"\\\n", " ", text)
    text = re.sub(r"'[^']*'", "''", text)
    text = re.sub(r'"(?:[^"\\]|\\.)*"', run_inside, text)
    text = re.sub(r"\$\{[^}]*\}|\$\(\([^)]*\)\)", "V", text)
    text = re.sub(r"=\([^)]*\)|[@?*+!]\([^)]*\)", "=L", text)
    return re.sub(r"(?m)^\s*[^\s()]+(?:\s*\|\s*[^\s()]+)*\)\s", "\n", text)
