"""Augmentation of patches inside a compiled graph: flips, intensity scale and shift. Off by
default, as in the paper.

What happens to a sample is a function of its own seed, so neither its place in a batch nor the
number of replicas matters, and a resumed run repeats it.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

_AXES = ("x", "y", "z")
_FLIPS, _SCALE, _SHIFT = (
    101,
    102,
    103,
)  # what a random number is for: folded into the sample's seed, which also makes the latent noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """What may happen to a patch.

    Attributes:
      flip_axes: each of these is reversed with probability 1/2. Left and right differ in an
          abdomen: x is a choice, not a symmetry.
      intensity_scale: factor uniform in [1 - s, 1 + s], about the middle of the window.
      intensity_shift: offset uniform in [-s, s], in units of the scaled image, where the window is
          2 wide.
    """

    flip_axes: tuple[str, ...] = ()
    intensity_scale: float = 0.0
    intensity_shift: float = 0.0

    def __post_init__(self):
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
                f"intensity_shift is {self.intensity_shift}; expected 0 to 2, the width of the window"
            )

    @property
    def active(self) -> bool:
        return bool(self.flip_axes or self.intensity_scale or self.intensity_shift)


def augment(
    image: tf.Tensor, label: tf.Tensor, sample_seed: tf.Tensor, config: AugmentationConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns image and label of a batch, augmented.

    Args:
      image: float32 [b, x, y, z, 1], scaled to [-1, 1]; it may leave that range.
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


def _uniform(sample_seed: tf.Tensor, what: int) -> tf.Tensor:
    """Returns float32 [b], uniform in [0, 1), each a function of its sample's seed and of what it
    is for.
    """
    return tf.map_fn(
        lambda seed: tf.random.stateless_uniform(
            (), tf.random.experimental.stateless_fold_in(seed, what)
        ),
        sample_seed,
        fn_output_signature=tf.TensorSpec(()),
    )


def _along(values: tf.Tensor, array: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, [-1] + [1] * (array.shape.rank - 1))
