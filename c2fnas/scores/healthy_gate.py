"""A threshold on a patient's tumour score, below which a marked tumour is taken for a false alarm
and taken out of the mask.

It is fitted on patients who are known to be healthy, as in split conformal prediction: of n scores
the k-th smallest is the threshold, k = ceil((n + 1)(1 - share)). A further healthy patient like
those then lies above it with a probability of at most 1 - k/(n + 1) <= share, whatever the scores'
distribution (Vovk et al. 2005; Angelopoulos and Bates 2021). With six patients and a share of a
fifth that is the highest of the six and a probability of one seventh. It is an expectation over the
patients that it was fitted on, not a bound for one clinic: `chance_of_more` says how far a handful
of tested patients may still lie above. It promises nothing about tumours, which is what the
`..._gated` rows of a table measure.

The tumour's voxels become background: a tumour invented outside the organ is no pancreas either,
and the pancreas of the mask stays as it was.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from c2fnas.scores.tumour_score import CLASS

VERSION = 1
RULE = "log_odds_1ml"  # what is compared with the threshold, see tumour_score
SHARE = 0.2  # of healthy patients who may keep a false tumour


@dataclasses.dataclass(frozen=True, kw_only=True)
class HealthyGate:
    """A fitted gate.

    Attributes:
      threshold: a score up to and including it is a false alarm's.
      patients: healthy ones, on whom it was fitted.
      share: of healthy patients who were allowed above it.
    """

    threshold: float
    patients: int
    share: float = SHARE

    def __post_init__(self):
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
                f"a gate of threshold {self.threshold}, {self.patients} patients and share {self.share} cannot have been fitted; fit it again"
            )

    @property
    def expected_share(self) -> float:
        """The share of further healthy patients above the threshold, at most, expected over all
        draws of patients.
        """
        return 1.0 - _rank(self.patients, self.share) / (self.patients + 1)

    def chance_of_more(self, tested: int) -> float:
        """Returns the probability that of `tested` further healthy patients more than the share lie
        above; less where scores are equal.
        """
        from scipy import stats

        # the share of all patients above the k-th smallest of n scores has the distribution Beta(n
        # + 1 - k, k)
        rank = _rank(self.patients, self.share)
        return float(
            stats.betabinom.sf(
                math.floor(self.share * tested + 1e-9), tested, self.patients + 1 - rank, rank
            )
        )

    def stops(self, score: float) -> bool:
        return score <= self.threshold

    def to_json(self) -> dict[str, Any]:
        numbers = {**dataclasses.asdict(self), "expected_share": round(self.expected_share, 4)}
        return {"version": VERSION, "rule": RULE, **numbers}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> HealthyGate:
        """Reads a gate back.

        Raises:
          ValueError: where it is of a rule or version that this release does not know, or lacks a
              number.
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
                f"the gate is {found}, this release knows version {VERSION} of {RULE!r}; use the release that fitted it"
            )
        missing = [name for name in ("threshold", "patients", "share") if name not in values]
        if missing:
            raise ValueError(f"the gate lacks {', '.join(missing)}; fit it again")
        return cls(
            threshold=values["threshold"], patients=values["patients"], share=values["share"]
        )


def fit(scores: Sequence[float], share: float = SHARE) -> HealthyGate | None:
    """Returns the gate of healthy patients' scores; None where they are too few to promise the
    share (four, for a fifth).
    """
    rank = _rank(len(scores), share)
    if not 1 <= rank <= len(scores):
        return None
    return HealthyGate(
        threshold=float(np.sort(scores)[rank - 1]), patients=len(scores), share=share
    )


def without_tumour(mask: np.ndarray) -> np.ndarray:
    """Returns the mask with the tumour as background, a copy."""
    return np.where(mask == CLASS, 0, mask).astype(mask.dtype)


def _rank(patients: int, share: float) -> int:
    return math.ceil(round((patients + 1) * (1.0 - share), 9))  # rounded: 5 * (1 - 0.2) must be 4
