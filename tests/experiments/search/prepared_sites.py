"""Prepared cases of two sites, made in this process, as `experiments.prepare` would make them."""

from __future__ import annotations

from preprocessing import manifest
from preprocessing.preparation import pipeline
from tests.experiments.study import SPLIT, Study


def make(study: Study) -> None:
    """Makes scans and case stores of a study, with 3 and 4 training cases and 1 of each other."""
    study.make_scans()
    for site, counts in SPLIT.items():
        pipeline.prepare(
            manifest.read(study.folder / "scans" / site / "manifest.json"),
            study.site_folder(site) / "cases",
            target_mm=(3.0, 3.0, 3.0),
            split_seed=1,
            split_counts=tuple(map(int, counts.split(","))),
        )
