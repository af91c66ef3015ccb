"""Does a test notice when a line of the library is wrong? Mutants drawn at random, and their tests.

A mutant is the library with one change: another comparison, operator or constant, a condition
turned round, a result that is None, a statement that is missing. Tests run once to learn which
function each of them calls; a mutant then meets the tests that call its function, and those that
remain in their files. It is caught if one of them fails or takes too long.

    python scripts/mutants.py build/mutants.json --count 300 --seed 0

Run it again with the same file to go on where it ended. `--show` prints the survivors.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import functools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
TESTS = {
    "core": ["tests/unit/core"],
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


def in_fork(work: Any, seconds: float) -> tuple[bool, int]:
    """Run a function in a fork and return whether it ended in time, and its exit code."""
    child = os.fork()
    if child == 0:
        os.setpgrp()
        code = 99
        with contextlib.suppress(BaseException):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            code = int(work())
        os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return True, os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False, -1


def run_tests(names: list[str], *plugins: Any, stop: bool = True) -> int:
    """Run tests in this process and return pytest's exit code."""
    import pytest  # noqa: PLC0415 (in the fork)

    words = ["-q", "-n0", "-p", "no:cacheprovider", "-W", REWRITES, *(["-x"] if stop else [])]
    return int(pytest.main([*words, *names], plugins=[*plugins]))


def learn(package: str, file: Path) -> dict[str, Any]:
    """Return which functions each test of a package calls, and for how long it runs."""
    if not file.exists():

        def work() -> int:
            calls = Calls()
            code = run_tests(TESTS[package], calls, stop=False)
            file.write_text(json.dumps(calls.tests))
            return code

        ended, code = in_fork(work, 3600)
        if not ended or code:
            sys.stderr.write(f"The tests of {package} fail without any mutant.\n")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def tests_of(mutant: Mutant, known: dict[str, Any]) -> list[str]:
    """Return the tests that call the mutant's function, or any of its file; the fastest first."""
    path = ROOT / mutant.path
    tree = ast.parse(path.read_text(encoding="utf-8"))
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.lineno <= mutant.line <= (node.end_lineno or 0)
    ]
    name = path.relative_to(SOURCE / "torchsaliency").as_posix()
    # a call's first line is that of a decorator, if there is one
    keys = {
        f"{name}:{line}"
        for node in around[-1:]
        for line in (node.lineno, *(part.lineno for part in node.decorator_list))
    }
    calls = {test: set(known[test]["calls"]) for test in known}
    callers = [test for test in known if keys & calls[test]]
    if not callers:
        callers = [
            test for test in known if any(call.startswith(f"{name}:") for call in calls[test])
        ]
    return sorted(callers or known, key=lambda name: known[name]["seconds"])


def judge(mutant: Mutant, known: dict[str, Any]) -> str:
    """Return how the mutant in the copy is caught: "failure", "time", "import"; or "survived"."""
    callers = tests_of(mutant, known)
    files = sorted({name.partition("::")[0] for name in callers})
    for names in (callers[:400], files):
        limit = 60 + 5 * sum(
            test["seconds"] for name, test in known.items() if name.startswith(tuple(names))
        )
        ended, code = in_fork(functools.partial(run_tests, names), limit)
        if not ended:
            return "time"
        if code:
            return "failure" if code == 1 else "import"
    return "survived"


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
    parser.add_argument("--show", action="store_true", help="print the survivors and end")
    settings = parser.parse_args()
    file: Path = settings.file
    judged: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    if not settings.show:
        os.chdir(ROOT)
        import_libraries()
        file.parent.mkdir(parents=True, exist_ok=True)
        library = Copy(file.with_suffix("").resolve() / "src")
        done = {(one["path"], one["site"]) for one in judged}
        known: dict[str, dict[str, Any]] = {}
        for mutant in draw(settings.packages, settings.count, settings.seed):
            if (mutant.path, mutant.site) in done:
                continue
            package = mutant.path.split("/")[2]
            if package not in known:
                known[package] = learn(package, file.with_suffix(f".{package}.json"))
            start = time.monotonic()
            with library.write_mutant(mutant):
                verdict = judge(mutant, known[package])
            seconds = round(time.monotonic() - start, 1)
            judged.append({**asdict(mutant), "verdict": verdict, "seconds": seconds})
            file.write_text(json.dumps(judged, indent=1))
            print(f"{seconds:6.1f} s  {verdict:9}  {mutant.path}:{mutant.line}", flush=True)
    report(judged)


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
