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
PROGRAMS = {name: text for name, text in _SOURCES.items() if "    experiment_flags.run(" in text}
NEED_TENSORFLOW = [  # faulty_site takes part by experiments.join
    name
    for name, text in PROGRAMS.items()
    if "experiment_flags.start_tensorflow()" in text or "join.take_part" in text
]


def run(program: str, *flags: object, folder=None, path=None) -> subprocess.CompletedProcess:
    """Runs `python -m experiments.<program>` in `folder`; `path` may replace installed modules."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, (path, ROOT)))),
    }
    command = [sys.executable, "-m", f"experiments.{program}", *map(str, flags)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder or path or ROOT, env=environment
    )


def refused(program: str, *flags: object, folder=ROOT, code=1) -> str:
    """Runs a program that must refuse its input; returns its error line, without a stack trace."""
    done = forked.run(f"experiments.{program}", *flags, folder=folder)
    assert done.returncode == code, done.stdout + done.stderr
    *before, last = done.stderr.splitlines()
    # TensorFlow may have logged which devices it uses.
    assert last.startswith("error: ") and all("INFO" in line or line[0] == "I" for line in before)
    return last.removeprefix("error: ")
