import numpy as np

from experiments.results.statistics import intervals
from experiments.results.verdicts import patient_groups

A, B, C = ("seed 1", "C1", 1), ("seed 1", "C1", 2), ("seed 1", "C2", 1)


def test_the_estimate_by_hand():
    assert patient_groups.estimate([(1.0, {A: 2.0, B: 6.0}), (-1.0, {C: 1.5})]) == 4.0 - 1.5


def test_a_patient_is_averaged_over_the_trainings_that_have_a_value():
    trainings = [[(1.0, {A: 1.0, B: 5.0})], [(1.0, {A: 4.0})]]
    assert patient_groups.averaged(trainings) == [(1.0, {A: 2.5, B: 5.0})]


def test_strata_are_sites_and_their_weighted_means_add_up_to_the_mean_estimate():
    cohorts = [[(1.0, {A: 1.0, B: 3.0, C: 8.0})], [(1.0, {A: 2.0, C: 4.0})]]
    found = patient_groups.strata(cohorts)
    assert [(weight, values.tolist()) for weight, values in found] == [
        (2 / 3 / 2, [1.0, 3.0]),
        (1 / 3 / 2, [8.0]),
        (1 / 2 / 2, [2.0]),
        (1 / 2 / 2, [4.0]),
    ]
    spread = intervals.combination(found)
    assert spread is not None
    np.testing.assert_allclose(spread.estimate, (12 / 3 + 6 / 2) / 2)
