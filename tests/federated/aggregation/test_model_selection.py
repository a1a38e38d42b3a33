import random

from federated.aggregation.model_selection import has_plateaued, select

EXAMPLES = {"C1": 30, "C2": 10}


def test_weighted_mean_and_worst_site_by_hand():
    chosen = select(
        {0: {"C1": 0.0, "C2": 0.0}, 1: {"C1": 0.8, "C2": 0.2}, 2: {"C1": 0.6, "C2": 0.6}}, EXAMPLES
    )
    assert chosen.best == 1
    assert chosen.mean == {0: 0.0, 1: (30 * 0.8 + 10 * 0.2) / 40, 2: (30 * 0.6 + 10 * 0.6) / 40}
    assert chosen.worst == {0: 0.0, 1: 0.2, 2: 0.6}


def test_the_last_model_can_be_the_best():
    assert select({0: {"C1": 0.1}, 1: {"C1": 0.2}}, EXAMPLES).best == 1


def test_a_tie_goes_to_the_later_model():
    assert select({0: {"C1": 0.0}, 1: {"C1": 0.0}}, EXAMPLES).best == 1


def test_models_are_compared_on_the_same_sites_only():
    # Model 1 was scored by C1 alone, whose cases are easy: it is no candidate.
    chosen = select(
        {0: {"C1": 0.5, "C2": 0.3}, 1: {"C1": 0.9}, 2: {"C1": 0.6, "C2": 0.3}}, EXAMPLES
    )
    assert chosen.best == 2 and set(chosen.mean) == {0, 2} and chosen.sites == ("C1", "C2")


def test_without_scores_nothing_is_selected():
    assert select({}, EXAMPLES) is None and select({0: {}}, EXAMPLES) is None


def test_a_planted_best_round_is_always_found():
    rng = random.Random(3)
    for _ in range(100):
        planted = rng.randrange(20)
        scores = {
            n: {s: rng.uniform(0.1, 0.5) + (0.45 if n == planted else 0.0) for s in EXAMPLES}
            for n in range(20)
        }
        assert select(scores, EXAMPLES).best == planted


def test_a_planted_bad_round_is_not_chosen_in_any_of_a_hundred_trials():
    rng, right = random.Random(5), 0
    for _ in range(100):
        planted, last = rng.randrange(20), rng.random() < 0.5
        bad = 19 if last else planted  # half of them where an unselected last model would be it
        scores = {
            n: {s: rng.uniform(0.6, 0.8) - (0.5 if n == bad else 0.0) for s in EXAMPLES}
            for n in range(20)
        }
        mean = {n: (30 * by_site["C1"] + 10 * by_site["C2"]) / 40 for n, by_site in scores.items()}
        chosen = select(scores, EXAMPLES)
        right += chosen.best == max(mean, key=mean.get) != bad and chosen.best_worst_site == max(
            scores, key=lambda n, scores=scores: min(scores[n].values())
        )
    assert right == 100


def test_a_plateau_by_hand():
    mean = {0: 0.1, 1: 0.5, 2: 0.505, 3: 0.4, 4: 0.5}
    assert has_plateaued(mean, patience=3, min_improvement=0.01) and not has_plateaued(
        mean, patience=3
    )
    assert not has_plateaued(mean, patience=5) and not has_plateaued(mean, patience=0)
