"""Which rows yield a number for a patient, and which do not."""

import pytest

from experiments.results import measures
from experiments.results.measures import Run


def row(site, case, *, model="A", grid="training", **columns):
    return {"model": model, "site": site, "case": case, "grid": grid, **columns}


def scores(*runs):
    return measures.Scores(runs)


def test_a_dice_is_in_points_and_of_the_measures_sites_only():
    found = scores(
        Run(1, "c", [row("C1", 1, dice_pancreas=0.5), row("C2", 1, dice_pancreas=0.25)]),
    )
    assert found.of(["A"], "C1_pancreas") == {("c", "C1", 1): 50.0}
    assert found.of(["A"], "pancreas") == {("c", "C1", 1): 50.0, ("c", "C2", 1): 25.0}
    assert found.of(["A"], "pancreas", "C2") == {("c", "C2", 1): 25.0}
    assert found.of(["A", "absent"], "pancreas") == found.of([], "pancreas") == {}


def test_a_later_row_replaces_an_earlier_one_and_the_other_grid_does_not_count():
    rows = [
        row("C1", 1, dice_pancreas=0.5),
        row("C1", 1, dice_pancreas=0.7),
        row("C1", 1, grid="native", dice_pancreas=0.1),
    ]
    assert scores(Run(1, "c", rows)).of(["A"], "C1_pancreas") == {("c", "C1", 1): 70.0}


def test_variants_of_a_training_are_averaged_over_those_with_a_value():
    one = Run(1, "c", [row("C2", 1, dice_tumour=0.2), row("C2", 2, dice_tumour=None)])
    other = Run(1, "c", [row("C2", 1, dice_tumour=0.6), row("C2", 2, dice_tumour=0.0)])
    found = scores(one, other)
    values = found.of(["A"], "C2_tumour")
    assert values == {("c", "C2", 1): pytest.approx(40.0), ("c", "C2", 2): 0.0}
    marked = found.of(["A"], "C2_tumour", marked=True)
    assert marked == {("c", "C2", 1): 1.0, ("c", "C2", 2): 0.0}


def test_only_healthy_patients_have_false_tumours_and_only_found_tumours_have_parts():
    rows = [
        row("C1", 1, volume_ml_tumour=2.0, truth_ml_tumour=0.0),
        row("C1", 2, volume_ml_tumour=3.0, truth_ml_tumour=4.0),
        row("C2", 1, components_tumour=2, truth_ml_tumour=4.0),
        row("C2", 2, components_tumour=0, truth_ml_tumour=4.0),
    ]
    found = scores(Run(1, "c", rows))
    assert found.of(["A"], "false_tumour") == {("c", "C1", 1): 2.0}
    assert found.of(["A"], "components") == {("c", "C2", 1): 2.0}


def test_contributions_to_average_have_average_as_their_mean():
    rows = [
        row("C1", 1, dice_pancreas=0.9, dice_tumour=None),
        row("C2", 1, dice_pancreas=0.4, dice_tumour=0.3),
        row("C2", 2, dice_pancreas=0.5, dice_tumour=0.5),
    ]
    values = scores(Run(1, "c", rows)).of(["A"], "average")
    # pancreas (0.9 + 0.4 + 0.5) / 3 = 0.6, tumour (0.3 + 0.5) / 2 = 0.4
    assert sum(values.values()) / 3 == pytest.approx(50.0)
    assert values["c", "C1", 1] == pytest.approx(45.0)
    assert scores(Run(1, "c", rows[1:])).of(["A"], "average") == {}  # both sites are needed


def test_trainings_are_found_by_cohort_and_seed():
    runs = [Run(1, "a", []), Run(2, "b", []), Run(2, "b", []), Run(3, "b", [])]
    found = measures.by_training(runs)
    assert {cohort: list(seeds) for cohort, seeds in found.items()} == {"a": [1], "b": [2, 3]}
