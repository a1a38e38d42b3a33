import dataclasses

import numpy as np
import pytest
from scipy import stats

from experiments.results import table1_values
from experiments.results.measures import Run
from experiments.results.statistics import intervals
from experiments.results.verdicts import claim_verdicts, claims
from experiments.results.verdicts.claim_verdicts import (
    CONTRADICTED,
    NOT_MEASURED,
    SUPPORTED,
    UNDECIDED,
    Outcome,
)
from experiments.results.verdicts.claims import Hypothesis, Part
from experiments.studies import study_results


def row(model, site, case, pancreas, tumour=None, **more):
    volumes = {
        "volume_ml_tumour": 0.0,
        "truth_ml_tumour": 0.0 if site == "C1" else 9.0,
        "volume_ml_pancreas": 70.0,
    }
    return {
        "model": model, "site": site, "case": case, "grid": "training", "dice_pancreas": pancreas, "dice_tumour": tumour, **volumes,
        "truth_ml_pancreas": 70.0, **more,
    }  # fmt: skip


def verdict(parts, *runs):
    (found,) = claim_verdicts.evaluate(runs, [Hypothesis("h", "claim", "ours", tuple(parts))])
    return found


def two_models(first, second, site="C1", **more):
    rows = [
        row(name, site, i + 1, v)
        for name, values in (("A", first), ("B", second))
        for i, v in enumerate(values)
    ]
    return Run(1, "cohort", rows)


GREATER = Part("greater", ("A",), ("B",), "C1_pancreas")
# what A has more than B, by training and patient: means 0.10, 0.12, 0.11
GAINS = ([0.09, 0.11, 0.10, 0.10], [0.12, 0.13, 0.11, 0.12], [0.11, 0.12, 0.10, 0.11])


def trainings(gains=GAINS, sign=1.0, cohort=None, **more):
    runs = []
    for seed, own in enumerate(gains, 1):
        second = [0.5 + 0.03 * i for i in range(len(own))]
        run = two_models(
            [b + sign * gain for b, gain in zip(second, own, strict=True)], second, **more
        )
        runs.append(dataclasses.replace(run, seed=seed, cohort=cohort or f"cohort {seed}"))
    return runs


def test_a_clear_difference_is_supported_and_its_opposite_contradicted():
    found = verdict([GREATER], *trainings())
    (outcome,) = found.outcomes
    # the trainings' means 10, 12, 11 points: Student's t with 2 degrees of freedom, standard error
    # 1/sqrt(3)
    theirs = stats.ttest_1samp([10.0, 12.0, 11.0], 0.0)
    assert outcome.interval.estimate == pytest.approx(11.0) and (
        outcome.interval.count,
        outcome.trainings,
    ) == (12, 3)
    assert (outcome.interval.low, outcome.interval.high) == tuple(
        pytest.approx(end) for end in theirs.confidence_interval()
    )
    assert outcome.p == outcome.p_holm == pytest.approx(theirs.pvalue)
    assert outcome.by_seed == {
        1: pytest.approx(10.0),
        2: pytest.approx(12.0),
        3: pytest.approx(11.0),
    }
    assert (found.verdict, outcome.design, outcome.coverage) == (
        SUPPORTED,
        "own patients in every training",
        0.95,
    )
    assert 2 < outcome.detectable == outcome.detectable_holm < 5  # one test: Holm takes nothing
    assert verdict([GREATER], *trainings(sign=-1.0)).verdict == CONTRADICTED
    assert (
        verdict([dataclasses.replace(GREATER, rule="less")], *trainings(sign=-1.0)).verdict
        == SUPPORTED
    )


@pytest.mark.parametrize("gain", [0.0, 0.1, 0.3])
def test_trainings_that_differ_by_rounding_alone_show_no_spread(gain):
    """b + 0.1 - b is not 0.1 in every bit, and that must not decide a claim."""
    gains = [[gain + bits * 2.0**-53] * 4 for bits in range(3)]
    for cohort in (None, "shared"):
        found = verdict([GREATER], *trainings(gains, cohort=cohort))
        assert (found.verdict, found.outcomes[0].p) == (UNDECIDED, None)
        assert found.outcomes[0].interval.low is None


