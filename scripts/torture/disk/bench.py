"""One fault after the other on copies of the same home, each in a child, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from idiolect.errors import IdiolectError, TrustError
from idiolect.trust.device.identity import RECORD
from idiolect.trust.device.provisioning import KEYFILE, VAULT, factory_reset
from idiolect.trust.vault.audit import SEGMENT
from idiolect.trust.vault.vault import Vault
from torture.disk import cuts
from torture.disk.shim import FAULTS, READ, Disk, Fault
from torture.disk.stack import DRAFTS, FILES, SECRETS, Operation, Remembering, Stack, furnish

NEXT = "Dorothea"
"""Who agrees when the disk is well again."""
CLEAN = "factory reset"
BEGUN, DONE = 1, 2
"""Marks in the log of an operation."""


@dataclass
class Course:
    """How an operation goes where nothing fails: its calls, its reads, what is to be seen after each transaction, and
    what it did to the files that were there ``before``.
    """

    kinds: list[int]
    reads: int
    seen: list[Any]
    home: Path
    before: cuts.Tree
    log: list[cuts.Entry]


@dataclass
class Outcome:
    """What a child says of one fault."""

    hits: int = 0
    done: bool = False
    error: str = ""
    fix: str = ""
    foreign: str = ""
    """An error that is none of this project's."""
    seen: Any = None
    next_error: str = ""
    last: Any = None
    entries: int = 0


@dataclass
class Tally:
    """What was tried."""

    points: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)


