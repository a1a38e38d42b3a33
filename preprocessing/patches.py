"""Draws training patches. A patch is a function of (seed, step, slot), not of earlier draws.

A resumed run, a prefetching pipeline and another machine therefore see the same patches, and a
checkpoint only has to store the step.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import fractions
import functools
import math
import os
from collections.abc import Sequence
from typing import Protocol, TypedDict

import numpy as np

from preprocessing.axes import three
from preprocessing.foreground import LabelRuns
from runkit.aligned import aligned_empty
from runkit.randomness import generator, seed_pair

_TUMOUR = 2
_AIR = -1.0  # the value outside the volume: the lower end of the window
_COPIERS = min(2, os.cpu_count() or 1)  # threads; more would only wait for memory


class PatchSource(Protocol):
    """A case from which patches are cut. Every `case_source.PreparedCase` is one.

    Attributes:
      case_id: its name at the site.
      image: float16 [x, y, z] in [-1, 1].
      label: uint8 [x, y, z].
      runs: the voxels where the label is above 0.
    """

    @property
    def case_id(self) -> str: ...

    @property
    def image(self) -> np.ndarray: ...

    @property
    def label(self) -> np.ndarray: ...

    @property
    def runs(self) -> LabelRuns: ...


class PatchBatch(TypedDict):
    """The patches of a step.

    Attributes:
      image: float16 [batch, x, y, z, 1], -1 outside the volume.
      label: uint8 [batch, x, y, z], 0 outside the volume.
      sample_seed: int32 [batch, 2], for all other random choices for a sample.
    """

    image: np.ndarray
    label: np.ndarray
    sample_seed: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """How patches are drawn.

    Attributes:
      size: voxels along x, y, z.
      foreground_fraction: share of patches centred on pancreas or tumour.
      tumour_fraction: share of these that are centred on tumour; the others are centred anywhere on
          the foreground.
      patches_per_case: number of patches per case in an epoch.
    """

    size: tuple[int, int, int]
    foreground_fraction: float = 0.5
    tumour_fraction: float = 0.0
    patches_per_case: int = 1
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.size) != 3 or min(self.size) < 1:
            raise ValueError(
                f"size is {self.size}; expected three numbers of voxels, at least 1 each"
            )
        for name in ("foreground_fraction", "tumour_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected a share between 0 and 1"
                )
        for name in ("patches_per_case", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One patch.

    Attributes:
      case: index of its case.
      centre: its centre voxel.
      foreground: whether the centre is a foreground voxel.
      tumour: whether the centre was drawn from the voxels of the tumour.
    """

    case: int
    centre: tuple[int, int, int]
    foreground: bool
    tumour: bool = False


