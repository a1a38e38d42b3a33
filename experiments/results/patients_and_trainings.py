"""What a study can say of a number that varies between patients and between trainings: interval,
test, power. Arrays in, values out.

A training is a seed: its initial weights, its order of patches and, in a synthetic study, its own
patients. Its number varies although nothing in the method does, so patients alone, however many,
cannot say what the next training would give. There are two designs.

* Every training has patients of its own. The mean of each training is one value; Student's t over
  them holds whatever varies, patients included, with one degree of freedom less than there are
  trainings. Three means may lie together by luck, closer than their patients can make them: the
  interval is then that of the patients, stratified, if it is wider.
* All trainings are tested on the same patients. What they share does not show between trainings:
  the variances of the patients' means (each over the trainings) and of the trainings' means add up,
  degrees of freedom by Welch and Satterthwaite. What one patient does in one training is in both,
  so the sum errs towards a wider interval (Owen 2007).

A mixed model gives the same with equal numbers of patients, and with two degrees of freedom its
likelihood has no better answer. A bootstrap of three trainings has ten different resamples. Both
designs are simulated in tests/benchmarks/verdict_rates.py.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.results import intervals
from experiments.results.intervals import LEVEL, Mean

LEAST_TRAININGS = 3
OWN, SAME = "own patients in every training", "the same patients in every training"
# the lowest of the simulated studies with 6 or 7 patients a site; docs/verdicts.md says where it is
# reached
COVERAGE = {OWN: 0.95, SAME: 0.93, "share": 0.99}


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A number with all that it varies by. Its interval is the widest of its parts', its p the
    largest; the two agree.
    """

    parts: tuple[Mean, ...]

    @property
    def estimate(self) -> np.ndarray:
        return self.parts[0].estimate

    @property
    def has_spread(self) -> np.ndarray:
        """False where all trainings gave the same number, to the bit: there is nothing then to
        judge a difference by.
        """
        return np.asarray(self.parts[0].error) > 0

    def ends(self, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        lows, highs = zip(*(part.ends(level) for part in self.parts), strict=True)
        return np.minimum.reduce(lows), np.maximum.reduce(highs)

    def p(self, null: float = 0.0) -> np.ndarray:
        return np.maximum.reduce([part.p(null) for part in self.parts])

    def detectable(self, level: float = LEVEL, power: float = 0.8) -> float:
        """Returns the smallest true distance that a study with this spread shows in `power` of its
        repetitions.
        """
        return max(part.detectable(level, power) for part in self.parts)


def evidence(trainings: np.ndarray, patients: Mean | None, design: str) -> Evidence:
    """Returns what the means of the trainings and the spread of the patients say together.

    Args:
      trainings: [..., K], each training's own estimate; at least two.
      patients: the estimate as a combination of patients, each patient's value averaged over the
        trainings that share it; None where too few patients show a spread.
      design: OWN or SAME.
    """
    trainings = np.asarray(trainings, dtype=float)
    between = intervals.combination([(1.0, trainings)])
    between = dataclasses.replace(
        between, skewness=np.zeros_like(between.error)
    )  # of three values none can be told
    if patients is None:
        return Evidence((between,))
    # both parts are about the trainings' mean, each training counting alike
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
    """A share of patients, as so many of so many that vary by themselves.

    Attributes:
      effective: how many such patients those of the study are worth.
      most: the same without a design effect, as where none is marked.
    """

    estimate: np.ndarray
    effective: np.ndarray
    most: float

    def ends(self, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        return intervals.binomial_ends(self.estimate * self.effective, self.effective, level)

    def p(self, share: float) -> np.ndarray:
        return intervals.binomial_p(self.estimate * self.effective, self.effective, share)


def share(trainings: np.ndarray, patients: int, design: str) -> Share:
    """Returns a share with the patients' exact interval, made wider by what trainings vary (Korn
    and Graubard 1998).

    The number of patients is divided by the design effect, the variance of the share over that of
    independent patients (never below 1), and by the square of Student's quantile for the trainings'
    degrees of freedom over that for the patients'.

    Args:
      trainings: [..., K], the share in each training.
      patients: how many different ones there are: all trainings' together in the design OWN.
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
