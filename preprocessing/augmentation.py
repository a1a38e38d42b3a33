"""Augmentation of patches inside a compiled graph: flips, intensity scale and shift.

Off by default, as in the paper. The changes to a sample are a function of its own seed: they depend
neither on its place in a batch nor on the number of replicas, and a resumed run repeats them.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

_AXES = ("x", "y", "z")
# The purpose of a random number is folded into the sample's seed, because the latent noise of the
# network is drawn from the same seed.
_FLIPS, _SCALE, _SHIFT = 101, 102, 103


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Which changes are applied to patches.

    Attributes:
      flip_axes: axes that are reversed, each with probability 1/2. The abdomen is not symmetric, so
          flipping x is a deliberate choice.
      intensity_scale: s; intensities are scaled about the middle of the window by a factor that is
          uniform in [1 - s, 1 + s].
      intensity_shift: s; an offset that is uniform in [-s, s] is added, in units of the scaled
          image, in which the window is 2 wide.
    """

    flip_axes: tuple[str, ...] = ()
    intensity_scale: float = 0.0
    intensity_shift: float = 0.0

    def __post_init__(self) -> None:
        if not set(self.flip_axes) <= set(_AXES) or len(set(self.flip_axes)) < len(self.flip_axes):
            raise ValueError(
                f"flip_axes is {','.join(self.flip_axes)!r}; expected some of x, y, z, each once"
            )
        if not 0.0 <= self.intensity_scale < 1.0:
            raise ValueError(
                f"intensity_scale is {self.intensity_scale}; expected 0 up to, not including, 1"
            )
        if not 0.0 <= self.intensity_shift <= 2.0:
            raise ValueError(
                f"intensity_shift is {self.intensity_shift}; "
                "expected 0 to 2, the width of the window"
            )

    @property
    def active(self) -> bool:
        """Whether any change is applied."""
        return bool(self.flip_axes or self.intensity_scale or self.intensity_shift)


def augment(
    image: tf.Tensor, label: tf.Tensor, sample_seed: tf.Tensor, config: AugmentationConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the augmented image and label of a batch.

    Args:
      image: float32 [b, x, y, z, 1], scaled to [-1, 1]; the result may exceed that range.
      label: integer [b, x, y, z]; flipped with the image.
      sample_seed: int32 [b, 2].
    """
    for axis, name in enumerate(_AXES, start=1):
        if name in config.flip_axes:
            flipped = _uniform(sample_seed, _FLIPS * 10 + axis) < 0.5
            image = tf.where(_along(flipped, image), tf.reverse(image, [axis]), image)
            label = tf.where(_along(flipped, label), tf.reverse(label, [axis]), label)
    if config.intensity_scale:
        image *= _along(
            1.0 + config.intensity_scale * (2.0 * _uniform(sample_seed, _SCALE) - 1.0), image
        )
    if config.intensity_shift:
        image += _along(config.intensity_shift * (2.0 * _uniform(sample_seed, _SHIFT) - 1.0), image)
    return image, label


def _uniform(sample_seed: tf.Tensor, purpose: int) -> tf.Tensor:
    """Returns float32 [b], uniform in [0, 1), each a function of its sample's seed and purpose."""
    return tf.map_fn(
        lambda seed: tf.random.stateless_uniform(
            (), tf.random.experimental.stateless_fold_in(seed, purpose)
        ),
        sample_seed,
        fn_output_signature=tf.TensorSpec(()),
    )


def _along(values: tf.Tensor, array: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, [-1] + [1] * (array.shape.rank - 1))
