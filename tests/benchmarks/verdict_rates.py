"""Measures the study's rules on simulated studies: false verdicts, coverage of intervals, power.

    .venv/py3.11/bin/python -m tests.benchmarks.verdict_rates

It prints as Markdown: the interval of a mean over patients; verdicts with trainings that vary by
0, 3 and 8 points (standard deviation) and patients by 10 and 20, with three and five trainings and
6 or 7 patients per site; the same for shares of patients; and the differences that a study can
detect. The numbers in docs/verdicts.md come from here. Rates are over REPETITIONS simulated
studies, before Holm's correction, which makes verdicts rarer. It takes half a minute on one core,
and the same seed gives the same tables.

A false verdict is a verdict at the boundary of the rule: no difference for "greater" and "less",
exactly the margin for "not less" and "bound", exactly the limit for "gone" and "zero".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from experiments.results.statistics import intervals
from experiments.results.statistics import patients_and_trainings as two
from experiments.results.verdicts import claim_verdicts, claims
from runkit.randomness import generator
from tests.benchmarks import side_by_side

REPETITIONS = 20_000
PARTS = sum(len(hypothesis.parts) for hypothesis in claims.HYPOTHESES)
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _lump(share: float) -> Draw:
    """Draws Dice-like values.

    A share of the cases is 0; the others are 0.67 on average with a standard deviation of 0.13.
    """
    return lambda rng, shape: np.where(rng.random(shape) < share, 0.0, rng.beta(8, 4, shape))


# name -> (draws, true mean)
DISTRIBUTIONS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, shape: rng.normal(size=shape), 0.0),
    "skewed: Dice near 1, Beta(5, 1), skewness -1.2": (
        lambda rng, shape: rng.beta(5, 1, shape),
        5 / 6,
    ),
    "skewed: Gamma(2), skewness 1.4": (lambda rng, shape: rng.gamma(2, size=shape), 2.0),
    "skewed: exponential, skewness 2": (lambda rng, shape: rng.exponential(size=shape), 1.0),
    "lumped: 4 in 10 at 0": (_lump(0.4), 0.6 * 2 / 3),
    "lumped: 5 in 10 at 0": (_lump(0.5), 0.5 * 2 / 3),
    "lumped: 6 in 10 at 0": (_lump(0.6), 0.4 * 2 / 3),
    "lumped: 5 in 10 differences exactly 0": (
        lambda rng, shape: np.where(rng.random(shape) < 0.5, 0.0, rng.normal(0.5, 1, shape)),
        0.25,
    ),
}
# Distributions where no method that looks at the values alone can cover: the values that decide the
# mean are often not in the sample.
BEYOND: dict[str, tuple[Draw, float]] = {
    "lumped: 2 in 10 at 0": (_lump(0.2), 0.8 * 2 / 3),
    "lumped: 1 in 20 at 0, the others 0.80 to 0.85": (
        lambda rng, shape: np.where(rng.random(shape) < 0.05, 0.0, rng.uniform(0.8, 0.85, shape)),
        0.95 * 0.825,
    ),
    "skewed: log-normal, skewness 6": (
        lambda rng, shape: np.exp(rng.normal(size=shape)),
        float(np.exp(0.5)),
    ),
}
STRATA = {"6": (6,), "13": (13,), "6 + 7": (6, 7), "39": (39,), "3 x (6 + 7)": (6, 7) * 3}


def mean_coverage(
    draw: Draw, truth: float, sizes: Sequence[int], repetitions: int = REPETITIONS, seed: int = 1
) -> tuple[float, float]:
    """Returns the coverage of intervals of a mean, and their width.

    Returns:
      The share of intervals that contain the mean; their average width divided by that of plain
      Student's t.
    """
    rng = generator(seed, "coverage", *map(int, sizes))
    total = sum(sizes)
    mean = intervals.combination([(n / total, draw(rng, (repetitions, n))) for n in sizes])
    low, high = mean.ends()
    plain = dataclasses.replace(mean, skewness=np.zeros_like(mean.error)).ends()
    spread = mean.error > 0
    held = spread & (low <= truth) & (truth <= high)
    return float(held.mean()), float(((high - low)[spread] / (plain[1] - plain[0])[spread]).mean())


def study(
    truth: float,
    *,
    training_sd: float,
    patient_sd: float,
    trainings: int,
    sizes: Sequence[int],
    design: str,
    shape: str = "normal",
    interaction_sd: float = 5.0,
    repetitions: int = REPETITIONS,
    seed: int = 1,
) -> two.Evidence:
    """Returns the evidence of `repetitions` studies, all in points.

    Args:
      truth: mean over all patients and trainings.
      sizes: number of patients of a training by site, e.g. 6 and 7.
      shape: distribution of the differences between patients: "normal", "skewed" (exponential) or
        "lumped" (half of them 0).
      interaction_sd: standard deviation of a patient's deviation in one training; used if trainings
        share their patients.
    """
    rng = generator(seed, "study", design, shape, trainings, *map(int, sizes))
    effects = rng.normal(0.0, training_sd, (repetitions, trainings))
    total = sum(sizes)

    def patients(*dims: int) -> np.ndarray:
        if shape == "skewed":
            return patient_sd * (rng.exponential(size=(repetitions, *dims)) - 1)
        if shape == "lumped":
            return (
                patient_sd
                * np.sqrt(2)
                * np.where(
                    rng.random((repetitions, *dims)) < 0.5,
                    0.0,
                    rng.normal(size=(repetitions, *dims)),
                )
            )
        return rng.normal(0.0, patient_sd, (repetitions, *dims))

    if design == two.OWN:
        drawn = [patients(trainings, n) + effects[..., None] + truth for n in sizes]
        strata = [
            (n / total / trainings, own[:, k])
            for n, own in zip(sizes, drawn, strict=True)
            for k in range(trainings)
        ]
    else:
        drawn = [
            patients(1, n)
            + rng.normal(0.0, interaction_sd, (repetitions, trainings, n))
            + effects[..., None]
            + truth
            for n in sizes
        ]
        strata = [(n / total, own.mean(axis=1)) for n, own in zip(sizes, drawn, strict=True)]
    means = sum(own.sum(axis=-1) for own in drawn) / total
    return two.evidence(means, intervals.combination(strata), design)


def verdicts(found: two.Evidence, null: float = 0.0) -> tuple[float, float]:
    """Returns the shares of intervals that lie above and below `null`."""
    low, high = found.ends()
    return float((low > null).mean()), float((high < null).mean())


def shares(
    truth: float,
    *,
    training_sd: float,
    trainings: int,
    patients: int,
    design: str,
    repetitions: int = REPETITIONS,
    seed: int = 1,
) -> two.Share:
    """Returns the shares of marked patients of `repetitions` studies.

    The share of each training is beta distributed around the truth.
    """
    rng = generator(seed, "shares", design, trainings, patients)
    dims = (repetitions, trainings)
    if training_sd:
        size = truth * (1 - truth) / training_sd**2 - 1
        own = rng.beta(truth * size, (1 - truth) * size, dims)
    else:
        own = np.full(dims, truth)
    if design == two.OWN:
        return two.share(rng.binomial(patients, own) / patients, patients * trainings, design)
    ease = rng.random(
        (repetitions, 1, patients)
    )  # a patient who is easily marked is so in every training
    return two.share((ease < own[..., None]).mean(axis=-1), patients, design)


def detectable(
    trainings: int, patients: int, training_sd: float, patient_sd: float = 15.0
) -> tuple[float, float]:
    """Returns the smallest differences that are found with 80 % power.

    One is for a claim alone, one for Holm's strictest step over PARTS.
    """
    error = ((training_sd**2 + patient_sd**2 / patients) / trainings) ** 0.5
    mean = intervals.Mean(np.zeros(()), np.array(error), np.array(trainings - 1.0), np.zeros(()))
    return mean.detectable(), mean.detectable(1 - claim_verdicts.ALPHA / PARTS)


def main() -> None:
    side_by_side.no_arguments(__doc__)
    percent = "{:.1f} %".format
    print(
        f"\nCoverage of the 95 % interval of a mean, {REPETITIONS} samples each; "
        "in brackets its width over plain Student's t\n"
    )
    print("| values | " + " | ".join(STRATA) + " |\n|---|" + "---:|" * len(STRATA))
    for name, (draw, truth) in {
        **DISTRIBUTIONS,
        **{f"beyond reach: {n}": v for n, v in BEYOND.items()},
    }.items():
        cells = [mean_coverage(draw, truth, sizes) for sizes in STRATA.values()]
        print(f"| {name} | " + " | ".join(f"{percent(100 * c)} ({w:.2f})" for c, w in cells) + " |")
    for design in (two.OWN, two.SAME):
        print(
            f"\nVerdicts on a difference, {design}: false verdicts (either way), coverage, "
            "and how often a true difference is found\n"
        )
        print(
            "| trainings | training sd | patient sd | patients | shape | "
            "false | coverage | 10 points | 20 points | 40 points |"
        )
        print("|---:|---:|---:|---|---|---:|---:|---:|---:|---:|")
        for trainings in (3, 5):
            for training_sd in (0.0, 3.0, 8.0):
                for patient_sd, sizes, shape in (
                    (10.0, (6, 7), "normal"),
                    (20.0, (6, 7), "normal"),
                    (20.0, (6,), "normal"),
                    (20.0, (6,), "skewed"),
                    (20.0, (6, 7), "skewed"),
                    (20.0, (6,), "lumped"),
                ):
                    how = {
                        "training_sd": training_sd,
                        "patient_sd": patient_sd,
                        "trainings": trainings,
                        "sizes": sizes,
                        "design": design,
                    }
                    false = sum(verdicts(study(0.0, **how, shape=shape)))
                    found = [
                        verdicts(study(difference, **how, shape=shape))[0]
                        for difference in (10.0, 20.0, 40.0)
                    ]
                    row = [trainings, training_sd, patient_sd, " + ".join(map(str, sizes)), shape]
                    print(
                        "| "
                        + " | ".join(
                            [
                                *map(str, row),
                                *(percent(100 * v) for v in (false, 1 - false, *found)),
                            ]
                        )
                        + " |"
                    )
    limit = claims.LIMIT_SHARE
    print(
        f"\nVerdicts on a share with the limit {limit:.0%}: false at the limit; "
        "right at a true share of 60 % and of 0.1 %\n"
    )
    print(
        "| design | trainings | training sd | patients | "
        "false | contradicted at 60 % | supported at 0.1 % |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for design in (two.OWN, two.SAME):
        for trainings in (3, 5):
            for training_sd in (0.0, 0.03, 0.08):
                for patients in (6, 7, 84):
                    how = {"trainings": trainings, "patients": patients, "design": design}
                    false = float(
                        (shares(limit, training_sd=training_sd, **how).p(limit) < 0.05).mean()
                    )
                    low, _ = shares(0.6, training_sd=training_sd, **how).ends()
                    _, high = shares(0.001, training_sd=0.0, **how).ends()
                    cells = [
                        percent(100 * v)
                        for v in (false, (low > limit).mean(), (high < limit).mean())
                    ]
                    print(
                        f"| {design} | {trainings} | {100 * training_sd:.0f} | {patients} | "
                        + " | ".join(cells)
                        + " |"
                    )

    print(
        f"\nSmallest difference shown with 80 % power, alone and after Holm over {PARTS} parts, "
        "patients vary by 15 points\n"
    )
    print(
        "| trainings | patients of each | 3 points | 5 points | 8 points |\n"
        "|---:|---:|---:|---:|---:|"
    )
    for trainings in (3, 5, 10):
        for patients in (13, 6):
            cells = [
                detectable(trainings, patients, training_sd) for training_sd in (3.0, 5.0, 8.0)
            ]
            print(
                f"| {trainings} | {patients} | "
                + " | ".join(f"{alone:.1f} ({after:.1f})" for alone, after in cells)
                + " |"
            )
    print(
        "\nUpper end of a share where no patient is marked\n\n"
        "| design | trainings | patients in all | "
        "upper end |\n|---|---:|---:|---:|"
    )
    for trainings, patients, design in (
        *((k, 6 * k, two.OWN) for k in (3, 5, 10, 20)),
        *((k, 84, two.SAME) for k in (3, 5, 10, 20)),
    ):
        _, high = two.share(np.zeros(trainings), patients, design).ends()
        print(f"| {design} | {trainings} | {patients} | {percent(100 * float(high))} |")


if __name__ == "__main__":
    main()
