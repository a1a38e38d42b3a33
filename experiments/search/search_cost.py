"""Estimates the cost of a search's trainings before the first one starts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from c2fnas.genotype import Genotype
from c2fnas.search.topology_space import TopologySpace
from experiments.configuration import ExperimentConfig
from experiments.reports.search_page import PAPER_GPU_DAYS
from experiments.run.run_cost import duration
from experiments.search.candidate_budget import ProxySettings
from experiments.search.search_state import SearchState
from preprocessing.case_source import CaseSource

# CPU seconds of trainings on an EPYC with AVX-512, two threads, at 4 mm with 32^3 patches:
# published genotype with 4 filters (0.113 GMAC per patch) and with 8.
START_S = 24.5  # building the network, tracing its functions, the first case; on one core
_STEP_S, _SECONDS_PER_MAC = 0.060, 1.1e-10  # for a step: a constant, and per MAC
_CASE_S, _CASE_PER_SIZE_S = 0.16, 0.09  # for scoring a whole case of 272,000 voxels
CASE_VOXELS = 272_000  # of a case of the synthetic cohort, at 4 mm
_CASE_MACS = 0.113e9 / 32**3


def training_seconds(
    genotype: Genotype,
    *,
    patch_size: Sequence[int],
    batch_size: int,
    steps: int,
    cases: int,
    voxels_per_case: float,
) -> float:
    """Returns the estimated CPU seconds of one training and its scoring, without its start-up.

    Args:
      cases: number of cases that are scored.
      voxels_per_case: voxels of a case on the training grid; the network sees each once or twice.
    """
    macs = genotype.macs(patch_size)
    size = macs / math.prod(patch_size) / _CASE_MACS * voxels_per_case / CASE_VOXELS
    return steps * (_STEP_S + batch_size * macs * _SECONDS_PER_MAC) + cases * (
        _CASE_S + _CASE_PER_SIZE_S * size
    )


def text(core_seconds: Iterable[float], what: str, *, cores: int) -> str:
    """Returns a line such as "80 trainings: about 41:20 min on 2 cores, 1.4 CPU-hours".

    The start of a training runs on one core; its steps and scores use all cores.
    """
    each = list(core_seconds)
    wall = len(each) * START_S + sum(each) / max(1, cores)
    hours = (len(each) * START_S + sum(each)) / 3600
    return f"{len(each)} {what}: about {duration(wall)} on {cores} cores, {hours:.1f} CPU-hours"


def scored_voxels(stores: Iterable[CaseSource], split: str) -> tuple[int, float]:
    """Returns the number of cases of a split at all sites, and their mean number of voxels."""
    sizes = [
        math.prod(store.open(case_id).image.shape)
        for store in stores
        for case_id in store.case_ids(split)
    ]
    return len(sizes), float(np.mean(sizes)) if sizes else 0.0


def of_topologies(
    state: SearchState,
    space: TopologySpace,
    config: ExperimentConfig,
    proxy: ProxySettings,
    stores: Sequence[CaseSource],
    cores: int,
) -> str:
    """Describes what a search of topologies costs.

    Candidates that are not proposed yet are assumed to cost as much as those of the first
    generations.
    """
    cases, voxels = scored_voxels(stores, "validation")
    proposed = [
        training_seconds(
            space.genotype(candidate.gene),
            patch_size=config.patch_size,
            batch_size=config.batch_size,
            steps=proxy.proxy_steps,
            cases=cases,
            voxels_per_case=voxels,
        )
        for arm in state.arms.values()
        for candidate in arm.candidates
    ]
    mean = sum(proposed) / len(proposed)
    arms = "two arms" if len(state.arms) > 1 else "one arm"
    line = text(
        [mean] * state.budget,
        f"trainings of {proxy.proxy_steps} steps in {arms}, out of {space.size} topologies",
        cores=cores,
    )
    return f"{line}. C2FNAS took {PAPER_GPU_DAYS} GPU-days"


def of_trainings(
    genotypes: Sequence[Genotype],
    config: ExperimentConfig,
    steps: int,
    stores: Sequence[CaseSource],
    cores: int,
) -> str:
    """Describes the cost of single trainings that are scored on validation and test cases."""
    validation, test = (scored_voxels(stores, split) for split in ("validation", "test"))
    cases = validation[0] + test[0]
    voxels = (validation[0] * validation[1] + test[0] * test[1]) / max(1, cases)
    each = [
        training_seconds(
            genotype,
            patch_size=config.patch_size,
            batch_size=config.batch_size,
            steps=steps,
            cases=cases,
            voxels_per_case=voxels,
        )
        for genotype in genotypes
    ]
    return text(each, f"trainings of {steps} steps", cores=cores)
