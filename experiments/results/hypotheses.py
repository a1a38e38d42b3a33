"""The paper's claims, and ours beside them, as hypotheses: what is compared, by how much, and by
which rule a verdict falls.

Everything here was written before a number was looked at: the claims follow the paper's sections 3
and 4, the margins are what its words ("slightly better", "comparable", "drops only moderately")
allow at the size of its own differences, and the rules are below.

Rules. A part compares two models on the same patients (or one model on two sites' patients): d is
the first minus the second, in the column's unit. Its mean has a 95 % interval that holds patients
and trainings (`patients_and_trainings`), and a p of the same statistic, two-sided, adjusted by Holm
over all parts of all hypotheses that were measured. Supported and contradicted need p < 0.05 after
Holm, and
  greater          the interval above 0; contradicted below
  less             the interval below 0; contradicted above
  not_less, bound  the interval above -margin: at least as good, within the margin; contradicted below
  gone, zero       the exact interval of the share of cases that are marked at all below the limit of 5 %; contradicted above
What is neither is undecided, and so is what shows no spread between trainings. Not measured is what
lacks a number or has fewer than three trainings. A hypothesis is supported where all its parts are,
contradicted where one is, not measured where one is not measured and none contradicts it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.results import intervals, paper_table, patients_and_trainings
from experiments.results.paper_table import C1_TO_C2, C2_TO_C1, NO_VAE, POOLED
from experiments.results.patients_and_trainings import LEAST_TRAININGS, OWN, SAME, Evidence, Share

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_MEASURED = (
    "supported",
    "contradicted",
    "undecided",
    "not measured",
)
ALPHA = 0.05
LIMIT_SHARE = 0.05  # of patients: what a claim of none is held against
_SHARE_RULES = ("gone", "zero")
NOT_ASKED = (
    "other hospitals, scanners and diseases: the patients are those of the sites named here",
    "other settings of the same method: one schedule, one network, one division of the data",
    "measures that no claim names, such as HD95 and surface Dice",
    "whether a difference matters to a patient",
)

Unit = tuple[str, str, int]  # cohort, site, running number of the case


@dataclasses.dataclass(frozen=True)
class Run:
    """Per-case rows of one training. Runs of one cohort share its patients.

    Runs of one seed are variants of one training (other processors, other threads): each patient's
    values are averaged over them first.
    """

    seed: int
    cohort: str
    rows: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Part:
    """One comparison of a hypothesis.

    Attributes:
      rule: one of the rules above.
      first, second: models; several are averaged per patient.
      measure: a key of `MEASURES`.
      margin: in the measure's unit.
      sites: for a comparison of one measure on two sites' patients, (first's site, second's site);
          else the measure's own site counts.
      paper: the same difference from the paper's Table 1, None where it has none.
    """

    rule: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    measure: str
    margin: float = 0.0
    sites: tuple[str, str] | None = None
    paper: float | None = None

    @property
    def text(self) -> str:
        names = [
            " and ".join(models) if len(models) < 2 else f"the mean of {' and '.join(models)}"
            for models in (self.first, self.second)
        ]
        what = MEASURES[self.measure].text
        if self.rule in _SHARE_RULES:
            return f"{names[0]}: cases with {what}{' above 0' if self.rule == 'zero' else ''}, limit {LIMIT_SHARE:.0%}"
        where = f" ({self.sites[0]}'s cases minus {self.sites[1]}'s)" if self.sites else ""
        margin = f", margin {self.margin:g}" if self.margin else ""
        return f"{what}, {names[0]} minus {names[1]}{where}: {self.rule.replace('_', ' ')}{margin}"


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    key: str
    claim: str
    source: str  # "paper" with its section, or "ours"
    parts: tuple[Part, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A part with its numbers, in the measure's unit; of a share of cases 0 to 1. None where
    nothing was measured.

    Attributes:
      by_seed: each training's own difference, or number of marked cases.
      trainings: how many the interval is made of.
      design: `patients_and_trainings.OWN` or `SAME`, None where nothing was measured.
      detectable: the smallest true distance from 0 (or from the margin) that this study shows with
        80 % power, by this part alone. Of a share: how high it may still be if no case is marked.
      detectable_holm: the same at Holm's strictest step.
    """

    part: Part
    verdict: str
    interval: intervals.Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    by_seed: Mapping[int, float] = dataclasses.field(default_factory=dict)
    trainings: int = 0
    design: str | None = None
    detectable: float | None = None
    detectable_holm: float | None = None

    @property
    def coverage(self) -> float | None:
        """Of the interval, by simulation (docs/verdicts.md)."""
        if self.interval is None or self.interval.low is None:
            return None
        return patients_and_trainings.COVERAGE[
            "share" if self.part.rule in _SHARE_RULES else self.design
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "text": self.part.text,
            "rule": self.part.rule,
            "margin": self.part.margin,
            "unit": MEASURES[self.part.measure].unit,
            "verdict": self.verdict,
            "interval": None if self.interval is None else dataclasses.asdict(self.interval),
            "p": self.p,
            "p_holm": self.p_holm,
            "by_seed": {str(seed): value for seed, value in self.by_seed.items()},
            "paper": self.part.paper,
            "trainings": self.trainings,
            "design": self.design,
            "coverage": self.coverage,
            "detectable": self.detectable,
            "detectable_holm": self.detectable_holm,
        }


