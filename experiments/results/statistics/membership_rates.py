"""Membership inference: was this scan among the training cases? Scores in, error rates out.

An attacker holds a scan with its label and a model, and computes a number that is larger for scans
that the model was trained on. `ATTACKS` names the numbers; all come from the training loss of the
scan under one or more models, so each model is computed once per scan.

An attack is measured by the area under its ROC curve (AUC; 0.5 is guessing), and by the share of
members that it finds while accusing at most 1 % of the non-members. The second number matters to a
patient: an attack may be useless on average and still be certain about a few patients (Carlini et
al. 2022). It needs at least `FEWEST` non-members, because 1 % of fewer is less than one of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from experiments.results.statistics import intervals
from experiments.results.statistics.intervals import Interval

FORMAT = 1  # of membership.json and of the files of losses beside it
FALSE_POSITIVES = 0.01
FEWEST = 100  # non-members: 1 / FALSE_POSITIVES
ATTACKS = {
    "loss": "The loss under the model is small (Yeom et al. 2018).",
    "calibrated": "The loss is smaller than the mean loss under reference models, which were not "
    "trained on the scan (Watson et al. 2022). With one variance for all scans, this orders them "
    "as the offline likelihood ratio of Carlini et al. 2022 does.",
    "update": "The loss fell from the received global model to the site's update: what the server "
    "can compute for each round.",
    "alignment": "The update points where the scan's own gradient at the received model would "
    "move it: the cosine between them, to first order the fall of the loss.",
}


@dataclasses.dataclass(frozen=True)
class Stratum:
    """An attack's scores on one site's candidates, larger for those it takes for members.

    Members and non-members come from the same hospital; otherwise an attack that only tells
    hospitals apart would appear to find members.
    """

    members: np.ndarray  # [m]
    others: np.ndarray  # [n], scores of non-members

    def __post_init__(self) -> None:
        for name in ("members", "others"):
            scores = np.asarray(getattr(self, name), dtype=float)
            if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
                raise ValueError(
                    f"{name}: expected a list of finite scores, at least one, got "
                    f"{scores.size} in shape {scores.shape}"
                )
            object.__setattr__(self, name, scores)


def scores(
    attack: str, losses: Mapping[str, np.ndarray], references: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """Returns an attack's score of each scan, float64 [scans].

    Args:
      attack: a key of `ATTACKS` except "alignment", whose scores are cosines of gradients.
      losses: [scans] by "model" and, for "update", "received".
      references: losses under models that were not trained on any of the scans.
    Raises:
      ValueError: for another attack, or if losses that it needs are missing.
    """
    loss = np.asarray(losses["model"], dtype=float)
    if attack == "loss":
        return -loss
    if attack == "calibrated":
        if not references:
            raise ValueError(
                "attack 'calibrated' has no reference model; give models that were trained on "
                "other patients"
            )
        return np.asarray(np.mean(references, axis=0) - loss)
    if attack == "update":
        if "received" not in losses:
            raise ValueError("attack 'update' needs the losses under the received model")
        return np.asarray(losses["received"], dtype=float) - loss
    raise ValueError(f"attack is {attack!r}; expected 'loss', 'calibrated' or 'update'")


def area(strata: Sequence[Stratum]) -> Interval:
    """Returns the area under the ROC curve, averaged over strata by their numbers of members.

    The variance follows DeLong et al. 1988: that of the share of non-members below each member plus
    that of the share of members above each non-member. The quantiles are Student's, with Welch and
    Satterthwaite's degrees of freedom, because there may be few members. The interval is computed
    for the logarithm of the odds (Pepe 2003), because near 1 the area itself is skewed: intervals
    around it contained the true area in as little as 79 % of simulated studies, these in 95 to
    100 % (`python -m tests.benchmarks.auc_coverage`). If nothing varies, as with an area of 1, the
    interval covers how far unseen scans could change it.
    """
    total = sum(len(one.members) for one in strata)
    estimate, parts = 0.0, []
    for one in strata:
        weight = len(one.members) / total
        below, above = _placements(one)
        estimate += weight * float(below.mean())
        parts += [(weight, below), (weight, above)]
    spread = intervals.combination(parts)
    if spread is None or not spread.error > 0:
        fewest = min(total, sum(len(one.others) for one in strata))
        unseen = 1 - ((1 - intervals.LEVEL) / 2) ** (1 / fewest)
        low, high = estimate * (1 - unseen), estimate + unseen * (1 - estimate)
        return Interval(estimate, low, high, total)
    low, high = (float(end) for end in spread.ends())
    half = (high - low) / 2 / (estimate * (1 - estimate))
    odds = math.log(estimate / (1 - estimate))
    low, high = (float(special.expit(odds + side * half)) for side in (-1, 1))
    return Interval(estimate, low, high, total)


def _placements(one: Stratum) -> tuple[np.ndarray, np.ndarray]:
    """Returns the share of non-members below each member, and of members above each non-member.

    A tie counts half.
    """
    return _shares(one.members, one.others), 1.0 - _shares(one.others, one.members)


def _shares(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    ordered = np.sort(among)
    below = np.searchsorted(ordered, values, side="left")
    up_to = np.searchsorted(ordered, values, side="right")
    return np.asarray((below + up_to) / 2 / len(ordered))


def threshold(others: np.ndarray) -> float | None:
    """Returns the score above which at most `FALSE_POSITIVES` of the non-members lie.

    None if there are too few non-members: less than one may lie above.
    """
    allowed = math.floor(FALSE_POSITIVES * len(others) + 1e-9)
    return float(np.sort(others)[-allowed - 1]) if allowed else None


def found(strata: Sequence[Stratum]) -> Interval | None:
    """Returns the share of members found while at most `FALSE_POSITIVES` of the others are accused.

    Each stratum has its own threshold. The interval is Clopper and Pearson's, at these thresholds;
    it does not cover that another sample of n non-members would have set another threshold. If k of
    them lie above the threshold, so does a further one, with a probability of (k + 1) / (n + 1).

    Returns:
      None if a stratum has too few non-members.
    """
    hits = 0
    for one in strata:
        limit = threshold(one.others)
        if limit is None:
            return None
        hits += int((one.members > limit).sum())
    return intervals.share_interval(hits, sum(len(one.members) for one in strata))


def curve(one: Stratum) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ROC curve as shares of accused non-members and of found members, both [k]."""
    limits = np.unique(np.concatenate([one.members, one.others]))[::-1]
    accused = (one.others[None, :] >= limits[:, None]).mean(axis=1)
    caught = (one.members[None, :] >= limits[:, None]).mean(axis=1)
    return np.concatenate([[0.0], accused]), np.concatenate([[0.0], caught])


def summary(strata: Sequence[Stratum]) -> dict[str, Any]:
    """Returns the results of an attack for a report, ready for JSON."""
    tpr = found(strata)
    return {
        "members": sum(len(one.members) for one in strata),
        "nonmembers": sum(len(one.others) for one in strata),
        "auc": dataclasses.asdict(area(strata)),
        "tpr": None if tpr is None else dataclasses.asdict(tpr),
    }


def verdict(auc: Mapping[str, Any]) -> str:
    """Returns "found" if the interval of an area lies above 0.5, "not found" otherwise."""
    return "found" if auc["low"] is not None and auc["low"] > 0.5 else "not found"
