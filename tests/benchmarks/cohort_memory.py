"""Measures the memory of a cohort's preparation over all its processes, against its budget.

    .venv/py3.11/bin/python -m tests.benchmarks.cohort_memory

The preparation prints its budget beforehand. Two scans of full size, 512 x 512 x 200 and 512 x 512
x 50, are prepared with one worker, with two, and with two under a limit that lets only one of them
work at a time. The ratio of memory to budget must stay below 1.
"""

from __future__ import annotations

import pathlib
import shutil
import tempfile
import time

from tests.benchmarks import peak_memory, scans, side_by_side


def prepare(workers: int, limit_mib: int | None = None) -> dict[str, float]:
    from preprocessing.case_list import Case, CaseManifest
    from preprocessing.preparation import pipeline

    manifest = CaseManifest(
        "C2", tuple(Case(name, *map(pathlib.Path, scans.paths(name))) for name in scans.SHAPES)
    )
    root = pathlib.Path(tempfile.mkdtemp())
    how = {
        "target_mm": (1.0, 1.0, 1.0),
        "workers": workers,
        "memory_bytes": None if limit_mib is None else limit_mib * 2**20,
    }
    try:
        planned = pipeline.estimate(manifest, root / "store", **how)
        start = time.perf_counter()
        peak = peak_memory.of_tree(
            lambda: pipeline.prepare(
                manifest, root / "store", split_seed=0, split_counts=(2, 0, 0), **how
            )
        )
        seconds = time.perf_counter() - start
        on_disk = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(root)
    budget_mib = planned.memory_bytes / 2**20
    return {
        "peak_mib": peak,
        "budget_mib": budget_mib,
        "peak / budget": peak / budget_mib,
        "disk / foretold": on_disk / planned.disk_bytes,
        "seconds / foretold": seconds / planned.seconds,
    }


def main() -> None:
    flags = side_by_side.arguments(__doc__)
    scans.make()
    function = "tests.benchmarks.cohort_memory:prepare"
    candidates = [
        side_by_side.Candidate("one worker", function, arguments={"workers": 1}),
        side_by_side.Candidate("two workers", function, arguments={"workers": 2}),
        side_by_side.Candidate(
            "two workers, limited", function, arguments={"workers": 2, "limit_mib": 800}
        ),
    ]
    figures = side_by_side.measure(candidates, repetitions=flags.repetitions, warm_up=0)
    for figure in (
        "peak_mib",
        "budget_mib",
        "peak / budget",
        "disk / foretold",
        "seconds / foretold",
    ):
        print(side_by_side.table(figures, figure=figure, reference="one worker"), end="\n\n")


if __name__ == "__main__":
    main()
