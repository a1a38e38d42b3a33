"""The lines of a search, by hand."""

from experiments.results import search_table
from experiments.results.search_table import ScoredCandidate


def candidate(number, score, macs, arm="evolution", generation=0):
    return ScoredCandidate(arm, number, generation, "given", f"n{number}", score, macs, 1.0)


FOUND = [
    candidate(1, 0.5, 3e9),
    candidate(2, 0.4, 1e9),
    candidate(3, 0.6, 4e9, generation=1),
    candidate(4, 0.45, 3e9, generation=1),
    candidate(1, 0.55, 2e9, arm="random"),
]


def test_the_front_holds_what_nothing_cheaper_beats():
    # by MACs: 0.4 at 1, 0.55 at 2, then only 0.6 at 4 is better
    front = search_table.pareto_front(FOUND)
    assert [(one.macs, one.score) for one in front] == [(1e9, 0.4), (2e9, 0.55), (4e9, 0.6)]


def test_best_so_far_never_falls():
    assert search_table.best_so_far(search_table.of_arm(FOUND, "evolution")) == [0.5, 0.5, 0.6, 0.6]


def test_arms_generations_and_winners():
    assert search_table.arms(FOUND) == ["evolution", "random"]
    own = search_table.by_generation(search_table.of_arm(FOUND, "evolution"))
    assert {number: [one.number for one in ones] for number, ones in own.items()} == {
        0: [1, 2],
        1: [3, 4],
    }
    assert search_table.winner(FOUND, "evolution").number == 3
    assert search_table.winner(FOUND, "random").score == 0.55
    assert search_table.winner([], "random") is None
