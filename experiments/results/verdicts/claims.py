"""The claims of the paper and of this project, as comparisons of models.

The claims follow sections 3 and 4 of the paper. The margins are what its words ("slightly better",
"comparable", "drops only moderately") allow, given the size of its own differences. All of this was
written before any result was known. `claim_verdicts` judges the claims.
"""

from __future__ import annotations

import dataclasses

from experiments.results import table1_values
from experiments.results.measures import MEASURES
from experiments.results.table1_values import C1_TO_C2, C2_TO_C1, NO_VAE, POOLED

SHARE_RULES = ("gone", "zero")  # about the share of patients who are marked at all
LIMIT_SHARE = 0.05  # of patients; below it, a claim that none is marked is supported


@dataclasses.dataclass(frozen=True)
class Part:
    """One comparison of a hypothesis.

    Attributes:
      rule: one of the rules in `claim_verdicts`.
      first, second: the models to compare; several are averaged per patient.
      measure: a key of `MEASURES`.
      margin: in the measure's unit.
      sites: (site of `first`, site of `second`) to compare patients of two sites; None takes the
        measure's sites.
      paper: the same difference in the paper's Table 1; None if it has none.
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
        """The comparison in words, for reports."""
        names = [
            " and ".join(models) if len(models) < 2 else f"the mean of {' and '.join(models)}"
            for models in (self.first, self.second)
        ]
        what = MEASURES[self.measure].text
        if self.rule in SHARE_RULES:
            above = " above 0" if self.rule == "zero" else ""
            return f"{names[0]}: cases with {what}{above}, limit {LIMIT_SHARE:.0%}"
        where = f" ({self.sites[0]}'s cases minus {self.sites[1]}'s)" if self.sites else ""
        margin = f", margin {self.margin:g}" if self.margin else ""
        return f"{what}, {names[0]} minus {names[1]}{where}: {self.rule.replace('_', ' ')}{margin}"


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A claim, where it comes from, and the comparisons that decide it."""

    key: str
    claim: str
    source: str  # "paper" with its section, or "ours"
    parts: tuple[Part, ...]