def test_patients_who_are_all_alike_in_every_training_leave_the_trainings_to_decide():
    """2, 3 and 4 false alarms more in every patient: Student's t, and p agrees with it."""
    runs = []
    for seed, more in enumerate((2, 3, 4), 1):
        rows = [
            row(model, "C1", case, 0.5, false_components_tumour=alarms)
            for model, alarms in (("A", more), ("B", 0))
            for case in range(1, 7)
        ]
        runs.append(Run(seed, f"cohort {seed}", rows))
    found = verdict([Part("less", ("A",), ("B",), "false_alarms")], *runs)
    theirs = stats.ttest_1samp([2.0, 3.0, 4.0], 0.0)
    (outcome,) = found.outcomes
    assert outcome.p == pytest.approx(theirs.pvalue) and outcome.p < 0.05
    assert outcome.interval.low == pytest.approx(theirs.confidence_interval().low)
    assert found.verdict == CONTRADICTED


def test_holm_counts_all_parts():
    alone, both = ([GREATER] * parts for parts in (1, 20))
    p = verdict(alone, *trainings()).outcomes[0].p
    found = verdict(both, *trainings())
    assert [outcome.p_holm for outcome in found.outcomes] == [
        pytest.approx(20 * p)
    ] * 20 and p < 0.05 < 20 * p
    assert (
        found.verdict == UNDECIDED
        and found.outcomes[0].detectable_holm > found.outcomes[0].detectable
    )


def test_patients_who_differ_more_than_the_trainings_show_decide():
    # three equal means by luck, of patients who differ by 30 points
    lucky = [[-0.2, 0.1, 0.4], [-0.2, 0.105, 0.4], [-0.2, 0.095, 0.4]]
    found = verdict([GREATER], *trainings(lucky))
    assert found.verdict == UNDECIDED and found.outcomes[0].interval.low < 0


def test_fewer_than_three_trainings_measure_nothing_however_clear():
    found = verdict([GREATER], *trainings(GAINS[:2]))
    assert found.verdict == NOT_MEASURED and found.outcomes[0].interval == intervals.Interval(
        pytest.approx(11.0), None, None, 8
    )
    assert (
        found.outcomes[0].by_seed == {1: pytest.approx(10.0), 2: pytest.approx(12.0)}
        and found.outcomes[0].coverage is None
    )
    json = found.to_json()["parts"][0]
    assert study_results.part_numbers(json) == "+11.0 points, n = 8 in 2 trainings"


def test_variants_of_a_seed_are_one_training():
    first, second = trainings(GAINS[:2])
    again = dataclasses.replace(trainings([[0.3, 0.3, 0.3, 0.3]])[0], seed=1, cohort="cohort 1")
    (outcome,) = verdict([GREATER], first, again, second).outcomes
    assert outcome.trainings == 2 and outcome.by_seed == {
        1: pytest.approx((10 + 30) / 2),
        2: pytest.approx(12.0),
    }


def test_a_margin_forgives_a_small_loss_and_not_a_large_one():
    for rule in ("not_less", "bound"):
        part = Part(rule, ("A",), ("B",), "C1_pancreas", margin=3.0)
        small, large = (
            [[-loss, -loss - 0.001, -loss + 0.002] for loss in (base, base + 0.002, base + 0.001)]
            for base in (0.01, 0.06)
        )
        assert verdict([part], *trainings(small)).verdict == SUPPORTED
        assert verdict([part], *trainings(large)).verdict == CONTRADICTED
        # a loss of 5 +- 2 points: no longer supported because it might be one of 3
        wide = [[-0.03] * 3, [-0.05] * 3, [-0.07] * 3]
        assert verdict([part], *trainings(wide)).verdict == UNDECIDED
    same = [[0.0] * 3] * 3
    assert verdict([GREATER], *trainings(same)).verdict == UNDECIDED  # no spread, no test


