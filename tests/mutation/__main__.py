"""Mutation tests of the federation's rounds, aggregation and storage.

    .venv/py3.11/bin/python -m tests.mutation                     every mutant
    .venv/py3.11/bin/python -m tests.mutation --count=200         a sample, evenly over all
    .venv/py3.11/bin/python -m tests.mutation --only=federated/rounds/rounds.py
    .venv/py3.11/bin/python -m tests.mutation --only=federated/storage/store.py --number=17

Each mutant is one module with one small change (see `mutants`), in a separate process. The
module's tests run against it until one fails: its own file, then those beside it, then those of
the coordinator, which use the modules together. A mutant that passes all of them survives. The cost
is printed first, then each survivor, then the score: the share of mutants that at least one test
detects. `docs/robustness.md` assesses the survivors.
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
FURTHER = (
    "tests/federated/server/test_coordinator.py",
    "tests/federated/server/test_uploads.py",
    "tests/federated/test_coordinator_rounds.py",
    "tests/federated/test_retention.py",
    "tests/federated/server/test_orders.py",
    "tests/federated/audit/test_log.py",
)
_CHOSEN = "not memory"  # what is measured there depends on what else the machine does
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


def tests_of(module: str, *, quick: bool = False) -> list[list[str]]:
    """Returns the tests of a module, in groups that run one after another.

    Args:
      quick: without those of the coordinator.
    """
    folder = ROOT / "tests" / pathlib.Path(module).parent
    own = folder / f"test_{pathlib.Path(module).name}"
    beside = sorted(path for path in folder.glob("test_*.py") if path != own)
    groups = [[own] if own.exists() else [], beside, [] if quick else list(FURTHER)]
    return [[os.fspath(path) for path in group] for group in groups if group]


def passes(module: str, number: int | None, tests: Sequence[str], limit_s: float) -> bool:
    """Returns whether tests pass with a mutant of a module; None is the unchanged module."""
    child = os.fork()
    if not child:
        os._exit(_run(module, number, tests))
    os.setpgid(child, child)  # here, so that it has a group to be killed whenever the time is over
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
    """Runs tests in a new process; returns its exit code."""
    import pytest

    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.stdout = sys.stderr = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8")
    for imported in [name for name in sys.modules if "federated" in name.split(".")]:
        del sys.modules[imported]  # imported before, they would have the module as it is
    try:
        if number is not None:
            path = ROOT / module
            name = module.removesuffix(".py").replace("/", ".")
            tree = mutants.mutant(path.read_text(encoding="utf-8"), number)
            sys.meta_path.insert(0, _Finder(name, tree, path))
        given = ["-x", "-q", "-p", "no:cacheprovider", "-k", _CHOSEN, *tests]
        return int(pytest.main(given) != 0)
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
    parser.add_argument("--quick", action="store_true", help="without the coordinator's tests")
    flags = parser.parse_args()
    os.chdir(ROOT)
    for name in ("numpy", "pytest", "grpc", "absl.logging", "cryptography.x509", "sqlite3"):
        importlib.import_module(name)  # before the forks: it takes longer than most tests

    every = [
        (module, number, *place)
        for module in flags.only or modules()
        for number, place in enumerate(mutants.places((ROOT / module).read_text("utf-8")))
        if flags.number in (None, number)
    ]
    step = max(1.0, len(every) / flags.count) if flags.count else 1.0
    chosen = [every[int(at * step)] for at in range(int(len(every) / step))]
    groups = {
        module: tests_of(module, quick=flags.quick)
        for module in dict.fromkeys(item[0] for item in chosen)
    }
    usual_s = dict[tuple[str, ...], float]()
    for group in {tuple(group): None for found in groups.values() for group in found}:
        began = time.monotonic()
        if not passes("", None, group, 900.0):
            print(f"{', '.join(group)}: fail without a change; mend them first")
            return 1
        usual_s[group] = time.monotonic() - began
    first_s = sum(usual_s[tuple(groups[item[0]][0])] for item in chosen)
    all_s = sum(usual_s[tuple(group)] for item in chosen for group in groups[item[0]])
    print(
        f"{len(chosen)} of {len(every)} mutants: {first_s / 60:.0f} min if the module's own tests "
        f"notice all, {all_s / 60:.0f} min if none is noticed",
        flush=True,
    )

    def survives(module: str, number: int) -> bool:
        return all(
            passes(module, number, group, max(_SHORTEST_S, _TIMES_AS_LONG * usual_s[tuple(group)]))
            for group in groups[module]
        )

    survivors = []
    for done, (module, number, line, what) in enumerate(chosen[flags.first :], flags.first + 1):
        if survives(module, number):
            survivors.append((module, number))
            text = (ROOT / module).read_text("utf-8").splitlines()[line - 1].strip()
            print(f"survives: {module}:{line} (--number={number}) {what}: {text}", flush=True)
        if done % 25 == 0 or done == len(chosen):
            print(f"  {done} done; go on with --first={done}", flush=True)
    tried = len(chosen) - flags.first
    noticed = tried - len(survivors)
    print(f"score: {noticed} of {tried} mutants are noticed, {100 * noticed / max(1, tried):.1f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
