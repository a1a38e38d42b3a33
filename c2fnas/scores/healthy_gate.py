"""The healthy gate: a threshold on a patient's tumour score.

A marked tumour whose score does not exceed the threshold counts as a false alarm and is removed
from the mask. Its voxels become background, because a false tumour outside the organ is not
pancreas either; the pancreas of the mask is unchanged.

The gate is fitted on patients who are known to be healthy, as in split conformal prediction: the
threshold is the k-th smallest of n scores, k = ceil((n + 1)(1 - share)). The score of another
healthy patient like those then exceeds it with a probability of at most 1 - k/(n + 1) <= share,
whatever the distribution of the scores (Vovk et al. 2005; Angelopoulos and Bates 2021). With six
patients and a share of a fifth, the threshold is the highest of the six scores and the probability
one seventh. This is an expectation over the patients that the gate was fitted on, not a bound for
one clinic. The gate guarantees nothing about real tumours; the `..._gated` rows of a table measure
those.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from c2fnas.scores.tumour_score import CLASS

VERSION = 1
RULE = "log_odds_1ml"  # the score that is compared with the threshold, see tumour_score
SHARE = 0.2  # share of healthy patients who may keep a false tumour


@dataclasses.dataclass(frozen=True, kw_only=True)
class HealthyGate:
    """A fitted gate.

    Attributes:
      threshold: a score up to and including this value counts as a false alarm.
      patients: number of healthy patients on whom the gate was fitted.
      share: share of healthy patients allowed above the threshold.
    Raises:
      ValueError: for values that a fit cannot produce.
    """

    threshold: float
    patients: int
    share: float = SHARE

    def __post_init__(self) -> None:
        for name in ("threshold", "patients", "share"):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not math.isfinite(value)
            ):
                raise ValueError(f"the gate's {name} is {value!r}; expected a finite number")
        if (
            self.threshold < 0
            or not 0 < self.share < 1
            or not 1 <= _rank(self.patients, self.share) <= self.patients
        ):
            raise ValueError(
                f"a gate of threshold {self.threshold}, {self.patients} patients and share "
                f"{self.share} cannot have been fitted; fit it again"
            )

    @property
    def expected_share(self) -> float:
        """The largest expected share of other healthy patients above the threshold.

        The expectation is over all draws of patients.
        """
        return 1.0 - _rank(self.patients, self.share) / (self.patients + 1)

    def stops(self, score: float) -> bool:
        """Returns whether a tumour with this score is to be removed."""
        return score <= self.threshold

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values that `from_json` reads."""
        numbers = {**dataclasses.asdict(self), "expected_share": round(self.expected_share, 4)}
        return {"version": VERSION, "rule": RULE, **numbers}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> HealthyGate:
        """Returns the gate that `to_json` described.

        Raises:
          ValueError: for a rule or version that this release does not know, or a missing number.
        """
        if (
            not isinstance(values, Mapping)
            or values.get("version") != VERSION
            or values.get("rule") != RULE
        ):
            found = (
                {key: values.get(key) for key in ("version", "rule")}
                if isinstance(values, Mapping)
                else values
            )
            raise ValueError(
                f"the gate is {found}, this release knows version {VERSION} of {RULE!r}; "
                "use the release that fitted it"
            )
        missing = [name for name in ("threshold", "patients", "share") if name not in values]
        if missing:
            raise ValueError(f"the gate lacks {', '.join(missing)}; fit it again")
        return cls(
            threshold=values["threshold"], patients=values["patients"], share=values["share"]
        )


def fit(scores: Sequence[float]) -> HealthyGate | None:
    """Returns the gate fitted to the scores of healthy patients.

    None if there are too few of them to guarantee the share; a fifth needs at least four.
    """
    rank = _rank(len(scores), SHARE)
    if not 1 <= rank <= len(scores):
        return None
    return HealthyGate(threshold=float(np.sort(scores)[rank - 1]), patients=len(scores))


def without_tumour(mask: np.ndarray) -> np.ndarray:
    """Returns a copy of the mask in which the tumour is background."""
    return np.where(mask == CLASS, 0, mask).astype(mask.dtype)


def _rank(patients: int, share: float) -> int:
    return math.ceil(round((patients + 1) * (1.0 - share), 9))  # rounded: 5 * (1 - 0.2) must be 4
