"""The fine stage on pooled data: trains a supernet, then scores its paths without training them."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence

import tensorflow as tf

from c2fnas import checkpoints, named_weights
from c2fnas.search.cost import supernet_cost
from c2fnas.search.gene_space import Gene
from c2fnas.search.operation_space import OperationSpace
from c2fnas.search.supernet_trainer import SupernetTrainer
from experiments.configuration import ExperimentConfig
from experiments.models import builders
from experiments.reports.search_page import PAPER_GPU_DAYS
from experiments.results.search_table import RANDOM
from experiments.results.verdicts.search_verdicts import mean_score
from experiments.run.run_cost import duration
from experiments.search import candidate_budget, candidate_training, evidence, search_cost
from experiments.search.scoring import Score
from experiments.search.search_state import SearchState
from experiments.search.supernet_settings import SupernetSettings
from preprocessing import dataset
from preprocessing.case_source import CaseSource
from runkit import progress

CHECKPOINT, PATHS = "supernet", "paths.json"
WRITES = (CHECKPOINT, PATHS)


@dataclasses.dataclass(frozen=True)
class TrainedSupernet:
    """A supernet at the end of its training.

    Attributes:
      trainer: the trainer, which holds the weights.
      seconds: wall time of the training, including interrupted attempts up to their checkpoints.
    """

    trainer: SupernetTrainer
    seconds: float


def train_supernet(
    config: ExperimentConfig,
    space: OperationSpace,
    settings: SupernetSettings,
    stores: Sequence[CaseSource],
    folder: pathlib.Path,
    strategy: tf.distribute.Strategy,
) -> TrainedSupernet:
    """Trains a supernet on the training cases of all sites, resuming from a checkpoint if any.

    The weights are a function of the settings: an interrupted training ends with the same ones.

    Args:
      config: the configuration, with `supernet` set.
      space: the paths over the configuration's genotype.
      folder: folder for the checkpoint.
    Raises:
      ValueError: for a site without training cases, a checkpoint of other settings, or a training
        that diverged.
    """
    begin, earlier = time.monotonic(), 0.0
    cases = [one.case for one in candidate_training.cases_of(stores, "training")]
    sampler = builders.patch_sampler(config, cases)
    trainer = builders.build_trainer(config, strategy, total_steps=settings.supernet_steps)
    assert isinstance(trainer, SupernetTrainer)
    trainer.supernet.space = space  # which includes the limit on MACs
    trainer.set_weights(named_weights.initial(trainer.network, config.seed))
    if (kept := checkpoints.load(folder / CHECKPOINT, trainer)) is not None:
        earlier = float(kept["seconds"])
    seconds = earlier
    while trainer.step < settings.supernet_steps:
        every = settings.checkpoint_every
        until = min(settings.supernet_steps, (trainer.step // every + 1) * every)
        trainer.train(
            lambda start, stop: dataset.training_dataset(sampler, start, stop),
            until,
            label=f"supernet, to step {until} of {settings.supernet_steps}",
        )
        seconds = earlier + time.monotonic() - begin
        checkpoints.save(folder / CHECKPOINT, trainer, {"seconds": seconds})
    return TrainedSupernet(trainer, seconds)


def path_scorer(
    trained: TrainedSupernet,
    config: ExperimentConfig,
    stores: Sequence[CaseSource],
    strategy: tf.distribute.Strategy,
) -> Score:
    """Returns a function that scores one path on the validation cases of all sites.

    The score is the mean over all cases of the Dice of the classes that each label shows.
    """
    supernet, logits = trained.trainer.supernet, trained.trainer.logits_fn()
    window = builders.window_config(config, strategy)
    cases = candidate_training.cases_of(stores, "validation")

    def score(gene: Gene, label: str) -> tuple[float, Mapping[str, float]]:
        begin = time.monotonic()
        supernet.choose(gene)
        rows = candidate_training.scored(
            progress.bar(cases, what=label, unit="case"), logits, window
        )
        return mean_score(rows), {
            "macs": float(supernet.space.genotype(gene).macs(config.patch_size)),
            "seconds": round(time.monotonic() - begin, 1),
            **candidate_budget.by_site(rows),
        }

    return score


def write_paths(space: OperationSpace, state: SearchState, folder: pathlib.Path) -> pathlib.Path:
    """Writes the paths of the random arm, a uniform sample of all, with their scores.

    The evidence program trains the first few of them alone, to compare the rankings.
    """
    path = folder / PATHS
    evidence.write_paths(
        path,
        [
            evidence.ScoredPath(space.genotype(one.gene), one.score)
            for one in state.arms[RANDOM].candidates
            if one.score is not None
        ],
    )
    return path


def cost(
    state: SearchState,
    space: OperationSpace,
    config: ExperimentConfig,
    settings: SupernetSettings,
    stores: Sequence[CaseSource],
    cores: int,
) -> str:
    """Describes what a search costs: the supernet, its training, and the scoring."""
    size = supernet_cost(space, config.patch_size)
    least, mean, most = (macs / 1e9 for macs in size.macs)
    cases, voxels = search_cost.scored_voxels(stores, "validation")
    proposed = [
        space.genotype(one.gene) for arm in state.arms.values() for one in arm.candidates[:20]
    ]

    def seconds(steps: int, scored_cases: int) -> float:
        each = [
            search_cost.training_seconds(
                genotype,
                patch_size=config.patch_size,
                batch_size=config.batch_size,
                steps=steps,
                cases=scored_cases,
                voxels_per_case=voxels,
            )
            for genotype in proposed
        ]
        return sum(each) / len(each) / max(1, cores)

    # A supernet's functions take twice as long to trace as a network's.
    training = 2 * search_cost.START_S + seconds(settings.supernet_steps, 0)
    scoring = state.budget * seconds(0, cases)
    return (
        f"supernet: {space.size:,} paths, {size.weights:,} convolution weights (a path has "
        f"{size.path_weights[0]:,} to {size.path_weights[1]:,}), {least:.3g} to {most:.3g} GMAC "
        f"per patch, {mean:.3g} on average\n"
        f"training: {settings.supernet_steps} steps of {config.batch_size} patches, about "
        f"{duration(training)} on {cores} cores\n"
        f"scoring: {state.budget} paths in two arms, on {cases} validation cases each, about "
        f"{duration(scoring)}; together {(training + scoring) * cores / 3600:.1f} CPU-hours. "
        f"C2FNAS took {PAPER_GPU_DAYS} GPU-days"
    )
