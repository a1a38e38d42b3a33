import pytest

from experiments.results import model_names
from experiments.results.model_names import candidate_name, candidate_of


def test_names_go_there_and_back():
    assert candidate_name("C1_FL_local", 24) == "C1_FL_local_r024"
    assert candidate_of("C1_FL_local_r024") == ("C1_FL_local", 24)
    for round_number in (1, 999, 1000, 999_999):
        name = candidate_name("site-7_FL_local", round_number)
        assert candidate_of(name) == ("site-7_FL_local", round_number)


@pytest.mark.parametrize(
    "name",
    [
        "C1_FL_local",
        "C1_baseline",
        "FL_global",
        "round_024",
        "C1_r024",
        "C1_FL_local_shared",
        "C1_FL_local_r24",
        "C1_FL_local_r024" + model_names.GATED,
        "_FL_local_r024",
    ],
)
def test_other_names_are_no_candidates(name):
    assert candidate_of(name) is None
