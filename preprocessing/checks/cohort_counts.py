"""The counts of a site's dataset: all that a cohort report tells about its patients.

They are histograms on scales that all sites share; `patient_counts` describes which counts are
given, so that no value of fewer than three patients can be derived from them. Everything that a
page shows or a plan proposes is computed from these counts. Adding the sites' counts gives those of
the pooled dataset.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from preprocessing import declared_labels
from preprocessing.checks import patient_counts
from preprocessing.checks.patient_counts import FEWEST_PATIENTS, Counts, Scale, whole_groups
from preprocessing.checks.survey import HU_EDGES, Facts
from preprocessing.declared_labels import Declared
from runkit.classes import FOREGROUND

HU = Scale(HU_EDGES[0], HU_EDGES[1] - HU_EDGES[0], len(HU_EDGES) - 1)
SCALES = {  # one value per case
    "spacing_mm": Scale(0.05, 0.1, 100),  # the bins' centres are 0.1, 0.2, ... 10 mm
    "extent_mm": Scale(0.0, 50.0, 40),
    "volume_ml": Scale(0, 20, 10),
    "median_hu": HU,
}
OF_AXES = ("spacing_mm", "extent_mm")
OF_CLASSES = ("volume_ml", "median_hu")
_AXES = "xyz"
_MOST_CASES = 10**6
_TOLERANCE = 20  # of the number of voxels that volumes and spacing make likely
_USUAL_ML, _USUAL_MM = 100.0, 0.8  # where a report gives no volumes, or no spacing along an axis


@dataclasses.dataclass(frozen=True)
class SiteCounts:
    """The counts of one site.

    Attributes:
      cases: number of usable cases.
      without_label: how many of them have no label, in whole groups of three.
      of_cases: quantity -> axis or name of a class -> counts of one value per case. None for an
        axis if there are fewer than three cases. Classes are those of three patients or more, and
        their totals are in whole groups of three.
      hu: name of a class -> counts of its voxels; None if too few voxels could be given.
      labels: the declaration of the labels; None without one.
    """

    site: str
    cases: int
    without_label: int
    of_cases: Mapping[str, Mapping[str, Counts | None]]
    hu: Mapping[str, Counts | None]
    labels: Declared | None

    @property
    def labelled(self) -> int:
        """Number of cases with a label; up to two more than there are."""
        return self.cases - self.without_label

    def having(self, name: str) -> int:
        """Returns the number of cases whose label shows a class, in whole groups of three."""
        counts = self.of_cases["volume_ml"].get(name)
        return 0 if counts is None else counts.total

    def unlabelled(self, name: str) -> bool:
        """Returns whether patients may have this class although the labels never show it."""
        return self.labels is not None and self.labels[name] == declared_labels.UNLABELLED

    def to_json(self) -> dict[str, Any]:
        return {
            **{
                quantity: {name: counts and counts.to_json() for name, counts in values.items()}
                for quantity, values in {**self.of_cases, "hu": self.hu}.items()
            },
            "labels": None if self.labels is None else dict(self.labels),
        }


def of_site(
    site: str, measured: Sequence[tuple[Facts, bool]], labels: Declared | None
) -> SiteCounts:
    """Returns the counts of a site.

    Args:
      measured: for each usable case its measurements, and whether it has a label.
      labels: the declaration of the labels.
    """
    facts = [one for one, _ in measured]
    having = {
        name: found
        for class_, name in FOREGROUND.items()
        if len(found := [(f, class_) for f in facts if class_ in f.volume_ml]) >= FEWEST_PATIENTS
    }
    along_axes = {
        "spacing_mm": [list(f.spacing_mm) for f in facts],
        "extent_mm": [[n * mm for n, mm in zip(f.shape, f.spacing_mm, strict=True)] for f in facts],
    }
    of_axes = {
        quantity: {
            axis: patient_counts.of_values(
                SCALES[quantity], [value[i] for value in along_axes[quantity]], len(facts)
            )
            for i, axis in enumerate(_AXES)
        }
        for quantity in OF_AXES
    }
    of_classes = {
        quantity: {
            name: patient_counts.of_values(
                SCALES[quantity],
                [getattr(f, quantity)[class_] for f, class_ in found],
                whole_groups(len(found)),
            )
            for name, found in having.items()
        }
        for quantity in OF_CLASSES
    }
    return SiteCounts(
        site=site,
        cases=len(facts),
        without_label=whole_groups(sum(not has_label for _, has_label in measured)),
        of_cases={**of_axes, **of_classes},
        hu={
            name: patient_counts.of_voxels(np.array([f.hu[class_] for f, class_ in found]))
            for name, found in having.items()
        },
        labels=labels,
    )


def of_report(report: Mapping[str, Any]) -> SiteCounts:
    """Returns the counts in a report, which may have been written at another site.

    Raises:
      ValueError: if they are not in the form that `summarise` writes, or contradict each other; the
        message names the site.
    """
    try:
        return _consistent(_read(report))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"site {str(report['site'])[:200]}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return f"lacks {error}" if isinstance(error, KeyError) else str(error)


def _read(report: Mapping[str, Any]) -> SiteCounts:
    counted, labels = report["cases"], report["labels"]
    of_cases = {
        quantity: {
            name: patient_counts.groups_from_json(report[quantity][name], scale)
            for name in (_AXES if quantity in OF_AXES else _classes(report[quantity]))
        }
        for quantity, scale in SCALES.items()
    }
    sums = SiteCounts(
        site=report["site"],
        cases=_count("usable", counted["usable"], whole=False),
        without_label=_count("without_label", counted["without_label"]),
        of_cases=of_cases,
        hu={
            name: patient_counts.voxels_from_json(report["hu"][name], HU)
            for name in _classes(report["hu"])
        },
        labels=None if labels is None else declared_labels.check(labels),
    )
    _count("refused", counted["refused"])
    if _count("with_tumour", counted["with_tumour"]) != sums.having("tumour"):
        raise ValueError(
            f"it has {counted['with_tumour']} cases with tumour, but "
            f"{sums.having('tumour')} volumes of tumours"
        )
    axes = sum(_count("axes", count) for count in report["axes"].values())
    if axes > sums.cases:
        raise ValueError(f"it gives the axes of {axes} files, but has {sums.cases} cases")
    return sums


def _classes(part: Mapping[str, Any]) -> list[str]:
    return [name for name in FOREGROUND.values() if name in part]


def _count(what: str, value: Any, *, whole: bool = True) -> int:
    if type(value) is not int or not 0 <= value <= _MOST_CASES:
        raise ValueError(f"{what} is {str(value)[:40]!r}; expected a number of cases")
    if whole and value != whole_groups(value):
        raise ValueError(f"{what} is {value}; expected whole groups of three cases")
    return value


def _consistent(site: SiteCounts) -> SiteCounts:
    """Returns the counts after checking that they do not contradict each other.

    Raises:
      ValueError: naming a contradiction, e.g. in an edited report.
    """
    if site.without_label > site.cases:
        raise ValueError(f"{site.without_label} of {site.cases} cases have no label")
    for quantity in OF_AXES:
        for axis, counts in site.of_cases[quantity].items():
            if (counts is None) != (site.cases < FEWEST_PATIENTS):
                raise ValueError(f"{quantity} along {axis} is given for too few cases, or missing")
            if counts is not None and counts.total != site.cases:
                raise ValueError(
                    f"{quantity} along {axis} is given for {counts.total} of {site.cases} cases"
                )
    for name in FOREGROUND.values():
        totals = {
            None if counts is None else counts.total
            for counts in (site.of_cases[quantity].get(name) for quantity in OF_CLASSES)
        }
        if len(totals) > 1 or (name in site.hu) != (None not in totals):
            raise ValueError(f"volumes and HU of {name} come from different cases")
        having = site.having(name)
        if having > site.labelled or having != whole_groups(having):
            raise ValueError(f"{having} of {site.labelled} labelled cases have {name}")
        _check_voxels(site, name)
    return site


def _check_voxels(site: SiteCounts, name: str) -> None:
    """Refuses numbers of voxels that are far from those of the given volumes and spacings."""
    found, volumes = site.hu.get(name), site.of_cases["volume_ml"].get(name)
    if found is None or volumes is None:
        return
    scale, known = SCALES["volume_ml"], bool(volumes.given)
    low, high = (
        1000 * volumes.total * (mean(volumes, edge) if known else _USUAL_ML)
        for edge in (scale.low, scale.high)
    )
    for axis in _AXES:
        spacing, per_mm = site.of_cases["spacing_mm"][axis], 1 / _USUAL_MM
        if spacing is not None and spacing.given:
            per_mm = mean(spacing, lambda number: 1 / SCALES["spacing_mm"].centre(number))
        else:
            known = False
        low, high = low * per_mm, high * per_mm
    if found.total > _TOLERANCE * high or (known and found.total < low / _TOLERANCE):
        raise ValueError(
            f"{found.total} voxels of {name}; the volumes and the spacing of its {volumes.total} "
            f"cases give {low:.2g} to {high:.2g}"
        )


def mean(counts: Counts, of_bin: Callable[[int], float]) -> float:
    """Returns the mean of a number over the values in given bins.

    Args:
      of_bin: number of a bin -> the number for the values in it, e.g. `Scale.centre`.
    """
    return sum(count * of_bin(number) for number, count in counts.given.items()) / counts.placed
