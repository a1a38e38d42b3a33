"""Mutation tests of the federation's rounds, aggregation and storage.

    .venv/py3.11/bin/python -m tests.mutation                     every mutant
    .venv/py3.11/bin/python -m tests.mutation --count=200         a sample, evenly over all
    .venv/py3.11/bin/python -m tests.mutation --only=federated/rounds/rounds.py
    .venv/py3.11/bin/python -m tests.mutation --only=federated/storage/store.py --number=17

Each mutant is one module with one small change (see `mutants`), in a process of its own; the
module's tests run against it until one fails. A mutant that passes them is tried again with the
tests of the whole server, in one process, with no network. It survives if these pass, too. The
cost is printed first, then each survivor, then the score: the share of mutants that some test
notices. `docs/robustness.md` judges the survivors.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import pathlib
import signal
import sys
import time
import types
from collections.abc import Sequence

from tests.mutation import mutants

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ("federated/rounds", "federated/aggregation", "federated/storage")
# Not only the mirror: tests of those who use the values.
FURTHER = (
    "tests/federated/test_coordinator_rounds.py",
    "tests/federated/test_aggregation_rules.py",
    "tests/federated/test_retention.py",
    "tests/federated/server",
    "tests/federated/audit",
)
_TIMES_AS_LONG = 5.0  # as without a change: the mutant never ends
_SHORTEST_S = 20.0


class _Mutated(importlib.abc.Loader):
    def __init__(self, tree: ast.Module, path: pathlib.Path):
        self._tree, self._path = tree, path

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        module.__file__ = os.fspath(self._path)
        exec(compile(self._tree, os.fspath(self._path), "exec"), module.__dict__)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as a mutant; all others are found as usual."""

    def __init__(self, name: str, tree: ast.Module, path: pathlib.Path):
        self._name, self._loader = name, _Mutated(tree, path)

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self._name:
            return None
        return importlib.util.spec_from_loader(fullname, self._loader)


def modules() -> list[str]:
    """Returns the paths of the modules that are changed, from the root."""
    found = [path for package in PACKAGES for path in sorted((ROOT / package).glob("*.py"))]
    return [path.relative_to(ROOT).as_posix() for path in found if path.name != "__init__.py"]


def tests_of(module: str) -> list[str]:
    """Returns the tests of a module: those at the mirrored place, its own first."""
    folder = ROOT / "tests" / pathlib.Path(module).parent
    own = folder / f"test_{pathlib.Path(module).name}"
    others = sorted(path for path in folder.glob("test_*.py") if path != own)
    return [os.fspath(path) for path in ([own] if own.exists() else []) + others]


def passes(module: str, number: int | None, tests: Sequence[str], limit_s: float) -> bool:
    """Returns whether tests pass with a mutant of a module; None is the module as it is."""
    child = os.fork()
    if not child:
        os._exit(_run(module, number, tests))
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run(module: str, number: int | None, tests: Sequence[str]) -> int:
    """Runs in a new process: returns its exit code."""
    import pytest

    os.setpgrp()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.stdout = sys.stderr = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8")
    try:
        if number is not None:
            path = ROOT / module
            name = module.removesuffix(".py").replace("/", ".")
            tree = mutants.mutant(path.read_text(encoding="utf-8"), number)
            sys.meta_path.insert(0, _Finder(name, tree, path))
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]) != 0)
    except BaseException:
        return 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=modules(), metavar="MODULE")
    parser.add_argument("--count", type=int, default=0, help="size of the sample, 0 for all")
    parser.add_argument("--first", type=int, default=0, help="resume at a mutant of the sample")
    parser.add_argument("--number", type=int, help="of the one mutant of --only to try")
    parser.add_argument("--quick", action="store_true", help="only the tests of the module")
    flags = parser.parse_args()
    os.chdir(ROOT)
    import numpy  # noqa: F401, before the forks: it takes longer than most tests
    import pytest  # noqa: F401

    every = [
        (module, number, *place)
        for module in flags.only or modules()
        for number, place in enumerate(mutants.places((ROOT / module).read_text("utf-8")))
        if flags.number in (None, number)
    ]
    step = max(1.0, len(every) / flags.count) if flags.count else 1.0
    chosen = [every[int(at * step)] for at in range(int(len(every) / step))]
    tests = {module: tests_of(module) for module in dict.fromkeys(item[0] for item in chosen)}
    usual_s = {}
    for module, own in tests.items():
        began = time.monotonic()
        if not passes(module, None, own, 600.0):
            print(f"{module}: its tests fail as it is; mend them first")
            return 1
        usual_s[module] = time.monotonic() - began
    cost_s = sum(usual_s[item[0]] for item in chosen)
    print(
        f"{len(chosen)} of {len(every)} mutants; at most about {cost_s / 60:.0f} min, and half a "
        "minute for each that the module's own tests do not notice",
        flush=True,
    )
    survivors = []
    for done, (module, number, line, what) in enumerate(chosen[flags.first :], flags.first + 1):
        limit_s = max(_SHORTEST_S, _TIMES_AS_LONG * usual_s[module])
        if passes(module, number, tests[module], limit_s) and (
            flags.quick or passes(module, number, FURTHER, 600.0)
        ):
            survivors.append((module, number))
            text = (ROOT / module).read_text("utf-8").splitlines()[line - 1].strip()
            print(f"survives: {module}:{line} (--number={number}) {what}: {text}", flush=True)
        if done % 50 == 0 or done == len(chosen):
            print(f"  {done} done; go on with --first={done}", flush=True)
    tried = len(chosen) - flags.first
    noticed = tried - len(survivors)
    print(f"score: {noticed} of {tried} mutants are noticed, {100 * noticed / max(1, tried):.1f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
