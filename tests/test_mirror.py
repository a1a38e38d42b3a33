"""Every module has its test file at the mirrored place.

`federated/site/loop.py` is tested in `tests/federated/site/test_loop.py`, and the code of
`preprocessing/layouts/__init__.py` in `tests/preprocessing/layouts/test_layouts.py`. Scenarios that
involve many modules are beside these files.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

# package -> module -> why it has no test file. Generated code, and an `__init__.py` that defines
# nothing, need no entry.
WITHOUT_TESTS = {
    "c2fnas": {"allowed_values.py": "types and limits, tested where they are used"},
    "experiments": {"__main__.py": "the list of programs: test_program_list.py"},
    "federated": {
        "engines/flower/messages.py": "constants",
        "engines/flower/site.py": "runs inside Flower only: engines/test_flower.py",
        "engines/nvflare/server.py": "runs inside NVFLARE only: engines/test_nvflare.py",
        "engines/nvflare/site.py": "runs inside NVFLARE only: engines/test_nvflare.py",
        "wire/messages.py": "types and constants",
        "wire/status.py": "types",
    },
    "preprocessing": {},
    "runkit": {},
}


def defined(path):
    """Returns the names that a module defines at its top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, DEFINITIONS)]


def mirrors(package):
    """Returns, for each module that needs one, the place of its test file."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        index = path.name == "__init__.py"
        if path.name.endswith("_pb2.py") or (index and not defined(path)):
            continue
        folder = path.relative_to(ROOT).parent
        name = path.parent.name if index else path.stem
        module = path.relative_to(ROOT / package).as_posix()
        found[module] = ROOT / "tests" / folder / f"test_{name}.py"
    return found


@pytest.mark.parametrize("package", WITHOUT_TESTS)
def test_every_module_has_a_test_file_or_a_reason_to_have_none(package):
    reasons = WITHOUT_TESTS[package]
    missing = {module for module, test in mirrors(package).items() if not test.is_file()}
    assert sorted(missing - reasons.keys()) == []
    assert sorted(reasons.keys() - missing) == [], "gone, or tested by now"


@pytest.mark.parametrize("package", WITHOUT_TESTS)
def test_a_mirrored_test_file_holds_tests(package):
    for test in mirrors(package).values():
        names = defined(test) if test.is_file() else ["test_"]
        assert any(name.startswith(("test_", "Test")) for name in names), test