@dataclasses.dataclass(frozen=True)
class Verdict:
    hypothesis: Hypothesis
    verdict: str
    outcomes: tuple[Outcome, ...]

    def to_json(self) -> dict[str, Any]:
        own = self.hypothesis
        return {
            "key": own.key,
            "claim": own.claim,
            "source": own.source,
            "verdict": self.verdict,
            "parts": [outcome.to_json() for outcome in self.outcomes],
        }


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number of each patient. `columns` are the names it may have in a row; the first that is
    there counts.
    """

    text: str
    unit: str
    columns: tuple[str, ...]
    sites: tuple[str, ...]
    factor: float = 1.0
    healthy_only: bool = False  # patients without a tumour
    # a value of 0 is none: a model that finds nothing finds it in no piece, which is no merit
    found_only: bool = False


MEASURES: dict[str, Measure] = {
    "C1_pancreas": Measure("Dice on C1's pancreas", "points", ("dice_pancreas",), ("C1",), 100.0),
    "C2_pancreas": Measure("Dice on C2's pancreas", "points", ("dice_pancreas",), ("C2",), 100.0),
    "C2_tumour": Measure("Dice on C2's tumour", "points", ("dice_tumour",), ("C2",), 100.0),
    "pancreas": Measure("Dice on the pancreas", "points", ("dice_pancreas",), ("C1", "C2"), 100.0),
    "average": Measure("Average", "points", (), ("C1", "C2"), 100.0),
    "false_tumour": Measure(
        "false tumour in C1's healthy cases",
        "ml",
        ("volume_ml_tumour",),
        ("C1",),
        healthy_only=True,
    ),
    "false_alarms": Measure(
        "false alarms per healthy patient of C1",
        "alarms",
        ("false_components_tumour",),
        ("C1",),
        healthy_only=True,
    ),
    "tumours_found": Measure(
        "tumours found per patient of C2", "tumours", ("found_tumour",), ("C2",)
    ),
    "components": Measure(
        "connected parts of C2's tumour", "parts", ("components_tumour",), ("C2",), found_only=True
    ),
    "roughness": Measure(
        "surface to volume of C2's tumour", "1/mm", ("surface_volume_ratio_tumour",), ("C2",)
    ),
}


def evaluate(
    runs: Sequence[Run], hypotheses: Iterable[Hypothesis] | None = None, *, grid: str = "training"
) -> list[Verdict]:
    """Returns the verdict on every hypothesis, in their order, from the rows of all runs."""
    hypotheses = list(HYPOTHESES if hypotheses is None else hypotheses)
    trainings = _trainings(runs, grid)
    measured = {
        (h.key, i): _measure(part, trainings) for h in hypotheses for i, part in enumerate(h.parts)
    }
    adjusted = intervals.holm({repr(key): outcome.p for key, (outcome, _) in measured.items()})
    tests = sum(p is not None for p in adjusted.values())
    verdicts = []
    for hypothesis in hypotheses:
        outcomes = []
        for index in range(len(hypothesis.parts)):
            outcome, evidence = measured[hypothesis.key, index]
            outcome = dataclasses.replace(outcome, p_holm=adjusted[repr((hypothesis.key, index))])
            outcomes.append(
                dataclasses.replace(
                    outcome, verdict=judge(outcome), **_power(outcome, evidence, tests)
                )
            )
        verdicts.append(
            Verdict(
                hypothesis, _together([outcome.verdict for outcome in outcomes]), tuple(outcomes)
            )
        )
    return verdicts


def judge(outcome: Outcome) -> str:
    """Returns the verdict on one part by the rules above, from its interval, adjusted p and number
    of trainings alone.
    """
    part, interval = outcome.part, outcome.interval
    if interval is None or outcome.trainings < LEAST_TRAININGS:
        return NOT_MEASURED
    if (
        interval.low is None
        or interval.high is None
        or outcome.p_holm is None
        or not outcome.p_holm < ALPHA
    ):
        return UNDECIDED
    if part.rule in _SHARE_RULES:
        return (
            SUPPORTED
            if interval.high < LIMIT_SHARE
            else CONTRADICTED
            if interval.low > LIMIT_SHARE
            else UNDECIDED
        )
    low, high = (
        (-interval.high, -interval.low) if part.rule == "less" else (interval.low, interval.high)
    )
    return SUPPORTED if low > -part.margin else CONTRADICTED if high < -part.margin else UNDECIDED


def _together(verdicts: Sequence[str]) -> str:
    for verdict in (CONTRADICTED, NOT_MEASURED, UNDECIDED):
        if verdict in verdicts:
            return verdict
    return SUPPORTED


class _Scores:
    """model, measure -> unit -> value of one training, averaged over its variants."""

    def __init__(self, runs: Sequence[Run], grid: str):
        found: dict[tuple[str, Unit], list[Mapping[str, Any]]] = {}
        for run in runs:
            latest = {
                (row["model"], row["site"], row["case"]): row
                for row in run.rows
                if row["grid"] == grid
            }
            for (model, site, case), row in latest.items():
                found.setdefault((model, (run.cohort, site, case)), []).append(row)
        self._found = found

    def of(
        self, models: Sequence[str], measure: str, site: str | None = None, *, marked: bool = False
    ) -> dict[Unit, float]:
        """Returns the values of the units that every one of `models` has a value on; with `marked`
        1 for a value above 0, else 0.
        """
        each = [self._of(model, MEASURES[measure], site, marked) for model in models]
        if not each:
            return {}
        common = set.intersection(*(set(values) for values in each))
        return {unit: float(np.mean([values[unit] for values in each])) for unit in sorted(common)}

    def _of(
        self, model: str, measure: Measure, site: str | None, marked: bool = False
    ) -> dict[Unit, float]:
        if not measure.columns:
            return {
                unit: value * measure.factor for unit, value in self._contributions(model).items()
            }
        sites = (site,) if site else measure.sites
        values = {}
        for (name, unit), rows in self._found.items():
            if name == model and unit[1] in sites:
                if measure.healthy_only:
                    rows = [row for row in rows if row.get("truth_ml_tumour") == 0.0]
                numbers = [
                    n
                    for n in (_number(row, measure.columns) for row in rows)
                    if n is not None and (n or not measure.found_only)
                ]
                if numbers:
                    values[unit] = (
                        float(np.mean([n > 0 for n in numbers]))
                        if marked
                        else float(np.mean(numbers)) * measure.factor
                    )
        return values

    def _contributions(self, model: str) -> dict[Unit, float]:
        """Each patient's share in Average: their mean is Average, (mean pancreas of all + mean
        tumour of C2) / 2, of the pooled patients.

        A case of C1 carries half its pancreas Dice; one of C2 also half its tumour Dice times all
        cases over C2's.
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