def test_the_same_patients_under_every_training_count_once():
    (outcome,) = verdict([GREATER], *trainings(cohort="one")).outcomes
    assert (outcome.interval.count, outcome.trainings, outcome.design) == (
        4,
        3,
        "the same patients in every training",
    )
    assert outcome.interval.estimate == pytest.approx(11.0)
    # patients' means 32/3, 12, 31/3, 11 points, and the trainings' 10, 12, 11: their variances add
    # up
    patients = np.array([32 / 3, 12, 31 / 3, 11])
    error = (patients.var(ddof=1) / 4 + 1 / 3) ** 0.5
    freedom = error**4 / ((patients.var(ddof=1) / 4) ** 2 / 3 + (1 / 3) ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * error
    assert (
        half < outcome.interval.high - 11 < 1.2 * half
        and half < 11 - outcome.interval.low < 1.2 * half
    )  # more by their skewness


def test_average_per_patient_has_the_tables_average_as_its_mean():
    rows = [
        row("A", "C1", 1, 0.9),
        row("A", "C1", 2, 0.5, 0.0),
        row("A", "C2", 1, 0.4, 0.3),
        row("A", "C2", 2, 0.6, 0.9),
        row("A", "C2", 3, 0.1, 0.0),
    ]
    rows += [row("B", r["site"], r["case"], 0.0, None if r["site"] == "C1" else 0.0) for r in rows]
    found = verdict([Part("greater", ("A",), ("B",), "average")], Run(1, "c", rows))
    # pancreas 2.5/5 = 50, tumour 1.2/3 = 40
    assert (
        found.outcomes[0].interval.estimate
        == pytest.approx(45.0)
        == pytest.approx(table1_values.table(rows)["A"].percent["average"])
    )


def test_the_mean_of_several_models_is_a_patients():
    rows = [
        row("A", "C1", 1, 0.8),
        row("B", "C1", 1, 0.4),
        row("C", "C1", 1, 0.6),
        row("A", "C1", 2, 0.8),
        row("B", "C1", 2, 0.2),
    ]
    (outcome,) = verdict(
        [Part("greater", ("A",), ("B", "C"), "C1_pancreas")], Run(1, "c", rows)
    ).outcomes
    assert outcome.interval.count == 1 and outcome.interval.estimate == pytest.approx(
        30.0
    )  # case 2 lacks C


def healthy(*marked, patients=6, cohort=None):
    """One run per training, in which that many of C1's healthy patients are marked."""
    return [
        Run(
            seed,
            cohort or f"cohort {seed}",
            [
                row("A", "C1", i, 0.8, volume_ml_tumour=2.0 * (i <= count))
                for i in range(1, patients + 1)
            ],
        )
        for seed, count in enumerate(marked, 1)
    ]


def test_a_share_needs_an_upper_bound_below_the_limit_not_an_absence():
    gone = Part("gone", ("A",), (), "false_tumour")
    none = verdict([gone], *healthy(0, 0, 0))
    (outcome,) = none.outcomes
    assert none.verdict == UNDECIDED and (outcome.interval.estimate, outcome.interval.count) == (
        0.0,
        18,
    )
    assert (
        outcome.interval.high == pytest.approx(outcome.detectable)
        and 0.5 < outcome.interval.high < 0.7
    )
    assert verdict([gone], *healthy(5, 4, 5)).verdict == CONTRADICTED
    assert verdict([gone], *healthy(1, 0, 0)).verdict == UNDECIDED
    # 200 patients in six trainings, none marked
    assert verdict([gone], *healthy(*[0] * 6, patients=40)).verdict == SUPPORTED
    runs = healthy(0, 1, 2)
    ill = [
        row("A", "C1", 9, 0.8, volume_ml_tumour=5.0, truth_ml_tumour=4.0)
    ]  # it has one: not false
    (outcome,) = verdict(
        [gone], *(dataclasses.replace(run, rows=[*run.rows, *ill]) for run in runs)
    ).outcomes
    assert outcome.by_seed == {1: 0.0, 2: 1.0, 3: 2.0} and outcome.interval.count == 18
    assert verdict([gone], *healthy(0, 0)).verdict == NOT_MEASURED


def test_zero_is_a_share_of_cases_too():
    def found(dice):
        rows = [row("A", "C2", i, 0.8, dice) for i in range(1, 8)]
        return verdict(
            [Part("zero", ("A",), (), "C2_tumour")],
            *(Run(seed, f"cohort {seed}", rows) for seed in (1, 2, 3)),
        )

    assert found(0.0).verdict == UNDECIDED and found(0.1).verdict == CONTRADICTED
    assert found(0.0).outcomes[0].part.text == "A: cases with Dice on C2's tumour above 0, limit 5%"


def test_one_models_two_sites_are_compared_as_different_patients():
    runs = []
    for seed, shift in enumerate((0.0, 0.01, 0.02), 1):
        rows = [row("A", "C1", i, 0.8 + i / 100) for i in range(1, 7)] + [
            row("A", "C2", i, 0.4 + shift + i / 100, 0.1) for i in range(1, 7)
        ]
        runs.append(Run(seed, f"cohort {seed}", rows))
    found = verdict([Part("less", ("A",), ("A",), "pancreas", sites=("C2", "C1"))], *runs)
    (outcome,) = found.outcomes
    assert (
        outcome.interval.estimate == pytest.approx(-39.0)
        and outcome.interval.count == 36
        and found.verdict == SUPPORTED
    )
    assert outcome.by_seed == {
        1: pytest.approx(-40.0),
        2: pytest.approx(-39.0),
        3: pytest.approx(-38.0),
    }


def test_the_verdict_follows_from_interval_trainings_and_adjusted_p_alone():
    part = Part("bound", ("FL_global",), ("pooled",), "average", margin=3.0)
    for low, high, p, expected in (
        (-9.0, -3.1, 0.01, CONTRADICTED), (-9.0, -2.9, 0.2, UNDECIDED), (-2.9, 2.0, 0.01, SUPPORTED), (-2.9, 2.0, 0.07, UNDECIDED),
    ):  # fmt: skip
        outcome = Outcome(
            part,
            UNDECIDED,
            intervals.Interval((low + high) / 2, low, high, 30),
            p_holm=p,
            trainings=3,
        )
        assert claim_verdicts.judge(outcome) == expected
        assert claim_verdicts.judge(dataclasses.replace(outcome, trainings=2)) == NOT_MEASURED


def test_a_missing_model_or_column_is_not_measured_and_a_contradicted_part_prevails():
    runs = trainings(sign=-1.0)
    assert (
        verdict([Part("greater", ("A",), ("absent",), "C1_pancreas")], *runs).verdict
        == NOT_MEASURED
    )
    assert verdict([Part("less", ("A",), ("B",), "components")], *runs).verdict == NOT_MEASURED
    assert (
        verdict([GREATER, Part("greater", ("A",), ("absent",), "C1_pancreas")], *runs).verdict
        == CONTRADICTED
    )


def test_the_papers_hypotheses_are_all_there_and_measured_where_their_rows_are():
    models = [*table1_values.MODELS, "FL_best_global", *table1_values.BEYOND, "FL_global_gated"]
    runs = []
    for seed in (1, 2, 3):
        rows = []
        for k, model in enumerate(models):
            pancreas = [0.5 + 0.02 * k + 0.01 * (seed * k % 3) + i / 100 for i in range(1, 4)]
            rows += [
                row(model, "C1", i, dice, components_tumour=None)
                for i, dice in enumerate(pancreas, 1)
            ]
            tumour = [(k > 0) * (0.1 + i / 70 + 0.01 * (seed + k) % 3) for i in range(1, 4)]
            rows += [
                row(
                    model,
                    "C2",
                    i,
                    pancreas[i - 1] - 0.1,
                    tumour[i - 1],
                    components_tumour=1 + (i + k + seed) % 2,
                )
                for i in range(1, 4)
            ]
        rows = [
            {**line, "found_tumour": 1.0, "false_components_tumour": float(line["case"])}
            for line in rows
        ]
        runs.append(Run(seed, f"cohort {seed}", rows))
    verdicts = {v.hypothesis.key: v for v in claim_verdicts.evaluate(runs)}
    assert len(verdicts) == len(claims.HYPOTHESES) == 21
    assert [key for key, v in verdicts.items() if v.verdict == NOT_MEASURED] == ["tumour_smoother"]
    json = verdicts["c1_local_keeps_c1"].to_json()
    assert (
        json["parts"][0]["paper"] == pytest.approx(0.1)
        and json["parts"][0]["interval"]["count"] == 9
    )
    assert (
        json["parts"][0]["trainings"] == 3
        and json["parts"][0]["detectable"] <= json["parts"][0]["detectable_holm"]
    )
    # the paper's Table 1: C2_FL_local 62.9, baselines (30.1 + 59.8) / 2
    assert verdicts["local_above_baselines"].outcomes[1].part.paper == pytest.approx(17.95)
    assert all(v.verdict == NOT_MEASURED for v in claim_verdicts.evaluate([]))
