"""The paper's claims, and ours beside them, as hypotheses: what is compared, by how much, and by which rule a verdict falls.

Everything here was written before a number was looked at: the claims follow the paper's sections 3 and 4, the margins are what its words
("slightly better", "comparable", "drops only moderately") allow at the size of its own differences, and the rules are below.

Rules. A part compares two models on the same patients (or one model on two sites' patients): d is the first minus the second, in the
column's unit, and the interval is the 95 % bootstrap interval of its mean. p is that of Wilcoxon's signed-rank test of d shifted by the
margin (of Mann and Whitney's where the patients differ), two-sided, adjusted by Holm over all parts of all hypotheses that were measured.
  greater    d > 0: supported where the interval lies above 0 and p < 0.05; contradicted where it lies below and p < 0.05
  less       the same for d < 0
  not_less   d > -margin, in the same way: at least as good, within the margin
  bound      missed only where the interval lies wholly below -margin, without a test; supported elsewhere
  gone       cases with a finding: supported where there is none, contradicted where the exact interval of their share lies above 5 %
  zero       supported where the mean is 0.0 to the printed digit of a per cent, contradicted where it is not
What is neither is undecided. A hypothesis is supported where all its parts are, contradicted where one is, not measured where a number
is missing from a part and no other part contradicts it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments import results, statistics
from experiments.results import C1_TO_C2, C2_TO_C1, NO_VAE, POOLED

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_MEASURED = "supported", "contradicted", "undecided", "not measured"
ALPHA = 0.05
GONE_SHARE = 0.05

Unit = tuple[str, str, int]  # cohort, site, running number of the case


@dataclasses.dataclass(frozen=True)
class Run:
    """Per-case rows of one seed. Runs of one cohort share its patients: a patient's value is then the mean over those runs."""

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
      sites: for a comparison of one measure on two sites' patients, (first's site, second's site); else the measure's own site counts.
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
        names = [" and ".join(models) if len(models) < 2 else f"the mean of {' and '.join(models)}" for models in (self.first, self.second)]
        what = MEASURES[self.measure].text
        if self.rule == "gone":
            return f"{names[0]}: cases with {what}"
        if self.rule == "zero":
            return f"{names[0]}: {what}"
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
    """A part with its numbers. `interval` and `by_seed` are in the measure's unit; None where nothing was measured."""

    part: Part
    verdict: str
    interval: statistics.Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    by_seed: Mapping[int, float] = dataclasses.field(default_factory=dict)

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
    """A number of each patient. `columns` are the names it may have in a row; the first that is there counts."""

    text: str
    unit: str
    columns: tuple[str, ...]
    sites: tuple[str, ...]
    factor: float = 1.0
    healthy_only: bool = False  # patients without a tumour
    found_only: bool = False  # a value of 0 is none: a model that finds nothing finds it in no piece, which is no merit


MEASURES: dict[str, Measure] = {
    "C1_pancreas": Measure("Dice on C1's pancreas", "points", ("dice_pancreas",), ("C1",), 100.0),
    "C2_pancreas": Measure("Dice on C2's pancreas", "points", ("dice_pancreas",), ("C2",), 100.0),
    "C2_tumour": Measure("Dice on C2's tumour", "points", ("dice_tumour",), ("C2",), 100.0),
    "pancreas": Measure("Dice on the pancreas", "points", ("dice_pancreas",), ("C1", "C2"), 100.0),
    "average": Measure("Average", "points", (), ("C1", "C2"), 100.0),
    "false_tumour": Measure("false tumour in C1's healthy cases", "ml", ("volume_ml_tumour",), ("C1",), healthy_only=True),
    "false_alarms": Measure("false alarms per healthy patient of C1", "alarms", ("false_components_tumour",), ("C1",), healthy_only=True),
    "tumours_found": Measure("tumours found per patient of C2", "tumours", ("found_tumour",), ("C2",)),
    "components": Measure("connected parts of C2's tumour", "parts", ("components_tumour",), ("C2",), found_only=True),
    "roughness": Measure("surface to volume of C2's tumour", "1/mm", ("surface_volume_ratio_tumour",), ("C2",)),
}


