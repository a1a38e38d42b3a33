"""`prepare` whose system calls fail."""

from __future__ import annotations

import pathlib

from preprocessing import manifest as manifests
from preprocessing import splits  # noqa: F401 - imported once, before the processes
from preprocessing.preparation import pipeline  # noqa: F401
from tests.failing_calls.commands import Command, files
from tests.preprocessing.preparation.test_pipeline import cohort


def preparation(folder: pathlib.Path) -> Command:
    scans = folder / "scans"
    manifests.write(scans / "manifest.json", cohort(scans, 3))
    return Command(
        "prepare",
        "experiments.prepare",
        scans,
        folder / "site",
        [
            f"--manifest={scans / 'manifest.json'}",
            f"--site_folder={folder / 'site'}",
            "--spacing_mm=3,3,3",
            "--workers=1",
        ],
        kept=lambda output: files(output),
    )
