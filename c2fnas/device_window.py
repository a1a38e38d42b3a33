"""The sliding window with blending and argmax on the network's own device, for a GPU.

The host gives the voxels that one row of windows along y and z sees and gets back a finished part
of the mask; windows, logits and their sums stay on the device. So an image crosses once and a mask
once, where sliding_window.py moves the logits of every window. The sums are those of
`sliding_window.slabs`, up to the last bits. They are held for a slab as thick as a window, whatever
the length of the volume; MONAI's pull request 9071 reduces slab by slab, too.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from absl import logging

from c2fnas import exhausted_memory, gpu_memory, gpus, sliding_window
from c2fnas.sliding_window import Placement, WindowConfig

if TYPE_CHECKING:
    from c2fnas.network import Network

# float32 [n, x, y, z, 1] -> logits float32 [n, x, y, z, classes], both on the device
Forward = Callable[[tf.Tensor], tf.Tensor]
# More windows in a call hardly save time: one of 160^3 already occupies a large GPU.
MOST_WINDOWS = 4


@dataclasses.dataclass(frozen=True)
class WindowPlan:
    """How much of a sliding window is on the device at a time.

    Attributes:
      windows: number of windows per call of the network.
      depth: planes along x whose sums are on the device; 0 if there is no memory for a slab as
        thick as the window, so that the host has to add up.
    """

    windows: int
    depth: int


def plan(
    available: int,
    *,
    fixed: int,
    per_window: int,
    per_plane: int,
    thickness: int,
    spots: int,
) -> WindowPlan:
    """Returns how many windows each call takes and how many planes are on the device.

    It makes as few calls as the memory and `MOST_WINDOWS` allow, and spreads the windows evenly
    over them.

    Args:
      available: bytes of the device for this.
      fixed: bytes whatever the number of windows.
      per_window: bytes for each window of a call.
      per_plane: bytes for each plane of the slab.
      thickness: planes of a window.
      spots: windows of a slab.
    """
    room = available - fixed - per_plane * thickness
    most = min(MOST_WINDOWS, spots, room // per_window)
    if most < 1:
        return WindowPlan(1, 0)
    calls = -(-spots // most)
    return WindowPlan(-(-spots // calls), thickness)


def plan_of(network: Network, placement: Placement, available: int | None) -> WindowPlan:
    """Returns the plan for a volume, from the estimates of gpu_memory.py.

    Args:
      network: the network.
      placement: the windows of the volume.
      available: as in `plan`; None if unknown, which plans one window per call.
    """
    if available is None or network.trainer is None:  # a supernet has no model to estimate from
        return WindowPlan(1, placement.size[0])
    window = float(np.prod(placement.size))
    _, y, z = placement.covered
    classes = network.genotype.classes
    alone = gpu_memory.window(network, placement.size, 1)
    each = gpu_memory.window(network, placement.size, 2) - alone
    return plan(
        available,
        # While a window is added, its region of the sums and its weighted logits.
        fixed=alone - each + int(8 * classes * window),
        per_window=each,
        # The voxels once, and the sums twice while the slab moves on.
        per_plane=4 * y * z * (1 + 2 * classes),
        thickness=placement.size[0],
        spots=len(placement.along[1]) * len(placement.along[2]),
    )


def mirrored_views(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Returns the axes of an image [n, x, y, z, 1] that each mirrored view reverses.

    The first view reverses none. `axes` counts from 0 for x, as in `inference.with_flips`.
    """
    return [
        tuple(axis + 1 for axis in view)
        for count in range(len(axes) + 1)
        for view in itertools.combinations(sorted(axes), count)
    ]


