"""Measures what a search is worth: noise, random arms, rank correlation, 2D against 3D operations.

    python -m experiments.search_evidence --output=search/evidence \\
        --flagfile=experiments/flagfiles/search_evidence_demo.flags \\
        --site_folders=sites/C1,sites/C2 \\
        --found=topology_evolution:search/topology/topology.json

Each network is trained alone with several seeds, those after --seed. Networks are compared on test
cases. The search has used neither these seeds nor these cases. The claims and the rules of their
verdicts were written before any number was known (docs/search.md). Networks and paths that are not
given are reported as not measured. The first start fixes the networks, the paths and the number of
trainings; verdicts are given after the last training. --genotype is the network with which the
search is compared: the published one, unless you give another. The cost is printed first
(`--dry_run` stops there). Stop it at any time; run the same command again to resume. Several
processes with the same command share the trainings, for example one per GPU.

Writes evidence.json, evidence.html, a page of it, and one file per finished training.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import flags as experiment_flags
from experiments import program, program_help, setting_flags
from experiments.search.candidate_budget import MOST_TRAININGS
from experiments.search.evidence_settings import EvidenceSettings

if TYPE_CHECKING:
    from experiments.configuration import ExperimentConfig
    from experiments.results.verdicts.search_verdicts import SearchedCase
    from experiments.search import evidence
    from preprocessing.case_source import CaseSource

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
with program_help.group("Evidence"):
    setting_flags.define(EvidenceSettings)
flags.DEFINE_list("site_folders", [], "Folders that experiments.prepare made, one per site.")
flags.DEFINE_string("output", None, "Folder of the evidence.")
flags.DEFINE_list(
    "found",
    [],
    "What the arms of a search found, as name:genotype.json. Names are topology_evolution, "
    "topology_random, operations_evolution and operations_random.",
)
flags.DEFINE_string(
    "paths",
    None,
    "Paths of a supernet with their scores in it, as experiments.search_operations writes them "
    "(paths.json). The first --rank_paths are trained alone for the rank correlation.",
)
flags.DEFINE_integer("most_trainings", 0, MOST_TRAININGS, lower_bound=0)
flags.DEFINE_bool("dry_run", False, "Print the cost and exit.")


def main(argv: list[str]) -> None:
    del argv
    from c2fnas import genotype
    from experiments import configuration
    from experiments.models import prepared_cases
    from experiments.reports import search_page
    from experiments.search import evidence, search_cost, searched_cases
    from experiments.search.shared_work import SharedWork
    from runkit import atomic, folder_lock, overwriting, private
    from runkit.classes import CLASSES

    config = experiment_flags.experiment_config()
    chosen = experiment_flags.settings_of(EvidenceSettings)
    folder = pathlib.Path(experiment_flags.required("output", "the folder of the evidence"))
    cases = experiment_flags.prepared_cases()
    given = experiment_flags.named_files("found")
    overwriting.require_apart(
        {
            "--site_folders": cases,
            "--found": list(given.values()),
            "--paths": [FLAGS.paths] if FLAGS.paths else [],
        },
        {},
        folders={"--output": [folder]},
    )
    found = {
        name: genotype.load(file).with_size(filters=config.filters, classes=len(CLASSES))
        for name, file in given.items()
    }
    compared = evidence.networks(configuration.load_genotype(config), found)
    paths = []
    if FLAGS.paths:
        paths = evidence.read_paths(FLAGS.paths, config.filters, least=chosen.rank_paths)
    evidence.require_one_supernet(found, paths)
    stores = [prepared_cases.open_store(path, config) for path in cases]
    about = {
        # the genotype is replaced for each training, and rounds have no meaning here
        "experiment": {**config.to_json(), "genotype": "", "num_rounds": 0},
        "cases": searched_cases.record(stores, ("training", *evidence.SPLITS)),
    }
    trainings = evidence.planned(compared, paths, chosen, seed=config.seed)
    cores = FLAGS.threads or os.cpu_count() or 1
    genes = [one.genotype for one in trainings]
    print(search_cost.of_trainings(genes, config, chosen.alone_steps, stores, cores), flush=True)
    if FLAGS.dry_run:
        return
    # Shared, because several processes may work on one folder.
    folder_lock.hold(private.make(folder), shared=True)
    shared = SharedWork(folder)
    evidence.require_own(folder)  # refuses before anything is written
    with shared.alone():
        evidence.keep_plan(folder, evidence.plan(compared, paths, chosen, about=about))

    def write() -> None:
        content = evidence.document(compared, paths, chosen, folder, seed=config.seed)
        atomic.write_json(folder / evidence.DOCUMENT, content)
        page = search_page.page([], content, title="Evidence on a search", cores=cores)
        atomic.write_text(folder / evidence.PAGE, page)

    evidence.run(
        trainings,
        folder,
        _trainer(config, chosen, stores, folder),
        after_each=write,
        most_trainings=FLAGS.most_trainings,
    )
    with shared.alone():
        write()
        content = atomic.read_json(folder / evidence.DOCUMENT)
    if not content["finished"]:
        done = content["trainings"]
        print(
            f"{done['done']} of {done['planned']} trainings; run the same command again to resume, "
            "unless another process runs the rest"
        )
        return
    _tell(content)
    print(f"All numbers: {folder / evidence.DOCUMENT}; as a page: {folder / evidence.PAGE}")


def _trainer(
    config: ExperimentConfig,
    chosen: EvidenceSettings,
    stores: Sequence[CaseSource],
    folder: pathlib.Path,
) -> evidence.Train:
    """Returns a function that runs one training."""
    experiment_flags.start_tensorflow()
    from experiments.models import strategies
    from experiments.search import candidate_training, evidence

    strategy = strategies.mirrored()

    def train(
        one: evidence.AloneTraining, label: str
    ) -> tuple[Mapping[str, list[SearchedCase]], float]:
        print(label, flush=True)
        scores = candidate_training.released_or_zero(
            lambda: candidate_training.train_and_score(
                config,
                one.genotype,
                stores,
                folder / evidence.CANDIDATES / one.key,
                seed=one.seed,
                steps=chosen.alone_steps,
                splits=evidence.SPLITS,
                strategy=strategy,
                label=label,
            ),
            stores,
            evidence.SPLITS,
        )
        return scores.rows, scores.seconds

    return train


def _tell(content: Mapping[str, Any]) -> None:
    for one in content["verdicts"]:
        interval = one["interval"]
        numbers = (
            one["remark"]
            if interval is None or interval["low"] is None
            else f"{interval['estimate']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"
        )
        print(f"{one['verdict']:13s} {one['key']}: {numbers}")


if __name__ == "__main__":
    program.run(main, required=["site_folders", "output"], resumes=True)