def _paper(first: tuple[str, ...], second: tuple[str, ...], column: str) -> float:
    """Returns the difference in the paper's own table, in points."""
    means = [
        sum(table1_values.PAPER_TABLE[model][column] for model in models) / len(models)
        for models in (first, second)
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
    known = measure in table1_values.COLUMNS and all(
        model in table1_values.PAPER_TABLE for model in (*first, *second)
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
    Hypothesis(
        "no_tumour_without_tumours",
        "C1_baseline, which never saw a tumour, finds none on C2.",
        "paper, section 3",
        (Part("zero", ("C1_baseline",), (), "C2_tumour", paper=0.0),),
    ),
    Hypothesis(
        "baselines_drop",
        "Each baseline segments the other site's pancreas worse than its own.",
        "paper, section 4",
        (
            Part(
                "less",
                ("C1_baseline",),
                ("C1_baseline",),
                "pancreas",
                sites=("C2", "C1"),
                paper=-39.1,
            ),
            Part(
                "less",
                ("C2_baseline",),
                ("C2_baseline",),
                "pancreas",
                sites=("C1", "C2"),
                paper=-0.7,
            ),
        ),
    ),
    Hypothesis(
        "local_above_baselines",
        "C1_FL_local and C2_FL_local each have a higher Average than the mean of the baselines.",
        "paper, Table 1",
        tuple(_compare("greater", model, _BASELINES, "average") for model in _FEDERATED[:2]),
    ),
    Hypothesis(
        "global_above_baselines",
        "FL_global has a higher Average than the mean of the baselines.",
        "paper, Table 1",
        (_compare("greater", "FL_global", _BASELINES, "average"),),
    ),
    Hypothesis(
        "c1_local_keeps_c1",
        "C1_FL_local is at least as good as C1_baseline on C1's pancreas.",
        "paper, section 4",
        (_compare("not_less", "C1_FL_local", "C1_baseline", "C1_pancreas", 1.0),),
    ),
    Hypothesis(
        "c1_local_finds_tumours",
        "C1_FL_local is comparable with C2_baseline on the tumour.",
        "paper, sections 3 and 4",
        (_compare("not_less", "C1_FL_local", "C2_baseline", "C2_tumour", 5.0),),
    ),
    Hypothesis(
        "c2_local_keeps_c2",
        "C2_FL_local is at least as good as C2_baseline on C2's pancreas, and drops only "
        "moderately on the tumour.",
        "paper, section 4",
        (
            _compare("not_less", "C2_FL_local", "C2_baseline", "C2_pancreas", 1.0),
            _compare("not_less", "C2_FL_local", "C2_baseline", "C2_tumour", 5.0),
        ),
    ),
    Hypothesis(
        "global_best_on_c1",
        "FL_global is the best model on C1's pancreas.",
        "paper, section 3",
        tuple(
            _compare("greater", "FL_global", model, "C1_pancreas")
            for model in (*_BASELINES, *_FEDERATED[:2])
        ),
    ),
    Hypothesis(
        "global_tumour_below_locals",
        "FL_global is worse on the tumour than both local models.",
        "paper, section 4",
        tuple(_compare("less", "FL_global", model, "C2_tumour") for model in _FEDERATED[:2]),
    ),
    Hypothesis(
        "false_tumour_gone",
        "The false tumours that C2_baseline finds at C1 are gone with FL_global.",
        "paper, section 3 and Fig. 4",
        (
            _compare("less", "FL_global", "C2_baseline", "false_tumour"),
            Part("gone", ("FL_global",), (), "false_tumour"),
        ),
    ),
    Hypothesis(
        "tumour_in_one_piece",
        "Federated models segment tumours in fewer pieces than C2_baseline.",
        "paper, section 3 and Fig. 5",
        tuple(_compare("less", model, "C2_baseline", "components") for model in _FEDERATED),
    ),
    Hypothesis(
        "tumour_smoother",
        "Federated models segment tumours more smoothly than C2_baseline.",
        "paper, section 3 and Fig. 5",
        tuple(_compare("less", model, "C2_baseline", "roughness") for model in _FEDERATED),
    ),
    Hypothesis(
        "selection_repairs_tumour",
        "Choosing the global model by validation (FL_best_global) improves on FL_global's tumour.",
        "paper, section 4 (its conjecture)",
        (_compare("greater", "FL_best_global", "FL_global", "C2_tumour"),),
    ),
    Hypothesis(
        "selection_costs_nothing",
        "FL_best_global's Average is at least as high as FL_global's.",
        "ours",
        (_compare("not_less", "FL_best_global", "FL_global", "average", 0.5),),
    ),
    Hypothesis(
        "close_to_pooled",
        "FL_global's Average is less than 3 points below that of pooled training.",
        "ours",
        (_compare("bound", "FL_global", POOLED, "average", 3.0),),
    ),
    Hypothesis(
        "finetuning_forgets",
        "Fine-tuning at the other site forgets: C1's pancreas after C1→C2, C2's tumour after "
        "C2→C1.",
        "paper, section 1 (cited there, not measured)",
        (
            _compare("less", C1_TO_C2, "C1_baseline", "C1_pancreas"),
            _compare("less", C2_TO_C1, "C2_baseline", "C2_tumour"),
        ),
    ),
    Hypothesis(
        "global_above_finetuning",
        "FL_global has a higher Average than fine-tuning in either direction.",
        "ours",
        tuple(_compare("greater", "FL_global", model, "average") for model in (C1_TO_C2, C2_TO_C1)),
    ),
    Hypothesis(
        "vae_helps",
        "The VAE branch raises FL_global's Average.",
        "ours (the paper uses it without a comparison)",
        (_compare("greater", "FL_global", NO_VAE, "average"),),
    ),
    Hypothesis(
        "global_finds_as_many",
        "FL_global finds as many of C2's tumours as C2_baseline, within one in ten.",
        "ours",
        (_compare("not_less", "FL_global", "C2_baseline", "tumours_found", 0.1),),
    ),
    Hypothesis(
        "global_fewer_false_alarms",
        "FL_global gives fewer false alarms in healthy patients than C2_baseline.",
        "ours",
        (_compare("less", "FL_global", "C2_baseline", "false_alarms"),),
    ),
    Hypothesis(
        "gate_reduces_false_alarms",
        "With the healthy gate, FL_global gives fewer false alarms, and loses no more than 3 "
        "points of tumour Dice.",
        "ours",
        (
            _compare("less", "FL_global_gated", "FL_global", "false_alarms"),
            _compare("not_less", "FL_global_gated", "FL_global", "C2_tumour", 3.0),
        ),
    ),
)
