"""Summarises a site's dataset in numbers that may be shown to the other sites of a federation.

A report holds no case id, path, date or picture, and no value of fewer than three patients can be
derived from it. Properties of patients (volumes, HU, sizes) are reported as percentiles, each the
mean of three or more cases around it, and as histograms that withhold the bins of fewer than three
patients (see `patient_counts`); with fewer than three cases they are left out. For the spacing,
which is a setting of the scanner, the range is reported. A plan for all sites is proposed from the
part `sums`, which exists from format 2 on; see `cohort_sums`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from preprocessing.checks import cohort_sums, patient_counts
from preprocessing.checks.patient_counts import FEWEST_PATIENTS as FEWEST_CASES
from preprocessing.checks.patient_counts import Scale
from preprocessing.checks.survey import HU_EDGES, CheckFinding
from preprocessing.declared_labels import Declared
from runkit.classes import FOREGROUND

FORMAT = 2
READABLE = (1, 2)
VOLUME_EDGES_ML = tuple(range(0, 201, 10))
_VOLUME_ML = Scale(VOLUME_EDGES_ML[0], 10, len(VOLUME_EDGES_ML) - 1)
_PERCENTILES = (5, 25, 50, 75, 95)
_FEWEST_FOR_SD = 5
_OF_PATIENTS = ("spacing_mm", "shape", "extent_mm", "volume_ml", "hu", "sums")  # parts of a report

CohortReport = Mapping[str, Any]  # JSON values, possibly from a report that another site wrote
Column = Callable[[CohortReport], str]


def summarise(
    site: str,
    findings: Sequence[CheckFinding],
    splits: Mapping[str, int] | None = None,
    labels: Declared | None = None,
) -> dict[str, Any]:
    """Returns the report of a site as JSON values.

    Args:
      findings: the findings on all of its cases.
      splits: number of cases in each split; None if the site is not prepared.
      labels: the declaration of the labels; None without one.
    """
    usable = [f for f in findings if f.usable and f.facts is not None]
    measured = [f.facts for f in usable if f.facts is not None]
    labelled = [facts for facts in measured if facts.volume_ml]
    report: dict[str, Any] = {
        "format": FORMAT,
        "site": site,
        "cases": {
            "listed": len(findings),
            "usable": len(usable),
            "refused": sum(not f.usable for f in findings),
            "without_label": sum(f.case.label is None for f in usable),
            "with_tumour": sum(2 in facts.volume_ml for facts in labelled),
        },
        "rules": dict(sorted(Counter(p.rule for f in findings for p in f.problems).items())),
        "splits": None if splits is None else dict(splits),
        "axes": dict(sorted(Counter(facts.axes for facts in measured).items())),
    }
    report["spacing_mm"] = {
        axis: _range([facts.spacing_mm[i] for facts in measured]) for i, axis in enumerate("xyz")
    }
    report["shape"] = {
        axis: _percentiles([facts.shape[i] for facts in measured]) for i, axis in enumerate("xyz")
    }
    report["extent_mm"] = {
        axis: _percentiles([facts.shape[i] * facts.spacing_mm[i] for facts in measured])
        for i, axis in enumerate("xyz")
    }
    report["volume_ml"], report["hu"] = {}, {}
    for class_, name in FOREGROUND.items():
        volumes = [facts.volume_ml[class_] for facts in labelled if class_ in facts.volume_ml]
        percentiles = _percentiles(volumes)
        if percentiles is None:
            continue
        report["volume_ml"][name] = {**percentiles, "histogram": _histogram(volumes)}
        counts = np.array([facts.hu[class_] for facts in labelled if class_ in facts.hu])
        voxels, hidden = counts.sum(axis=0), patient_counts.hidden_bins(counts)
        medians = [facts.median_hu[class_] for facts in labelled if class_ in facts.median_hu]
        report["hu"][name] = {
            "median_of_case": _percentiles(medians),
            **_percentiles_of_histogram(voxels if hidden is None else np.where(hidden, 0, voxels)),
            "histogram": {
                "edges": list(HU_EDGES),
                "share": [
                    None if hidden is None or hidden[n] else round(float(v), 5)
                    for n, v in enumerate(voxels / max(voxels.sum(), 1))
                ],
            },
        }
    report["sums"] = cohort_sums.of_cases(
        site, [(f.facts, f.case.label is not None) for f in usable if f.facts is not None], labels
    ).to_json()
    return report


def told_by_difference(earlier: Any, report: CohortReport) -> str:
    """Returns a warning if the replaced report describes other patients; otherwise "".

    Args:
      earlier: the report that is being replaced, whatever its file holds; None if there is none.
    """
    if not isinstance(earlier, Mapping) or not isinstance(earlier.get("cases"), Mapping):
        return ""
    if all(earlier.get(part) == report[part] for part in _OF_PATIENTS):
        return ""
    return (
        f"warning: this report, of {report['cases']['usable']} usable cases, replaces a different "
        f"one, of {earlier['cases'].get('usable')}. Anyone with both reports can subtract them and "
        "learn about single patients that were added, removed or changed. Share this one only "
        "if the earlier one was never shared."
    )


def rows(*reports: CohortReport) -> list[list[str]]:
    """Returns a table of strings: in each row a quantity and its value at each site."""

    def count(key: str) -> Column:
        return lambda r: str(r["cases"][key])

    def counts(key: str, otherwise: str) -> Column:
        return lambda r: ", ".join(f"{name} {n}" for name, n in r[key].items()) or otherwise

    def splits(report: CohortReport) -> str:
        numbers = report["splits"]
        return " / ".join(map(str, numbers.values())) if numbers else "not prepared"

    def of_axis(quantity: str, axis: str, low: str, high: str) -> Column:
        return lambda r: _with_range(r[quantity][axis], low, high)

    def of_class(group: str, name: str, key: str | None = None) -> Column:
        def text(report: CohortReport) -> str:
            if name not in report[group]:
                return "-"
            value = report[group][name]
            return _with_range(value if key is None else value[key], "p5", "p95")

        return text

    lines: list[tuple[str, Column]] = [
        (f"cases {key.replace('_', ' ')}", count(key))
        for key in ("listed", "usable", "refused", "without_label", "with_tumour")
    ]
    lines += [
        ("training / validation / test", splits),
        ("broken rules", counts("rules", "none")),
        ("axes of the files", counts("axes", "-")),
    ]
    for axis in "xyz":
        column = of_axis("spacing_mm", axis, "lowest", "highest")
        lines.append((f"spacing {axis}, mm: median (range)", column))
    for quantity, what in (("shape", "voxels along {}"), ("extent_mm", "extent {}, mm")):
        for axis in "xyz":
            column = of_axis(quantity, axis, "p5", "p95")
            lines.append((f"{what.format(axis)}: median (5 - 95 %)", column))
    for name in FOREGROUND.values():
        lines += [
            (f"{name}, ml: median (5 - 95 %)", of_class("volume_ml", name)),
            (f"{name}, HU of voxels: median (5 - 95 %)", of_class("hu", name)),
            (
                f"{name}, median HU of a case: median (5 - 95 %)",
                of_class("hu", name, "median_of_case"),
            ),
        ]
    return [[what, *(value(report) for report in reports)] for what, value in lines]


def differences(one: CohortReport, other: CohortReport) -> list[str]:
    """Returns differences that may make a model of one site fail at the other site."""
    names, found = (one["site"], other["site"]), []
    for axis in "xyz":
        values = [report["spacing_mm"][axis] for report in (one, other)]
        if all(values):
            medians = [value["median"] for value in values]
            if max(medians) > 1.5 * min(medians):
                found.append(
                    f"spacing along {axis}: {medians[0]:.3g} mm at {names[0]}, "
                    f"{medians[1]:.3g} mm at {names[1]}"
                )
    for name in FOREGROUND.values():
        given = [name in report["volume_ml"] for report in (one, other)]
        if given[0] != given[1]:
            found.append(
                f"{name} is labelled at {names[given.index(True)]} only, "
                "or too rarely at the other site to be reported"
            )
        elif all(given):
            medians = [report["volume_ml"][name]["median"] for report in (one, other)]
            if max(medians) > 1.3 * min(medians):
                found.append(
                    f"{name} volume: {medians[0]:.3g} ml at {names[0]}, "
                    f"{medians[1]:.3g} ml at {names[1]}"
                )
            hu = [report["hu"][name]["median_of_case"]["median"] for report in (one, other)]
            if abs(hu[0] - hu[1]) >= 15:
                found.append(
                    f"{name} HU: {hu[0]:.0f} at {names[0]}, {hu[1]:.0f} at {names[1]} "
                    "(another contrast phase?)"
                )
    if set(one["axes"]) != set(other["axes"]):
        found.append(
            f"axes of the files: {', '.join(one['axes'])} at {names[0]}, "
            f"{', '.join(other['axes'])} at {names[1]} (preparation removes the difference)"
        )
    return found


def _with_range(value: CohortReport | None, low: str, high: str) -> str:
    if value is None or "median" not in value:
        return "-"
    return f"{value['median']:.4g} ({value[low]:.4g} - {value[high]:.4g})"


def _range(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "lowest": _round(min(values)),
        "median": _round(np.median(values)),
        "highest": _round(max(values)),
    }


def _percentiles(values: Sequence[float]) -> dict[str, Any] | None:
    """Returns count, mean, standard deviation and percentiles of a property of patients.

    Each percentile is the mean of at least three values around it. None if there are fewer values.
    The standard deviation is None for fewer than five values: few sets of three or four whole
    numbers, such as sizes in voxels, have the same mean and standard deviation.
    """
    if len(values) < FEWEST_CASES:
        return None
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return {
        "cases": len(values),
        "mean": _round(np.mean(values)),
        "sd": _round(np.std(values)) if len(values) >= _FEWEST_FOR_SD else None,
        **_named(ordered[window].mean() for window in _windows(len(values))),
    }


def _windows(count: int) -> list[slice]:
    """Returns the window of sorted values whose mean each percentile reports.

    A window consists of the three values around the percentile, if no value of fewer than three
    patients follows from the windows' means and the mean of all values: any two windows must be
    equal or disjoint, and the values outside all windows must be none or at least three. With four
    values, for example, the mean of all and the mean of the lowest three would reveal the highest.
    Otherwise the sorted values are divided into as many groups of three or more as possible, and a
    percentile is the mean of its group.
    """
    middle = np.array(_PERCENTILES) / 100 * (count - 1)
    starts = np.clip(
        np.rint(middle - (FEWEST_CASES - 1) / 2).astype(int), 0, count - FEWEST_CASES
    ).tolist()
    distinct = sorted(set(starts))
    rest = count - FEWEST_CASES * len(distinct)
    apart = all(b - a >= FEWEST_CASES for a, b in itertools.pairwise(distinct))
    if apart and (rest == 0 or rest >= FEWEST_CASES):
        return [slice(start, start + FEWEST_CASES) for start in starts]
    groups = np.array_split(np.arange(count), count // FEWEST_CASES)
    return [
        next(slice(int(g[0]), int(g[-1]) + 1) for g in groups if place <= g[-1])
        for place in np.rint(middle)
    ]


def _histogram(values: Sequence[float]) -> dict[str, Any]:
    counts = patient_counts.of_values(_VOLUME_ML, values)
    given = {} if counts is None else counts.given
    return {
        "edges": list(VOLUME_EDGES_ML),
        "cases": [given.get(n) for n in range(_VOLUME_ML.bins)],
    }


def _percentiles_of_histogram(counts: np.ndarray) -> dict[str, float]:
    """Returns percentiles of binned HU, interpolated within bins; {} if all bins are empty.

    Args:
      counts: counts of the bins that are not withheld, 0 in the others, because a percentile over
        all voxels would reveal how the withheld voxels are distributed.
    """
    if not counts.any():
        return {}
    below = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    return _named(np.interp(np.array(_PERCENTILES) / 100, below, HU_EDGES))


def _named(levels: Iterable[float]) -> dict[str, float]:
    return {
        "median" if p == 50 else f"p{p}": _round(v)
        for p, v in zip(_PERCENTILES, levels, strict=True)
    }


def _round(value: float | np.floating) -> float:
    return float(f"{float(value):.4g}")
