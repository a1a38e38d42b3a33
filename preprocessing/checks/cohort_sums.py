"""The sums of a site's dataset from which one plan for all sites is proposed.

They are the part `sums` of a cohort report, from format 2 on: histograms on scales that all sites
share, and sums over the site's cases. Adding the sites' sums gives those of the pooled dataset.
Numbers to which only one or two patients contribute are withheld; see `patient_counts`. Volumes and
shares are rounded to six digits: all digits of a sum of multiples of a few known voxel sizes could
reveal the multiples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from preprocessing import declared_labels
from preprocessing.checks import patient_counts
from preprocessing.checks.patient_counts import FEWEST_PATIENTS, Counts, Scale
from preprocessing.checks.survey import HU_EDGES, Facts
from preprocessing.declared_labels import Declared
from runkit.classes import FOREGROUND

SPACING_MM = Scale(0.05, 0.1, 100)  # the bins' centres are 0.1, 0.2, ... 10 mm
EXTENT_MM = Scale(0.0, 50.0, 40)
HU = Scale(HU_EDGES[0], HU_EDGES[1] - HU_EDGES[0], len(HU_EDGES) - 1)
_AXES = "xyz"
_MOST = 10**15  # largest number of cases, and of millilitres


@dataclasses.dataclass(frozen=True)
class ClassSum:
    """Sums over the labelled cases of a site, including those without the class.

    Attributes:
      cases: number of labelled cases.
      ml: volume of the class.
      share: the share of each scan's volume that the class fills, summed over the scans.
    """

    cases: int
    ml: float
    share: float


@dataclasses.dataclass(frozen=True)
class SiteSums:
    """The sums of one site. None stands for numbers to which fewer than three patients contribute.

    Attributes:
      spacing_mm, extent_mm: counts over the scans along x, y, z.
      scan_ml: volume of all scans.
      hu: class -> counts of its voxels, for classes that a label shows.
      labelled: class -> its sums.
      labels: the declaration of the labels; None without one.
    """

    site: str
    cases: int
    spacing_mm: tuple[Counts | None, ...]
    extent_mm: tuple[Counts | None, ...]
    scan_ml: float | None
    hu: Mapping[int, Counts | None]
    labelled: Mapping[int, ClassSum | None]
    labels: Declared | None

    def unlabelled(self, class_: int) -> bool:
        """Returns whether patients may have this class although the labels never show it."""
        return (
            self.labels is not None
            and self.labels[FOREGROUND[class_]] == declared_labels.UNLABELLED
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "cases": self.cases,
            "spacing_mm": _by_axis(self.spacing_mm),
            "extent_mm": _by_axis(self.extent_mm),
            "scan_ml": self.scan_ml,
            "hu": {FOREGROUND[c]: counts and counts.to_json() for c, counts in self.hu.items()},
            "labelled": {
                FOREGROUND[c]: None if sums is None else dataclasses.asdict(sums)
                for c, sums in self.labelled.items()
            },
            "labels": None if self.labels is None else dict(self.labels),
        }


def of_cases(
    site: str, measured: Sequence[tuple[Facts, bool]], labels: Declared | None
) -> SiteSums:
    """Returns the sums of a site.

    Args:
      measured: for each usable case its measurements, and whether it has a label.
      labels: the declaration of the labels.
    """
    facts = [one for one, _ in measured]
    drawn = [one for one, has_label in measured if has_label]
    extents = [[n * mm for n, mm in zip(f.shape, f.spacing_mm, strict=True)] for f in facts]
    return SiteSums(
        site=site,
        cases=len(facts),
        spacing_mm=tuple(
            patient_counts.of_values(SPACING_MM, [f.spacing_mm[axis] for f in facts])
            for axis in range(3)
        ),
        extent_mm=tuple(
            patient_counts.of_values(EXTENT_MM, [extent[axis] for extent in extents])
            for axis in range(3)
        ),
        scan_ml=_sum(map(_scan_ml, facts)) if len(facts) >= FEWEST_PATIENTS else None,
        hu={
            class_: patient_counts.of_patients(np.array([f.hu[class_] for f in having]))
            for class_ in FOREGROUND
            if (having := [f for f in drawn if class_ in f.hu])
        },
        labelled={class_: _class_sum(drawn, class_) for class_ in FOREGROUND},
        labels=labels,
    )


def of_report(report: Mapping[str, Any]) -> SiteSums:
    """Returns the sums in a report, which may have been written at another site.

    Raises:
      ValueError: if it holds no sums, or not in the form that `SiteSums.to_json` returns; the
        message names the site and the remedy.
    """
    site = report["site"]
    if "sums" not in report:
        raise ValueError(
            f"the report of site {site} has format {report['format']}, which holds no sums to "
            "propose a plan from; write it again there with experiments.cohort_report of this "
            "release"
        )
    try:
        return _consistent(_read(site, report["sums"]))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"the report of site {site}: its `sums` cannot be read ({error}); write it again there "
            "with experiments.cohort_report"
        ) from error


def _read(site: str, value: Mapping[str, Any]) -> SiteSums:
    labels = value["labels"]
    return SiteSums(
        site=site,
        cases=_count(value["cases"]),
        spacing_mm=tuple(
            patient_counts.from_json(value["spacing_mm"][axis], SPACING_MM) for axis in _AXES
        ),
        extent_mm=tuple(
            patient_counts.from_json(value["extent_mm"][axis], EXTENT_MM) for axis in _AXES
        ),
        scan_ml=_sum_or_none(value["scan_ml"]),
        hu={
            class_: patient_counts.from_json(value["hu"][name], HU)
            for class_, name in FOREGROUND.items()
            if name in value["hu"]
        },
        labelled={
            class_: _read_class(value["labelled"][name]) for class_, name in FOREGROUND.items()
        },
        labels=None if labels is None else declared_labels.check(labels),
    )


def _read_class(value: Mapping[str, Any] | None) -> ClassSum | None:
    if value is None:
        return None
    cases = _count(value["cases"])
    if cases < FEWEST_PATIENTS:
        raise ValueError(f"a sum over {cases} cases")
    return ClassSum(cases, _number(value["ml"]), _number(value["share"]))


def _consistent(sums: SiteSums) -> SiteSums:
    """Returns the sums after checking that they do not contradict each other.

    Raises:
      ValueError: naming a contradiction, e.g. in an edited report.
    """
    axes = [*sums.spacing_mm, *sums.extent_mm]
    for counts in axes:
        if counts is not None and counts.total != sums.cases:
            raise ValueError(f"{counts.total} values along an axis of {sums.cases} cases")
    told = [one is not None for one in (*axes, sums.scan_ml)]
    if told != [sums.cases >= FEWEST_PATIENTS] * len(told):
        raise ValueError(f"values are missing, or given for too few patients, of {sums.cases}")
    labelled = [one for one in sums.labelled.values() if one is not None]
    if len({one.cases for one in labelled}) > 1 or any(one.cases > sums.cases for one in labelled):
        raise ValueError(
            f"{', '.join(str(one.cases) for one in labelled)} labelled cases of {sums.cases}"
        )
    rounding = 1 + 1e-5
    if (
        sum(one.ml for one in labelled) > rounding * (sums.scan_ml or 0)
        or sum(one.share for one in labelled) > rounding * sums.cases
    ):
        raise ValueError("labels that are larger than the scans")
    return sums


def _sum_or_none(value: Any) -> float | None:
    return None if value is None else _number(value)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= _MOST:
        raise ValueError(f"{value!r} is not a sum of volumes or shares")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError(f"{value!r} is not a number of cases")
    return value


def _class_sum(drawn: Sequence[Facts], class_: int) -> ClassSum | None:
    volumes = [facts.volume_ml.get(class_, 0.0) for facts in drawn]
    having = sum(volume > 0 for volume in volumes)
    if len(drawn) < FEWEST_PATIENTS or 0 < having < FEWEST_PATIENTS:
        return None
    shares = (ml / _scan_ml(facts) for ml, facts in zip(volumes, drawn, strict=True))
    return ClassSum(len(drawn), _sum(volumes), _sum(shares))


def _sum(values: Iterable[float]) -> float:
    return float(f"{math.fsum(values):.6g}")


def _scan_ml(facts: Facts) -> float:
    return math.prod(facts.shape) * math.prod(facts.spacing_mm) / 1000


def _by_axis(counts: Sequence[Counts | None]) -> dict[str, Any]:
    return {
        axis: None if one is None else one.to_json()
        for axis, one in zip(_AXES, counts, strict=True)
    }
