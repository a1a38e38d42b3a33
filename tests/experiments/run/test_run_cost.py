import dataclasses

import pytest

from experiments.run import run_cost
from experiments.studies import study_file
from tests.experiments.studies.small_study import CONFIG, parse, read


def test_the_estimated_cost_is_proportional_to_the_work(tmp_path):
    study = read(tmp_path)
    spec = study_file.run_spec(study, study.points[0], 1, tmp_path, parse)
    one = run_cost.estimated_seconds(spec)
    # the demo takes about a quarter of an hour
    assert (
        300 < sum(run_cost.estimated_seconds(dataclasses.replace(spec, beyond=())).values()) < 2400
    )
    twice = run_cost.estimated_seconds(
        dataclasses.replace(spec, config=dataclasses.replace(CONFIG, num_rounds=26))
    )
    start = 16.0  # programs start once whatever they do
    assert twice["baselines"] - start == pytest.approx(2 * (one["baselines"] - start))
    assert run_cost.estimated_seconds(dataclasses.replace(spec, baselines=False))["baselines"] == 0
