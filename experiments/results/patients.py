"""Measures how well a model tells patients with a tumour from healthy ones, with intervals.

A patient *has* a tumour if the truth contains one; a patient of a site where nobody has drawn
tumours counts in no measure. A patient is *classified* as having one if the mask
contains at least one voxel of tumour, i.e. if the score (c2fnas.scores.tumour_score) is above 0. A
tumour is a connected part of the truth; it is *found* if it shares a voxel with the mask's tumour.
A *false alarm* is a connected part of the mask's tumour that shares no voxel with the truth's.

Intervals are over patients, not over trainings. For shares they are exact (Clopper and Pearson
1934); for false alarms they are `intervals.mean_interval`; for the AUC they are Newcombe's method 5
(2006), which evaluates Hanley and McNeil's variance at the bound instead of at the estimate, and so
does not shrink to a point at an AUC of 1. Tumours count as independent of each other, even in the
same patient.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.results import case_rows, table1_values
from experiments.results.case_rows import CaseRow
from experiments.results.measures import Run, Unit
from experiments.results.statistics import intervals
from experiments.results.statistics.intervals import Interval

_CURVE_POINTS = 200  # more thresholds do not change how a curve looks


@dataclasses.dataclass(frozen=True)
class _Patient:
    """One patient in one run. Values are None if a row of an earlier release lacks them."""

    unit: Unit
    run: int
    tumour: bool | None
    called: bool
    score: float | None
    tumours: int | None
    found: int | None
    false: int | None


def of_runs(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Returns model -> measure -> {"estimate", "low", "high", "count"} or None, in table order.

    "count" is the number of patients, or of tumours for "tumours_found". "froc" holds the curve of
    `free_response`. A patient in several runs of one cohort counts once, with the mean. The AUC
    compares only patients of the same run, because each training has its own scale of scores.
    """
    found: dict[str, list[_Patient]] = {}
    for number, run in enumerate(runs):
        for (model, site, case), row in case_rows.latest(run.rows, "training").items():
            found.setdefault(model, []).append(_patient(row, (run.cohort, site, case), number))
    return {model: _measures(found[model]) for model in sorted(found, key=table1_values.position)}


def of_rows(rows: Iterable[CaseRow]) -> dict[str, dict[str, Any]]:
    """Returns the same for a single run."""
    return of_runs([Run(0, "", list(rows))])


def auc(with_tumour: Sequence[float], healthy: Sequence[float]) -> float:
    """Returns the probability that a patient with a tumour scores higher than a healthy one.

    Equal scores count one half.
    """
    one, other = np.asarray(with_tumour, float)[:, None], np.asarray(healthy, float)[None, :]
    return float(np.mean((one > other) + 0.5 * (one == other)))


def auc_interval(
    area: float,
    with_tumour: int,
    healthy: int,
    *,
    cohorts: int = 1,
) -> Interval:
    """Returns an AUC with its interval by Newcombe's method 5.

    Args:
      area: the estimate.
      with_tumour, healthy: numbers of patients, in all cohorts together.
      cohorts: number of cohorts whose patients are not compared with those of another. The area is
        then the mean of as many independent areas, each of its share of the patients.
    """
    from scipy import optimize, stats

    z = stats.norm.ppf((1 + intervals.LEVEL) / 2)
    extra = (with_tumour + healthy) / 2.0 / cohorts - 1.0

    def excess(true: float) -> float:
        """Returns the squared distance of the estimate from `true`, minus its chance variation."""
        variance = (
            true
            * (1 - true)
            / (with_tumour * healthy / cohorts)
            * (1 + extra * ((1 - true) / (2 - true) + true / (1 + true)))
        )
        return (area - true) ** 2 - z * z * variance

    # At 0 and 1 there is no chance variation; these roots are not bounds.
    low = 0.0 if area == 0 else optimize.brentq(excess, 0.0, min(area, 1 - 1e-9))
    high = 1.0 if area == 1 else optimize.brentq(excess, max(area, 1e-9), 1.0)
    return Interval(area, float(low), float(high), with_tumour + healthy)


