"""Kills a preparation before each of its disk operations, and at random times, and runs it again.

python -m tests.preprocessing.crash_program FOLDER

Each attempt is a forked child, because starting an interpreter takes longer than preparing the
cohort. Prints one JSON object: the number of points, the number of attempts, and the problems.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable

from preprocessing import case_store
from preprocessing.case_list import CaseManifest
from preprocessing.preparation import pipeline
from runkit import array_files
from tests.preprocessing.preparation.test_pipeline import cohort

_POINTS = [
    (os, "fsync"),
    (os, "replace"),
    (os, "unlink"),
    (os, "chmod"),
    (shutil, "rmtree"),
    (tempfile, "mkdtemp"),
    (tempfile, "mkstemp"),
    (array_files, "save"),
    (case_store, "_save_label"),
    (case_store, "_save_image"),
    (case_store, "write_index"),
]
_RANDOM_KILLS = 6


def prepare(manifest: CaseManifest, root: pathlib.Path, target: float) -> None:
    pipeline.prepare(manifest, root, target_mm=(target,) * 3, split_seed=3)


def forked(action: Callable[[], None], *, kill_after_s: float | None = None) -> int:
    """Runs `action` in a child and returns how it ended: 0, or minus the signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            action()
            status = 0
        finally:
            os._exit(status)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killing(number: int | None, counted: pathlib.Path) -> None:
    """Makes this process kill itself at a disk operation.

    Args:
      number: of the operation; None to write the number of operations to `counted` instead.
    """
    passed = 0

    def point() -> None:
        nonlocal passed
        if passed == number:
            os.kill(os.getpid(), signal.SIGKILL)
        passed += 1
        if number is None:
            counted.write_text(str(passed))

    def stopping(original: Callable) -> Callable:
        def wrapped(*arguments, **keywords):
            point()
            return original(*arguments, **keywords)

        return wrapped

    for module, name in _POINTS:
        setattr(module, name, stopping(getattr(module, name)))


def contents(root: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def main(folder: pathlib.Path) -> None:
    manifest = cohort(folder, 2)
    old, new, counted = folder / "old", folder / "new", folder / "counted"
    began = time.monotonic()
    forked(lambda: prepare(manifest, old, 3.0))
    duration = time.monotonic() - began
    forked(lambda: prepare(manifest, new, 2.0))
    stores = [contents(old), contents(new)]
    root, problems, points, attempts = folder / "killed", [], 0, 0

    def attempt(
        what: str, start: pathlib.Path | None, number: int | None, kill_after_s: float | None = None
    ) -> None:
        nonlocal attempts
        attempts += 1
        shutil.rmtree(root, ignore_errors=True)
        if start is not None:
            shutil.copytree(start, root)

        def stopped() -> None:
            if kill_after_s is None:
                killing(number, counted)
            prepare(manifest, root, 2.0)

        ended = forked(stopped, kill_after_s=kill_after_s)
        if number is not None and ended != -signal.SIGKILL:
            problems.append(f"{what}: was not killed but ended with {ended}")
        if (root / "index.json").exists() and contents(root) not in stores:
            problems.append(
                f"{what}: a store that is neither the old nor the new one can be opened"
            )
        if forked(lambda: prepare(manifest, root, 2.0)) != 0 or contents(root) != stores[1]:
            problems.append(f"{what}: the second run did not end in the same store")

    for name, start in (("fresh", None), ("over an older store", old)):
        attempt(f"{name}, not killed", start, None)
        count = int(counted.read_text())
        points += count
        for number in range(count):
            attempt(f"{name}, point {number}", start, number)
    times = random.Random(7)
    for _ in range(_RANDOM_KILLS):
        after = times.uniform(0.0, duration)
        attempt(f"after {after:.3f} s", times.choice([None, old]), None, after)
    print(json.dumps({"points": points, "attempts": attempts, "problems": problems}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
