"""Judges claims by rules: supported, contradicted, undecided or not measured.

A part of a claim compares two models on the same patients, or one model on two sites' patients. d
is the first minus the second, in the measure's unit. Its mean has a 95 % interval that covers
patients and trainings (`patients_and_trainings`), and a two-sided p-value of the same statistic,
with Holm's correction over all measured parts of all claims. "Supported" and "contradicted"
need p < 0.05 after the correction, and:

  greater          the interval above 0; contradicted below
  less             the interval below 0; contradicted above
  not_less, bound  the interval above -margin: at least as good, within the margin; contradicted
                   below
  gone             the exact interval of the share of cases with any mark below the limit of 5 %;
                   contradicted above
  zero             the same for the share of cases with a value (a Dice) above 0

A part is undecided if neither holds, or if its trainings show no spread. It is not measured if a
number is missing or there are fewer than three trainings. A claim is supported if all its
parts are; contradicted if one part is; not measured if one part is not measured and none is
contradicted.

The rules were written before any result was known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.results import measures
from experiments.results.measures import MEASURES, Run, Scores
from experiments.results.statistics import intervals, patients_and_trainings
from experiments.results.statistics.patients_and_trainings import (
    LEAST_TRAININGS,
    OWN,
    SAME,
    Evidence,
    Share,
)
from experiments.results.verdicts import patient_groups
from experiments.results.verdicts.claims import (
    HYPOTHESES,
    LIMIT_SHARE,
    SHARE_RULES,
    Hypothesis,
    Part,
)
from experiments.results.verdicts.patient_groups import Groups

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_MEASURED = (
    "supported",
    "contradicted",
    "undecided",
    "not measured",
)
ALPHA = 0.05
NOT_ASKED = (
    "other hospitals, scanners and diseases: the patients are those of the sites named here",
    "other settings of the same method: there is one schedule, one network, one division of the "
    "data",
    "measures that no claim names, such as HD95 and surface Dice",
    "whether a difference matters to a patient",
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A part with its numbers, in the measure's unit or, for shares, from 0 to 1.

    Numbers that were not measured are None.

    Attributes:
      by_seed: each training's own difference, or number of marked cases.
      trainings: number of trainings that the interval is based on.
      design: `patients_and_trainings.OWN` or `SAME`.
      detectable: the smallest true distance from 0 (or from the margin) that this study would
        detect with 80 % power, if this part were its only test. For a share: how high it may still
        be if no case is marked.
      detectable_holm: the same at the strictest step of Holm's correction.
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
        """The interval's coverage by simulation (docs/verdicts.md)."""
        if self.interval is None or self.interval.low is None or self.design is None:
            return None
        kind = "share" if self.part.rule in SHARE_RULES else self.design
        return patients_and_trainings.COVERAGE[kind]

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
    """The verdict on a hypothesis, and the outcomes of its parts."""

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


def evaluate(runs: Sequence[Run], hypotheses: Iterable[Hypothesis] | None = None) -> list[Verdict]:
    """Returns the verdict on each hypothesis, in order, from the rows of all runs."""
    hypotheses = list(HYPOTHESES if hypotheses is None else hypotheses)
    trainings = measures.by_training(runs)
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
            alone, strictest = _detectable(outcome, evidence, tests)
            outcomes.append(
                dataclasses.replace(
                    outcome,
                    verdict=judge(outcome),
                    detectable=alone,
                    detectable_holm=strictest,
                )
            )
        verdicts.append(
            Verdict(
                hypothesis, _together([outcome.verdict for outcome in outcomes]), tuple(outcomes)
            )
        )
    return verdicts


def judge(outcome: Outcome) -> str:
    """Returns the verdict on one part, from its interval, adjusted p and number of trainings."""
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
    if part.rule in SHARE_RULES:
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


def _measure(
    part: Part, trainings: Mapping[str, Mapping[int, Scores]]
) -> tuple[Outcome, Evidence | Share | None]:
    """Returns a part's numbers without a verdict, and the evidence for its interval."""
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
    counted = part.rule in SHARE_RULES
    by_seed = {
        seed: sum(groups[0][1].values()) if counted else patient_groups.estimate(groups)
        for seeds in cohorts.values()
        for seed, groups in seeds.items()
    }
    patients = [patient_groups.averaged(list(seeds.values())) for seeds in cohorts.values()]
    design = SAME if len(cohorts) == 1 else OWN
    # Cohorts are independent of each other; seeds of one cohort share its patients.
    own = [
        patient_groups.estimate(groups)
        for groups in (next(iter(cohorts.values())).values() if design == SAME else patients)
    ]
    count = sum(len(values) for groups in patients for _, values in groups)
    interval = intervals.Interval(float(np.mean(own)), None, None, count)
    outcome = Outcome(
        part,
        UNDECIDED,
        interval,
        by_seed=by_seed,
        trainings=len(own),
        design=design,
    )
    if len(own) < LEAST_TRAININGS:
        return outcome, None
    found: Evidence | Share
    if counted:
        null = LIMIT_SHARE
        found = patients_and_trainings.share(np.array(own), count, design)
    else:
        null = part.margin if part.rule == "less" else -part.margin
        spread = intervals.combination(patient_groups.strata(patients))
        found = evidence = patients_and_trainings.evidence(np.array(own), spread, design)
        if not evidence.has_spread:
            return outcome, None
    low, high = (float(end) for end in found.ends())
    interval = dataclasses.replace(interval, low=low, high=high)
    return dataclasses.replace(outcome, interval=interval, p=float(found.p(null))), found


def _groups(part: Part, scores: Scores) -> Groups:
    if part.rule in SHARE_RULES:
        return [(1.0, scores.of(part.first, part.measure, marked=True))]
    if part.sites:
        return [
            (sign, scores.of(m, part.measure, s))
            for sign, m, s in zip((1.0, -1.0), (part.first, part.second), part.sites, strict=True)
        ]
    first, second = scores.of(part.first, part.measure), scores.of(part.second, part.measure)
    return [(1.0, {unit: first[unit] - second[unit] for unit in sorted(set(first) & set(second))})]


def _detectable(
    outcome: Outcome, evidence: Evidence | Share | None, tests: int
) -> tuple[float | None, float | None]:
    """Returns what the study can detect by this part alone, and at Holm's strictest step."""
    if evidence is None or outcome.p is None:
        return None, None
    levels = (1 - ALPHA, 1 - ALPHA / tests)
    if isinstance(evidence, Share):
        none = dataclasses.replace(evidence, estimate=np.zeros(()), effective=evidence.most)
        alone, strictest = (float(none.ends(level)[1]) for level in levels)
    else:
        alone, strictest = (evidence.detectable(level) for level in levels)
    return alone, strictest
