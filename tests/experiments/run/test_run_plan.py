"""A run of Table 1 as a value: too few sites, splits that do not fit, and its cost."""

import dataclasses
import pathlib

import pytest

from experiments.configuration import ExperimentConfig
from experiments.run import run_plan
from experiments.run.run_plan import RunSpec, SiteSpec
from experiments.studies import study_file
from tests.experiments.studies.small_study import (
    CONFIG,
    parse,
    read,
)
from tests.experiments.test_configuration import VALUES


def spec(aggregation, num_sites):
    return RunSpec(
        config=ExperimentConfig(**{**VALUES, "aggregation": aggregation}),
        flags_text="",
        folder=pathlib.Path("run"),
        cohorts=pathlib.Path("cohorts"),
        sites=tuple(SiteSpec(name=f"C{n + 1}", cohort={"C1": 10}) for n in range(num_sites)),
    )


def test_a_rule_that_the_sites_are_too_few_for_is_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match=r"'median', which needs at least 3 .* has 2 sites: give"):
        spec("median", 2)
    assert len(spec("median", 3).sites) == 3
    assert len(spec("fedadam", 2).sites) == 2


def test_a_split_larger_than_its_cohort_is_refused():
    with pytest.raises(ValueError, match="site C1: the split has 12 cases, but the cohort only 10"):
        run_plan.SiteSpec(name="C1", cohort={"C1": 10}, split=(8, 2, 2))
    with pytest.raises(ValueError, match="exactly one of `cohort`"):
        run_plan.SiteSpec(name="C1")
    with pytest.raises(ValueError, match="site C1: `deformed` sources need a `split`"):
        run_plan.SiteSpec(name="C1", deformed=pathlib.Path("m.json"))
    with pytest.raises(
        ValueError, match="site C1: `phantom` is 'hard', but only a synthetic `cohort` has one"
    ):
        run_plan.SiteSpec(name="C1", manifest=pathlib.Path("m.json"), phantom="hard")


def test_the_estimated_cost_is_proportional_to_the_work(tmp_path):
    study = read(tmp_path)
    spec = study_file.run_spec(study, study.points[0], 1, tmp_path, parse)
    one = run_plan.estimated_seconds(spec)
    # the demo takes about a quarter of an hour
    assert (
        300 < sum(run_plan.estimated_seconds(dataclasses.replace(spec, beyond=())).values()) < 2400
    )
    twice = run_plan.estimated_seconds(
        dataclasses.replace(spec, config=dataclasses.replace(CONFIG, num_rounds=26))
    )
    start = 16.0  # programs start once whatever they do
    assert twice["baselines"] - start == pytest.approx(2 * (one["baselines"] - start))
    assert run_plan.estimated_seconds(dataclasses.replace(spec, baselines=False))["baselines"] == 0
