"""Does a model tell patients with a tumour from those without? Rows of cases in, shares with
intervals out.

A patient *has* a tumour where the truth holds one, and *is called* to have one where the mask holds
at least one voxel of it, which is where the score (c2fnas.scores.tumour_score) is above 0. A tumour
is a connected part of the truth, and is *found* where it shares a voxel with the mask's tumour; a
*false alarm* is a connected part of the mask's tumour that shares none with the truth's.

Intervals are of patients, not of trainings: exact (Clopper and Pearson 1934) for shares; for the
AUC Newcombe's of 2006 (his method 5: Hanley and McNeil's variance at the bound rather than at the
estimate), which does not shrink to a point at an AUC of 1; the project's interval of a mean for
false alarms. Tumours count as independent of each other, also where one patient has several.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.results import intervals, paper_table
from experiments.results.case_rows import SCORE
from experiments.results.intervals import Interval

MEASURES = {
    "sensitivity": "patients with a tumour who are called so",
    "specificity": "patients without a tumour who are called so",
    "auc": "area under the ROC curve of the score",
    "tumours_found": "tumours found",
    "false_alarms": "false alarms per patient without a tumour",
}
_CURVE_POINTS = 200  # a curve of more thresholds looks the same


class Run(NamedTuple):
    """Rows of one training on a cohort's patients; runs of one cohort share them."""

    cohort: str
    rows: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class _Patient:
    """One patient under one run: None where the rows, of an earlier release, do not say."""

    unit: tuple[str, str, int]
    run: int
    tumour: bool
    called: bool
    score: float | None
    tumours: int | None
    found: int | None
    false: int | None


def of_runs(runs: Sequence[Run], grid: str = "training") -> dict[str, dict[str, Any]]:
    """Returns model -> measure -> {"estimate", "low", "high", "count"} or None, and "froc", see
    `free_response`; in the table's order.

    `count` is of patients, of tumours for `tumours_found`. A patient whom several runs of one
    cohort scored counts once, with the mean. The AUC compares patients of one run with each other,
    since each training has a scale of its own.
    """
    found: dict[str, list[_Patient]] = {}
    for number, run in enumerate(runs):
        latest = {
            (row["model"], row["site"], row["case"]): row for row in run.rows if row["grid"] == grid
        }
        for (model, site, case), row in latest.items():
            found.setdefault(model, []).append(_patient(row, (run.cohort, site, case), number))
    return {model: _measures(found[model]) for model in sorted(found, key=paper_table.position)}


def of_rows(rows: Iterable[Mapping[str, Any]], grid: str = "training") -> dict[str, dict[str, Any]]:
    """The same of one run."""
    return of_runs([Run("", list(rows))], grid)


def auc(with_tumour: Sequence[float], healthy: Sequence[float]) -> float:
    """Returns the probability that a patient with a tumour scores higher than one without; equal
    scores count one half.
    """
    one, other = np.asarray(with_tumour, float)[:, None], np.asarray(healthy, float)[None, :]
    return float(np.mean((one > other) + 0.5 * (one == other)))


def auc_interval(
    area: float, with_tumour: float, healthy: float, *, level: float = intervals.LEVEL
) -> Interval:
    """Returns an AUC with its interval by Newcombe's method 5.

    Args:
      area: the estimate.
      with_tumour, healthy: numbers of patients.
    """
    from scipy import optimize, stats

    z, extra = stats.norm.ppf((1 + level) / 2), (with_tumour + healthy) / 2.0 - 1.0

    def apart(
        true: float,
    ) -> float:  # squared distance of the estimate from `true`, less what chance allows there
        variance = (
            true
            * (1 - true)
            / (with_tumour * healthy)
            * (1 + extra * ((1 - true) / (2 - true) + true / (1 + true)))
        )
        return (area - true) ** 2 - z * z * variance

    # chance allows nothing at 0 and at 1: a root there that is no bound
    low = 0.0 if area == 0 else optimize.brentq(apart, 0.0, min(area, 1 - 1e-9))
    high = 1.0 if area == 1 else optimize.brentq(apart, max(area, 1e-9), 1.0)
    return Interval(area, float(low), float(high), round(with_tumour + healthy))