def evaluate(runs: Sequence[Run], hypotheses: Iterable[Hypothesis] | None = None, *, grid: str = "training") -> list[Verdict]:
    """Returns the verdict on every hypothesis, in their order, from the rows of all runs."""
    hypotheses = list(HYPOTHESES if hypotheses is None else hypotheses)
    scores = _Scores(runs, grid)
    each = {run.seed: _Scores([run], grid) for run in runs}
    measured = {(h.key, i): _measure(part, scores, each) for h in hypotheses for i, part in enumerate(h.parts)}
    adjusted = statistics.holm({repr(key): outcome.p for key, outcome in measured.items()})
    verdicts = []
    for hypothesis in hypotheses:
        outcomes = []
        for index in range(len(hypothesis.parts)):
            outcome = dataclasses.replace(measured[hypothesis.key, index], p_holm=adjusted[repr((hypothesis.key, index))])
            outcomes.append(dataclasses.replace(outcome, verdict=judge(outcome)))
        verdicts.append(Verdict(hypothesis, _together([outcome.verdict for outcome in outcomes]), tuple(outcomes)))
    return verdicts


def judge(outcome: Outcome) -> str:
    """Returns the verdict on one part by the rules above, from its interval and adjusted p alone."""
    if outcome.interval is None:
        return NOT_MEASURED
    part, interval = outcome.part, outcome.interval
    if part.rule == "zero":
        return SUPPORTED if interval.estimate < 0.05 else CONTRADICTED
    if part.rule == "gone":
        return SUPPORTED if interval.estimate == 0 else CONTRADICTED if interval.low > GONE_SHARE else UNDECIDED
    if part.rule == "bound":
        return CONTRADICTED if interval.high < -part.margin else SUPPORTED
    low, high = (-interval.high, -interval.low) if part.rule == "less" else (interval.low, interval.high)
    certain = outcome.p_holm is not None and outcome.p_holm < ALPHA
    if low > -part.margin and certain:
        return SUPPORTED
    if high < -part.margin and certain:
        return CONTRADICTED
    return UNDECIDED


def _together(verdicts: Sequence[str]) -> str:
    for verdict in (CONTRADICTED, NOT_MEASURED, UNDECIDED):
        if verdict in verdicts:
            return verdict
    return SUPPORTED


class _Scores:
    """model, measure -> unit -> value, averaged over the runs that scored the unit."""

    def __init__(self, runs: Sequence[Run], grid: str):
        found: dict[tuple[str, Unit], list[Mapping[str, Any]]] = {}
        for run in runs:
            latest = {(row["model"], row["site"], row["case"]): row for row in run.rows if row["grid"] == grid}
            for (model, site, case), row in latest.items():
                found.setdefault((model, (run.cohort, site, case)), []).append(row)
        self._found = found

    def of(self, models: Sequence[str], measure: str, site: str | None = None) -> dict[Unit, float]:
        """Returns the values of the units that every one of `models` has a value on."""
        each = [self._of(model, MEASURES[measure], site) for model in models]
        if not each:
            return {}
        common = set.intersection(*(set(values) for values in each))
        return {unit: float(np.mean([values[unit] for values in each])) for unit in sorted(common)}

    def _of(self, model: str, measure: Measure, site: str | None) -> dict[Unit, float]:
        if not measure.columns:
            return {unit: value * measure.factor for unit, value in self._contributions(model).items()}
        sites = (site,) if site else measure.sites
        values = {}
        for (name, unit), rows in self._found.items():
            if name == model and unit[1] in sites:
                if measure.healthy_only:
                    rows = [row for row in rows if row.get("truth_ml_tumour") == 0.0]
                numbers = [n for n in (_number(row, measure.columns) for row in rows) if n is not None and (n or not measure.found_only)]
                if numbers:
                    values[unit] = float(np.mean(numbers)) * measure.factor
        return values

    def _contributions(self, model: str) -> dict[Unit, float]:
        """Each patient's share in Average: their mean is Average, (mean pancreas of all + mean tumour of C2) / 2, of the pooled patients.

        A case of C1 carries half its pancreas Dice; one of C2 also half its tumour Dice times all cases over C2's.
        """
        pancreas = {**self._of(model, MEASURES["pancreas"], "C1"), **self._of(model, MEASURES["pancreas"], "C2")}
        tumour = self._of(model, MEASURES["C2_tumour"], "C2")
        if not tumour or {unit[1] for unit in pancreas} != {"C1", "C2"}:
            return {}
        units = set(pancreas) | set(tumour)
        share_p, share_t = len(units) / len(pancreas), len(units) / len(tumour)
        return {u: 0.005 * (share_p * pancreas.get(u, 0.0) + share_t * tumour.get(u, 0.0)) for u in units}


