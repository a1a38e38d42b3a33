"""The product compiles under the oldest Python that setup.py names, whatever Python runs the tests."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("c2fnas", "experiments", "federated", "preprocessing", "runkit")
# Names of the standard library that are newer than Python 3.10, as code may spell them.
NEWER = re.compile(
    r"\b(tomllib|(Base)?ExceptionGroup|StrEnum|datetime\.UTC|hashlib\.file_digest|contextlib\.chdir"
    r"|asyncio\.(timeout|TaskGroup|Runner)|itertools\.batched|math\.(cbrt|exp2|sumprod)"
    r"|sys\.exception|add_note|operator\.call"
    r"|from typing import .*\b(Self|Never|assert_never|LiteralString|NotRequired|Unpack|override))\b"
)


def oldest():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    major, minor = re.search(r'python_requires=">=(\d+)\.(\d+)"', setup).groups()
    return int(major), int(minor)


def too_new(text):
    """Returns the parts of a module that the oldest supported Python would refuse."""
    try:
        tree = ast.parse(text, feature_version=oldest())
    except SyntaxError as error:
        return [str(error)]
    # `a[*b]` came with 3.11, and `feature_version` lets it pass
    starred = [
        f"line {node.lineno}: star in a subscript"
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and any(isinstance(part, ast.Starred) for part in getattr(node.slice, "elts", [node.slice]))
    ]
    return starred + [found[0] for found in NEWER.finditer(text)]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_needs_a_newer_python_than_setup_allows(package):
    refused = {
        str(path.relative_to(ROOT)): found
        for path in (ROOT / package).rglob("*.py")
        if (found := too_new(path.read_text(encoding="utf-8")))
    }
    assert refused == {}


@pytest.mark.parametrize(
    "text",
    [
        "a[*b] = 1",
        "a[:, *b]",
        "try:\n    pass\nexcept* ValueError:\n    pass",
        "type A = int",
        "def first[T](a: T): ...",
        "import tomllib",
        "from typing import Any, Self",
    ],
)
def test_what_python_3_10_lacks_is_found(text):
    assert oldest() == (3, 10) and too_new(text)
