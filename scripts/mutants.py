"""Does a test notice when a line of the library is wrong? Mutants drawn at random, and their tests.

A mutant is the library with one change: another comparison, operator or constant, a condition
turned round, a result that is None, a statement that is missing. Tests run once to learn which
function each of them calls; a mutant then meets the tests that call its function, and those that
call others of its file, for at most `--limit` seconds. It is caught if one of them fails or takes
far longer than it did.

    python scripts/mutants.py build/mutants.json --count 300 --seed 0

Run it again with the same file to go on where it ended; `--again` judges the survivors
anew, first with the tests that were written since. `--show` prints them.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import functools
import gc
import inspect
import json
import math
import os
import random
import shutil
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
TESTS = {
    "core": [
        "tests/unit/core",
        # of core/rules.py, of core/files.py and of core/isolation.py
        *("tests/unit/methods/test_rules.py", "tests/unit/methods/test_backprop.py"),
        *("tests/reliability/test_rules.py", "tests/reliability/test_files.py"),
        "tests/reliability/test_isolation.py",
    ],
    "methods": ["tests/unit/methods", "tests/reliability/test_rules.py"],
    "measures": ["tests/unit/measures"],
    "metrics": ["tests/unit/metrics"],
}
"""The packages that are changed, and the tests of each."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}

LIBRARIES = (
    "torch",
    "pytest",
    "hypothesis",
    "torchmetrics",
    "scipy.stats",
    "skimage.feature",
    "skimage.metrics",
    "tensorly",
    "torchvision",
    "timm",
    "pandas",
    "beartype",
    "jaxtyping",
    "matplotlib.pyplot",
)
"""What every fork imports but the library itself: imported once."""

REWRITES = "ignore::pytest.PytestAssertRewriteWarning"
"""pytest warns that some of them are imported already."""


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        path: the file, from the root of the repository.
        line: where the change is.
        change: the line, and "x < 0 becomes x <= 0".
        site: number of the changed place in the file, in the order of `changes`.
    """

    path: str
    line: int
    change: str
    site: int


def changes(tree: ast.Module) -> Iterator[tuple[ast.AST, str, Any]]:
    """Yield every change of a tree as the node, the field to set, and its new value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
            yield node, "ops", [COMPARISONS[type(node.ops[0])](), *node.ops[1:]]
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not _is_type(node):
            yield node, "op", OPERATORS[type(node.op)]()
        elif isinstance(node, ast.BoolOp):
            yield node, "op", ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, "op", ast.UAdd()
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            yield node, "test", ast.UnaryOp(ast.Not(), node.test)
        elif isinstance(node, ast.Return) and node.value is not None:
            yield node, "value", ast.Constant(None)
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            value = not node.value if isinstance(node.value, bool) else node.value + 1
            yield node, "value", value
        if isinstance(node, ast.FunctionDef | ast.If | ast.For | ast.With):
            for place, statement in enumerate(node.body):
                kinds = ast.Expr | ast.Assign | ast.AugAssign | ast.Raise
                docstring = isinstance(getattr(statement, "value", None), ast.Constant)
                if isinstance(statement, kinds) and not docstring:
                    body = [*node.body[:place], ast.Pass(), *node.body[place + 1 :]]
                    ast.copy_location(body[place], statement)
                    yield node, "body", body


def _is_type(node: ast.BinOp) -> bool:
    """Say whether `a | b` is a union of types, which no test can tell from another."""
    parts = [part for part in ast.walk(node) if isinstance(part, ast.Name | ast.Constant)]
    names = {part.id if isinstance(part, ast.Name) else part.value for part in parts}
    return isinstance(node.op, ast.BitOr) and bool(names & {None, "str", "int", "float", "Tensor"})


def _ignored(tree: ast.Module) -> set[ast.AST]:
    """Return the nodes that no program runs: annotations, and blocks under TYPE_CHECKING."""
    roots: list[ast.AST] = []
    for node in ast.walk(tree):
        roots += [
            getattr(node, field)
            for field in ("annotation", "returns")
            if getattr(node, field, None) is not None
        ]
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            roots.append(node)
    return {node for root in roots for node in ast.walk(root)}