class Bench:
    """Homes to begin with, and the disk under them. Everything lies below ``folder``."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self.patch: Callable[[], object] = lambda: None
        """Called in each child before the product runs there: to break it, and see that it is found."""
        self._disk, self._chance = Disk(), random.Random(seed)  # noqa: S311 - choices, not keys
        self._backend = Remembering()
        self._numbers = iter(range(1 << 30))
        self.tally = Tally()

        (folder / "empty").mkdir()
        furnish(folder / "home", self._backend)
        with self._home("home") as home:
            stack = Stack(home, self._backend)
            stack.open()
            stack.correct(SECRETS[1], "go", 5)
            shutil.copytree(home, folder / "crashed")
            for _ in range(SEGMENT):
                stack.vault.log("learning-resumed")
            stack.close()
            shutil.copytree(home, folder / "long")

    @contextlib.contextmanager
    def _home(self, base: str) -> Iterator[Path]:
        """A copy of a base, for one child."""
        home = self._folder / f"run-{next(self._numbers)}"
        shutil.copytree(self._folder / base, home)
        try:
            yield home
        finally:
            shutil.rmtree(home)

    # -- in the child ---------------------------------------------------------------------------------------------

    def _fork(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns, run in a child; an exception there is ours."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.close(reader)
                self.patch()
                said = pickle.dumps(work())
                with os.fdopen(writer, "wb") as pipe:
                    pipe.write(said)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError(f"a child ended with {os.waitstatus_to_exitcode(status)}")
        return pickle.loads(said)  # noqa: S301 - from our own child

    def course(self, operation: Operation) -> Course:
        """Run it on a disk that works, and see what it does."""

        def bare() -> tuple[list[int], int, dict[bytes, bytes]]:
            self._disk.watch(home)
            with _opened(operation, home, self._backend) as stack:
                self._disk.arm(None)
                operation.run(stack)
                return self._disk.kinds, self._disk.reads, self._backend.answers

        def watched() -> list[Any]:
            self._disk.watch(home)
            with trace.open("wb", buffering=0) as log:
                self._disk.log(log.fileno())
                with _opened(operation, home, self._backend) as stack:
                    seen = [_seen(stack)] if operation.keys else []
                    self._disk.mark(BEGUN)
                    with _watching(stack, seen):
                        operation.run(stack)
                    self._disk.mark(DONE)
                    self._disk.log(-1)
                    return seen if operation.name == CLEAN else [*seen, _seen(stack)]

        with self._home(operation.base) as home:
            kinds, reads, answers = self._fork(bare)
        self._backend.answers |= answers
        trace = self._folder / "trace"
        with self._home(operation.base) as home:
            before = cuts.Tree.of(home)
            seen = self._fork(watched)
            return Course(kinds, reads, seen, home, before, cuts.read(trace.read_bytes()))

    def _suffer(self, operation: Operation, home: Path, fault: Fault, call: int) -> Outcome:
        """One fault, and what comes of it."""
        told = Outcome()
        self._disk.watch(home)
        self._disk.arm(None)
        with _opened(operation, home, self._backend) as stack:
            self._disk.arm(fault, call)
            told.done = _attempt(lambda: operation.run(stack), told)
            told.hits = self._disk.hits
            self._disk.mend()
            if operation.name == CLEAN:
                return told
            with contextlib.suppress(Exception):
                told.seen = _seen(stack)
            then = Outcome()
            if not _attempt(lambda: _go_on(stack), then):
                told.next_error = then.foreign or f"{then.error}; {then.fix}"
                told.foreign = told.foreign or then.foreign
            with contextlib.suppress(Exception):
                told.last = _seen(stack)
                told.entries = stack.vault.audit_head().count
        return told

    # -- checking -------------------------------------------------------------------------------------------------

    def faults(self, operation: Operation, course: Course, every: int = 1, kinds: Sequence[Fault] = FAULTS) -> None:
        """Each fault at each call where it makes a difference, or at one in ``every``."""
        for fault in kinds:
            if fault.mask == READ:
                calls = list(range(1, course.reads + 1))
            else:
                calls = [n for n, kind in enumerate(course.kinds, 1) if kind & fault.mask]
            for call in calls[self._chance.randrange(every) :: every]:
                with self._home(operation.base) as home:
                    told = self._fork(functools.partial(self._suffer, operation, home, fault, call))
                    self.tally.points[f"{operation.name}: {fault.name}"] += 1
                    if not told.done:
                        self.tally.refused[told.error] += 1
                    for problem in self._judge(operation, course, fault, told, home):
                        self._report(f"{operation.name}, {fault.name} at call {call}: {problem}")

    def _judge(self, operation: Operation, course: Course, fault: Fault, told: Outcome, home: Path) -> Iterator[str]:
        if not told.hits:
            yield "the fault did not strike"
        if told.foreign:
            yield f"raised {told.foreign}"
        elif not told.done and not told.fix:
            yield "refused without a next step"
        if operation.name == CLEAN:
            yield from self._cleaned(home, told.done)
            return
        if told.next_error and fault.promised:
            yield f"the next operation does not work when the disk is well: {told.next_error}"
        # A pause holds all the same, and says that it will not survive a restart.
        allowed = course.seen[-1:] if told.done and operation.name != "pause" else course.seen
        if told.seen is not None and told.seen not in allowed:
            yield f"{'done' if told.done else 'refused'}, and there is {_differs(told.seen, allowed)}"
        after = self._restart(home)
        yield from self._compare(after, allowed if told.last is None else [told.last])
        if "problem" not in after and after["entries"] < told.entries:
            yield "the audit log has become shorter"

    @staticmethod
    def _compare(after: dict[str, Any], allowed: list[Any]) -> Iterator[str]:
        if "problem" in after:
            yield after["problem"]
        elif after["seen"] not in allowed:
            yield f"after a restart there is {_differs(after['seen'], allowed)}"

    def _restart(self, home: Path) -> dict[str, Any]:
        """A start on a disk that works: what is there, or what is wrong."""
        return dict(self._fork(lambda: _look(home, self._backend)))

    def _cleaned(self, home: Path, done: bool) -> Iterator[str]:
        """A factory reset: done is done; else it can be done again, and then there is a new device."""
        left = [name for name in (RECORD, KEYFILE, VAULT) if (home / "state" / name).exists()]
        if done and left:
            yield f"was reset, and there is {', '.join(left)}"
        again = Stack(home, self._backend)
        factory_reset(again.config)
        after = self._restart(home)
        if "problem" in after or after["seen"]["kept"]["people"]:
            yield f"cannot begin anew: {after.get('problem', 'people are still there')}"

    def cuts(self, operation: Operation, course: Course, several: int, every: int = 1) -> None:
        """The power goes after each change that reached the disk's cache."""
        known: set[tuple[int, bytes]] = set()
        begun = next(n for n, entry in enumerate(course.log) if (entry.operation, entry.inode) == (b"A", BEGUN))
        first = begun + 1 + self._chance.randrange(every)
        for at in sorted({*range(first, len(course.log) + 1, every), len(course.log)}):
            for image in cuts.images(course.before, course.log, at, self._chance, several):
                if (key := (image.promised, image.tree.digest())) in known:
                    continue
                known.add(key)
                home = self._folder / f"cut-{next(self._numbers)}"
                (home / "state").mkdir(parents=True)
                image.tree.put(course.home, home)
                self.tally.points[f"{operation.name}: power cut"] += 1
                for problem in self._judge_cut(operation, course, image.promised == DONE, home):
                    self._report(f"{operation.name}, power cut after change {at} ({image.how} kept): {problem}")
                shutil.rmtree(home)

    def _judge_cut(self, operation: Operation, course: Course, done: bool, home: Path) -> Iterator[str]:
        if operation.name == CLEAN:
            yield from self._cleaned(home, done)
        else:
            yield from self._compare(self._restart(home), course.seen[-1:] if done else course.seen)

    def _report(self, problem: str) -> None:
        self.tally.found.append(problem)


