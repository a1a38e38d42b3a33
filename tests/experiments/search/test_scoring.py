"""The order of scores and what each leaves behind; both stages' own tests stop and resume it."""

import concurrent.futures
import threading

import pytest

from c2fnas.search.evolution import EvolutionSettings
from c2fnas.search.topology_space import TopologySpace
from experiments.search import scoring, search_state, topology_search
from experiments.search.shared_work import SharedWork

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
        after_each=lambda now: seen.append(now.scored),
    )
    # each arm scores the whole space, and every topology is trained once
    assert {gene for gene, _ in asked} == set(SPACE.genes()) and len(asked) == 6
    assert state.scored == 12 and seen == list(range(1, 13))
    for (gene, label), before in zip(asked, held, strict=True):
        assert label.endswith(f" {before + 1}/12, {SPACE.describe(gene)}")
    seconds = [one.details["seconds"] for arm in state.arms.values() for one in arm.scored]
    assert sorted(seconds) == [0.0] * 6 + [2.0] * 6


def test_a_limit_counts_what_is_scored_anew(tmp_path):
    asked = []

    def score(gene, label):
        asked.append(gene)
        return 0.5, {}

    state = scoring.run(SPACE, first(), tmp_path, score, most_scores=4)
    assert len(asked) == 4 <= state.scored
    assert search_state.read(tmp_path) == state


def test_processes_that_share_a_search_score_each_gene_once_and_end_with_its_result(tmp_path):
    def value(gene, label):
        return sum(gene) / 10, {"macs": 1.0, "seconds": 2.0}

    whole = scoring.run(SPACE, first(), tmp_path / "alone", value)
    asked, both = [], threading.Barrier(2)

    def score(gene, label):
        asked.append(gene)
        if len(asked) <= 2:
            both.wait(60)  # ends only if two genes are scored at the same time
        return value(gene, label)

    def one(_):
        return scoring.run(SPACE, first(), tmp_path / "shared", score)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(one, range(2)))
    assert sorted(asked) == sorted(SPACE.genes())
    assert [state.scored for state in found] == [12, 12]
    for name, arm in whole.arms.items():
        scores = [(c.gene, c.generation, c.score) for c in arm.candidates]
        for state in (*found, search_state.read(tmp_path / "shared")):
            assert [(c.gene, c.generation, c.score) for c in state.arms[name].candidates] == scores


def test_a_process_waits_for_others_at_the_end_of_a_generation_and_takes_over_from_the_dead(
    tmp_path,
):
    with SharedWork(tmp_path).alone():
        search_state.write(tmp_path, first())
        state = first()
        claims = [
            SharedWork(tmp_path).claim("-".join(map(str, candidate.gene)))
            for _, candidate in state.waiting()
            if candidate.gene in {one.gene for one in state.arms["evolution"].candidates}
        ]
        held = [claim for claim in claims if claim is not None]
    waits = []

    def sleep(seconds):
        waits.append(search_state.read(tmp_path).scored)
        for claim in held:  # its process dies
            claim.__exit__()

    state = scoring.run(SPACE, first(), tmp_path, lambda *_: (0.5, {}), sleep=sleep)
    assert waits == [3] and state.finished  # the three others of the random arm were free


def test_a_state_that_disappears_is_reported(tmp_path):
    def score(gene, label):
        (tmp_path / search_state.FILE_NAME).unlink()
        return 0.5, {}

    with pytest.raises(ValueError, match=r"search\.json: was removed while the search ran"):
        scoring.run(SPACE, first(), tmp_path, score)
