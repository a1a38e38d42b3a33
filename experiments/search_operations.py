"""Searches the operation of each cell: one supernet, then evolution over its paths.

    python -m experiments.search_operations --output=search/operations \\
        --flagfile=experiments/flagfiles/search_operations_demo.flags \\
        --genotype=search/topology/topology.json --site_folders=sites/C1,sites/C2

--genotype gives the topology: the published one by name, or what experiments.search_topology found.
First a supernet, which holds conv2d, conv3d and p3d for every cell, is trained on the training
cases of all sites; each step takes one path through it, drawn uniformly. Then paths are scored on
the validation cases with the weights that they have in the supernet, without training: those that
evolution proposes, and as many drawn at random. No score uses a test case. A path's score only
ranks it; train the winner alone to learn how good it is. The cost is printed first (`--dry_run`
stops there). Stop it at any time; run the same command again to resume.

Writes operations.json and operations_random.json, the best genotype of each arm, which every
program accepts as --genotype; operations.safetensors, the winner's weights in the supernet, which
`train_local --fine_tune` takes; search.html, a page that shows the search; search.json, its state;
and paths.json, the random arm's paths, for experiments.search_evidence.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

from c2fnas.search.evolution import EvolutionSettings
from experiments import flags as experiment_flags
from experiments import program, program_help, setting_flags
from experiments.search.supernet_settings import SupernetSettings

if TYPE_CHECKING:
    from c2fnas.genotype import Genotype
    from c2fnas.search.operation_space import OperationSpace
    from experiments.configuration import ExperimentConfig
    from experiments.search.operation_search import TrainedSupernet
    from experiments.search.search_state import SearchState

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
with program_help.group("Search"):
    setting_flags.define(SupernetSettings)
    setting_flags.define(EvolutionSettings)
flags.DEFINE_list("site_folders", [], "Folders that experiments.prepare made, one per site.")
flags.DEFINE_string("output", None, "Folder of the search.")
flags.DEFINE_bool("dry_run", False, "Print the cost and exit.")
_WEIGHTS = "operations.safetensors"


def main(argv: list[str]) -> None:
    del argv
    from experiments import configuration
    from experiments.models import prepared_cases, strategies
    from experiments.reports import search_page
    from experiments.search import (
        federated_search,
        scoring,
        search_state,
        searched_cases,
    )
    from experiments.search.occasional import Occasional
    from runkit import atomic, folder_lock, overwriting, private

    config = dataclasses.replace(experiment_flags.experiment_config(supernet=True), supernet=True)
    chosen = experiment_flags.settings_of(SupernetSettings)
    settings = experiment_flags.settings_of(EvolutionSettings)
    folder = pathlib.Path(experiment_flags.required("output", "the folder of the search"))
    cases = experiment_flags.prepared_cases()
    overwriting.require_apart(
        {"--site_folders": cases, **experiment_flags.genotype_file()},
        {},
        folders={"--output": [folder]},
    )
    space = _space(configuration.load_genotype(config), config, chosen)
    stores = [prepared_cases.open_store(path, config) for path in cases]
    first = federated_search.first_state(
        space,
        settings,
        seed=config.seed,
        about={
            # the file's content decides, not its path
            "experiment": {**config.to_json(), "genotype": space.base.to_json()},
            "supernet": {**dataclasses.asdict(chosen), "operations": list(space.operations)},
            "cases": searched_cases.record(stores, ("training", "validation")),
        },
    )
    experiment_flags.start_tensorflow()
    from experiments.search import operation_search

    cores = FLAGS.threads or os.cpu_count() or 1
    print(operation_search.cost(first, space, config, chosen, stores, cores), flush=True)
    if FLAGS.dry_run:
        return
    folder_lock.hold(private.make(folder))
    writes = (*federated_search.WINNERS, federated_search.PAGE, _WEIGHTS, *operation_search.WRITES)
    state = search_state.resumed(folder, first, writes=writes)
    if state.scored:
        print(f"{state.scored} of {state.budget} are scored already", flush=True)
    search_state.write(folder, state)  # before the training, so that other settings are refused
    strategy = strategies.mirrored()
    trained = operation_search.train_supernet(config, space, chosen, stores, folder, strategy)

    def write_page(state: search_state.SearchState) -> None:
        result = search_state.result(
            state, space.genotype, config.patch_size, shared_seconds=trained.seconds
        )
        atomic.write_text(
            folder / federated_search.PAGE,
            search_page.page([result], title="Search of operations", cores=cores),
        )

    state = scoring.run(
        space,
        state,
        folder,
        operation_search.path_scorer(trained, config, stores, strategy),
        after_each=Occasional(write_page),
    )
    write_page(state)
    for line in _results(state, space, folder, trained):
        print(line)


def _space(base: Genotype, config: ExperimentConfig, chosen: SupernetSettings) -> OperationSpace:
    from c2fnas.search.operation_space import OperationSpace

    most = chosen.most_gmac * 1e9 or None
    return OperationSpace(base, patch_size=config.patch_size, most_macs=most)


def _results(
    state: SearchState, space: OperationSpace, folder: pathlib.Path, trained: TrainedSupernet
) -> Iterator[str]:
    """Writes the results; yields a line about each file."""
    from c2fnas import named_weights
    from c2fnas.search import evolution, supernet
    from experiments.results.search_table import EVOLUTION
    from experiments.search import federated_search, operation_search

    (winner,) = evolution.best(state.arms[EVOLUTION])
    weights = folder / _WEIGHTS
    named_weights.save(
        weights,
        supernet.path_arrays(trained.trainer.supernet, winner.gene),
        {"model": space.genotype(winner.gene).name},
    )
    yield from federated_search.write_winner(space, state, folder)
    yield (
        f"Weights of the winner in the supernet: {weights}; "
        f"paths for search_evidence: {operation_search.write_paths(space, state, folder)}"
    )


if __name__ == "__main__":
    program.run(main, required=["site_folders", "output"], resumes=True)
