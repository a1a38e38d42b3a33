"""The stages of a whole search, with programs that only note how they were started."""

import json
import pathlib

import pytest

from c2fnas.search import evolution
from c2fnas.search.evolution import EvolutionSettings
from c2fnas.search.operation_space import OperationSpace
from c2fnas.search.topology_space import TopologySpace
from experiments.run.run_folder import RunFolder
from experiments.search import federated_search, search_state, topology_search, whole_run
from experiments.search.whole_run import SearchStages, WholeSearch

FLAGS = pathlib.Path(__file__).parents[3] / "experiments" / "flagfiles"
SETTINGS = EvolutionSettings(population=2, generations=1, parents=1, mutations=1, crossovers=1)
SPACE = TopologySpace(down=2, up=2, deepest=2, filters=4)


def search(folder, profile="demo", **changes):
    files = {stage: FLAGS / f"search_{stage}_{profile}.flags" for stage in whole_run.SETTINGS_OF}
    given = {"seed": 3, "cases": 6, "split": (3, 1, 2), "threads": 2, "federated": False, **changes}
    return WholeSearch(folder=folder, flag_files=files, **given)


def finish(first, space):
    state = first
    while (turn := next(state.waiting(), None)) is not None:
        arm, candidate = turn
        details = {"macs": float(space.genotype(candidate.gene).macs((16, 16, 16)))}
        state = state.with_arm(
            arm, evolution.record(state.arms[arm], space, candidate.gene, 0.5, details)
        )
    return state


class Programs:
    """A group that starts nothing, and leaves what the searching programs would."""

    peak_memory_bytes = 5

    def __init__(self, log_folder):
        self.folder = log_folder.parent

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def start(self, name, module, arguments, *, log=None):
        STARTED.append((module, dict(a.lstrip("-").split("=", 1) for a in arguments)))
        if module == "experiments.search_topology":
            about = {"experiment": {}}
            state = finish(topology_search.first_state(SPACE, SETTINGS, seed=1, about=about), SPACE)
            search_state.write(self.folder / "topology", state)
            genes = SPACE.genotype(evolution.best(state.arms["evolution"])[0].gene)
            (self.folder / "topology" / "topology.json").write_text(json.dumps(genes.to_json()))
        elif module == "experiments.search_operations":
            genes = json.loads((self.folder / "topology" / "topology.json").read_text())
            space = OperationSpace(whole_run.genotype.Genotype.from_json(genes))
            first = federated_search.first_state(space, SETTINGS, seed=1, about={})
            search_state.write(self.folder / "operations", finish(first, space))

    def wait(self, programs, what):
        pass


STARTED = []


def test_every_stage_starts_its_programs_once_and_the_page_shows_both_searches(tmp_path):
    STARTED.clear()
    run = search(tmp_path)
    SearchStages(run, RunFolder(tmp_path, "x", programs=Programs)).all()
    modules = [module.removeprefix("experiments.") for module, _ in STARTED]
    assert modules == [
        *["synthesize"] * 2,
        *["prepare"] * 2,
        "search_topology",
        "search_operations",
        "search_evidence",
    ]
    given = dict(STARTED[4:])
    topology = tmp_path / "topology"
    assert given["experiments.search_operations"]["genotype"] == str(topology / "topology.json")
    evidence = given["experiments.search_evidence"]
    assert f"topology_random:{topology / 'topology_random.json'}" in evidence["found"].split(",")
    assert evidence["paths"] == str(tmp_path / "operations" / "paths.json")
    assert {flags["seed"] for flags in given.values()} == {"3"}
    page = (tmp_path / "search.html").read_text()
    assert "trained alone, from scratch" in page and "a path of one supernet" in page
    STARTED.clear()
    SearchStages(run, RunFolder(tmp_path, "x", programs=Programs)).all()
    assert STARTED == []


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_the_stages_of_a_profile_are_one_experiment(tmp_path, profile):
    run = search(tmp_path, profile)
    config = run.check()
    assert (config.vae, config.supernet) == ("none", False)
    assert config.filters == (4 if profile == "demo" else 32)
    cost = whole_run.estimated_seconds(run)
    stages = ["cohort", "preparation", "topology", "operations", "evidence", "page"]
    assert list(cost) == stages
    both = whole_run.estimated_seconds(search(tmp_path, profile, federated=True))
    assert list(both) == [*stages[:-1], "federated", "page"]


def test_the_demo_stays_within_four_hours_on_two_cores(tmp_path):
    run = search(tmp_path, cases=28, split=(12, 6, 10), federated=True)
    assert sum(whole_run.estimated_seconds(run).values()) < 4 * 3600


def test_a_stage_starts_its_program_again_until_all_trainings_are_there(tmp_path):
    """12 trainings a process; the third one finds 3 left."""
    left, starts = [27], []

    class Group(Programs):
        def start(self, name, module, arguments, *, log=None):
            starts.append([a for a in arguments if a.startswith("--most_trainings")])
            folder = self.folder / "evidence" / "trainings"
            folder.mkdir(parents=True, exist_ok=True)
            for _ in range(min(12, left[0])):
                (folder / f"{left[0]}.json").touch()
                left[0] -= 1

    with Group(tmp_path / "logs") as group:
        SearchStages(search(tmp_path), RunFolder(tmp_path, "x"))._evidence(group)
    assert starts == [["--most_trainings=12"]] * 3 and left == [0]


def test_programs_that_share_a_stage_share_the_threads(tmp_path):
    STARTED.clear()
    run = search(tmp_path, threads=5, at_once=2)
    SearchStages(run, RunFolder(tmp_path, "x", programs=Programs)).all()
    threads = [(module[19:], flags["threads"]) for module, flags in STARTED if "search" in module]
    assert threads == [*[("topology", "2")] * 2, ("operations", "5"), *[("evidence", "2")] * 2]
    alone = whole_run.estimated_seconds(search(tmp_path, threads=5))
    assert whole_run.estimated_seconds(run)["topology"] < alone["topology"]
    with pytest.raises(ValueError, match="at_once is 3 and threads 2; expected at least 1"):
        search(tmp_path, at_once=3)


def test_flag_files_of_two_experiments_are_refused(tmp_path):
    other = tmp_path / "other.flags"
    text = (FLAGS / "search_evidence_demo.flags").read_text()
    other.write_text(text.replace("--filters=4", "--filters=8"))
    run = search(tmp_path)
    changed = WholeSearch(**{**vars(run), "flag_files": {**run.flag_files, "evidence": other}})
    with pytest.raises(ValueError, match="filters 4, now 8; one search is one experiment"):
        changed.check()


@pytest.mark.parametrize("changes", [{"split": (3, 1, 3)}, {"split": (3, 0, 2)}, {"seed": -1}])
def test_what_cannot_be_run_is_refused(tmp_path, changes):
    with pytest.raises(ValueError, match="expected at least"):
        search(tmp_path, **changes)
