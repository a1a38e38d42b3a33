"""Makes the cohort of a synthetic hospital: CTs with labels as NIfTI files, and their manifest.

python -m experiments.synthesize --site=C2 --cases=20 --seed=1 --output=cohort/C2
"""

from __future__ import annotations

from absl import flags

from experiments import flags as experiment_flags
from experiments import program, program_help, setting_flags
from preprocessing.phantom.config import CohortConfig

FLAGS = flags.FLAGS
with program_help.group("Cohort"):
    setting_flags.define(CohortConfig)
flags.DEFINE_integer(
    "workers",
    1,
    "Cases to make at the same time, each in a process of about 0.5 GB at the demo's spacings; 0 "
    "uses one per processor. If the free memory is too small for them, fewer are made at a time.",
)
flags.DEFINE_string("output", None, "Folder to write the cohort to.")


def main(argv: list[str]) -> None:
    del argv
    from preprocessing.phantom import phantom

    config = experiment_flags.settings_of(CohortConfig)
    manifest = phantom.generate_cohort(
        config,
        experiment_flags.required("output", "the folder to write the cohort to"),
        workers=FLAGS.workers,
    )
    print(f"{config.cases} cases of {config.site}: {manifest}")


if __name__ == "__main__":
    program.run(main, required=["output"])
