"""`python -m experiments` names every program once."""

import pathlib
import re
import subprocess
import sys

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
