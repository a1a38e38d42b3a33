"""What the trainings of a search cost, estimated before the first one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from c2fnas.genotype import Genotype
from c2fnas.search.topology_space import TopologySpace
from experiments.configuration import ExperimentConfig
from experiments.run.plan import duration
from experiments.search.proxy import ProxySettings
from experiments.search.search_state import SearchState
from preprocessing.case_source import CaseSource

GPU_DAYS = 333  # of C2FNAS (Yu et al. 2020): the search that this one makes small

# Core-seconds on an EPYC with AVX-512, from trainings of the published genotype with two threads.
_START_S = 14.0  # building the network and tracing its functions
_SECONDS_PER_MAC = 4.2e-11  # of a training step, forward and backward
_STEP_S = 0.02  # of a step, whatever its size
_CASE_S = 0.35  # of scoring one whole case, with the work of a demo network at 4 mm
_CASE_MACS = 0.12e9  # of that network for a patch of 32^3


def training_seconds(
    genotype: Genotype,
    *,
    patch_size: Sequence[int],
    batch_size: int,
    steps: int,
    cases: int,
    voxels_per_case: float,
) -> float:
    """Returns the estimated core-seconds of one training with its scores.

    Args:
      cases: number of cases that are scored.
      voxels_per_case: voxels of a case on the training grid; the network sees each once or twice.
    """
    macs = genotype.macs(patch_size)
    share = macs / _CASE_MACS * 32**3 / math.prod(patch_size)
    scored = cases * _CASE_S * share * max(1.0, voxels_per_case / 40_000)
    return _START_S + steps * (_STEP_S + batch_size * macs * _SECONDS_PER_MAC) + scored


def text(core_seconds: Iterable[float], what: str, *, cores: int) -> str:
    """Returns a line such as "80 trainings: about 41:20 min on 2 cores, 1.4 CPU-hours"."""
    each = list(core_seconds)
    total = sum(each)
    return (
        f"{len(each)} {what}: about {duration(total / max(1, cores))} on {cores} cores, "
        f"{total / 3600:.1f} CPU-hours"
    )


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
    """Returns what a search of topologies costs, in words.

    Candidates that are not proposed yet are taken to cost what those of the first generations do.
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
    return f"{line}. C2FNAS took {GPU_DAYS} GPU-days"
