"""Which patch a training step sees: every choice a function of (seed, step, slot), so a resumed run sees the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from preprocessing.case_store import StoredCase
from runkit import randomness

OUTSIDE = -1.0  # scaled intensity beyond the volume: air


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """How patches are drawn.

    Attributes:
      size: voxels along x, y, z.
      foreground_fraction: share of patches centred on a voxel with label > 0; the others on one with label 0.
      patches_per_case: in an epoch.
      batch_size: patches a step.
      seed: of every choice.
    """

    size: tuple[int, int, int]
    foreground_fraction: float = 0.5
    patches_per_case: int
    batch_size: int
    seed: int

    def __post_init__(self):
        if not 0.0 <= self.foreground_fraction <= 1.0:
            raise ValueError(f"foreground_fraction is {self.foreground_fraction}; expected a share between 0 and 1")
        for name in ("patches_per_case", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One patch: the case's index among the sampler's, its centre voxel, and whether that is foreground."""

    case: int
    centre: tuple[int, int, int]
    foreground: bool


class PatchSampler:
    """Draws the batches of a training.

    Position p = step * batch_size + slot walks through epochs; each epoch holds every case `patches_per_case` times, in an order
    of its own. Foreground and background positions alternate so that their share is exact, not only expected.
    """

    def __init__(self, cases: Sequence[StoredCase], config: PatchConfig):
        if not cases:
            raise ValueError("no training case to draw patches from")
        self.cases, self.config = tuple(cases), config
        self._epoch_patches = len(self.cases) * config.patches_per_case

    @property
    def steps_per_epoch(self) -> int:
        """Steps that draw at least every case's patches once."""
        return -(-self._epoch_patches // self.config.batch_size)

    def choose(self, step: int, slot: int) -> Choice:
        position = step * self.config.batch_size + slot
        epoch, place = divmod(position, self._epoch_patches)
        order = randomness.generator(self.config.seed, "case order", epoch).permutation(self._epoch_patches)
        index = int(order[place]) % len(self.cases)
        case, share = self.cases[index], self.config.foreground_fraction
        foreground = int((position + 1) * share) > int(position * share) and len(case.foreground) > 0
        rng = randomness.generator(self.config.seed, "centre", step, slot)
        if foreground:
            flat = int(case.foreground[rng.integers(len(case.foreground))])
        else:
            flat = _background_voxel(case, rng)
        return Choice(index, tuple(int(i) for i in np.unravel_index(flat, case.label.shape)), foreground)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Returns the batch of a step.

        Returns:
          image float16 [b, x, y, z, 1] in [-1, 1]; label uint8 [b, x, y, z]; sample_seed int32 [b, 2], the seed of all that is
          random about a sample later on (its latent noise).
        """
        config = self.config
        image = np.full((config.batch_size, *config.size, 1), OUTSIDE, dtype=np.float16)
        label = np.zeros((config.batch_size, *config.size), dtype=np.uint8)
        for slot in range(config.batch_size):
            choice = self.choose(step, slot)
            case = self.cases[choice.case]
            source, target = _overlap(choice.centre, config.size, case.label.shape)
            image[slot, ..., 0][target] = case.image[source]
            label[slot][target] = case.label[source]
        seeds = np.stack([randomness.seed_pair(config.seed, "sample", step, slot) for slot in range(config.batch_size)])
        return {"image": image, "label": label, "sample_seed": seeds}


def _background_voxel(case: StoredCase, rng: np.random.Generator) -> int:
    """Returns a flat index uniform over label == 0, by drawing until one is hit: almost every voxel is background."""
    size = case.label.size
    if len(case.foreground) >= size:
        raise ValueError(f"case {case.case_id}: every voxel is foreground; correct its label")
    flat = case.label.reshape(-1)
    while True:
        index = int(rng.integers(size))
        if flat[index] == 0:
            return index


def _overlap(centre: Sequence[int], size: Sequence[int], shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Returns where a patch around `centre` lies in the volume, and where that part lies in the patch."""
    source, target = [], []
    for c, s, n in zip(centre, size, shape, strict=True):
        begin = c - s // 2
        low, high = max(begin, 0), min(begin + s, n)
        source.append(slice(low, high))
        target.append(slice(low - begin, high - begin))
    return tuple(source), tuple(target)
