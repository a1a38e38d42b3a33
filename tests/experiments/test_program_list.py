"""`python -m experiments` names every program once."""

import pathlib
import re
import subprocess
import sys

import pytest

import experiments
from experiments import __main__ as program_list

FOLDER = pathlib.Path(experiments.__file__).parent


def test_every_program_is_listed_once():
    runnable = {
        path.stem
        for path in FOLDER.glob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    listed = [program for programs in program_list.GROUPS.values() for program in programs]
    assert sorted(listed) == sorted(runnable - {"__main__"})


def test_the_list_is_printed_with_a_line_on_each():
    shown = subprocess.run(
        [sys.executable, "-m", "experiments"], capture_output=True, text=True, check=True
    ).stdout
    for programs in program_list.GROUPS.values():
        for program in programs:
            assert re.search(rf"^  {program} +\w", shown, re.MULTILINE), program
    assert max(map(len, shown.splitlines())) <= 120, "shorten the first line of its docstring"


@pytest.mark.parametrize(
    ("argument", "command"),
    [("serve", "run python -m experiments.serve\n"), ("served", "run python -m experiments.X\n")],
)
def test_a_program_given_as_an_argument_is_an_error_that_shows_the_command(argument, command):
    done = subprocess.run(
        [sys.executable, "-m", "experiments", argument], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.endswith(command)
