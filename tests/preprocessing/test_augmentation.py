import numpy as np
import pytest
import tensorflow as tf

from preprocessing.augmentation import AugmentationConfig, augment
from runkit.randomness import seed_pair

SHAPE = (5, 4, 3)


def batch(size=16):
    rng = np.random.default_rng(2)
    image = rng.uniform(-1, 1, (size, *SHAPE, 1)).astype(np.float32)
    label = rng.integers(0, 3, (size, *SHAPE)).astype(np.uint8)
    return image, label, np.stack([seed_pair(3, "sample", 0, slot) for slot in range(size)])


def run(config, image, label, seeds):
    compiled = tf.function(lambda *arrays: augment(*arrays, config), autograph=False)
    return tuple(t.numpy() for t in compiled(*(tf.constant(a) for a in (image, label, seeds))))


def test_off_by_default():
    assert not AugmentationConfig().active
    image, label, seeds = batch(2)
    found = run(AugmentationConfig(), image, label, seeds)
    np.testing.assert_array_equal(found[0], image)
    np.testing.assert_array_equal(found[1], label)


@pytest.mark.parametrize("name", ["x", "y", "z"])
def test_a_flip_reverses_image_and_label_of_about_half_the_samples(name):
    image, label, seeds = batch(64)
    found, found_label = run(AugmentationConfig(flip_axes=(name,)), image, label, seeds)
    axis, flipped = "xyz".index(name), 0
    for i in range(64):
        same = np.array_equal(found[i], image[i])
        expected = image[i] if same else np.flip(image[i], axis)
        np.testing.assert_array_equal(found[i], expected)
        np.testing.assert_array_equal(found_label[i], label[i] if same else np.flip(label[i], axis))
        flipped += not same
    assert 16 <= flipped <= 48  # of 64 fair coins: outside once in 40,000


def test_axes_flip_independently():
    image, label, seeds = batch(64)
    found, _ = run(AugmentationConfig(flip_axes=("x", "y", "z")), image, label, seeds)
    kinds = {
        next(
            k
            for k in range(8)
            if np.array_equal(found[i], np.flip(image[i], [a for a in range(3) if k >> a & 1]))
        )
        for i in range(64)
    }
    assert kinds == set(range(8))


def test_scale_and_shift_are_one_number_per_sample_within_their_ranges():
    image, label, seeds = batch(200)
    found, found_label = run(
        AugmentationConfig(intensity_scale=0.2, intensity_shift=0.1), image, label, seeds
    )
    np.testing.assert_array_equal(found_label, label)
    fits = [np.polyfit(image[i].ravel(), found[i].ravel(), 1, full=True) for i in range(200)]
    factors, offsets = np.array([fit[0] for fit in fits]).T
    assert max(float(fit[1].sum()) for fit in fits) < 1e-8  # a straight line through every voxel
    for values, middle, reach in ((factors, 1.0, 0.2), (offsets, 0.0, 0.1)):
        assert (np.abs(values - middle) <= reach + 1e-5).all()
        assert abs(values.mean() - middle) < reach / 5 and values.max() - values.min() > 1.8 * reach
    assert abs(np.corrcoef(factors, offsets)[0, 1]) < 0.25


def test_a_sample_is_changed_alike_at_any_place_in_a_batch():
    image, label, seeds = batch(8)
    config = AugmentationConfig(flip_axes=("y",), intensity_scale=0.1, intensity_shift=0.1)
    whole = run(config, image, label, seeds)
    for order in (slice(3, 5), slice(None, None, -1)):
        part = run(config, image[order], label[order], seeds[order])
        for one, other in zip(part, whole, strict=True):
            np.testing.assert_array_equal(one, other[order])


@pytest.mark.parametrize(
    "change",
    [
        {"flip_axes": ("w",)},
        {"flip_axes": ("x", "x")},
        {"intensity_scale": 1.0},
        {"intensity_shift": -0.1},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        AugmentationConfig(**change)
