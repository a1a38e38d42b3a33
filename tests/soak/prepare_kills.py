"""Kills a preparation repeatedly; after restarts it must give the same store, byte for byte.

    .venv/py3.11/bin/python -m tests.soak.prepare_kills --kills=100

After a random time, each start gets SIGKILL, either all of its processes or one of them, until one
start finishes; that is one run. A case that was in the store after a kill must be unchanged in the
end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import psutil

from preprocessing import nifti
from preprocessing.case_list import Case, CaseManifest
from preprocessing.preparation import pipeline
from preprocessing.volume import Volume
from tests.preprocessing.preparation.test_pipeline import AFFINE, contents, scan, stamps
from tests.soak import cost

_SHAPE, _CASES = (150, 130, 60), 6
_ROOT = pathlib.Path(__file__).parents[2]


def _manifest(folder: pathlib.Path) -> CaseManifest:
    return CaseManifest(
        "C2",
        tuple(
            Case(f"case_{i}", folder / f"image_{i}.nii.gz", folder / f"label_{i}.nii.gz")
            for i in range(_CASES)
        ),
    )


def _prepare(folder: str, root: str) -> None:
    pipeline.prepare(
        _manifest(pathlib.Path(folder)),
        pathlib.Path(root),
        target_mm=(1.0, 1.0, 1.0),
        split_seed=1,
        workers=2,
    )


def _started(folder: pathlib.Path, root: pathlib.Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "tests.soak.prepare_kills",
        f"--folder={folder}",
        f"--root={root}",
    ]
    return subprocess.Popen(
        command,
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _kill(process: subprocess.Popen, rng: random.Random) -> bool:
    """Kills all processes or one; returns whether the preparation was still running."""
    if process.poll() is not None:
        return False
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    if rng.random() < 0.5:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(rng.choice(family).pid, signal.SIGKILL)
    process.wait(60)  # it goes on without a worker; a worker ends without its parent
    with contextlib.suppress(ProcessLookupError):
        os.killpg(
            process.pid, signal.SIGKILL
        )  # workers that outlive their parent would interfere with the next start
    return True


def run(kills: int, *, seed: int = 1) -> tuple[int, int]:
    """Returns (kills, runs).

    Raises:
      AssertionError: if a run ends in another store than the run without kills.
    """
    rng, killed, runs = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for number, case in enumerate(_manifest(folder).cases):
            hu, label = scan(number, _SHAPE)
            nifti.write_volume(case.image, Volume(hu, AFFINE))
            nifti.write_volume(case.label, Volume(label, AFFINE))
        began = time.monotonic()
        assert _started(folder, folder / "alone").wait(300) == 0
        longest_s, expected = time.monotonic() - began, contents(folder / "alone")
        # a start lasts 0.6 of that on average until it is killed
        cost.tell(f"{kills} kills", 0.6 * longest_s * kills)
        while killed < kills:
            root, finished, runs = folder / f"run_{runs}", False, runs + 1
            while not finished:
                before = stamps(root)
                process = _started(folder, root)
                try:
                    finished = process.wait(rng.uniform(0.2, 1.0) * longest_s) == 0
                except subprocess.TimeoutExpired:
                    killed += _kill(process, rng)
                after = stamps(root)
                whole = [
                    path
                    for path in before
                    if path.name == "case.json" and not path.parent.name.startswith(".")
                ]
                assert all(after.get(path) == before[path] for path in whole), (
                    "a finished case was made again or is lost"
                )
            assert contents(root) == expected, "another store than that of the run without kills"
    return killed, runs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.root:
        _prepare(flags.folder, flags.root)
        return
    killed, runs = run(flags.kills, seed=flags.seed)
    print(f"{killed} kills, {runs} runs, every store the same bytes")


if __name__ == "__main__":
    main()