def mutants_of(path: Path) -> list[Mutant]:
    """Return every mutant of a file."""
    text = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    ignored = _ignored(tree)
    found = []
    for site, (node, field, value) in enumerate(changes(tree)):
        if node in ignored:
            continue
        line = node.lineno
        if field == "body":
            statement = next(a for a, b in zip(node.body, value, strict=True) if a is not b)
            line, change = statement.lineno, f"{ast.unparse(statement)} is deleted"
        else:
            changed = copy.copy(node)
            setattr(changed, field, value)
            after = ast.unparse(ast.fix_missing_locations(changed))
            change = f"{lines[line - 1].strip()}: {ast.unparse(node)} becomes {after}"
        name = path.relative_to(ROOT).as_posix()
        found.append(Mutant(name, line, " ".join(change.split())[:300], site))
    return found


def apply_mutant(mutant: Mutant) -> ast.Module:
    """Return the tree of a mutant's file with its change."""
    tree = ast.parse((ROOT / mutant.path).read_text(encoding="utf-8"))
    node, field, value = next(
        change for site, change in enumerate(changes(tree)) if site == mutant.site
    )
    setattr(node, field, value)
    return ast.fix_missing_locations(tree)


class Calls:
    """A plug-in of pytest that learns which functions of the library each test calls."""

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, Any]] = {}
        self._here: set[str] = set()

    def _trace(self, frame: Any, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and "/torchsaliency/" in name and name.endswith(".py"):
            self._here.add(f"{name.rpartition('/torchsaliency/')[2]}:{frame.f_code.co_firstlineno}")

    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> None:  # noqa: ARG002
        """Begin a test, its fixtures included."""
        self._here = set()
        self._start = time.perf_counter()
        sys.settrace(self._trace)

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:  # noqa: ARG002
        """End a test."""
        sys.settrace(None)
        seconds = time.perf_counter() - self._start
        self.tests[nodeid] = {"seconds": seconds, "calls": sorted(self._here)}


class Copy:
    """A copy of the library, in which one file at a time is changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = str(folder)
        self._time = int(time.time())

    @contextlib.contextmanager
    def write_mutant(self, mutant: Mutant) -> Iterator[None]:
        """Change the mutant's file, and put it back at the end."""
        original = ROOT / mutant.path
        path = self.folder / original.relative_to(SOURCE)
        path.write_text(ast.unparse(apply_mutant(mutant)), encoding="utf-8")
        self._touch(path)
        try:
            yield
        finally:
            shutil.copyfile(original, path)
            self._touch(path)

    def _touch(self, path: Path) -> None:
        self._time += 2  # bytecode is that of a file of the same second and size
        os.utime(path, (self._time, self._time))


class Timed:
    """A plug-in of pytest that runs chosen tests until one fails or the time is over."""

    def __init__(self, tests: list[str], known: dict[str, Any], seconds: float, found: int) -> None:
        self.tests = tests
        self.known = known
        self.end = time.process_time() + seconds  # other work on the machine has no say
        self.found = found
        self.failed = False

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a failure of the test that runs."""
        self.failed |= report.failed

    def pytest_runtestloop(self, session: Any) -> bool:
        """Run the tests and write the verdict."""
        from hypothesis import Phase, settings  # noqa: PLC0415 (in the fork)

        # A failure is all that is asked for: its smallest example would take minutes.
        settings.register_profile(
            "mutants", settings.default, phases=[Phase.explicit, Phase.generate]
        )
        settings.load_profile("mutants")
        items = {item.nodeid: item for item in session.items}
        new = [name for name in items if name not in self.known]
        left = [items[name] for name in (*new, *self.tests) if name in items]
        for place, item in enumerate(left):
            after = left[place + 1] if place + 1 < len(left) else None
            seconds = self.known.get(item.nodeid, {}).get("seconds", 1)
            signal.setitimer(signal.ITIMER_PROF, 10 + 10 * seconds)
            signal.alarm(int(120 + 20 * seconds))
            self._write("time", item.nodeid, place)  # what holds if a signal ends this process
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if self.failed:
                self._write("failure", item.nodeid, place + 1)
                return True
            if time.process_time() > self.end:
                break
        else:
            place = len(left) - 1
        self._write("survived", f"of {len(left)}", place + 1)
        return True

    def _write(self, *verdict: Any) -> None:
        os.ftruncate(self.found, 0)
        os.pwrite(self.found, json.dumps(verdict).encode(), 0)


class Server:
    """A plug-in of pytest that judges mutants in forks of a process that has collected the tests.

    Such a fork changes the code of functions, which saves the import of the library. It can judge
    a mutant inside a function that neither an import nor the collection has called.
    """

    def __init__(self, work: Any) -> None:
        self.work = work
        self.called: set[str] = set()
        sys.settrace(self._trace)

    def _trace(self, frame: Any, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and "/torchsaliency/" in name:
            self.called.add(
                f"{name.rpartition('/torchsaliency/')[2]}:{frame.f_code.co_firstlineno}"
            )

    def pytest_runtestloop(self, session: Any) -> bool:
        """Judge mutants in place of running tests."""
        sys.settrace(None)
        self.session = session
        self.functions = defaultdict(list)
        for thing in gc.get_objects():
            if type(thing) is FunctionType and "/torchsaliency/" in thing.__code__.co_filename:
                self.functions[name_of(thing.__code__)].append(thing)
        self.files = {name[0] for name in self.functions}
        gc.freeze()
        self.work(self)
        return True

    def can_judge(self, mutant: Mutant) -> bool:
        """Say whether a change of functions' code is all of the mutant."""
        file = mutant.path.removeprefix("src/torchsaliency/")
        around = functions_around(mutant)
        lines = {f"{file}:{line}" for one in around for line in first_lines(one)}
        return bool(around) and not lines & self.called and self._swap(mutant, try_only=True)

    def _swap(self, mutant: Mutant, *, try_only: bool = False) -> bool:
        """Change the functions' code, and say whether all that changed was found."""
        from jaxtyping._import_hook import JaxtypingTransformer, Typechecker  # noqa: PLC0415

        file = mutant.path.removeprefix("src/torchsaliency/")
        if file not in self.files:
            return True  # it is imported later, from the copy
        codes = []
        for tree in (ast.parse((ROOT / mutant.path).read_text()), apply_mutant(mutant)):
            checker = Typechecker("beartype.beartype")  # type: ignore[no-untyped-call]
            JaxtypingTransformer(typechecker=checker).visit(tree)
            code = compile(ast.fix_missing_locations(tree), f"/torchsaliency/{file}", "exec")
            codes.append([*codes_in(code)])
        before, after = map(dict, codes)
        changed = [name for name in after if before.get(name) != after[name]]
        names = [name for name, _ in codes[1]]
        if any(names.count(name) > 1 for name in changed if self.functions.get(name)):
            return False
        if any(name not in self.functions for name in changed if "<locals>" not in name[1]):
            return False
        for name in changed:
            for function in self.functions.get(name, []):
                if function.__code__.co_freevars != after[name].co_freevars:
                    return False
                if not try_only:
                    function.__code__ = after[name]
        return bool(changed)

    def judge(self, mutant: Mutant | None, tests: list[str], known: Any, limit: float) -> list[Any]:
        """Return the verdict of tests on a mutant, or on none."""

        def work(found: int) -> None:
            if mutant is not None:
                self._swap(mutant)
            timed = Timed(tests, known, limit, found)
            self.session.config.pluginmanager.register(timed)
            timed.pytest_runtestloop(self.session)

        return in_fork(work)


def name_of(code: Any) -> tuple[str, str, int]:
    """Return the file, name and first line of a function's code."""
    file = code.co_filename.rpartition("/torchsaliency/")[2]
    return file, code.co_qualname, code.co_firstlineno


def codes_in(code: Any) -> Iterator[tuple[tuple[str, str, int], Any]]:
    """Yield the code of each function in a module's code."""
    for part in code.co_consts:
        if isinstance(part, CodeType):
            if part.co_flags & inspect.CO_NEWLOCALS and part.co_flags & inspect.CO_OPTIMIZED:
                yield name_of(part), part
            yield from codes_in(part)


def in_fork(work: Any, *, quiet: bool = True) -> list[Any]:
    """Run a function in a fork, which writes a verdict, and return that."""
    found = os.memfd_create("verdict")
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setpgrp()
            if quiet:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1)
                os.dup2(null, 2)
            work(found)
        os._exit(0)
    os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    text = os.pread(found, 10_000, 0)
    os.close(found)
    verdict: list[Any] = json.loads(text or '["import", "", 0]')
    return verdict


