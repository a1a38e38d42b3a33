"""How a candidate is judged."""

import pytest

from c2fnas.training import NonFiniteLoss
from experiments.search import candidate_budget
from experiments.search.candidate_training import TrainedScores

ROWS = [
    {"site": site, "case": n, "score": score, "dice_pancreas": score, "dice_tumour": None}
    for site, n, score in (("C1", 1, 0.2), ("C2", 1, 0.4), ("C2", 2, 0.9))
]


def test_the_score_is_the_mean_over_cases_of_the_validation():
    rows = {"validation": ROWS, "test": [{**ROWS[0], "score": 1.0}]}
    score, details = candidate_budget.scored(lambda: TrainedScores(rows, 12.34), 5e9)
    assert score == pytest.approx(0.5)  # (0.2 + 0.4 + 0.9) / 3
    assert details == pytest.approx({"macs": 5e9, "seconds": 12.3, "dice_C1": 0.2, "dice_C2": 0.65})


def test_a_training_that_diverges_scores_0():
    def diverges():
        raise NonFiniteLoss("step 3")

    score, details = candidate_budget.scored(diverges, 5e9)
    assert score == 0.0 and details["diverged"] == 1.0


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="proxy_steps is 0; expected at least 1"):
        candidate_budget.ProxySettings(proxy_steps=0)
