"""The state file of a search."""

import json

import pytest

from c2fnas.search import evolution
from c2fnas.search.evolution import EvolutionSettings
from c2fnas.search.topology_space import TopologySpace
from experiments.search import search_state
from experiments.search.search_state import SearchState

SPACE = TopologySpace(down=2, up=2, filters=4)  # six topologies
SETTINGS = EvolutionSettings(population=2, generations=2, parents=1, mutations=1, crossovers=1)


def state(**settings):
    return SearchState(
        "topology",
        {"seed": 1, "experiment": {"filters": 4}, **settings},
        {
            "evolution": evolution.start(SPACE, SETTINGS, seed=1),
            "random": evolution.random_search(SPACE, SETTINGS, seed=2),
        },
    )


def scored(one):
    while (turn := next(one.waiting(), None)) is not None:
        arm, candidate = turn
        details = {"macs": 10.0, "seconds": 2.0, "dice_C1": 0.5}
        one = one.with_arm(
            arm, evolution.record(one.arms[arm], SPACE, candidate.gene, 0.1, details)
        )
        yield arm, one


def test_what_is_written_is_read(tmp_path):
    (_, first), *_ = scored(state())
    search_state.write(tmp_path, first)
    assert search_state.read(tmp_path) == first
    assert search_state.resumed(tmp_path, state()) == first
    assert search_state.read(tmp_path / "other") is None
    assert search_state.resumed(tmp_path / "other", state()) == state()


def test_the_arms_take_turns_and_both_have_the_whole_budget():
    order = [arm for arm, _ in scored(state())]
    assert order[:4] == ["evolution", "random", "evolution", "random"]
    assert order.count("evolution") <= 4 == order.count("random")
    assert state().budget == 8


def test_other_settings_are_refused_by_name(tmp_path):
    search_state.write(tmp_path, state())
    other = state(experiment={"filters": 8})
    with pytest.raises(ValueError, match=r"experiment\.filters 4, now 8; give another --output"):
        search_state.resumed(tmp_path, other)
    with pytest.raises(ValueError, match="stage topology, now operations"):
        search_state.resumed(tmp_path, SearchState("operations", state().settings, {}))


def test_a_folder_with_files_of_the_user_is_refused(tmp_path):
    (tmp_path / "topology.json").write_text("mine")
    assert search_state.resumed(tmp_path, state(), writes=["search.html"]) == state()
    with pytest.raises(ValueError, match=r"where topology\.json exists .*; give another folder"):
        search_state.resumed(tmp_path, state(), writes=["search.html", "topology.json"])
    search_state.write(tmp_path, state())  # from now on it is the search's
    assert search_state.resumed(tmp_path, state(), writes=["topology.json"]) == state()


def test_a_newer_or_foreign_file_is_refused(tmp_path):
    search_state.write(tmp_path, state())
    path = tmp_path / search_state.FILE_NAME
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(ValueError, match="newer release"):
        search_state.read(tmp_path)
    broken = {**content, "arms": {"evolution": {"format": 1, "candidates": 3}}}
    empty, unset = {**content, "arms": {}}, {**content, "settings": []}
    for wrong in ({"format": 1}, [1], None, {**content, "arms": []}, broken, empty, unset):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"search\.json: is not the state of a search"):
            search_state.read(tmp_path)


def test_a_page_gets_candidates_costs_and_winners():
    *_, (_, last) = scored(state())
    found = search_state.result(last, SPACE.genotype, (16, 16, 16), shared_seconds=5.0)
    assert len(found.candidates) == last.scored
    assert found.seconds == 5.0 + 2.0 * last.scored
    assert found.candidates[0].by_site == {"C1": 0.5}
    assert found.winners["evolution"] == SPACE.genotype(last.arms["evolution"].candidates[0].gene)
