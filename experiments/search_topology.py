"""Searches the topology of the network: evolution over clusters of similar topologies.

    python -m experiments.search_topology --output=search/topology \\
        --flagfile=experiments/flagfiles/search_topology_demo.flags \\
        --site_folders=sites/C1,sites/C2

Every candidate is trained alone from scratch on the training cases of all sites, for --proxy_steps
steps, and scored on their validation cases; no score uses a test case. A second arm draws as many
topologies at random. The cost is printed first (`--dry_run` stops there). Stop it at any time; run
the same command again to resume. Several processes with the same command share the trainings, for
example one per GPU.

Writes topology.json and topology_random.json, the best genotype of each arm, which every program
accepts as --genotype; search.html, a page that shows the search; and search.json, its state.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from c2fnas.search.evolution import EvolutionSettings
from experiments import flags as experiment_flags
from experiments import program, program_help, setting_flags
from experiments.search.candidate_budget import MOST_TRAININGS, ProxySettings

if TYPE_CHECKING:
    from c2fnas.search.topology_space import TopologySpace
    from experiments.configuration import ExperimentConfig
    from experiments.search.scoring import Score
    from experiments.search.search_state import SearchState
    from preprocessing.case_source import CaseSource

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
with program_help.group("Search"):
    setting_flags.define(ProxySettings)
    setting_flags.define(EvolutionSettings)
flags.DEFINE_list("site_folders", [], "Folders that experiments.prepare made, one per site.")
flags.DEFINE_string("output", None, "Folder of the search.")
flags.DEFINE_integer(
    "deepest",
    0,
    "Deepest level of a topology; 0 allows every level that patch and window are large enough for.",
    lower_bound=0,
)
flags.DEFINE_integer("cells_down", 6, "Cells on the way down.", lower_bound=1)
flags.DEFINE_integer("cells_up", 6, "Cells on the way up.", lower_bound=1)
flags.DEFINE_integer("most_trainings", 0, MOST_TRAININGS, lower_bound=0)
flags.DEFINE_bool("random_arm", True, "Also draw as many topologies at random, for comparison.")
flags.DEFINE_bool("dry_run", False, "Print the cost and exit.")
_WINNERS = ("topology.json", "topology_random.json")
_PAGE, _CANDIDATES = "search.html", "candidates"
_WRITES = (*_WINNERS, _PAGE, _CANDIDATES)


def main(argv: list[str]) -> None:
    del argv
    from c2fnas.search.topology_space import TopologySpace
    from experiments.models import prepared_cases
    from experiments.reports import search_page
    from experiments.search import (
        scoring,
        search_cost,
        search_state,
        searched_cases,
        topology_search,
    )
    from experiments.search.occasional import Occasional
    from experiments.search.shared_work import SharedWork
    from runkit import atomic, folder_lock, overwriting, private

    config = experiment_flags.experiment_config()
    proxy = experiment_flags.settings_of(ProxySettings)
    settings = experiment_flags.settings_of(EvolutionSettings)
    folder = pathlib.Path(experiment_flags.required("output", "the folder of the search"))
    cases = experiment_flags.prepared_cases()
    overwriting.require_apart({"--site_folders": cases}, {}, folders={"--output": [folder]})
    possible = topology_search.deepest_level([*config.patch_size, *config.inference_window])
    if FLAGS.deepest > possible:
        raise ValueError(
            f"--deepest is {FLAGS.deepest}; the sizes of patch and window allow at most level "
            f"{possible}: enlarge them or lower it"
        )
    space = TopologySpace(
        down=FLAGS.cells_down,
        up=FLAGS.cells_up,
        deepest=FLAGS.deepest or possible,
        filters=config.filters,
    )
    stores = [prepared_cases.open_store(path, config) for path in cases]
    first = topology_search.first_state(
        space,
        settings,
        seed=config.seed,
        about={
            "experiment": config.to_json(),
            "proxy": dataclasses.asdict(proxy),
            "cases": searched_cases.record(stores, ("training", "validation")),
        },
        random_arm=FLAGS.random_arm,
    )
    print(search_cost.of_topologies(first, space, config, proxy, stores, _cores()), flush=True)
    if FLAGS.dry_run:
        return
    # Shared, because several processes may work on one search.
    folder_lock.hold(private.make(folder), shared=True)
    search_state.resumed(folder, first, writes=_WRITES)  # refuses before anything is written
    with SharedWork(folder).alone():
        state = search_state.resumed(folder, first, writes=_WRITES)
        search_state.write(folder, state)
    if state.scored:
        print(f"{state.scored} of {state.budget} are scored already", flush=True)

    def write_page(state: search_state.SearchState) -> None:
        result = search_state.result(state, space.genotype, config.patch_size)
        atomic.write_text(
            folder / _PAGE,
            search_page.page([result], title="Search of a topology", cores=_cores()),
        )

    state = scoring.run(
        space,
        state,
        folder,
        _scorer(config, proxy, space, stores, folder),
        after_each=Occasional(write_page),
        most_scores=FLAGS.most_trainings,
    )
    write_page(state)
    if not state.finished:
        print(f"{state.scored} of {state.budget} are scored; run the same command again to resume")
        return
    for line in _results(state, space, folder):
        print(line)


def _cores() -> int:
    return FLAGS.threads or os.cpu_count() or 1


def _scorer(
    config: ExperimentConfig,
    proxy: ProxySettings,
    space: TopologySpace,
    stores: Sequence[CaseSource],
    folder: pathlib.Path,
) -> Score:
    """Returns a function that trains and scores one topology."""
    experiment_flags.start_tensorflow()
    from experiments.models import strategies
    from experiments.search import candidate_budget, candidate_training

    strategy = strategies.mirrored()

    def score(gene: tuple[int, ...], label: str) -> tuple[float, Mapping[str, float]]:
        genotype = space.genotype(gene)
        print(f"{label}: {genotype.macs(config.patch_size) / 1e9:.3g} GMAC per patch", flush=True)
        return candidate_budget.scored(
            lambda: candidate_training.train_and_score(
                config,
                genotype,
                stores,
                folder / _CANDIDATES / genotype.name,
                seed=config.seed,
                steps=proxy.proxy_steps,
                splits=("validation",),
                strategy=strategy,
                label=label,
                checkpoint_every=proxy.checkpoint_every,
            ),
            genotype.macs(config.patch_size),
        )

    return score


def _results(state: SearchState, space: TopologySpace, folder: pathlib.Path) -> Iterator[str]:
    """Writes the best genotype of each arm; yields a line about each."""
    from experiments.search import search_state

    yield from search_state.write_winners(
        state, space.genotype, folder, _WINNERS, scored_on=" on the validation cases"
    )
    yield f"As a page: {folder / _PAGE}"


if __name__ == "__main__":
    program.run(main, required=["site_folders", "output"], resumes=True)
