"""The numbers per patient that claims refer to, read from the rows of trainings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.results import case_rows
from experiments.results.case_rows import CaseRow

Unit = tuple[str, str, int]  # a patient: cohort, site, running number of the case


@dataclasses.dataclass(frozen=True)
class Run:
    """The per-case rows of one training. Runs of one cohort share its patients.

    Runs of the same seed are variants of one training (other processors, other threads): each
    patient's values are first averaged over them.
    """

    seed: int
    cohort: str
    rows: Sequence[CaseRow]


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number per patient.

    Attributes:
      text: what it measures, for reports.
      unit: its unit, for reports.
      column: its column in a row; None for Average, which combines two columns.
      sites: the sites whose patients count.
      factor: converts the column's unit to `unit`.
      healthy_only: whether only patients without a tumour count.
      found_only: whether 0 means "no value": a model that finds nothing finds it in 0 pieces,
        which must not count in its favour.
    """

    text: str
    unit: str
    column: str | None
    sites: tuple[str, ...]
    factor: float = 1.0
    healthy_only: bool = False
    found_only: bool = False


MEASURES: dict[str, Measure] = {
    "C1_pancreas": Measure("Dice on C1's pancreas", "points", "dice_pancreas", ("C1",), 100.0),
    "C2_pancreas": Measure("Dice on C2's pancreas", "points", "dice_pancreas", ("C2",), 100.0),
    "C2_tumour": Measure("Dice on C2's tumour", "points", "dice_tumour", ("C2",), 100.0),
    "pancreas": Measure("Dice on the pancreas", "points", "dice_pancreas", ("C1", "C2"), 100.0),
    "average": Measure("Average", "points", None, ("C1", "C2"), 100.0),
    "false_tumour": Measure(
        "false tumour in C1's healthy cases",
        "ml",
        "volume_ml_tumour",
        ("C1",),
        healthy_only=True,
    ),
    "false_alarms": Measure(
        "false alarms per healthy patient of C1",
        "alarms",
        "false_components_tumour",
        ("C1",),
        healthy_only=True,
    ),
    "tumours_found": Measure("tumours found per patient of C2", "tumours", "found_tumour", ("C2",)),
    "components": Measure(
        "connected parts of C2's tumour", "parts", "components_tumour", ("C2",), found_only=True
    ),
    "roughness": Measure(
        "surface to volume of C2's tumour", "1/mm", "surface_volume_ratio_tumour", ("C2",)
    ),
}


class Scores:
    """The values of one training, averaged over its variants, by model, measure and patient.

    They are those on the training grid.
    """

    def __init__(self, runs: Sequence[Run]):
        found: dict[tuple[str, Unit], list[CaseRow]] = {}
        for run in runs:
            for (model, site, case), row in case_rows.latest(run.rows, "training").items():
                found.setdefault((model, (run.cohort, site, case)), []).append(row)
        self._found = found

    def of(
        self, models: Sequence[str], measure: str, site: str | None = None, *, marked: bool = False
    ) -> dict[Unit, float]:
        """Returns patient -> mean value over `models`, for patients with a value for each model.

        Args:
          models: the models.
          measure: a key of `MEASURES`.
          site: count only this site's patients instead of the measure's.
          marked: whether to return the share of the variants with a value above 0 instead.
        """
        each = [self._of(model, MEASURES[measure], site, marked) for model in models]
        if not each:
            return {}
        common = set.intersection(*(set(values) for values in each))
        return {unit: float(np.mean([values[unit] for values in each])) for unit in sorted(common)}

    def _of(
        self, model: str, measure: Measure, site: str | None, marked: bool = False
    ) -> dict[Unit, float]:
        if measure.column is None:
            return {
                unit: value * measure.factor for unit, value in self._contributions(model).items()
            }
        sites = (site,) if site else measure.sites
        values: dict[Unit, float] = {}
        for (name, unit), rows in self._found.items():
            if name == model and unit[1] in sites:
                if measure.healthy_only:
                    rows = [row for row in rows if case_rows.has_tumour(row) is False]
                if marked and measure.column == "volume_ml_tumour":
                    numbers = [float(case_rows.marks_tumour(row)) for row in rows]
                else:
                    numbers = [
                        number
                        for number in (case_rows.value(row, measure.column) for row in rows)
                        if number is not None and (number or not measure.found_only)
                    ]
                if numbers:
                    values[unit] = (
                        float(np.mean([number > 0 for number in numbers]))
                        if marked
                        else float(np.mean(numbers)) * measure.factor
                    )
        return values

    def _contributions(self, model: str) -> dict[Unit, float]:
        """Returns each patient's contribution to Average, such that their mean is Average.

        Average is (mean pancreas Dice of all cases + mean tumour Dice of C2) / 2. A case of C1
        contributes half its pancreas Dice; a case of C2 adds half its tumour Dice, times the number
        of all cases over that of C2's.
        """
        pancreas = {
            **self._of(model, MEASURES["pancreas"], "C1"),
            **self._of(model, MEASURES["pancreas"], "C2"),
        }
        tumour = self._of(model, MEASURES["C2_tumour"], "C2")
        if not tumour or {unit[1] for unit in pancreas} != {"C1", "C2"}:
            return {}
        units = set(pancreas) | set(tumour)
        share_p, share_t = len(units) / len(pancreas), len(units) / len(tumour)
        return {
            u: 0.005 * (share_p * pancreas.get(u, 0.0) + share_t * tumour.get(u, 0.0))
            for u in units
        }


def by_training(runs: Sequence[Run]) -> dict[str, dict[int, Scores]]:
    """Returns cohort -> seed -> scores."""
    found: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        found.setdefault((run.cohort, run.seed), []).append(run)
    trainings: dict[str, dict[int, Scores]] = {}
    for (cohort, seed), own in found.items():
        trainings.setdefault(cohort, {})[seed] = Scores(own)
    return trainings
