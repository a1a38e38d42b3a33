"""Reproduces Table 1 from scratch: synthetic cohort, baselines, federation, evaluation, report.

    python -m experiments.table1 --flagfile=experiments/flagfiles/demo.flags --seed=1 --runs=runs

Give the flag file of a profile: the default settings are the paper's, which take weeks without its
GPUs. --profile by itself only names the settings.

Each stage runs the same programs as a real federation, in separate processes that communicate over
TLS only. Stop it at any time; run the same command again to resume.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

from absl import app, flags

from experiments import flags as experiment_flags
from experiments import program, setting_flags
from experiments.configuration import ExperimentConfig
from experiments.run import run_cost, run_plan
from experiments.run.run_cost import minutes
from preprocessing.phantom.config import CohortConfig
from runkit import folder_lock, private, settings
from runkit.settings import at_least, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoHospitals:
    """The synthetic cohorts of C1 and C2, and the processor time that each site may take."""

    cases_c1: int = setting(30, "Number of synthetic cases at C1.", condition=at_least(1))
    cases_c2: int = setting(34, "Number of synthetic cases at C2.", condition=at_least(1))
    split_c1: tuple[int, int, int] = setting(
        (18, 6, 6), "Numbers of C1's cases for training,validation,test."
    )
    split_c2: tuple[int, int, int] = setting(
        (20, 7, 7), "Numbers of C2's cases for training,validation,test."
    )
    phantom: str = settings.same_as(CohortConfig, "phantom")
    threads_per_site: int = setting(
        1,
        "TensorFlow threads per site; the sites train at the same time.",
        condition=at_least(1),
    )

    def __post_init__(self):
        settings.check(self)


_FLAGFILES = pathlib.Path(__file__).with_name("flagfiles")

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
flags.DEFINE_string("runs", "runs", "Folder of runs; this one is written to <runs>/<profile>.")
setting_flags.define(TwoHospitals)


def main(argv: list[str]) -> None:
    del argv
    config = experiment_flags.experiment_config()
    hospitals = experiment_flags.settings_of(TwoHospitals)
    folder = pathlib.Path(FLAGS.runs) / config.profile
    spec = run_plan.RunSpec(
        config=config,
        flags_text=experiment_flags.experiment_flags_text(),
        folder=folder,
        cohorts=folder / "cohort",
        sites=tuple(
            run_plan.SiteSpec(
                name=site,
                cohort={site: cases},
                cohort_seed=config.seed,
                phantom=hospitals.phantom,
                split=split,
            )
            for site, cases, split in (
                ("C1", hospitals.cases_c1, hospitals.split_c1),
                ("C2", hospitals.cases_c2, hospitals.split_c2),
            )
        ),
        threads_per_site=hospitals.threads_per_site,
        notes=(_cohort_note(hospitals),),
    )
    budget = run_cost.estimated_seconds(spec)
    need = (
        f"about {run_cost.duration(sum(budget.values()))} on two cores and "
        f"{run_cost.disk_bytes(spec) / 2**30:.1f} GiB of disk"
    )
    if not FLAGS["profile"].present or _only_a_name(config):
        given = (
            f"--profile={config.profile} only names the settings, and these are the paper's"
            if FLAGS["profile"].present
            else "no profile is given, and the default settings are the paper's"
        )
        raise app.UsageError(
            f"{given}: {need}. Use --flagfile=experiments/flagfiles/demo.flags for a table in "
            "about 15 minutes, or --flagfile=experiments/flagfiles/paper.flags to start the paper's"
        )
    from experiments.run import run_folder as run_folders
    from experiments.run import stages as run_stages

    folder_lock.hold(private.make(folder))
    run = run_folders.RunFolder(folder, spec.flags_text + _own_flags_text())
    print(f"Table 1, profile {config.profile}, seed {config.seed}, in {folder}; {need}:")
    for name, seconds in budget.items():
        print(f"  {name:40s} {minutes(seconds)}")
    run_stages.Stages(spec, run).table1()
    print((folder / "table1.md").read_text(encoding="utf-8"))
    peak = run.state["peak_memory_bytes"]
    print(f"Figures: {folder / 'figures'}. Peak memory of all processes: {peak / 2**30:.1f} GiB.")


def _only_a_name(config: ExperimentConfig) -> bool:
    """Returns whether a run has the name of another profile, but the paper's settings."""
    paper = ExperimentConfig()
    if config.profile == paper.profile or not (_FLAGFILES / f"{config.profile}.flags").is_file():
        return False
    return dataclasses.replace(config, profile=paper.profile, seed=paper.seed) == paper


def _own_flags_text() -> str:
    names = ["cases_c1", "cases_c2", "split_c1", "split_c2", "threads_per_site"]
    if FLAGS.phantom != "standard":  # otherwise as in earlier releases, so their runs can resume
        names.append("phantom")
    return "".join(
        f"--{name}={json.dumps(getattr(FLAGS, name))}\n".replace(" ", "") for name in names
    )


def _cohort_note(hospitals: TwoHospitals) -> str:
    counts = "; ".join(
        f"{site} {'/'.join(map(str, split))}"
        for site, split in (("C1", hospitals.split_c1), ("C2", hospitals.split_c2))
    )
    kind = "" if hospitals.phantom == "standard" else f"{hospitals.phantom} "
    return (
        f"Data: {kind}synthetic cohort, training/validation/test {counts} (paper: real CT, "
        "C1 252/84/84; C2 286/100/100)."
    )


if __name__ == "__main__":
    program.run(main, resumes=True)
