"""The coarse stage with a score that is a function of the levels, so that its outcome is known."""

import pytest

from c2fnas.search import clustering, distance, evolution
from c2fnas.search.evolution import EvolutionSettings
from c2fnas.search.topology_space import TopologySpace
from experiments.search import scoring, search_state, topology_search

SPACE = TopologySpace(down=4, up=4, deepest=4, filters=4)
SETTINGS = EvolutionSettings(population=6, generations=4, parents=3, mutations=3, crossovers=2)


def first(seed=3, **changes):
    return topology_search.first_state(SPACE, SETTINGS, seed=seed, about={"steps": 5}, **changes)


def score(calls):
    def one(gene, label):
        calls.append((gene, label))
        return sum(SPACE.levels(gene)) / 100, {"macs": 1.0, "seconds": 3.0}

    return one


def test_both_arms_score_the_same_number_and_no_topology_is_trained_twice(tmp_path):
    calls = []
    found = scoring.run(SPACE, first(), tmp_path, score(calls))
    assert [len(arm.scored) for arm in found.arms.values()] == [24, 24]
    genes = [gene for gene, _ in calls]
    assert len(set(genes)) == len(genes) < 48
    both = {c.gene for c in found.arms["evolution"].scored} & {
        c.gene for c in found.arms["random"].scored
    }
    assert len(genes) == 48 - len(both)
    assert calls[0][1].startswith("evolution 1/48, levels ")


def test_a_search_that_is_stopped_at_any_point_ends_the_same(tmp_path):
    whole = scoring.run(SPACE, first(), tmp_path / "whole", score([]))

    class Stopped(Exception):
        pass

    for stop in (0, 1, 7, 30):
        folder, calls = tmp_path / str(stop), []

        def until(gene, label, calls=calls, stop=stop):
            if len(calls) == stop:
                raise Stopped
            return score(calls)(gene, label)

        with pytest.raises(Stopped):
            scoring.run(SPACE, search_state.resumed(folder, first()), folder, until)
        again = scoring.run(SPACE, search_state.resumed(folder, first()), folder, score(calls))
        assert again == whole and search_state.read(folder) == whole


def test_a_search_in_parts_ends_the_same(tmp_path):
    whole = scoring.run(SPACE, first(), tmp_path / "whole", score([]))
    state, folder = first(), tmp_path / "parts"
    for _ in range(20):
        calls = []
        state = scoring.run(
            SPACE, search_state.resumed(folder, first()), folder, score(calls), most_scores=5
        )
        assert len(calls) <= 5
        if state.finished:
            break
    assert state == whole


def test_the_first_generation_has_one_topology_of_each_cluster():
    genes = list(SPACE.genes())
    groups = clustering.clusters(distance.pairwise([SPACE.levels(g) for g in genes]), 6)
    given = [candidate.gene for candidate in first().arms["evolution"].candidates]
    assert len(given) == 6
    for group in groups:
        assert len({genes[number] for number in group} & set(given)) == 1


def test_evolution_finds_the_top_of_a_smooth_score(tmp_path):
    found = scoring.run(SPACE, first(), tmp_path, score([]))
    best = evolution.best(found.arms["evolution"])[0]
    assert best.score >= sorted(sum(SPACE.levels(g)) / 100 for g in SPACE.genes())[-3]


def test_the_random_arm_can_be_left_out_and_more_than_there_is_is_refused():
    assert list(first(random_arm=False).arms) == ["evolution"]
    small = TopologySpace(down=1, up=1)
    with pytest.raises(ValueError, match="together 24 topologies; expected at most 2"):
        topology_search.first_state(small, SETTINGS, seed=1, about={})


@pytest.mark.parametrize(("sizes", "level"), [((32, 32, 32), 5), ((48, 48, 32), 4), ((6, 8), 1)])
def test_the_deepest_level_divides_every_size(sizes, level):
    assert topology_search.deepest_level(sizes) == level
