"""Describes a site's dataset: cases, spacing, sizes, HU inside the labels, volumes, splits.

    python -m experiments.cohort_report --manifest=C1/manifest.json --site_folder=sites/C1

cohort.json may be given to other sites: it holds counts of groups of three cases or more, and no
identifier, path or picture. Give out one report per study, because the difference between two
reports can reveal what changed in between; the program warns when it replaces one that differs.
`compare_cohorts` shows the reports of several sites side by side and uses them to propose one plan
for all sites.
cohort_cases.json stays at the site: it is updated after each case and lists the rules that each
case breaks. If a case is refused, the others are still read, and the exit code is 1.
"""

from __future__ import annotations

import pathlib
from typing import Any

from absl import flags

from experiments import flags as experiment_flags
from experiments import program
from runkit import atomic, overwriting, processors

FLAGS = flags.FLAGS
experiment_flags.define_site()
experiment_flags.define_orientation()
flags.DEFINE_string(
    "manifest", None, "The site's manifest.json, or a dataset.json in the format of MSD or nnU-Net."
)
flags.DEFINE_bool(
    "strict",
    True,
    "Exit with code 1 if a case is refused. The report on the others is written either way.",
)
flags.DEFINE_integer(
    "workers", 0, "Cases to read at the same time; 0 uses one per processor.", lower_bound=0
)

_SITE_FOLDER = "the folder of the site's prepared cases"


def main(argv: list[str]) -> int:
    del argv
    from experiments.reports import check_page, cohort_page
    from preprocessing import manifest as manifests
    from preprocessing.checks import cohort, survey

    listed = experiment_flags.required("manifest", "the site's list of scans")
    orientation = experiment_flags.orientation()
    manifest = manifests.read(listed, site=FLAGS.site, orientation=orientation)
    folder = pathlib.Path(experiment_flags.required("site_folder", _SITE_FOLDER))
    outputs = [folder / name for name in ("cohort.json", "cohort.html", "cohort_cases.json")]
    overwriting.require_apart({"--manifest": [listed, *manifest.files]}, {"--site_folder": outputs})
    # Closed to other accounts only now: before the check above, it could be the scans' folder.
    experiment_flags.site_folder(_SITE_FOLDER, make=True)

    def keep(found: list[survey.CheckFinding], *, finished: bool = False) -> None:
        atomic.write_json(
            folder / "cohort_cases.json",
            check_page.document(manifest.site, found, finished=finished),
        )

    findings = survey.survey(manifest, workers=FLAGS.workers or processors.available(), each=keep)
    keep(findings, finished=True)
    report = cohort.summarise(manifest.site, findings, _splits(folder / "cases"), manifest.declared)
    print(cohort_page.text_table([report]))
    print(cohort_page.text_histograms([report]))
    note = cohort.told_by_difference(_earlier(folder / "cohort.json"), report)
    atomic.write_json(folder / "cohort.json", report)
    atomic.write_text(folder / "cohort.html", cohort_page.page([report]))
    print(f"report: {folder / 'cohort.json'}; as a page: {folder / 'cohort.html'}")
    if note:
        print(note)
    refused = sum(not finding.usable for finding in findings)
    if refused:
        print(
            f"{refused} of {len(findings)} cases were refused and are not in the report; for the "
            f"reasons see {folder / 'cohort_cases.json'}"
        )
    return int(FLAGS.strict and refused > 0)


def _earlier(path: pathlib.Path) -> Any:
    try:
        return atomic.read_json(path)
    except (OSError, ValueError):
        return None


def _splits(root: pathlib.Path) -> dict[str, int] | None:
    from preprocessing.case_store import CaseStore

    if not (root / "index.json").exists():
        return None
    return {name: len(ids) for name, ids in CaseStore(root).splits.items()}


if __name__ == "__main__":
    program.run(main, required=["manifest", "site_folder"])
