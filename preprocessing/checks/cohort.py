"""Summarises a site's dataset in numbers that may be shown to the other sites of a federation.

A report holds no case id, path, date or picture, and no value of fewer than three patients can be
derived from it: apart from the number of usable cases and the sizes of the splits, it holds nothing
but counts of whole groups of three patients, and of voxels of three patients or more (see
`patient_counts` and `cohort_counts`). Medians and percentiles are computed from these counts when
they are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from preprocessing.checks import cohort_counts, older_reports, patient_counts
from preprocessing.checks.cohort_counts import HU, OF_AXES, SCALES
from preprocessing.checks.patient_counts import FEWEST_PATIENTS, Scale, whole_groups
from preprocessing.checks.survey import CheckFinding
from preprocessing.declared_labels import Declared
from runkit.classes import FOREGROUND

FORMAT = 3
READABLE = (*older_reports.FORMATS, FORMAT)
_LEVELS = (50, 500, 950)  # per mille
_OF_PATIENTS = (*SCALES, "hu")  # parts of a report

CohortReport = Mapping[str, Any]  # JSON values, possibly from a report that another site wrote
Column = Callable[[CohortReport], str]


class Levels(NamedTuple):
    """A quantity at a site.

    Attributes:
      low, high: the 5 and 95 % quantiles (of spacings in an older report, the extremes).
      median: the bounds of the median's bin; equal if an older report gives the median itself.
      basis: how many of the values the quantiles are of; "" for all.
    """

    low: float
    median: tuple[float, float]
    high: float
    basis: str = ""

    @property
    def centre(self) -> float:
        return sum(self.median) / 2

    @property
    def text(self) -> str:
        median = " - ".join(f"{edge:.4g}" for edge in dict.fromkeys(self.median))
        return f"{median} ({self.low:.4g} - {self.high:.4g}){self.basis}"


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
    measured = [(f.facts, f.case.label is not None) for f in usable if f.facts is not None]
    counts = cohort_counts.of_site(site, measured, labels)
    return {
        "format": FORMAT,
        "site": site,
        "cases": {
            "usable": counts.cases,
            "refused": whole_groups(sum(not f.usable for f in findings)),
            "without_label": counts.without_label,
            "with_tumour": counts.having("tumour"),
        },
        "rules": _groups(rule for f in findings for rule in {p.rule for p in f.problems}),
        "splits": None if splits is None else dict(splits),
        "axes": _groups(facts.axes for facts, _ in measured),
        **counts.to_json(),
    }


def levels(report: CohortReport, quantity: str, name: str) -> Levels | None:
    """Returns a quantity along an axis or of a class; None if the report lacks it."""
    if report["format"] in older_reports.FORMATS:
        exact = older_reports.levels(report, quantity, name)
        return None if exact is None else Levels(exact[0], (exact[1], exact[1]), exact[2])
    value, scale = report[quantity].get(name), HU if quantity == "hu" else SCALES[quantity]
    if value is None or not value["bins"]:
        return None
    given = patient_counts.Counts({int(n): c for n, c in value["bins"].items()}, value["total"])
    placed = patient_counts.Counts(given.given, given.placed)
    low, median, high = (
        patient_counts.quantile([placed], level, scale).likely for level in _LEVELS
    )
    whole = quantity == "hu" or placed == given
    return Levels(
        scale.low(low),
        (scale.low(median), scale.high(median)),
        scale.high(high),
        "" if whole else f", {placed.total} of {given.total}",
    )


def histogram(report: CohortReport, quantity: str, name: str) -> tuple[Scale, list[float | None]]:
    """Returns the scale and the counts of a class's bins; None for a bin that is not given."""
    scale = HU if quantity == "hu" else SCALES[quantity]
    if report["format"] in older_reports.FORMATS:
        # The volumes of an older report are in other bins.
        shares = report[quantity].get(name, {}).get("histogram", {}).get("share")
        return scale, shares or [None] * scale.bins
    bins = (report[quantity].get(name) or {"bins": {}})["bins"]
    return scale, [bins.get(str(n)) for n in range(scale.bins)]


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
        return lambda r: _at_least(r, r["cases"][key])

    def counts(key: str, otherwise: str) -> Column:
        return lambda r: (
            ", ".join(f"{name} {_at_least(r, n)}" for name, n in r[key].items()) or otherwise
        )

    def splits(report: CohortReport) -> str:
        numbers = report["splits"]
        return " / ".join(map(str, numbers.values())) if numbers else "not prepared"

    def of(quantity: str, name: str) -> Column:
        def text(report: CohortReport) -> str:
            found = levels(report, quantity, name)
            return "-" if found is None else found.text

        return text

    lines: list[tuple[str, Column]] = [
        ("cases usable", lambda r: str(r["cases"]["usable"])),
        *(
            (f"cases {key.replace('_', ' ')}", count(key))
            for key in ("refused", "without_label", "with_tumour")
        ),
        ("training / validation / test", splits),
        ("broken rules", counts("rules", f"none in {FEWEST_PATIENTS} cases")),
        ("axes of the files", counts("axes", "-")),
    ]
    of_axes = zip(OF_AXES, ("spacing {}, mm", "extent {}, mm"), strict=True)
    for quantity, what in of_axes:
        for axis in "xyz":
            lines.append((f"{what.format(axis)}: median (5 - 95 %)", of(quantity, axis)))
    for name in FOREGROUND.values():
        lines += [
            (f"{name}, ml: median (5 - 95 %)", of("volume_ml", name)),
            (f"{name}, HU of voxels: median (5 - 95 %)", of("hu", name)),
            (f"{name}, median HU of a case: median (5 - 95 %)", of("median_hu", name)),
        ]
    return [[what, *(value(report) for report in reports)] for what, value in lines]


