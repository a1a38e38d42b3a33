"""Every program under tests/soak and tests/benchmarks says with --help what it does, and how."""

import ast
import importlib
import pathlib

import pytest

TESTS = pathlib.Path(__file__).parents[1]


def is_program(path: pathlib.Path) -> bool:
    """Whether the module defines `main` itself, not only within a text that it writes elsewhere."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(part, ast.FunctionDef) and part.name == "main" for part in module.body)


PROGRAMS = [
    f"tests.{folder}.{path.stem}"
    for folder in ("benchmarks", "soak")
    for path in sorted((TESTS / folder).glob("*.py"))
    if is_program(path)
]


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_tells_what_a_program_does_and_how_it_is_started(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [name, "--help"])
    program = importlib.import_module(name)
    with pytest.raises(SystemExit) as ended:
        program.main()
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert program.__doc__.splitlines()[0] in told
    assert f"python -m {name}" in told
