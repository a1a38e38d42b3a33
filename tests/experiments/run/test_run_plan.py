"""A run of Table 1 as a value: too few sites, and splits that do not fit."""

import pathlib

import pytest

from experiments.configuration import ExperimentConfig
from experiments.run.run_plan import RunSpec, SiteSpec
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
        SiteSpec(name="C1", cohort={"C1": 10}, split=(8, 2, 2))
    with pytest.raises(ValueError, match="exactly one of `cohort`"):
        SiteSpec(name="C1")
    with pytest.raises(ValueError, match="site C1: `deformed` sources need a `split`"):
        SiteSpec(name="C1", deformed=pathlib.Path("m.json"))
    with pytest.raises(
        ValueError, match="site C1: `phantom` is 'hard', but only a synthetic `cohort` has one"
    ):
        SiteSpec(name="C1", manifest=pathlib.Path("m.json"), phantom="hard")