def differences(one: CohortReport, other: CohortReport) -> list[str]:
    """Returns differences that may make a model of one site fail at the other site.

    A median is treated as the centre of its bin. Medians in the same bin, or in two adjacent bins,
    do not count as different.
    """
    names, found = (one["site"], other["site"]), []

    def medians(quantity: str, name: str) -> tuple[float, float] | None:
        """Returns both medians if both are known and they certainly differ."""
        pair = [levels(report, quantity, name) for report in (one, other)]
        if pair[0] is None or pair[1] is None:
            return None
        lower, higher = sorted((pair[0].median, pair[1].median))
        if higher[0] <= lower[1]:
            return None
        return pair[0].centre, pair[1].centre

    for axis in "xyz":
        values = medians("spacing_mm", axis)
        if values is not None and max(values) > 1.5 * min(values):
            found.append(
                f"spacing along {axis}: {values[0]:.3g} mm at {names[0]}, "
                f"{values[1]:.3g} mm at {names[1]}"
            )
    for name in FOREGROUND.values():
        given = [name in report["volume_ml"] for report in (one, other)]
        if given[0] != given[1]:
            found.append(
                f"{name} is labelled at {names[given.index(True)]} only, "
                "or too rarely at the other site to be reported"
            )
            continue
        values = medians("volume_ml", name)
        if values is not None and max(values) > 1.3 * min(values):
            found.append(
                f"{name} volume: {values[0]:.3g} ml at {names[0]}, {values[1]:.3g} ml at {names[1]}"
            )
        values = medians("median_hu", name)
        if values is not None and abs(values[0] - values[1]) >= 15:
            found.append(
                f"{name} HU: {values[0]:.0f} at {names[0]}, {values[1]:.0f} at {names[1]} "
                "(another contrast phase?)"
            )
    if one["axes"] and other["axes"] and set(one["axes"]) != set(other["axes"]):
        found.append(
            f"axes of the files: {', '.join(one['axes'])} at {names[0]}, "
            f"{', '.join(other['axes'])} at {names[1]} (preparation removes the difference)"
        )
    return found


def _at_least(report: CohortReport, count: int) -> str:
    if report["format"] in older_reports.FORMATS:
        return str(count)
    return f"{count} to {count + FEWEST_PATIENTS - 1}" if count else f"fewer than {FEWEST_PATIENTS}"


def _groups(values: Iterable[str]) -> dict[str, int]:
    """Returns how often each value occurs, in whole groups of three."""
    found = {value: whole_groups(count) for value, count in sorted(Counter(values).items())}
    return {value: count for value, count in found.items() if count}
