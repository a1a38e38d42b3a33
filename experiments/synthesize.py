"""Makes the cohort of a synthetic hospital: CTs with labels as NIfTI files, and their manifest.

python -m experiments.synthesize --site=C2 --cases=20 --seed=1 --output=cohort/C2
"""

from __future__ import annotations

from absl import flags

from experiments import flags as experiment_flags

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "site",
    "C1",
    ["C1", "C2"],
    "Hospital to imitate: C1 has healthy patients with an inflated stomach and thin slices; C2 "
    "has a tumour in every case.",
)
flags.DEFINE_enum(
    "phantom",
    "standard",
    ["standard", "hard"],
    "Kind of patients. 'hard' has smaller and fainter tumours (from 2 ml; 15 HU below the organ "
    "or, in one of nine, as dense as it), the noise of a real scan, and the same contents of "
    "stomach and bowel at both hospitals; see docs/data.md.",
)
flags.DEFINE_integer("cases", 10, "Number of cases.")
flags.DEFINE_integer("seed", 1, "Random seed; the same seed gives the same files.")
flags.DEFINE_enum(
    "spacings",
    "demo",
    ["demo", "paper"],
    "Voxel spacings to draw from. 'paper' uses the paper's full ranges, with slices down to 0.16 "
    "mm and thus large files.",
)
flags.DEFINE_integer("workers", 1, "Cases to make at the same time.")
flags.DEFINE_string("output", None, "Folder to write the cohort to.")


def main(argv: list[str]) -> None:
    del argv
    from preprocessing.phantom import phantom

    config = phantom.CohortConfig(
        site=FLAGS.site,
        cases=FLAGS.cases,
        seed=FLAGS.seed,
        phantom=FLAGS.phantom,
        spacings=FLAGS.spacings,
    )
    manifest = phantom.generate_cohort(
        config,
        experiment_flags.required("output", "the folder to write the cohort to"),
        workers=FLAGS.workers,
    )
    print(f"{FLAGS.cases} cases of {FLAGS.site}: {manifest}")


if __name__ == "__main__":
    experiment_flags.run(main, required=["output"])
