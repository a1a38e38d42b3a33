"""Makes a synthetic hospital: CT volumes with labels and a manifest, as NIfTI files.

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
    "Which hospital: C1 is healthy with an inflated stomach and thin slices, C2 has a tumour in every case.",
)
flags.DEFINE_enum(
    "phantom",
    "standard",
    ["standard", "hard"],
    "'hard' has tumours from 2 ml and from 15 HU below the organ, one in nine of them iso-dense, the noise of a real scan, and the same contents "
    "of stomach and bowel at both hospitals. docs/data.md says what each of them can show.",
)
flags.DEFINE_integer("cases", 10, "Number of cases.")
flags.DEFINE_integer("seed", 1, "Seed; the same seed gives the same files.")
flags.DEFINE_enum(
    "spacings",
    "demo",
    ["demo", "paper"],
    "'paper' draws from the paper's full spacing ranges (slices down to 0.16 mm: large files).",
)
flags.DEFINE_integer("workers", 1, "Cases made at the same time.")
flags.DEFINE_string("output", None, "Folder of the cohort.")


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