class DeviceNetwork:
    """A network as a function of NumPy arrays (`LogitsFn`) that also blends on its own device.

    Args:
      network: the network.
      forward: its compiled function of tensors.
      axes: axes to mirror along, see `inference.with_flips`.
    """

    def __init__(self, network: Network, forward: Forward, axes: Sequence[int] = ()):
        self._network, self._forward, self.axes = network, forward, tuple(sorted(axes))
        self._views = mirrored_views(axes)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self._network.genotype.check_size(image.shape[1:4])
        return np.asarray(self._explained(tf.constant(image, tf.float32)))

    def flipped(self, axes: Sequence[int]) -> DeviceNetwork:
        """Returns the network averaged over the views that are mirrored along `axes`."""
        return DeviceNetwork(self._network, self._forward, axes)

    def slabs(
        self, image: np.ndarray, config: WindowConfig
    ) -> Iterator[tuple[int, DeviceSlab]] | None:
        """Yields what `sliding_window.slabs` does, on the device.

        Args:
          image, config: as in `sliding_window.slabs`; the number of windows per call follows from
            the free memory, and halves if that turns out too small.
        Returns:
          (first x, slab), or None if the device has no memory for the sums.
        Raises:
          ValueError: as `sliding_window.slabs`, while it yields.
          OutOfDeviceMemory: if not even one window fits.
        """
        placement = sliding_window.placement(image.shape, config)
        self._network.genotype.check_size(placement.size)
        found = plan_of(self._network, placement, gpus.free_bytes())
        logging.log_first_n(
            logging.INFO,
            "event=window_on_device windows=%d planes=%d",
            1,
            *dataclasses.astuple(found),
        )
        return self._blended(image, placement, found.windows) if found.depth else None

    def _blended(
        self, image: np.ndarray, placement: Placement, windows: int
    ) -> Iterator[tuple[int, DeviceSlab]]:
        thickness = placement.size[0]
        along_x, along_y, along_z = placement.along
        spots = list(itertools.product(along_y, along_z))
        begins = [in_x.begin for in_x in along_x]
        ends = [*begins[1:], placement.covered[0]]
        sums: tf.Variable | None = None
        for in_x, end in zip(along_x, ends, strict=True):
            voxels = tf.constant(placement.voxels(image, in_x.begin))
            finite, first = tf.constant(True), 0
            while first < len(spots):
                batch = spots[first : first + windows]
                try:
                    logits = self._windows(voxels, batch, windows, placement.size)
                except exhausted_memory.OutOfDeviceMemory:
                    if windows == 1:
                        raise
                    windows = -(-windows // 2)
                    logging.warning("event=window_on_device_memory windows=%d", windows)
                    continue
                if sums is None:
                    sums = tf.Variable(
                        tf.zeros((thickness, *placement.covered[1:], logits.shape[-1]))
                    )
                finite &= tf.reduce_all(tf.math.is_finite(logits))
                for slot, (in_y, in_z) in enumerate(batch):
                    weights = [tf.constant(axis.weights) for axis in (in_x, in_y, in_z)]
                    _add(sums, logits[slot], weights, in_y.begin, in_z.begin)
                del logits  # before the next call needs the memory
                first += len(batch)
            assert sums is not None  # there is at least one window
            sliding_window.check_finite(bool(finite))
            finished = slice(
                max(in_x.begin, placement.inside[0].start) - in_x.begin,
                min(end, placement.inside[0].stop) - in_x.begin,
            )
            if finished.stop > finished.start:
                own = sums[finished, placement.inside[1], placement.inside[2]]
                yield in_x.begin + finished.start - placement.before[0], DeviceSlab(own)
                del own
            moved = min(end - in_x.begin, thickness)
            empty = tf.zeros((moved, *sums.shape[1:]))
            sums.assign(tf.concat([sums[moved:], empty], axis=0))

    def _windows(
        self,
        voxels: tf.Tensor,
        spots: Sequence[tuple[sliding_window.AxisWindow, sliding_window.AxisWindow]],
        count: int,
        size: Sequence[int],
    ) -> tf.Tensor:
        """Returns the logits of windows at some (y, z), filled up to `count` by the last one."""
        filled = [*spots, *[spots[-1]] * (count - len(spots))]
        cut = [
            voxels[:, y.begin : y.begin + size[1], z.begin : z.begin + size[2]] for y, z in filled
        ]
        logits = self._explained(tf.stack(cut)[..., tf.newaxis])
        if logits.shape[:-1] != (count, *size):
            raise ValueError(
                f"the network returned logits of shape {tuple(logits.shape)} "
                f"for windows of shape {(count, *size, 1)}"
            )
        return logits

    def _explained(self, image: tf.Tensor) -> tf.Tensor:
        with exhausted_memory.explained(
            lambda: exhausted_memory.window_message(self._network, image.shape, 1)
        ):
            return self._logits(image)

    def _logits(self, image: tf.Tensor) -> tf.Tensor:
        """Returns the logits of windows, averaged over the views."""
        total = self._forward(image)
        for view in self._views[1:]:
            total += tf.reverse(self._forward(tf.reverse(image, view)), view)
        return total * np.float32(1.0 / len(self._views)) if self.axes else total


class DeviceSlab:
    """Blended logits of some planes on the device, a `sliding_window.BlendedSlab`.

    Args:
      logits: float32 [n, y, z, classes].
    """

    def __init__(self, logits: tf.Tensor):
        self._logits = logits

    def __len__(self) -> int:
        return int(self._logits.shape[0])

    def logits(self) -> np.ndarray:
        return np.asarray(self._logits)

    def mask(self) -> np.ndarray:
        return np.asarray(_likeliest(self._logits))


def _likeliest(logits: tf.Tensor) -> tf.Tensor:
    # Not tf.argmax, which promises nothing for equal values.
    best = logits[..., 0]
    winner = tf.zeros(best.shape, tf.uint8)
    for class_ in range(1, logits.shape[-1]):
        own = logits[..., class_]
        winner = tf.where(own > best, tf.constant(class_, tf.uint8), winner)
        best = tf.maximum(own, best)
    return winner


def _add(
    sums: tf.Variable, logits: tf.Tensor, weights: Sequence[tf.Tensor], y: int, z: int
) -> None:
    """Adds weighted logits [x, y, z, classes] to their region of the sums."""
    along_x, along_y, along_z = weights
    region = sums[:, y : y + len(along_y), z : z + len(along_z)]
    plane = along_x[:, tf.newaxis, tf.newaxis, tf.newaxis] * along_y[:, tf.newaxis, tf.newaxis]
    region.assign(region + plane * along_z[:, tf.newaxis] * logits)