def _measure(part: Part, scores: _Scores, each: Mapping[int, _Scores]) -> Outcome:
    nothing = Outcome(part, NOT_MEASURED)
    estimates = {seed: _estimate(part, own) for seed, own in each.items()}
    by_seed = {seed: estimate for seed, estimate in estimates.items() if estimate is not None}
    if part.rule in ("gone", "zero"):
        values = scores.of(part.first, part.measure)
        if not values:
            return nothing
        if part.rule == "zero":
            return Outcome(part, UNDECIDED, statistics.bootstrap_mean(list(values.values()), _strata(values)), by_seed=by_seed)
        marked = sum(value > 0 for value in values.values())
        return Outcome(part, UNDECIDED, statistics.binomial_interval(marked, len(values)), by_seed=by_seed)
    if part.sites:
        first, second = (list(scores.of(m, part.measure, s).values()) for m, s in zip((part.first, part.second), part.sites, strict=True))
        if not first or not second:
            return nothing
        p = statistics.mann_whitney([value + part.margin for value in first], second, "two-sided")
        return Outcome(part, UNDECIDED, statistics.bootstrap_difference(first, second), p, by_seed=by_seed)
    differences = _differences(part, scores)
    if not differences:
        return nothing
    interval = statistics.bootstrap_mean(list(differences.values()), _strata(differences))
    sign = -1.0 if part.rule == "less" else 1.0
    p = None if part.rule == "bound" else statistics.wilcoxon([sign * d + part.margin for d in differences.values()], "two-sided")
    return Outcome(part, UNDECIDED, interval, p, by_seed=by_seed)


def _differences(part: Part, scores: _Scores) -> dict[Unit, float]:
    first, second = scores.of(part.first, part.measure), scores.of(part.second, part.measure)
    return {unit: first[unit] - second[unit] for unit in sorted(set(first) & set(second))}


def _estimate(part: Part, scores: _Scores) -> float | None:
    """The part's number of one run: a difference, a mean, or (for "gone") a number of cases."""
    if part.rule in ("gone", "zero"):
        values = list(scores.of(part.first, part.measure).values())
        return None if not values else float(sum(v > 0 for v in values)) if part.rule == "gone" else float(np.mean(values))
    if part.sites:
        first, second = (list(scores.of(m, part.measure, s).values()) for m, s in zip((part.first, part.second), part.sites, strict=True))
        return float(np.mean(first) - np.mean(second)) if first and second else None
    differences = list(_differences(part, scores).values())
    return float(np.mean(differences)) if differences else None


def _strata(values: Mapping[Unit, float]) -> list[tuple[str, str]]:
    return [(cohort, site) for cohort, site, _ in values]


def _number(row: Mapping[str, Any], columns: Sequence[str]) -> float | None:
    for column in columns:
        if column in row:
            return None if row[column] is None else float(row[column])
    return None


def _paper(first: tuple[str, ...], second: tuple[str, ...], column: str, columns: tuple[str, str] | None = None) -> float:
    """The difference that the paper's own table gives, in points."""
    one, two = columns or (column, column)
    means = [sum(results.PAPER_TABLE[m][c] for m in models) / len(models) for models, c in ((first, one), (second, two))]
    return round(means[0] - means[1], 2)


def _compare(rule: str, first: str | tuple[str, ...], second: str | tuple[str, ...], measure: str, margin: float = 0.0) -> Part:
    first, second = ((names,) if isinstance(names, str) else names for names in (first, second))
    known = measure in results.COLUMNS and all(model in results.PAPER_TABLE for model in (*first, *second))
    return Part(rule, first, second, measure, margin, paper=_paper(first, second, measure) if known else None)


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
