"""Measures how long the checks of a case in memory take during preparation.

    .venv/py3.11/bin/python -m tests.benchmarks.check_cost

It runs the checks of geometry, HU and label position and computes the marks of the slices, as a
preparation does, for the two scans of `scans.py`. One run took, in processor time, 15 ms for the
rules and 5 ms for the marks with 512 x 512 x 200 voxels, and 6.5 and 1.2 ms with 512 x 512 x 50.
"""

from __future__ import annotations

import sys
import time

from tests.benchmarks import scans, side_by_side


def check(name: str) -> dict[str, float]:
    from preprocessing import geometry, nifti
    from preprocessing.checks import integrity, same_scan

    image, label = nifti.read_ct(scans.paths(name)[0]), nifti.read_labels(scans.paths(name)[1])
    started = time.perf_counter()
    integrity.check_case(image, label)
    checked = time.perf_counter()
    same_scan.slice_marks(geometry.to_ras(image))
    return {
        "rules_ms": 1e3 * (checked - started),
        "slice_marks_ms": 1e3 * (time.perf_counter() - checked),
    }


def main() -> None:
    side_by_side.no_arguments(__doc__)
    scans.make()
    function = "tests.benchmarks.check_cost:check"
    candidates = [
        side_by_side.Candidate(f"scan {name}", function, sys.executable, {"name": name})
        for name in scans.SHAPES
    ]
    figures = side_by_side.measure(candidates, repetitions=7)
    for figure in ("rules_ms", "slice_marks_ms"):
        print(side_by_side.table(figures, figure=figure, reference="scan a") + "\n")


if __name__ == "__main__":
    main()