def free_response(
    patients: Sequence[tuple[float, int, int, int]], weights: Sequence[float] | None = None
) -> list[dict[str, float | None]]:
    """Returns the free-response curve: tumours found against false alarms, over thresholds.

    At each threshold, only the marks of patients with a higher score count.

    Args:
      patients: (score, tumours, found, false alarms) of each patient.
      weights: of each patient, 1 by default; a patient in several runs has a part of the weight in
        each, so that the interval counts the patient's tumours once.
    Returns:
      Points from the highest threshold down to 0 (the mask unchanged): `threshold`, `false_alarms`
      (per patient), `found` (share of the tumours) and its exact interval `low`, `high`. Empty if
      there is no tumour.
    """
    weighted = list(zip(weights or [1.0] * len(patients), patients, strict=True))
    tumours = round(math.fsum(weight * patient[1] for weight, patient in weighted))
    if not tumours:
        return []
    everyone = math.fsum(weight for weight, _ in weighted)
    levels = sorted({score for score, *_ in patients} | {0.0}, reverse=True)
    if len(levels) > _CURVE_POINTS:
        levels = [levels[round(place)] for place in np.linspace(0, len(levels) - 1, _CURVE_POINTS)]
    curve = []
    for level in levels:
        above = [(weight, patient) for weight, patient in weighted if patient[0] > level]
        found = math.fsum(weight * patient[2] for weight, patient in above)
        share = intervals.share_interval(round(found, 9), tumours)
        alarms = math.fsum(weight * patient[3] for weight, patient in above) / everyone
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


def _patient(row: CaseRow, unit: Unit, run: int) -> _Patient:
    counts = (
        case_rows.value(row, column)
        for column in ("truth_components_tumour", "found_tumour", "false_components_tumour")
    )
    return _Patient(
        unit,
        run,
        case_rows.has_tumour(row),
        case_rows.marks_tumour(row),
        row.get("score_tumour"),
        *(None if count is None else round(count) for count in counts),
    )


def _measures(patients: Sequence[_Patient]) -> dict[str, Any]:
    patients = [p for p in patients if p.tumour is not None]
    ill, healthy = [p for p in patients if p.tumour], [p for p in patients if not p.tumour]
    alarms = _means(healthy, lambda p: p.false)
    runs = collections.Counter(p.unit for p in patients)
    counted = [
        (p.score, p.tumours, p.found, p.false)
        for p in patients
        if p.score is not None
        and p.tumours is not None
        and p.found is not None
        and p.false is not None
    ]
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
        "froc": free_response(counted, [1.0 / runs[p.unit] for p in patients])
        if len(counted) == len(patients)
        else [],
    }


def _means(
    patients: Sequence[_Patient], number: Callable[[_Patient], float | None]
) -> dict[Unit, float]:
    """Returns patient -> mean over the runs that have the number; other patients are left out."""
    by_unit: dict[Unit, list[float]] = {}
    for patient in patients:
        found = number(patient)
        if found is not None:
            by_unit.setdefault(patient.unit, []).append(float(found))
    return {unit: float(np.mean(values)) for unit, values in sorted(by_unit.items())}


def _share(values: Mapping[Any, float]) -> dict[str, Any] | None:
    # If patients have several runs, the sum may be fractional. The interval is then that of as many
    # patients in one run, which is wider than necessary.
    return (
        _json(intervals.share_interval(round(math.fsum(values.values()), 9), len(values)))
        if values
        else None
    )


def _found(ill: Sequence[_Patient]) -> dict[str, Any] | None:
    tumours, found = _means(ill, lambda p: p.tumours), _means(ill, lambda p: p.found)
    known = [unit for unit in tumours if unit in found]
    count = round(math.fsum(tumours[unit] for unit in known))
    if not count:  # nobody is known to have one, or sites report a volume but no part
        return None
    return _json(
        intervals.share_interval(round(math.fsum(found[unit] for unit in known), 9), count)
    )


def _auc(patients: Sequence[_Patient]) -> Interval | None:
    wins, pairs = 0.0, 0
    ill: set[Unit] = set()
    healthy: set[Unit] = set()
    for run in sorted({patient.run for patient in patients}):
        own = [(p, p.score) for p in patients if p.run == run and p.score is not None]
        scores, others = (
            [score for p, score in own if p.tumour is tumour] for tumour in (True, False)
        )
        if scores and others:
            count = len(scores) * len(others)
            wins, pairs = wins + auc(scores, others) * count, pairs + count
            ill.update(p.unit for p, _ in own if p.tumour)
            healthy.update(p.unit for p, _ in own if not p.tumour)
    if not pairs:
        return None
    cohorts = len({unit[0] for unit in ill})
    return auc_interval(wins / pairs, len(ill), len(healthy), cohorts=cohorts)


def _json(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else dataclasses.asdict(interval)
