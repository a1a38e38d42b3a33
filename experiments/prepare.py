"""Prepares a site's scans: RAS+, resampled, HU window, split into training, validation and test.

    python -m experiments.prepare --flagfile=experiments/flagfiles/demo.flags \\
        --manifest=cohort/C2/manifest.json --site_folder=sites/C2

With --check it prepares nothing: it checks the scans against the rules and writes a report with a
picture of each case.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from experiments import flags as experiment_flags
from experiments import program
from runkit import atomic, disk, folder_lock, overwriting, private, processors

if TYPE_CHECKING:
    from preprocessing.case_list import CaseManifest
    from preprocessing.checks import survey

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_site()
experiment_flags.define_orientation()
flags.DEFINE_string(
    "manifest", None, "The site's manifest.json, or a dataset.json in the format of MSD or nnU-Net."
)
flags.DEFINE_list(
    "split",
    None,
    "Numbers of cases for training,validation,test. Default: the paper's ratio for C1 and C2, "
    "60/20/20 for other sites. A site that only evaluates may use all for test, e.g. 0,0,12.",
)
flags.DEFINE_string(
    "split_list",
    None,
    "JSON file with the case ids for training, validation and test, e.g. from experiments/splits.",
)
flags.DEFINE_integer(
    "workers", 0, "Cases to prepare at the same time; 0 uses one per processor.", lower_bound=0
)
flags.DEFINE_float(
    "memory_gb",
    None,
    "Memory limit in GB for all processes together; a case waits until there is room for it. "
    "Default: four fifths of the free memory.",
)
flags.DEFINE_bool(
    "dry_run", False, "Only print the memory, disk space and time that the preparation needs."
)
flags.DEFINE_bool(
    "strict",
    True,
    "End with an error if a case is refused. The other cases are prepared either way.",
)
flags.DEFINE_bool(
    "check",
    False,
    "Only check the scans against the rules, with a report in <site_folder>/check. With --strict, "
    "the exit code is 1 if a case is refused.",
)

_SITE_FOLDER = "the folder of the site's prepared cases"


def main(argv: list[str]) -> int:
    del argv
    from preprocessing import manifest as manifests
    from preprocessing import splits
    from preprocessing.preparation import pipeline

    config = experiment_flags.experiment_config(without_training=True)
    listed = experiment_flags.required("manifest", "the site's list of scans")
    orientation = experiment_flags.orientation()
    manifest = manifests.read(listed, site=FLAGS.site, orientation=orientation)
    folder = pathlib.Path(experiment_flags.required("site_folder", _SITE_FOLDER))
    inputs = {
        "--manifest": [listed, *manifest.files],
        "--split_list": [FLAGS.split_list] if FLAGS.split_list else [],
    }
    if FLAGS.check:
        overwriting.require_apart(
            inputs,
            {"--site_folder": [folder / "check" / name for name in ("check.json", "check.html")]},
        )
        return _check(manifest, experiment_flags.site_folder(_SITE_FOLDER, make=True) / "check")
    overwriting.require_apart(inputs, {}, folders={"--site_folder": [folder / "cases"]})
    # Closed to other accounts only now: before the check above, it could be the scans' folder.
    experiment_flags.site_folder(_SITE_FOLDER, make=not FLAGS.dry_run)
    counts = experiment_flags.numbers("split", int, 3) if FLAGS.split else None
    how = {
        "target_mm": config.spacing_mm,
        "window_hu": config.window_hu,
        "workers": FLAGS.workers,
        "memory_bytes": None if FLAGS.memory_gb is None else int(FLAGS.memory_gb * 1e9),
    }
    budget = pipeline.estimate(manifest, folder / "cases", **how)
    print(budget)
    free = disk.free_bytes(folder)
    if free < budget.disk_bytes:
        print(
            f"warning: {folder} has only {free / 1e9:.1f} GB free; if the disk fills up, finished "
            "cases are kept"
        )
    if FLAGS.dry_run:
        return 0
    folder_lock.hold(private.make(folder / "cases"))
    store = pipeline.prepare(
        manifest,
        folder / "cases",
        **how,
        split_seed=config.seed,
        split_counts=counts,
        split_ratio=splits.PAPER_COUNTS.get(manifest.site, (0.6, 0.2, 0.2)),
        split_lists=atomic.read_json(FLAGS.split_list) if FLAGS.split_list else None,
        strict=FLAGS.strict,
    )
    shares = ", ".join(f"{len(store.case_ids(split))} {split}" for split in splits.SPLITS)
    print(f"site {store.site}: {shares}; case store {store.root}")
    if (store.root / "rejected.json").exists():
        refused = len(atomic.read_json(store.root / "rejected.json"))
        print(
            f"{refused} of {refused + len(store.case_ids())} cases were refused; for the reasons "
            f"see {store.root / 'rejected.json'}"
        )
    return 0


def _check(manifest: CaseManifest, folder: pathlib.Path) -> int:
    from experiments.reports import check_page
    from preprocessing.checks import survey

    def keep(found: list[survey.CheckFinding]) -> None:
        atomic.write_json(
            folder / "check.json", check_page.document(manifest.site, found, finished=False)
        )

    findings = survey.survey(manifest, workers=FLAGS.workers or processors.available(), each=keep)
    print(check_page.summary(findings))
    document, page = check_page.write(folder, manifest.site, findings)
    print(f"report: {document}; with pictures: {page}")
    return int(FLAGS.strict and any(not finding.usable for finding in findings))


if __name__ == "__main__":
    program.run(main, required=["manifest", "site_folder"], resumes=True)
