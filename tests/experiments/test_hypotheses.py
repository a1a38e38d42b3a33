import dataclasses

import pytest

from experiments import hypotheses, results, statistics
from experiments.hypotheses import CONTRADICTED, NOT_MEASURED, SUPPORTED, UNDECIDED, Hypothesis, Outcome, Part, Run


def row(model, site, case, pancreas, tumour=None, **more):
    volumes = {"volume_ml_tumour": 0.0, "truth_ml_tumour": 0.0 if site == "C1" else 9.0, "volume_ml_pancreas": 70.0}
    return {
        "model": model, "site": site, "case": case, "grid": "training", "dice_pancreas": pancreas, "dice_tumour": tumour, **volumes,
        "truth_ml_pancreas": 70.0, **more,
    }  # fmt: skip


def verdict(parts, *runs):
    (found,) = hypotheses.evaluate(runs, [Hypothesis("h", "claim", "ours", tuple(parts))])
    return found


def two_models(first, second, site="C1", **more):
    rows = [row(name, site, i + 1, v) for name, values in (("A", first), ("B", second)) for i, v in enumerate(values)]
    return Run(1, "cohort", rows)


GREATER = Part("greater", ("A",), ("B",), "C1_pancreas")


def test_a_clear_difference_is_supported_and_its_opposite_contradicted():
    better, worse = [0.8, 0.82, 0.9, 0.7, 0.75, 0.6], [0.7, 0.71, 0.85, 0.62, 0.6, 0.53]
    found = verdict([GREATER], two_models(better, worse))
    (outcome,) = found.outcomes
    # differences 10, 11, 5, 8, 15, 7 points: mean 56/6; all six positive, two-sided p = 2/64, the only test
    assert outcome.interval.estimate == pytest.approx(56 / 6) and outcome.interval.count == 6
    assert outcome.p == outcome.p_holm == pytest.approx(2 / 64)
    assert outcome.by_seed == {1: pytest.approx(56 / 6)}
    assert found.verdict == SUPPORTED
    assert verdict([GREATER], two_models(worse, better)).verdict == CONTRADICTED
    assert verdict([dataclasses.replace(GREATER, rule="less")], two_models(worse, better)).verdict == SUPPORTED


def test_too_few_cases_decide_nothing_and_holm_counts_all_parts():
    assert verdict([GREATER], two_models([0.9] * 5, [0.5, 0.6, 0.4, 0.3, 0.2])).verdict == UNDECIDED  # p cannot be below 2/32
    run = two_models([0.8, 0.82, 0.9, 0.7, 0.75, 0.6], [0.7, 0.71, 0.85, 0.62, 0.6, 0.53])
    found = verdict([GREATER, GREATER], run)  # 2/64 twice: 0.0625 after Holm
    assert [outcome.p_holm for outcome in found.outcomes] == [pytest.approx(1 / 16)] * 2 and found.verdict == UNDECIDED


def test_a_margin_forgives_a_small_loss_and_not_a_large_one():
    second = [0.70, 0.72, 0.74, 0.66, 0.68, 0.71, 0.73]
    not_less = Part("not_less", ("A",), ("B",), "C1_pancreas", margin=1.0)
    assert verdict([not_less], two_models([v - 0.004 for v in second], second)).verdict == SUPPORTED
    assert verdict([not_less], two_models([v - 0.05 for v in second], second)).verdict == CONTRADICTED
    assert verdict([GREATER], two_models(second, second)).verdict == UNDECIDED  # no difference, no test


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
    assert found.outcomes[0].interval.estimate == pytest.approx(45.0) == pytest.approx(results.table(rows)["A"].percent["average"])


def test_patients_of_two_cohorts_are_pooled_and_those_of_one_are_averaged():
    runs = [Run(1, "first", two_models([0.8, 0.7], [0.7, 0.7]).rows), Run(2, "second", two_models([0.9, 0.6], [0.6, 0.6]).rows)]
    (outcome,) = verdict([GREATER], *runs).outcomes
    assert outcome.interval.count == 4 and outcome.interval.estimate == pytest.approx((10 + 0 + 30 + 0) / 4)
    assert outcome.by_seed == {1: pytest.approx(5.0), 2: pytest.approx(15.0)}
    (outcome,) = verdict([GREATER], *(dataclasses.replace(run, cohort="one") for run in runs)).outcomes
    assert outcome.interval.count == 2 and outcome.interval.estimate == pytest.approx(10.0)


def test_the_mean_of_several_models_is_a_patients():
    rows = [row("A", "C1", 1, 0.8), row("B", "C1", 1, 0.4), row("C", "C1", 1, 0.6), row("A", "C1", 2, 0.8), row("B", "C1", 2, 0.2)]
    (outcome,) = verdict([Part("greater", ("A",), ("B", "C"), "C1_pancreas")], Run(1, "c", rows)).outcomes
    assert outcome.interval.count == 1 and outcome.interval.estimate == pytest.approx(30.0)  # case 2 lacks C