def run_tests(names: list[str], *plugins: Any) -> int:
    """Run tests in this process and return pytest's exit code."""
    import pytest  # noqa: PLC0415 (in the fork)

    words = ["-q", "-n0", "-s", "--tb=native", "-p", "no:cacheprovider", "-W", REWRITES]
    return int(pytest.main([*words, *names], plugins=[*plugins]))


def learn(package: str, file: Path) -> dict[str, Any]:
    """Return which functions each test of a package calls, and for how long it runs."""
    if not file.exists():

        def work(_: int) -> None:
            calls = Calls()
            run_tests(TESTS[package], calls)
            file.write_text(json.dumps(calls.tests))

        in_fork(work)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def functions_around(mutant: Mutant) -> list[ast.FunctionDef]:
    """Return the functions whose body the mutant changes, from the outside in."""
    tree = ast.parse((ROOT / mutant.path).read_text(encoding="utf-8"))
    node, field, _ = next(
        change for site, change in enumerate(changes(tree)) if site == mutant.site
    )
    return [
        one
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef)
        and ((node is one and field == "body") or any(node in ast.walk(part) for part in one.body))
    ]


def first_lines(function: ast.FunctionDef) -> list[int]:
    """Return the line of a function and those of its decorators: a call's line is one of them."""
    return [function.lineno, *(part.lineno for part in function.decorator_list)]