# -- on the product ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(operation: Operation, home: Path, backend: Remembering) -> Iterator[Stack]:
    """A stack, with its keys where the operation needs them."""
    stack = Stack(home, backend)
    if operation.keys and not stack.open().released:
        raise RuntimeError(f"no keys: {stack.custody.view.detail}")
    yield stack
    stack.close()


@contextlib.contextmanager
def _watching(stack: Stack, seen: list[Any]) -> Iterator[None]:
    """See what there is after each transaction, as a crash then would leave it."""
    real = Vault._transaction

    @contextlib.contextmanager
    def transaction(vault: Vault) -> Iterator[Any]:
        with real(vault) as change:
            yield change
        if stack.learner is not None:
            seen.append(_seen(stack))

    Vault._transaction = transaction  # type: ignore[method-assign]
    try:
        yield
    finally:
        Vault._transaction = real  # type: ignore[method-assign]


def _seen(stack: Stack) -> dict[str, Any]:
    return {"kept": stack.view(), "beside": stack.beside()}


def _attempt(work: Callable[[], object], told: Outcome) -> bool:
    """Do something; whether it was done. What refuses it is written down."""
    try:
        result = work()
    except IdiolectError as error:
        told.error, told.fix = f"{getattr(error, 'state', type(error).__name__)}: {error}", getattr(error, "fix", "")
        return False
    except OSError as error:  # as slots and factory reset say theirs, which their callers put into words
        told.error, told.fix = f"{error.strerror}: ", "the command says it"
        return False
    except Exception as error:
        told.foreign = f"{type(error).__name__}"
        return False
    if hasattr(result, "released") and not result.released:  # a start that has no keys
        told.error, told.fix = f"{result.state}: {result.detail}", result.fix
        return False
    return True


def _go_on(stack: Stack) -> object:
    """The next thing that somebody wants, in the same process."""
    view = stack.open()
    if not view.released:
        return view
    stack.agree(NEXT, "enrol")
    return None


def _look(home: Path, backend: Remembering) -> dict[str, Any]:
    """A start, the log walked, and one more rotation so that nothing is left of the last."""
    stack = Stack(home, backend)
    with contextlib.closing(stack):
        try:
            view = stack.open(refresh=False)
            if not view.released:
                return {"problem": f"it does not start again: {view.state}: {view.detail}"}
            found = {"seen": _seen(stack), "entries": stack.vault.audit_verify().count}
            stack.known.refresh()
            with stack.vault.change("forgot", True, count=0):
                pass
            owed = stack.vault.owed
            stack.slots.note_minimum(1)
        except (TrustError, OSError) as error:
            return {"problem": f"it does not work after a restart: {error}"}
    left = {path.name for path in stack.state.iterdir()} - FILES - DRAFTS
    if left and not owed:
        found["problem"] = f"{', '.join(sorted(left))} is left over"
    for path in stack.state.rglob("*"):
        if path.is_file() and any(word.encode() in path.read_bytes() for word in (*SECRETS, NEXT)):
            found["problem"] = f"{path.name} has a name or a phrase in it"
    return found


def _differs(seen: Any, expected: list[Any]) -> str:
    """Where something differs from what is nearest to it; names and phrases are this harness's own."""
    flat = _flat(seen)
    nearest = min(
        ({k for k in flat.keys() | e.keys() if flat.get(k) != e.get(k)} for e in map(_flat, expected)), key=len
    )
    return "a difference in " + ", ".join(sorted(nearest)[:4])


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: each for name, part in value.items() for key, each in _flat(part, f"{at}/{name}").items()}
    return {at: value}