def test_false_tumours_are_counted_in_healthy_cases():
    rows = [row("A", "C1", i, 0.8, volume_ml_tumour=ml) for i, ml in enumerate((0.0, 0.0, 2.0), 1)]
    rows += [row("A", "C1", 9, 0.8, volume_ml_tumour=5.0, truth_ml_tumour=4.0)]  # it has one: not false
    found = verdict([Part("gone", ("A",), (), "false_tumour")], Run(1, "c", rows))
    share = found.outcomes[0].interval
    assert (share.estimate, share.count) == (pytest.approx(1 / 3), 3) and found.verdict == UNDECIDED
    assert found.outcomes[0].by_seed == {1: 1.0}  # cases
    many = [row("A", "C1", i, 0.8, volume_ml_tumour=1.0 * (i < 8)) for i in range(1, 21)]
    assert verdict([Part("gone", ("A",), (), "false_tumour")], Run(1, "c", many)).verdict == CONTRADICTED
    none = [row("A", "C1", i, 0.8) for i in range(1, 4)]
    assert verdict([Part("gone", ("A",), (), "false_tumour")], Run(1, "c", none)).verdict == SUPPORTED


def test_one_models_two_sites_are_compared_as_different_patients():
    rows = [row("A", "C1", i, 0.8 + i / 100) for i in range(1, 7)] + [row("A", "C2", i, 0.4 + i / 100, 0.1) for i in range(1, 7)]
    found = verdict([Part("less", ("A",), ("A",), "pancreas", sites=("C2", "C1"))], Run(1, "c", rows))
    assert found.outcomes[0].interval.estimate == pytest.approx(-40.0) and found.verdict == SUPPORTED
    assert found.outcomes[0].p == pytest.approx(2 / 924)  # 12 choose 6


def test_bound_is_missed_only_when_the_interval_lies_wholly_below():
    part = Part("bound", ("FL_global",), ("pooled",), "average", margin=3.0)
    for low, high, expected in ((-9.0, -3.1, CONTRADICTED), (-9.0, -2.9, SUPPORTED), (-1.0, 2.0, SUPPORTED)):
        assert hypotheses.judge(Outcome(part, UNDECIDED, statistics.Interval((low + high) / 2, low, high, 30))) == expected


def test_a_missing_model_or_column_is_not_measured_and_a_contradicted_part_prevails():
    run = two_models([0.8] * 3, [0.7] * 3)
    assert verdict([Part("greater", ("A",), ("absent",), "C1_pancreas")], run).verdict == NOT_MEASURED
    assert verdict([Part("less", ("A",), ("B",), "components")], run).verdict == NOT_MEASURED
    assert (
        verdict([Part("zero", ("A",), (), "C1_pancreas"), Part("greater", ("A",), ("absent",), "C1_pancreas")], run).verdict == CONTRADICTED
    )


def test_the_papers_hypotheses_are_all_there_and_measured_where_their_rows_are():
    models = [*results.MODELS, "FL_best_global", *results.BEYOND, "FL_global_gated"]
    rows = []
    for k, model in enumerate(models):
        rows += [row(model, "C1", i, 0.5 + 0.02 * k + i / 100, components_tumour=None) for i in range(1, 4)]
        rows += [
            row(model, "C2", i, 0.4 + 0.03 * k + i / 90, 0.1 * (k > 0) + i / 70 * (k > 0), components_tumour=1 + (i + k) % 2)
            for i in range(1, 4)
        ]
    rows = [{**line, "found_tumour": 1.0, "false_components_tumour": float(line["case"])} for line in rows]
    verdicts = {v.hypothesis.key: v for v in hypotheses.evaluate([Run(1, "c", rows)])}
    assert len(verdicts) == len(hypotheses.HYPOTHESES) == 21
    assert verdicts["no_tumour_without_tumours"].verdict == SUPPORTED
    assert [key for key, v in verdicts.items() if v.verdict == NOT_MEASURED] == ["tumour_smoother"]
    json = verdicts["c1_local_keeps_c1"].to_json()
    assert json["parts"][0]["paper"] == pytest.approx(0.1) and json["parts"][0]["interval"]["count"] == 3
    # the paper's Table 1: C2_FL_local 62.9, baselines (30.1 + 59.8) / 2
    assert verdicts["local_above_baselines"].outcomes[1].part.paper == pytest.approx(17.95)
    assert all(v.verdict == NOT_MEASURED for v in hypotheses.evaluate([]))