def tests_of(mutant: Mutant, known: dict[str, Any]) -> list[str]:
    """Return the tests that call the mutant's function, then those that call others of its file.

    Those in a file of the mutant's name come first, then those that end soon; the tests of a file
    stay together, as they share fixtures.
    """
    name = mutant.path.removeprefix("src/torchsaliency/")
    around = functions_around(mutant)
    keys = {f"{name}:{line}" for node in around[-1:] for line in first_lines(node)}
    seconds: dict[str, list[float]] = defaultdict(list)
    for test, facts in known.items():
        seconds[test.partition("::")[0]].append(facts["seconds"])

    def order(test: str) -> tuple[bool, bool, float, float]:
        file = test.partition("::")[0]
        named = Path(mutant.path).stem in file
        calls = bool(keys & {*known[test]["calls"]})
        return not calls, not named, statistics.median(seconds[file]), known[test]["seconds"]

    users = [
        test for test in known if any(call.startswith(f"{name}:") for call in known[test]["calls"])
    ]
    return sorted(users or known, key=order)


def judge_anew(
    library: Copy, mutant: Mutant | None, tests: list[str], known: dict[str, Any], limit: float
) -> list[Any]:
    """Return the verdict of tests on a mutant, or on none, in a process that imports the copy."""

    def work(found: int) -> None:
        signal.alarm(180)
        run_tests(
            sorted({name.partition("::")[0] for name in tests}), Timed(tests, known, limit, found)
        )

    with library.write_mutant(mutant) if mutant else contextlib.nullcontext():
        return in_fork(work)