def free_response(patients: Sequence[tuple[float, int, int, int]]) -> list[dict[str, float]]:
    """Returns the free-response curve: what is found, and at how many false alarms, when only
    patients above a threshold count.

    Args:
      patients: (score, tumours, found, false alarms) of each.
    Returns:
      From the highest threshold down to 0, the mask as it is, points of `threshold`, `false_alarms`
      (per patient), `found` (share of the tumours) and its exact interval `low`, `high`. Empty
      without a tumour.
    """
    tumours = sum(patient[1] for patient in patients)
    if not tumours:
        return []
    levels = sorted({score for score, *_ in patients} | {0.0}, reverse=True)
    if len(levels) > _CURVE_POINTS:
        levels = [levels[round(place)] for place in np.linspace(0, len(levels) - 1, _CURVE_POINTS)]
    curve = []
    for level in levels:
        above = [patient for patient in patients if patient[0] > level]
        share = intervals.share_interval(sum(found for _, _, found, _ in above), tumours)
        alarms = sum(false for *_, false in above) / len(patients)
        curve.append(
            {
                "threshold": level,
                "false_alarms": alarms,
                "found": share.estimate,
                "low": share.low,
                "high": share.high,
            }
        )
    return curve


def _patient(row: Mapping[str, Any], unit: tuple[str, str, int], run: int) -> _Patient:
    counts = (
        row.get(column)
        for column in ("truth_components_tumour", "found_tumour", "false_components_tumour")
    )
    return _Patient(
        unit,
        run,
        row["truth_ml_tumour"] > 0,
        row["volume_ml_tumour"] > 0,
        row.get(SCORE),
        *(None if count is None else round(count) for count in counts),
    )


def _measures(patients: Sequence[_Patient]) -> dict[str, Any]:
    ill, healthy = [p for p in patients if p.tumour], [p for p in patients if not p.tumour]
    alarms = {
        unit: value
        for unit, value in _means(healthy, lambda p: p.false).items()
        if value is not None
    }
    drawn = [(p.score, p.tumours, p.found, p.false) for p in patients]
    return {
        "sensitivity": _share(_means(ill, lambda p: p.called)),
        "specificity": _share(_means(healthy, lambda p: not p.called)),
        "auc": _json(_auc(patients)),
        "tumours_found": _found(ill),
        "false_alarms": _json(
            intervals.mean_interval(
                list(alarms.values()), [unit[:2] for unit in alarms], bounds=(0.0, None)
            )
        )
        if alarms
        else None,
        "froc": [] if any(None in patient for patient in drawn) else free_response(drawn),
    }


def _means(patients: Sequence[_Patient], value) -> dict[tuple[str, str, int], float | None]:
    """Returns patient -> mean over the runs that say; None where none does."""
    by_unit: dict[tuple[str, str, int], list[float]] = {}
    for patient in patients:
        by_unit.setdefault(patient.unit, []).extend(
            [] if value(patient) is None else [float(value(patient))]
        )
    return {
        unit: float(np.mean(values)) if values else None for unit, values in sorted(by_unit.items())
    }


def _share(values: Mapping[Any, float]) -> dict[str, Any] | None:
    # the sum is whole where every patient has one run; else the interval is that of one run's
    # patients, which is wider than needed
    return (
        _json(intervals.share_interval(round(math.fsum(values.values()), 9), len(values)))
        if values
        else None
    )


def _found(ill: Sequence[_Patient]) -> dict[str, Any] | None:
    tumours, found = _means(ill, lambda p: p.tumours), _means(ill, lambda p: p.found)
    known = [unit for unit in tumours if tumours[unit] is not None and found[unit] is not None]
    if not known:
        return None
    count = round(math.fsum(tumours[unit] for unit in known))
    return _json(
        intervals.share_interval(round(math.fsum(found[unit] for unit in known), 9), count)
    )


def _auc(patients: Sequence[_Patient]) -> Interval | None:
    wins, pairs, units = 0.0, 0, (set(), set())
    for run in sorted({patient.run for patient in patients}):
        own = [p for p in patients if p.run == run and p.score is not None]
        scores = [[p.score for p in own if p.tumour is tumour] for tumour in (True, False)]
        if all(scores):
            count = len(scores[0]) * len(scores[1])
            wins, pairs = wins + auc(*scores) * count, pairs + count
            for place, tumour in enumerate((True, False)):
                units[place].update(p.unit for p in own if p.tumour is tumour)
    return auc_interval(wins / pairs, len(units[0]), len(units[1])) if pairs else None


def _json(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else dataclasses.asdict(interval)
