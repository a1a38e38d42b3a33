import numpy as np
import tensorflow as tf

from preprocessing.dataset import training_dataset
from tests.preprocessing.test_patches import sampler


def test_batches_of_the_sampler_in_order_and_with_static_shapes():
    drawn = sampler()
    dataset = training_dataset(drawn, 3, 9)
    assert {
        name: (tuple(spec.shape), spec.dtype) for name, spec in dataset.element_spec.items()
    } == {
        "image": ((4, 4, 6, 8, 1), tf.float16),
        "label": ((4, 4, 6, 8), tf.uint8),
        "sample_seed": ((4, 2), tf.int32),
    }
    batches = list(dataset.as_numpy_iterator())
    assert len(batches) == 6
    for step, batch in enumerate(batches, start=3):
        for name, expected in drawn.batch(step).items():
            np.testing.assert_array_equal(batch[name], expected)


def test_a_resumed_dataset_goes_on_where_the_first_would():
    whole = list(training_dataset(sampler(), 0, 6).as_numpy_iterator())
    resumed = list(training_dataset(sampler(), 4, 6, prefetch=1).as_numpy_iterator())
    for before, after in zip(whole[4:], resumed, strict=True):
        np.testing.assert_array_equal(before["image"], after["image"])


def test_distribution_divides_each_batch_without_repetition():
    options = training_dataset(sampler(), 0, 2).options()
    assert (
        options.experimental_distribute.auto_shard_policy
        == tf.data.experimental.AutoShardPolicy.OFF
    )
    assert options.deterministic
