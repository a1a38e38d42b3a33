"""Which package may import which, and which folder inside a package.

`federated` has a separate contract beside its tests.
"""

import ast
import collections
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Each line names only what stands above it, so that imports point one way.
PACKAGES = {
    "runkit": set(),
    "preprocessing": {"runkit"},
    "c2fnas": {"runkit"},
    "federated": {"runkit"},
    "experiments": {"runkit", "preprocessing", "c2fnas", "federated"},
    "examples": {"federated"},
}
# The same for the folders inside two packages; "" stands for the modules beside the folders.
FOLDERS_OF = {
    "preprocessing": {
        "": set(),
        "checks": {""},
        "layouts": {"", "checks"},
        "preparation": {"", "checks"},
        "phantom": {""},
        "deformed": {"", "phantom"},
    },
    "c2fnas": {
        "scores": set(),
        "": {"scores"},
        "search": {"", "scores"},
    },
}
# Programs and the settings, which stand beside the folders, may import all of them; the settings
# import none.
SETTINGS = {"configuration", "flags", "flag_files", "program_help", "setting_flags"}
FOLDERS = {
    "results": set(),
    "figures": {"results"},
    "models": {"results", "figures"},
    "reports": {"results", "figures", "models"},
    "run": {"results", "figures", "models", "reports"},
    "studies": {"results", "figures", "models", "reports", "run"},
    "search": {"results", "figures", "models", "reports", "run"},
}


@functools.cache
def imported(path):
    """Returns the dotted name of every module that a file imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def one_way(contract):
    above = set()
    for name, allowed in contract.items():
        assert allowed <= above, f"{name} may import {allowed - above}, which is not above it"
        above.add(name)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_the_contract_allows(package):
    one_way(PACKAGES)
    for path in (ROOT / package).rglob("*.py"):
        others = {name.partition(".")[0] for name in imported(path)} & PACKAGES.keys()
        assert others <= PACKAGES[package] | {package}, path


def test_every_folder_with_code_is_a_package_that_an_installation_takes_along():
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def code_folders(package):
    """Returns the names of a package's folders with code."""
    return {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}


@pytest.mark.parametrize("package", FOLDERS_OF)
def test_folders_inside_a_package_import_only_what_the_contract_allows(package):
    contract = FOLDERS_OF[package]
    one_way(contract)
    assert code_folders(package) == contract.keys() - {""}
    for path in (ROOT / package).rglob("*.py"):
        *parents, _ = path.relative_to(ROOT / package).parts
        folder = parents[0] if parents else ""
        inside = [name.split(".")[1] for name in imported(path) if name.startswith(f"{package}.")]
        others = {name if name in contract else "" for name in inside}
        assert others <= contract[folder] | {folder}, path


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_of_experiments_import_only_what_the_contract_allows(folder):
    one_way(FOLDERS)
    for path in (ROOT / "experiments" / folder).rglob("*.py"):
        own = {name.split(".")[1] for name in imported(path) if name.startswith("experiments.")}
        assert own <= FOLDERS[folder] | SETTINGS | {folder}, path


def test_every_folder_of_experiments_with_code_is_in_the_contract():
    assert code_folders("experiments") == FOLDERS.keys()


def test_no_two_public_classes_have_one_name():
    """A reader who meets a name need not ask which class it is."""
    places = collections.defaultdict(list)
    for package in PACKAGES.keys() - {"examples"}:
        for path in (ROOT / package).rglob("*.py"):
            if not path.name.endswith("_pb2.py"):
                for node in ast.parse(path.read_text(encoding="utf-8")).body:
                    if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                        places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_every_ignored_type_error_has_a_reason():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for line in path.read_text(encoding="utf-8").splitlines():
                if "# type: ignore" in line:
                    assert re.search(r"# type: ignore\[[\w,-]+\]  # \w", line), (path, line)
