"""All programs of the product, and how tests start one."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from tests import forked

ROOT = pathlib.Path(__file__).parents[2]
_SOURCES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "experiments").glob("*.py"))
}
PROGRAMS = {name: text for name, text in _SOURCES.items() if "    program.run(" in text}
NEED_TENSORFLOW = [  # faulty_site takes part by experiments.join
    name
    for name, text in PROGRAMS.items()
    if "experiment_flags.start_tensorflow()" in text or "join.take_part" in text
]


def run(program: str, *flags: object, folder=ROOT) -> subprocess.CompletedProcess:
    """Runs a program in `folder`, forked."""
    return forked.run(f"experiments.{program}", *flags, folder=folder)


def fresh(program: str, *flags: object, path=ROOT) -> subprocess.CompletedProcess:
    """Runs `python -m experiments.<program>` as a user does, in the folder `path`.

    Modules in `path` replace installed ones.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])}
    command = [sys.executable, "-m", f"experiments.{program}", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=path, env=environment)


def refused(program: str, *flags: object, folder=ROOT, code=1) -> str:
    """Runs a program that must refuse its input; returns its error line, without a stack trace."""
    done = run(program, *flags, folder=folder)
    assert done.returncode == code, done.stdout + done.stderr
    *before, last = done.stderr.splitlines()
    # TensorFlow may have logged which devices it uses.
    assert last.startswith("error: ") and all("INFO" in line or line[0] == "I" for line in before)
    return last.removeprefix("error: ")
