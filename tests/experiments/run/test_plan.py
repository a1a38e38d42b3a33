import pathlib

import pytest

from experiments.configuration import ExperimentConfig
from experiments.run.plan import RunSpec, SiteSpec
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
