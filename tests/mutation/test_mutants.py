import ast
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.mutation import __main__ as program
from tests.mutation import mutants


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", ["x = a <= b"]),
        ("x = a == b and c", ["x = a == b or c", "x = a != b and c"]),
        ("x = not a", ["x = a"]),
        ("x = a + 1", ["x = a - 1", "x = a + 2"]),
        ("x = 'a' + b", []),
        ("x = True", ["x = False"]),
        ("if f(a):\n    g()", ["if not f(a):\n    g()", "if f(a):\n    pass"]),
        ("raise ValueError('1')", ["pass"]),
        ("self.a = b", ["pass"]),
        ("a += 2", ["pass", "a += 3"]),
        ('def f(a: int=3) -> Literal[1]:\n    """Adds 1."""', None),
    ],
)
def test_each_place_is_changed_once(source, expected):
    if expected is None:
        expected = [ast.unparse(ast.parse(source)).replace("3", "4")]
    assert list(mutants.changed_texts(source)) == expected


def test_every_module_has_tests_and_mutants_that_can_be_compiled():
    for module in program.modules():
        assert program.tests_of(module), module
        source = (program.ROOT / module).read_text(encoding="utf-8")
        for number in range(0, len(mutants.places(source)), 25):
            compile(mutants.mutant(source, number), module, "exec")


def _passes(module: str, runs: Sequence[tuple[int | None, pathlib.Path, float]]) -> list[bool]:
    """Returns `passes` of each run, called in a process without threads, which may fork."""
    calls = [(number, [os.fspath(test)], limit_s) for number, test, limit_s in runs]
    script = (
        "from tests.mutation import __main__ as program\n"
        f"print([program.passes({module!r}, *call) for call in {calls!r}])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=program.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ast.literal_eval(ended.stdout)


def test_a_mutant_is_noticed_and_the_module_as_it_is_passes(tmp_path):
    module = "federated/rounds/tasks.py"
    source = (program.ROOT / module).read_text(encoding="utf-8")
    changes = [what for _, what in mutants.places(source)]
    number = changes.index("100000 becomes 100001")
    test = tmp_path / "test_limit.py"
    test.write_text(
        "from federated.rounds import tasks\ndef test_it(): assert tasks.MAX_ROUND == 100_000\n"
    )
    runs = [(changed, test, 120.0) for changed in (None, number, number + 1)]
    assert _passes(module, runs) == [True, False, True]


def test_a_mutant_that_never_ends_is_noticed(tmp_path):
    test = tmp_path / "test_forever.py"
    test.write_text("def test_it():\n    while True: pass\n")
    assert _passes("federated/rounds/tasks.py", [(None, test, 0.5)]) == [False]
