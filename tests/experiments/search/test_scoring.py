"""The order of scores and what each leaves behind; both stages' own tests stop and resume it."""

from c2fnas.search.evolution import EvolutionSettings
from c2fnas.search.topology_space import TopologySpace
from experiments.search import scoring, search_state, topology_search

SPACE = TopologySpace(down=2, up=2, filters=4)  # 6 topologies
SETTINGS = EvolutionSettings(population=3, generations=2, parents=1, mutations=2, crossovers=0)


def first():
    return topology_search.first_state(SPACE, SETTINGS, seed=3, about={})


def test_every_score_is_on_disk_before_the_next_and_a_gene_is_scored_once(tmp_path):
    asked, held = [], []

    def score(gene, label):
        held.append(search_state.read(tmp_path).scored)
        asked.append((gene, label))
        return sum(gene) / 10, {"seconds": 2.0}

    seen = []
    state = scoring.run(
        SPACE,
        first(),
        tmp_path,
        score,
        words=lambda gene: f"gene {sum(gene)}",
        after_each=lambda now: seen.append(now.scored),
    )
    # each arm scores the whole space, and every topology is trained once
    assert {gene for gene, _ in asked} == set(SPACE.genes()) and len(asked) == 6
    assert state.scored == 12 and seen == list(range(1, 13))
    for (gene, label), before in zip(asked, held, strict=True):
        assert label.endswith(f" {before + 1}/12, gene {sum(gene)}")
    seconds = [one.details["seconds"] for arm in state.arms.values() for one in arm.scored]
    assert sorted(seconds) == [0.0] * 6 + [2.0] * 6


def test_a_limit_counts_what_is_scored_anew(tmp_path):
    asked = []

    def score(gene, label):
        asked.append(gene)
        return 0.5, {}

    state = scoring.run(SPACE, first(), tmp_path, score, words=str, most_scores=4)
    assert len(asked) == 4 <= state.scored
    assert search_state.read(tmp_path) == state