class PatchSampler:
    """Draws patches from cases.

    The patches of all steps form one sequence, position = step * batch_size + slot. Each run of
    cases * patches_per_case positions is an epoch: a seeded permutation in which every case occurs
    exactly patches_per_case times. Foreground and background centres alternate along the sequence,
    so that their ratio is exact, not just expected.

    Every voxel can be a centre: a foreground centre is uniform over the voxels above 0, a
    background centre over the voxels that are 0, and the part of a patch beyond the border is
    filled. A case without foreground yields only background patches. A case without a tumour yields
    foreground patches instead of tumour patches.

    Raises:
      ValueError: if there is no case, or a case has no background voxel.
    """

    def __init__(self, cases: Sequence[PatchSource], config: PatchConfig):
        if not cases:
            raise ValueError("no case to draw patches from; the training split is empty")
        self._cases, self._config = tuple(cases), config
        self._shapes = [tuple(case.image.shape) for case in self._cases]
        self._runs = [case.runs for case in self._cases]
        for case, shape, runs in zip(self._cases, self._shapes, self._runs, strict=True):
            if runs.count() >= math.prod(shape):
                raise ValueError(
                    f"case {case.case_id}: every voxel is labelled, there is no background to "
                    "draw; check its label"
                )
        self._share, self._tumour_share = (
            fractions.Fraction(share).limit_denominator(10**6)
            for share in (config.foreground_fraction, config.tumour_fraction)
        )
        self._epoch_order = functools.lru_cache(maxsize=2)(self._draw_epoch_order)

    @property
    def config(self) -> PatchConfig:
        return self._config

    @property
    def patches_per_epoch(self) -> int:
        return len(self._cases) * self._config.patches_per_case

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every case occurs at least patches_per_case times.

        If the batch size divides an epoch, it is exactly patches_per_case times.
        """
        return -(-self.patches_per_epoch // self._config.batch_size)

    def choose(self, step: int, slot: int) -> Choice:
        """Returns the patch of a slot of a step."""
        position = step * self._config.batch_size + slot
        epoch, place = divmod(position, self.patches_per_epoch)
        case = int(self._epoch_order(epoch)[place])
        runs = self._runs[case]
        before, after = (_share_of(count, self._share) for count in (position, position + 1))
        foreground = after > before and runs.count() > 0
        # `before` counts the foreground patches earlier in the sequence
        tumour = (
            foreground
            and _share_of(after, self._tumour_share) > _share_of(before, self._tumour_share)
            and runs.count(_TUMOUR) > 0
        )
        rng = generator(self._config.seed, "patch", step, slot)
        if foreground:
            class_ = _TUMOUR if tumour else None
            flat = runs.voxel(int(rng.integers(runs.count(class_))), class_)
        else:
            flat = self._background_centre(case, rng)
        return Choice(
            case,
            three(int(i) for i in np.unravel_index(flat, self._shapes[case])),
            foreground,
            tumour,
        )

    def batch(self, step: int) -> PatchBatch:
        """Returns the patches of a step."""
        size, batch_size = self._config.size, self._config.batch_size
        # TensorFlow uses aligned arrays without copying them
        image = aligned_empty((batch_size, *size, 1), np.float16)
        label = aligned_empty((batch_size, *size), np.uint8)
        seeds = np.empty((batch_size, 2), dtype=np.int32)

        def fill(slots: range) -> None:
            for slot in slots:
                choice = self.choose(step, slot)
                case = self._cases[choice.case]
                cut(case.image, choice.centre, image[slot, ..., 0], fill=_AIR)
                # of the label, only the box around the foreground has to be read
                cut(
                    case.label,
                    choice.centre,
                    label[slot],
                    fill=0,
                    within=self._runs[choice.case].box,
                )
                seeds[slot] = seed_pair(self._config.seed, "sample", step, slot)

        list(
            _copiers().map(fill, (range(first, batch_size, _COPIERS) for first in range(_COPIERS)))
        )
        return {"image": image, "label": label, "sample_seed": seeds}

    def _draw_epoch_order(self, epoch: int) -> np.ndarray:
        return generator(self._config.seed, "order", epoch).permutation(
            self.patches_per_epoch
        ) % len(self._cases)

    def _background_centre(self, case: int, rng: np.random.Generator) -> int:
        # Rejection sampling is uniform over the background voxels without a list of them, which
        # would be as large as the volume. About one voxel in a hundred is foreground, so one draw
        # is nearly always enough.
        runs, voxels = self._runs[case], math.prod(self._shapes[case])
        while (flat := int(rng.integers(voxels))) in runs:
            pass
        return flat


@functools.cache
def _copiers() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(_COPIERS, thread_name_prefix="patches")


def _share_of(count: int, share: fractions.Fraction) -> int:
    return count * share.numerator // share.denominator


def cut(
    volume: np.ndarray,
    centre: Sequence[int],
    out: np.ndarray,
    *,
    fill: float,
    within: tuple[slice, ...] | None = None,
) -> None:
    """Copies the patch around `centre` into `out`; voxels outside the volume become `fill`.

    The centre is voxel `size // 2` of the patch along each axis.

    Args:
      within: a box outside which every voxel is `fill` and need not be read; by default the whole
          volume.
    """
    source, target = [], out
    for middle, size, box in zip(
        centre, out.shape, within or tuple(slice(0, n) for n in volume.shape), strict=True
    ):
        start = middle - size // 2
        low = min(max(start, box.start), start + size)
        high = max(min(start + size, box.stop), low)
        source.append(slice(low, high))
        # fill only the outside, because writing a patch twice takes as long as reading it
        along = (slice(None),) * (len(source) - 1)
        before, behind = (*along, slice(None, low - start)), (*along, slice(high - start, None))
        target[before], target[behind] = fill, fill
        inside = (*along, slice(low - start, high - start))
        target = target[inside]
    target[...] = volume[tuple(source)]
