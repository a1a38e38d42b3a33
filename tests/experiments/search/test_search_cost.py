"""Estimated costs."""

import dataclasses

import numpy as np
import pytest

from c2fnas import genotype
from experiments.search import search_cost

PUBLISHED = genotype.load("c2fnas").with_size(filters=4)


def seconds(**changes):
    settings = {"patch_size": (32,) * 3, "batch_size": 2, "steps": 300, "cases": 12}
    return search_cost.training_seconds(
        PUBLISHED, **{**settings, "voxels_per_case": 272_000.0, **changes}
    )


def test_the_estimate_is_that_of_the_training_it_was_measured_by():
    # measured: 300 steps of 0.085 s and 12 cases of 0.25 s
    assert seconds() == pytest.approx(300 * 0.085 + 12 * 0.25, rel=0.05)


def test_twice_the_steps_and_cases_cost_twice_as_much():
    assert seconds(steps=600, cases=24) == pytest.approx(2 * seconds())
    assert seconds(batch_size=8) > seconds()


def test_the_words_count_the_start_on_one_core():
    found = search_cost.text([100.0, 100.0], "trainings", cores=2)
    assert found == "2 trainings: about 2:29 min on 2 cores, 0.1 CPU-hours"  # 2 * 24.5 + 200 / 2


def test_cases_and_voxels_are_those_of_a_split():
    class Case:
        image = np.zeros((2, 3, 4))

    @dataclasses.dataclass
    class Store:
        counts: dict

        def case_ids(self, split):
            return range(self.counts[split])

        def open(self, _):
            return Case

    assert search_cost.scored_voxels([Store({"test": 2}), Store({"test": 1})], "test") == (3, 24.0)