_Groups = list[
    tuple[float, dict[Unit, float]]
]  # weight, values by patient: what a part estimates is the sum of weight times mean


def _trainings(runs: Sequence[Run], grid: str) -> dict[str, dict[int, _Scores]]:
    """Returns cohort -> seed -> its scores."""
    found: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        found.setdefault((run.cohort, run.seed), []).append(run)
    trainings: dict[str, dict[int, _Scores]] = {}
    for (cohort, seed), own in found.items():
        trainings.setdefault(cohort, {})[seed] = _Scores(own, grid)
    return trainings


def _measure(
    part: Part, trainings: Mapping[str, Mapping[int, _Scores]]
) -> tuple[Outcome, Evidence | Share | None]:
    """Returns a part's numbers, without a verdict, and what they are made from."""
    measured = {
        cohort: {seed: _groups(part, scores) for seed, scores in seeds.items()}
        for cohort, seeds in trainings.items()
    }
    measured = {
        cohort: {
            seed: groups for seed, groups in seeds.items() if all(values for _, values in groups)
        }
        for cohort, seeds in measured.items()
    }
    cohorts = {cohort: seeds for cohort, seeds in measured.items() if seeds}
    if not cohorts:
        return Outcome(part, NOT_MEASURED), None
    counted = part.rule in _SHARE_RULES
    by_seed = {
        seed: sum(groups[0][1].values()) if counted else _estimate(groups)
        for seeds in cohorts.values()
        for seed, groups in seeds.items()
    }
    patients = [_average(list(seeds.values())) for seeds in cohorts.values()]
    design = SAME if len(cohorts) == 1 else OWN
    # cohorts are independent; seeds of one cohort are so only together with its patients
    own = [
        _estimate(groups)
        for groups in (next(iter(cohorts.values())).values() if design == SAME else patients)
    ]
    count = sum(len(values) for groups in patients for _, values in groups)
    outcome = Outcome(
        part,
        UNDECIDED,
        intervals.Interval(float(np.mean(own)), None, None, count),
        by_seed=by_seed,
        trainings=len(own),
        design=design,
    )
    if len(own) < LEAST_TRAININGS:
        return outcome, None
    if counted:
        evidence = patients_and_trainings.share(np.array(own), count, design)
        null = LIMIT_SHARE
    else:
        evidence = patients_and_trainings.evidence(
            np.array(own), intervals.combination(_strata(patients)), design
        )
        null = part.margin if part.rule == "less" else -part.margin
        if not evidence.has_spread:
            return outcome, None
    low, high = (float(end) for end in evidence.ends())
    interval = dataclasses.replace(outcome.interval, low=low, high=high)
    return dataclasses.replace(outcome, interval=interval, p=float(evidence.p(null))), evidence


