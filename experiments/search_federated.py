"""Searches operations with a supernet that several sites trained together: proposes and picks.

    python -m experiments.search_federated --flagfile=search.flags --genotype=topology.json \\
        --supernet --trained=store/global/round_020.safetensors --output=search

First train the supernet: init_model, serve and join with --supernet. Then call this program
repeatedly. Each call reads the rows of the previous generation, writes the next generation of paths
as a list, and prints the command with which the server has all sites score it on their validation
cases (an evaluation without training, in which only rows leave a site). The last call writes the
winner, operations.json, which every program accepts as --genotype, and search.html.

Needs neither patient data nor TensorFlow; for its page it needs matplotlib (pip install '.[site]').
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from absl import app, flags

from c2fnas.search.evolution import EvolutionSettings
from experiments import flags as experiment_flags
from experiments import program, program_help, setting_flags

if TYPE_CHECKING:
    from c2fnas.search.operation_space import OperationSpace
    from experiments.configuration import ExperimentConfig
    from experiments.search.search_state import SearchState

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
with program_help.group("Search"):
    setting_flags.define(EvolutionSettings)
flags.DEFINE_string(
    "trained", None, "The supernet that was trained: a global model of the server's store."
)
flags.DEFINE_string("output", None, "Folder of the search.")
flags.DEFINE_string(
    "pooled",
    None,
    "Folder of a search on the same data in one place, to show beside this one on the page.",
)


def main(argv: list[str]) -> None:
    del argv
    from c2fnas.search.operation_space import OperationSpace
    from experiments import configuration
    from experiments.models import given_paths
    from experiments.search import federated_search, search_state
    from runkit import folder_lock, overwriting, private

    config = experiment_flags.experiment_config(without_training=True)
    if not config.supernet:
        raise app.UsageError("--supernet is missing: this program searches the paths of a supernet")
    settings = experiment_flags.settings_of(EvolutionSettings)
    folder = pathlib.Path(experiment_flags.required("output", "the folder of the search"))
    trained = pathlib.Path(
        experiment_flags.required("trained", "the supernet that the sites trained")
    )
    overwriting.require_apart(
        {"--trained": [trained], **experiment_flags.genotype_file()},
        {},
        folders={"--output": [folder]},
    )
    genotype = configuration.load_genotype(config)
    space = OperationSpace(genotype)
    about = {
        "genotype": genotype.to_json(),
        "supernet": federated_search.digest(trained),
        "patch_size": list(config.patch_size),
    }
    plan = configuration.plan(config, genotype.to_json())
    given_paths.load(trained, configuration.evaluation_plan(plan))  # only to check that it fits
    pooled = (
        federated_search.pooled_search(pathlib.Path(FLAGS.pooled), space) if FLAGS.pooled else None
    )
    first = federated_search.first_state(space, settings, seed=config.seed, about=about)
    folder_lock.hold(private.make(folder))
    writes = (*federated_search.WINNERS, federated_search.PAGE)
    state = search_state.resumed(folder, first, writes=writes)
    state = federated_search.take_rows(space, state, folder, config.patch_size)
    search_state.write(folder, state)
    _page(state, pooled, space, config, folder)
    if (waiting := federated_search.next_list(state, folder, trained)) is not None:
        file, store = waiting
        on = federated_search.scored_on(state)
        print(f"{state.scored} of {state.budget} paths are scored{on}. Next, on the server:")
        print(
            f"  python -m experiments.serve <flags> --supernet --num_rounds=0 --kit=<kit> "
            f"--models={file} --store={store}"
        )
        print("and at each site: experiments.join with --supernet --num_rounds=0; then repeat this")
        return
    for line in federated_search.write_winner(space, state, folder):
        print(line)


def _page(
    state: SearchState,
    pooled: SearchState | None,
    space: OperationSpace,
    config: ExperimentConfig,
    folder: pathlib.Path,
) -> None:
    from experiments.reports import search_page
    from experiments.search import federated_search, search_state
    from runkit import atomic

    stages = [
        dataclasses.replace(
            search_state.result(one, space.genotype, config.patch_size), place=place
        )
        for place, one in (("federated", state), ("pooled", pooled))
        if one is not None
    ]
    text = search_page.page(stages, title="Federated search of operations", cores=1)
    atomic.write_text(folder / federated_search.PAGE, text)


if __name__ == "__main__":
    program.run(main, required=["trained", "output"], resumes=True)
