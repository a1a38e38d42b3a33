"""Runs a study: Table 1 for each seed and point, with intervals and verdicts over all runs.

    python -m experiments.study --study=experiments/studies/demo.json --runs=runs
    python -m experiments.study --study=experiments/studies/real_anatomy.json \\
        --data=folder_of_manifest --runs=runs

The cost is printed first (`--dry_run` stops there). Stop it at any time; run the same command again
to resume. If a run fails, the others continue, and the table shows the results so far. After each
run, <runs>/<name>/study.md, study.json and study.html are updated.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from absl import flags

from experiments import flags as experiment_flags
from experiments import program
from experiments.configuration import load_genotype
from experiments.run.run_plan import RunSpec
from experiments.studies import study_file
from federated.errors import PolicyRefused
from runkit import atomic, folder_lock, overwriting, private

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
flags.DEFINE_string("study", None, "Study file (.json).")
flags.DEFINE_string(
    "data",
    None,
    "Folder of the manifests that the study file names (make: DATA=...). Default: the study file's "
    "folder.",
)
flags.DEFINE_string("runs", "runs", "Folder of runs; the study is written to <runs>/<name>.")
flags.DEFINE_list("seeds", [], "Run only these of the study's seeds.")
flags.DEFINE_list("points", [], "Run only these of the study's points.")
flags.DEFINE_bool("dry_run", False, "Print the cost and exit.")
flags.DEFINE_bool("report_only", False, "Only write the report of the finished runs; start none.")


def main(argv: list[str]) -> int:
    del argv
    from experiments.studies import html_report, runner, study_results

    file = experiment_flags.required("study", "the study file, e.g. experiments/studies/demo.json")
    study = study_file.read(file, FLAGS.data)
    folder = pathlib.Path(FLAGS.runs) / study.name
    overwriting.require_apart(
        {"--study": [file]},
        {"--runs": [folder / f"study.{ending}" for ending in ("json", "md", "html")]},
    )
    specs = {
        (point.label, seed): study_file.run_spec(
            study, point, seed, folder, experiment_flags.parse_experiment
        )
        for point, seed in study.runs()
    }
    chosen = {key: spec for key, spec in specs.items() if _chosen(*key)}
    if not chosen:
        raise ValueError(
            f"--points={','.join(FLAGS.points)} --seeds={','.join(FLAGS.seeds)}: the study has no "
            "such run"
        )
    warnings = []
    if not FLAGS.report_only:
        _check_policies(chosen)
        warnings = _of_copies(chosen)
    print(runner.cost_text(study, folder, chosen), flush=True)
    for line in [*_bad_sites(study), *warnings]:
        print(f"  {line}", flush=True)
    if FLAGS.dry_run:
        return 0
    if not FLAGS.report_only:
        folder_lock.hold(private.make(folder))
    configs = {key: spec.config for key, spec in specs.items()}

    def write() -> None:
        content = study_results.collect(study, folder, configs)
        study_results.write(folder, content)
        atomic.write_text(folder / "study.html", html_report.study_page(content, folder))

    failures = [] if FLAGS.report_only else runner.run(study, chosen, after_each=write)
    write()
    print((folder / "study.md").read_text(encoding="utf-8"))
    print(f"As a page: {folder / 'study.html'}")
    for failure in failures:
        print(f"failed: {failure}")
    return 1 if failures else 0


def _bad_sites(study: study_file.Study) -> list[str]:
    bad = dict.fromkeys(site for point in study.points for site in point.fault)
    if not bad:
        return []
    return [f"EXPERIMENT: {', '.join(bad)} is bad on purpose in the points that name a fault"]


def _check_policies(chosen: Mapping[tuple[str, int], RunSpec]) -> None:
    """Raises ValueError for a privacy policy that its site would refuse when it starts."""
    for (label, _), spec in chosen.items():
        # At most as many values as an update has; the exact number needs the network. Only the cost
        # of 'svt' depends on it: it grows with the number, so no policy is refused wrongly.
        values = 1 if spec.config.share_rules else load_genotype(spec.config).conv_weights()
        for site in spec.sites:
            try:
                site.privacy.check_budget(values)
                if site.counts is not None:
                    site.privacy.check_delta(site.counts[0])
            except PolicyRefused as error:
                raise ValueError(f"point {label}, site {site.name}: {error}") from error


def _of_copies(chosen: Mapping[tuple[str, int], RunSpec]) -> list[str]:
    """Returns remarks on the deformed copies; raises ValueError if their manifest is missing."""
    from preprocessing import manifest
    from preprocessing.deformed import deformed_cohort
    from preprocessing.deformed.config import DeformedConfig

    found: dict[str, None] = {}
    for spec in chosen.values():
        copied = {site.name: site for site in spec.sites if site.deformed is not None}
        if not copied:
            continue
        path = copied["C1"].deformed
        if path is None or not path.exists():
            raise ValueError(
                f"{path}: does not exist; give the folder of your manifest of CTs as --data (make: "
                "DATA=...); experiments.list_cases writes a manifest"
            )
        listed = manifest.read(path)
        splits = {
            f"split_{name.lower()}": site.split
            for name, site in copied.items()
            if site.split is not None
        }
        config = DeformedConfig(seed=spec.config.seed, **splits)
        lines = [f"copies for one seed: {deformed_cohort.need(listed, config, 2)}"]
        found |= dict.fromkeys(
            [*lines, *deformed_cohort.notes([case.case_id for case in listed.included], config)]
        )
    return list(found)


def _chosen(label: str, seed: int) -> bool:
    return (not FLAGS.points or label in FLAGS.points) and (
        not FLAGS.seeds or str(seed) in FLAGS.seeds
    )


if __name__ == "__main__":
    program.run(main, required=["study"], resumes=True)