def _groups(part: Part, scores: _Scores) -> _Groups:
    if part.rule in _SHARE_RULES:
        return [(1.0, scores.of(part.first, part.measure, marked=True))]
    if part.sites:
        return [
            (sign, scores.of(m, part.measure, s))
            for sign, m, s in zip((1.0, -1.0), (part.first, part.second), part.sites, strict=True)
        ]
    first, second = scores.of(part.first, part.measure), scores.of(part.second, part.measure)
    return [(1.0, {unit: first[unit] - second[unit] for unit in sorted(set(first) & set(second))})]


def _average(seeds: Sequence[_Groups]) -> _Groups:
    """Returns each patient's value averaged over the trainings that have one."""
    averaged = []
    for groups in zip(*seeds, strict=True):
        each: dict[Unit, list[float]] = {}
        for _, values in groups:
            for unit, value in values.items():
                each.setdefault(unit, []).append(value)
        averaged.append(
            (groups[0][0], {unit: float(np.mean(values)) for unit, values in each.items()})
        )
    return averaged


def _estimate(groups: _Groups) -> float:
    return float(sum(weight * np.mean(list(values.values())) for weight, values in groups))


def _strata(patients: Sequence[_Groups]) -> list[tuple[float, np.ndarray]]:
    """Returns weight and values of every site's patients, so that the sum of weight times mean is
    the mean over the cohorts.
    """
    strata = []
    for groups in patients:
        for weight, values in groups:
            for site in sorted({unit[1] for unit in values}):
                own = np.array([value for unit, value in values.items() if unit[1] == site])
                strata.append((weight * len(own) / len(values) / len(patients), own))
    return strata


