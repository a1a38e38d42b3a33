"""Users' flag files and scripts keep working: flags keep their name, type and default."""

import pathlib
import subprocess
import sys

RECORDED = pathlib.Path(__file__).with_name("program_flags.txt")


def _pairs(text):
    """The (program, flag) pairs of a listing; a flag includes its type, default and limits."""
    lines = (line.rpartition(": ") for line in text.splitlines())
    return {(program, flag) for flag, _, programs in lines for program in programs.split()}


def test_every_recorded_flag_is_there_with_its_type_default_and_limits():
    """New flags may be added. To change one on purpose, write the listing to the record again."""
    command = [sys.executable, "-m", "tests.experiments.flag_listing"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert sorted(_pairs(RECORDED.read_text(encoding="utf-8")) - _pairs(listed)) == []
