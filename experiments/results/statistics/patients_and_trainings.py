"""Interval, test and power of a number that varies between patients and between trainings.

Each training has its own seed, and with it its own initial weights, order of patches and, in a
synthetic study, patients. Results vary between trainings although the method is the same, so even
many patients cannot show what the next training would give. There are two designs.

* Every training has its own patients. The mean of each training is one value. Student's t over
  these values covers all variation, including that between patients, with one degree of freedom
  fewer than there are trainings. By chance, three means may lie closer together than their patients
  suggest; if the stratified interval over patients is wider, it is used instead.
* All trainings are tested on the same patients, whose variation does not show between trainings.
  The variance of the patients' means (each over the trainings) and that of the trainings' means are
  added, with degrees of freedom by Welch and Satterthwaite. The effect of one training on one
  patient is in both, so the sum errs towards a wider interval (Owen 2007).

With equal numbers of patients a mixed model gives the same result, and with two degrees of freedom
its likelihood is no better. A bootstrap of three trainings has only ten different resamples. Both
designs are simulated in tests/benchmarks/verdict_rates.py.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.results.statistics import intervals
from experiments.results.statistics.intervals import LEVEL, Mean

LEAST_TRAININGS = 3
OWN, SAME = "own patients in every training", "the same patients in every training"
# The lowest coverage in simulated studies with 6 or 7 patients per site; see docs/verdicts.md.
COVERAGE = {OWN: 0.95, SAME: 0.93, "share": 0.99}


@dataclasses.dataclass(frozen=True)
class Evidence:
    """An estimate with one or two sources of spread.

    Its interval is the widest of its parts' intervals and its p the largest, so that they agree.
    """

    parts: tuple[Mean, ...]

    @property
    def estimate(self) -> np.ndarray:
        return self.parts[0].estimate

    @property
    def has_spread(self) -> np.ndarray:
        """False if all trainings gave exactly the same number: then nothing can be judged."""
        return np.asarray(self.parts[0].error) > 0

    def ends(self, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        lows, highs = zip(*(part.ends(level) for part in self.parts), strict=True)
        return np.minimum.reduce(lows), np.maximum.reduce(highs)

    def p(self, null: float = 0.0) -> np.ndarray:
        first, *others = self.parts
        # Patients who are all alike in every training add no spread of their own.
        return np.maximum.reduce(
            [
                first.p(null),
                *(np.where(np.asarray(part.error) > 0, part.p(null), 0.0) for part in others),
            ]
        )

    def detectable(self, level: float = LEVEL, power: float = 0.8) -> float:
        """Returns the smallest true distance that such a study detects with this power."""
        return max(part.detectable(level, power) for part in self.parts)


def evidence(trainings: np.ndarray, patients: Mean | None, design: str) -> Evidence:
    """Returns the evidence from the trainings' means and the patients' spread together.

    Args:
      trainings: [..., K], the estimate of each training; at least two.
      patients: the estimate as a combination of patients, after averaging each patient over the
        trainings that share it; None if there are too few patients to show a spread.
      design: OWN or SAME.
    """
    trainings = np.asarray(trainings, dtype=float)
    between = intervals.combination([(1.0, trainings)])
    if between is None:
        raise ValueError(f"{trainings.shape[-1]} training; expected at least two")
    # Three values are too few to estimate a skewness.
    between = dataclasses.replace(between, skewness=np.zeros_like(between.error))
    if patients is None:
        return Evidence((between,))
    # Both parts refer to the mean of the trainings, in which all have equal weight.
    patients = dataclasses.replace(patients, estimate=between.estimate)
    if design == OWN:
        return Evidence((between, patients))
    variance = between.error**2 + patients.error**2
    known = variance > 0
    squares = between.error**4 / between.freedom + patients.error**4 / patients.freedom
    freedom = np.where(known, variance**2 / np.where(known, squares, 1.0), 1.0)
    error = np.sqrt(variance)
    skewness = (
        patients.skewness * np.where(known, patients.error / np.where(known, error, 1.0), 0.0) ** 3
    )
    return Evidence((Mean(between.estimate, error, freedom, skewness),))


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of patients, expressed as that of an equivalent number of independent patients.

    Attributes:
      estimate: the share.
      effective: the equivalent number of independent patients.
      most: the same without a design effect, e.g. if no patient is marked.
    """

    estimate: np.ndarray
    effective: np.ndarray | float
    most: float

    def ends(self, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        trials = np.asarray(self.effective)
        return intervals.binomial_ends(self.estimate * trials, trials, level)

    def p(self, share: float) -> np.ndarray:
        trials = np.asarray(self.effective)
        return intervals.binomial_p(self.estimate * trials, trials, share)


def share(trainings: np.ndarray, patients: int, design: str) -> Share:
    """Returns a share whose exact interval also covers trainings (Korn and Graubard 1998).

    The number of patients is divided by the design effect: the variance of the share over that of
    independent patients, but at least 1. It is also divided by the square of the ratio of Student's
    quantiles for the degrees of freedom of trainings and of patients.

    Args:
      trainings: [..., K], the share in each training.
      patients: number of different patients; in the design OWN, of all trainings together.
      design: OWN or SAME.
    """
    from scipy import stats

    trainings = np.asarray(trainings, dtype=float)
    count = trainings.shape[-1]
    estimate = trainings.mean(axis=-1)
    alone = estimate * (1 - estimate) / patients
    ratio = np.where(
        alone > 0, trainings.var(axis=-1, ddof=1) / count / np.where(alone > 0, alone, 1.0), 0.0
    )
    effect = np.maximum(ratio, 1.0) if design == OWN else 1.0 + ratio
    tail = (1 + LEVEL) / 2
    quantiles = stats.t.ppf(tail, max(patients - 1, 1)) / stats.t.ppf(tail, count - 1)
    most = patients * min(1.0, float(quantiles)) ** 2
    return Share(estimate, most / effect, most)
