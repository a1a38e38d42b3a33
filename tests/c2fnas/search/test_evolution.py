import collections
import dataclasses
import json

import pytest

from c2fnas import genotype
from c2fnas.search import evolution
from c2fnas.search.draws import Draws
from c2fnas.search.evolution import EvolutionSettings
from c2fnas.search.operation_space import OperationSpace
from c2fnas.search.topology_space import TopologySpace

SPACE = OperationSpace(genotype.load("c2fnas"))
SMALL = EvolutionSettings(
    population=12, generations=5, parents=3, mutations=5, crossovers=5, mutation_probability=0.2
)
WANTED = SPACE.gene_of(genotype.load("c2fnas"))


def agreement(gene):
    return float(sum(a == b for a, b in zip(gene, WANTED, strict=True)))


def run(state, space=SPACE, score=agreement, steps=None):
    taken = 0
    while (candidate := evolution.waiting(state)) is not None and taken != steps:
        state = evolution.record(state, space, candidate.gene, score(candidate.gene))
        taken += 1
    return state


def test_the_defaults_are_those_of_the_source():
    assert dataclasses.asdict(EvolutionSettings()) == {
        "population": 50,
        "generations": 20,
        "parents": 10,
        "mutations": 25,
        "crossovers": 25,
        "mutation_probability": 0.1,
    }
    assert EvolutionSettings().budget == 1000


def of_generation(state, number):
    return [candidate for candidate in state.candidates if candidate.generation == number]


def test_the_composition_of_every_generation():
    state = run(evolution.start(SPACE, SMALL, seed=1))
    assert len(state.candidates) == len(state.scored) == SMALL.budget == 60
    for number in range(5):
        origins = collections.Counter(c.origin for c in of_generation(state, number))
        assert origins == (
            {"random": 12} if number == 0 else {"mutation": 5, "crossover": 5, "random": 2}
        )
    genes = [candidate.gene for candidate in state.candidates]
    assert len(set(genes)) == len(genes)


def test_parents_are_the_best_so_far():
    state = run(evolution.start(SPACE, SMALL, seed=1))
    for number in range(1, 5):
        earlier = [c for c in state.candidates if c.generation < number]
        best = sorted(earlier, key=lambda c: -c.score)[:3]  # stable: the first proposed of equals
        allowed = {candidate.gene for candidate in best}
        for candidate in of_generation(state, number):
            assert set(candidate.parents) <= allowed
            assert len(candidate.parents) == {"mutation": 1, "crossover": 2}.get(
                candidate.origin, 0
            )
            if candidate.origin == "crossover":
                assert all(
                    g in pair for g, *pair in zip(candidate.gene, *candidate.parents, strict=True)
                )


def test_it_finds_more_than_chance_on_a_score_that_can_be_climbed():
    found = [
        (
            evolution.best(run(evolution.start(SPACE, SMALL, seed=seed)))[0].score,
            evolution.best(run(evolution.random_search(SPACE, SMALL, seed=seed + 100)))[0].score,
        )
        for seed in range(12)
    ]
    assert sum(evolved for evolved, _ in found) > sum(chance for _, chance in found) + 12


def test_the_random_arm_has_the_same_budget():
    state = run(evolution.random_search(SPACE, SMALL, seed=9))
    assert len(state.scored) == SMALL.budget
    assert {candidate.origin for candidate in state.candidates} == {"random"}


def test_it_is_a_function_of_seed_and_scores():
    whole = run(evolution.start(SPACE, SMALL, seed=1))
    assert run(evolution.start(SPACE, SMALL, seed=1)) == whole
    assert run(evolution.start(SPACE, SMALL, seed=2)) != whole
    other = run(evolution.start(SPACE, SMALL, seed=1), score=lambda gene: -agreement(gene))
    assert [c.gene for c in of_generation(other, 0)] == [c.gene for c in of_generation(whole, 0)]
    assert of_generation(other, 1) != of_generation(whole, 1)


@pytest.mark.parametrize("steps", [0, 1, 11, 12, 13, 59])
def test_it_resumes_from_its_json_at_any_candidate(steps):
    whole = run(evolution.start(SPACE, SMALL, seed=1))
    cut = run(evolution.start(SPACE, SMALL, seed=1), steps=steps)
    read = evolution.from_json(json.loads(json.dumps(evolution.to_json(cut))))
    assert read == cut
    assert run(read) == whole