def _power(outcome: Outcome, evidence: Evidence | Share | None, tests: int) -> dict[str, float]:
    if evidence is None or outcome.p is None:
        return {}
    levels = {"detectable": 1 - ALPHA, "detectable_holm": 1 - ALPHA / tests}
    if isinstance(evidence, Share):
        none = dataclasses.replace(evidence, estimate=np.zeros(()), effective=evidence.most)
        return {name: float(none.ends(level)[1]) for name, level in levels.items()}
    return {name: evidence.detectable(level) for name, level in levels.items()}


def _number(row: Mapping[str, Any], columns: Sequence[str]) -> float | None:
    for column in columns:
        if column in row:
            return None if row[column] is None else float(row[column])
    return None


def _paper(
    first: tuple[str, ...],
    second: tuple[str, ...],
    column: str,
    columns: tuple[str, str] | None = None,
) -> float:
    """The difference that the paper's own table gives, in points."""
    one, two = columns or (column, column)
    means = [
        sum(paper_table.PAPER_TABLE[m][c] for m in models) / len(models)
        for models, c in ((first, one), (second, two))
    ]
    return round(means[0] - means[1], 2)


def _compare(
    rule: str,
    first: str | tuple[str, ...],
    second: str | tuple[str, ...],
    measure: str,
    margin: float = 0.0,
) -> Part:
    first, second = ((names,) if isinstance(names, str) else names for names in (first, second))
    known = measure in paper_table.COLUMNS and all(
        model in paper_table.PAPER_TABLE for model in (*first, *second)
    )
    return Part(
        rule,
        first,
        second,
        measure,
        margin,
        paper=_paper(first, second, measure) if known else None,
    )


_BASELINES = ("C1_baseline", "C2_baseline")
_FEDERATED = ("C1_FL_local", "C2_FL_local", "FL_global")

