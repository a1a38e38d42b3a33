"""Prints and writes what a site's dataset is: cases, spacing, sizes, HU inside the labels, volumes, splits.

python -m experiments.cohort_report --manifest=C1/manifest.json --site_folder=sites/C1

cohort.json may be given to the other sites: it holds sums over the cases, no id, path or picture. `compare_cohorts` sets two side by side.
"""

from __future__ import annotations

import os
import pathlib

from absl import flags

from experiments import cohort_page
from experiments import flags as experiment_flags
from preprocessing import cohort, survey
from preprocessing import manifest as manifests
from preprocessing.case_store import CaseStore
from runkit import atomic

FLAGS = flags.FLAGS
experiment_flags.define_site()
flags.DEFINE_string("manifest", None, "The site's manifest.json, or an MSD dataset.json.")
flags.DEFINE_integer("workers", 0, "Cases looked at at the same time, 0 for one a processor.")


def main(argv: list[str]) -> int:
    del argv
    manifest = manifests.read(experiment_flags.required("manifest", "the site's list of scans"), site=FLAGS.site)
    folder = experiment_flags.site_folder("the folder of the site's prepared cases", make=True)
    findings = survey.survey(manifest, workers=FLAGS.workers or os.cpu_count() or 1)
    report = cohort.summarise(manifest.site, findings, _splits(folder / "cases"))
    print(cohort_page.text_table([report]))
    print(cohort_page.text_histograms([report]))
    atomic.write_json(folder / "cohort.json", report)
    atomic.write_text(folder / "cohort.html", cohort_page.page([report]))
    print(f"report {folder / 'cohort.json'}, as a page {folder / 'cohort.html'}")
    return 0


def _splits(root: pathlib.Path) -> dict[str, int] | None:
    if not (root / "index.json").exists():
        return None
    return {name: len(ids) for name, ids in CaseStore(root).splits.items()}


if __name__ == "__main__":
    experiment_flags.run(main)