def test_scores_keep_their_details():
    state = evolution.start(SPACE, SMALL, seed=1)
    gene = evolution.waiting(state).gene
    state = evolution.record(state, SPACE, gene, 0.5, {"dice_tumour": 0.25})
    assert evolution.from_json(evolution.to_json(state)).scored[0].details == {"dice_tumour": 0.25}
    assert state.generation == 0


def test_given_genes_come_first():
    state = evolution.start(SPACE, SMALL, seed=1, given=[WANTED])
    assert state.candidates[0] == evolution.Candidate(WANTED, 0, "given")
    assert len(of_generation(state, 0)) == 12
    assert {c.origin for c in state.candidates[1:]} == {"random"}


def test_it_evolves_topologies_and_keeps_them_valid():
    space = TopologySpace()
    state = run(evolution.start(space, SMALL, seed=1), space, lambda gene: float(sum(gene)))
    assert len(state.scored) == 60
    assert all(space.is_valid(candidate.gene) for candidate in state.candidates)
    assert evolution.best(state)[0].score >= 10


def test_a_space_that_is_used_up_ends_the_evolution():
    space = TopologySpace(down=2, up=2)  # 6 genes
    settings = dataclasses.replace(SMALL, population=4, mutations=1, crossovers=1)
    state = run(evolution.start(space, settings, seed=1), space, lambda gene: float(sum(gene)))
    assert {candidate.gene for candidate in state.scored} == set(space.genes())
    assert state.generation == 1


def test_both_arms_score_every_topology_where_the_budget_is_the_whole_space(monkeypatch):
    """With chance alone, the random arm misses the last genes of a space, and has less to choose."""
    monkeypatch.setattr(evolution, "_ATTEMPTS", 20)
    space = TopologySpace(down=4, up=4)  # 70 genes
    settings = EvolutionSettings(population=35, generations=2, mutations=10, crossovers=10)
    for begin in (evolution.start, evolution.random_search):
        state = run(begin(space, settings, seed=1), space, lambda gene: float(sum(gene)))
        assert {one.gene for one in state.scored} == set(space.genes())


def test_mutation_and_crossover_place_by_place():
    draws = Draws(1, "test")
    children = [evolution.mutated(SPACE, WANTED, 0.1, draws) for _ in range(2000)]
    changed = sum(a != b for child in children for a, b in zip(child, WANTED, strict=True))
    assert abs(changed / (2000 * 12) - 0.1 * 2 / 3) < 0.01  # a third of the draws changes nothing
    ones, twos = (1,) * 12, (2,) * 12
    mixed = [evolution.crossed(ones, twos, draws) for _ in range(500)]
    assert abs(sum(map(sum, mixed)) / (500 * 12) - 1.5) < 0.03


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: EvolutionSettings(population=0), "population is 0; expected at least 1"),
        (lambda: EvolutionSettings(mutations=40), "mutations is 40 and crossovers 25.*at most 50"),
        (lambda: EvolutionSettings(mutation_probability=2.0), "mutation_probability is 2.0"),
        (lambda: evolution.start(SPACE, SMALL, seed=1, given=[WANTED] * 2), "2 genes.*1 of them"),
        (lambda: evolution.start(SPACE, SMALL, seed=1, given=[(9,) * 12]), "choice 9"),
        (lambda: _record(WANTED, 1.0), "is not waiting for a score"),
        (lambda: _record(None, float("nan")), "is nan; expected a finite number"),
        (lambda: evolution.from_json({"format": 2}), "format 2; this release reads 1"),
        (lambda: evolution.from_json({"format": 1}), "not the state of an evolution"),
        (lambda: _broken(origin="sky"), "unknown origin"),
        (lambda: _broken(gene=None), "not the state of an evolution"),
    ],
)
def test_wrong_input_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def _record(gene, score):
    state = evolution.start(SPACE, SMALL, seed=1)
    return evolution.record(state, SPACE, gene or evolution.waiting(state).gene, score)


def _broken(**changes):
    value = evolution.to_json(evolution.start(SPACE, SMALL, seed=1))
    value["candidates"][0] |= changes
    return evolution.from_json(value)