HYPOTHESES: tuple[Hypothesis, ...] = (
    Hypothesis("no_tumour_without_tumours", "C1_baseline, which never saw a tumour, finds none on C2.", "paper, section 3",
               (Part("zero", ("C1_baseline",), (), "C2_tumour", paper=0.0),)),
    Hypothesis("baselines_drop", "Each baseline segments the other site's pancreas worse than its own.", "paper, section 4", (
        Part("less", ("C1_baseline",), ("C1_baseline",), "pancreas", sites=("C2", "C1"), paper=-39.1),
        Part("less", ("C2_baseline",), ("C2_baseline",), "pancreas", sites=("C1", "C2"), paper=-0.7))),
    Hypothesis("local_above_baselines", "C1_FL_local and C2_FL_local each have a higher Average than the mean of the baselines.",
               "paper, Table 1", tuple(_compare("greater", model, _BASELINES, "average") for model in _FEDERATED[:2])),
    Hypothesis("global_above_baselines", "FL_global has a higher Average than the mean of the baselines.", "paper, Table 1",
               (_compare("greater", "FL_global", _BASELINES, "average"),)),
    Hypothesis("c1_local_keeps_c1", "C1_FL_local is at least C1_baseline on C1's pancreas.", "paper, section 4",
               (_compare("not_less", "C1_FL_local", "C1_baseline", "C1_pancreas", 1.0),)),
    Hypothesis("c1_local_finds_tumours", "C1_FL_local's tumour is comparable with C2_baseline's.", "paper, sections 3 and 4",
               (_compare("not_less", "C1_FL_local", "C2_baseline", "C2_tumour", 5.0),)),
    Hypothesis("c2_local_keeps_c2", "C2_FL_local's pancreas on C2 is at least C2_baseline's, and its tumour drops only moderately.",
               "paper, section 4", (_compare("not_less", "C2_FL_local", "C2_baseline", "C2_pancreas", 1.0),
                                    _compare("not_less", "C2_FL_local", "C2_baseline", "C2_tumour", 5.0))),
    Hypothesis("global_best_on_c1", "FL_global is the best on C1's pancreas.", "paper, section 3",
               tuple(_compare("greater", "FL_global", model, "C1_pancreas") for model in (*_BASELINES, *_FEDERATED[:2]))),
    Hypothesis("global_tumour_below_locals", "FL_global's tumour is below both local models'.", "paper, section 4",
               tuple(_compare("less", "FL_global", model, "C2_tumour") for model in _FEDERATED[:2])),
    Hypothesis("false_tumour_gone", "The false tumour that C2_baseline finds on C1 is gone with FL_global.", "paper, section 3 and Fig. 4",
               (_compare("less", "FL_global", "C2_baseline", "false_tumour"), Part("gone", ("FL_global",), (), "false_tumour"))),
    Hypothesis("tumour_in_one_piece", "Federated models' tumours are in fewer pieces than C2_baseline's.", "paper, section 3 and Fig. 5",
               tuple(_compare("less", model, "C2_baseline", "components") for model in _FEDERATED)),
    Hypothesis("tumour_smoother", "Federated models' tumours are smoother than C2_baseline's.", "paper, section 3 and Fig. 5",
               tuple(_compare("less", model, "C2_baseline", "roughness") for model in _FEDERATED)),
    Hypothesis("selection_repairs_tumour", "Choosing the global model by validation (FL_best_global) repairs FL_global's tumour.",
               "paper, section 4 (its conjecture)", (_compare("greater", "FL_best_global", "FL_global", "C2_tumour"),)),
    Hypothesis("selection_costs_nothing", "FL_best_global's Average is at least FL_global's.", "ours",
               (_compare("not_less", "FL_best_global", "FL_global", "average", 0.5),)),
    Hypothesis("close_to_pooled", "FL_global's Average is not clearly below pooled training's by more than 3 points.", "ours",
               (_compare("bound", "FL_global", POOLED, "average", 3.0),)),
    Hypothesis("finetuning_forgets", "Fine-tuning at the other site forgets: C1's pancreas after C1→C2, C2's tumour after C2→C1.",
               "paper, section 1 (cited there, not measured)", (_compare("less", C1_TO_C2, "C1_baseline", "C1_pancreas"),
                                                                _compare("less", C2_TO_C1, "C2_baseline", "C2_tumour"))),
    Hypothesis("global_above_finetuning", "FL_global has a higher Average than either way of fine-tuning.", "ours",
               tuple(_compare("greater", "FL_global", model, "average") for model in (C1_TO_C2, C2_TO_C1))),
    Hypothesis("vae_helps", "The VAE branch raises FL_global's Average.", "ours (the paper uses it without a comparison)",
               (_compare("greater", "FL_global", NO_VAE, "average"),)),
    Hypothesis("global_finds_as_many", "FL_global finds as many of C2's tumours as C2_baseline, within one in ten.", "ours",
               (_compare("not_less", "FL_global", "C2_baseline", "tumours_found", 0.1),)),
    Hypothesis("global_fewer_false_alarms", "FL_global gives fewer false alarms in healthy patients than C2_baseline.", "ours",
               (_compare("less", "FL_global", "C2_baseline", "false_alarms"),)),
    Hypothesis("gate_stops_false_alarms", "The healthy gate stops false alarms of FL_global and costs no more than 3 points of tumour Dice.",
               "ours", (_compare("less", "FL_global_gated", "FL_global", "false_alarms"),
                        _compare("not_less", "FL_global_gated", "FL_global", "C2_tumour", 3.0))),
)  # fmt: skip