class Record:
    """The file with the verdicts, and what is known of the tests of each package."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.judged: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []

    def has(self, mutant: Mutant) -> bool:
        """Say whether a mutant is judged."""
        return any((one["path"], one["site"]) == (mutant.path, mutant.site) for one in self.judged)

    def judge(self, judge: Any, mutant: Mutant, known: dict[str, Any], limit: float) -> None:
        """Judge a mutant and write the verdict."""
        start = time.monotonic()
        tests = [test for test in tests_of(mutant, known) if known[test].get("passes", True)]
        verdict, by, count = judge(mutant, tests, known, limit)
        seconds = round(time.monotonic() - start, 1)
        facts = {"verdict": verdict, "by": by, "tests": count, "seconds": seconds}
        self.judged.append({**asdict(mutant), **facts})
        self.file.write_text(json.dumps(self.judged, indent=1))
        print(f"{seconds:6.1f} s  {verdict:9}  {mutant.path}:{mutant.line}", flush=True)

    def drop_false(self, judge: Any, known: dict[str, Any]) -> bool:
        """Forget mutants whose test fails without them, too, and say whether there were any."""
        tests = sorted({one["by"] for one in self.judged} & known.keys())
        verdict, by, _ = judge(None, tests, known, math.inf)
        if verdict == "survived":
            return False
        print(f"{by} fails without a mutant")
        known.setdefault(by, {"seconds": 1, "calls": []})["passes"] = False
        self.judged = [one for one in self.judged if one["by"] != by]
        return True


def draw(packages: list[str], count: int, seed: int) -> list[Mutant]:
    """Draw mutants of packages, each of all their mutants with the same chance."""
    found = [
        mutant
        for package in packages
        for path in sorted((SOURCE / "torchsaliency" / package).rglob("*.py"))
        for mutant in mutants_of(path)
    ]
    return random.Random(seed).sample(found, count)


def main() -> None:
    """Judge the mutants that were drawn, and write each as soon as it is judged."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--packages", nargs="+", default=[*TESTS])
    parser.add_argument("--limit", type=float, default=15, help="seconds of tests a mutant")
    parser.add_argument("--again", action="store_true", help="judge the survivors anew")
    parser.add_argument("--show", action="store_true", help="print the survivors and end")
    settings = parser.parse_args()
    file: Path = settings.file
    if not settings.show:
        os.chdir(ROOT)
        import_libraries()
        file.parent.mkdir(parents=True, exist_ok=True)
        if settings.again:
            caught = [one for one in Record(file).judged if one["verdict"] != "survived"]
            file.write_text(json.dumps(caught, indent=1))
        library = Copy(file.with_suffix("").resolve() / "src")
        drawn = draw(settings.packages, settings.count, settings.seed)
        for package in settings.packages:
            mutants = [mutant for mutant in drawn if mutant.path.split("/")[2] == package]
            known = learn(package, file.with_suffix(f".{package}.json"))
            for judge in (judge_in_forks, judge_others):
                judge(mutants, known, library, file, settings.limit)
    report(Record(file).judged)


def judge_in_forks(
    mutants: list[Mutant], known: dict[str, Any], library: Copy, file: Path, limit: float
) -> None:
    """Judge the mutants inside functions in forks of one process."""

    def work(server: Server) -> None:
        record = Record(file)
        false = True
        while record.drop_false(server.judge, known):  # tests written since the others were learnt
            pass
        while false:
            for mutant in mutants:
                if not record.has(mutant) and server.can_judge(mutant):
                    with library.write_mutant(mutant):
                        record.judge(server.judge, mutant, known, limit)
            false = record.drop_false(server.judge, known)

    if not all(Record(file).has(mutant) for mutant in mutants):
        tests = TESTS[mutants[0].path.split("/")[2]]
        in_fork(lambda _: run_tests(tests, Server(work)), quiet=False)


def judge_others(
    mutants: list[Mutant], known: dict[str, Any], library: Copy, file: Path, limit: float
) -> None:
    """Judge the mutants that are left, each in a process that imports it."""
    record = Record(file)
    for mutant in mutants:
        if not record.has(mutant):
            record.judge(functools.partial(judge_anew, library), mutant, known, limit)


def import_libraries() -> None:
    """Import what every fork needs, so that only the library itself is imported in each."""
    import importlib  # noqa: PLC0415

    for name in LIBRARIES:
        importlib.import_module(name)


def report(judged: list[dict[str, Any]]) -> None:
    """Print the share caught by package, and every survivor."""
    by_package = defaultdict(list)
    for one in judged:
        by_package[one["path"].split("/")[2]].append(one["verdict"] != "survived")
    for package, caught in sorted(by_package.items()):
        print(f"{package:10} {sum(caught):4} of {len(caught):4}, {sum(caught) / len(caught):.0%}")
    for one in judged:
        if one["verdict"] == "survived":
            print(f"{one['path']}:{one['line']}: {one['change']}")


if __name__ == "__main__":
    main()
