import numpy as np
import pytest
import tensorflow as tf

from c2fnas import sample_loop

SAMPLES = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_sums_and_rows_are_those_of_numpy(at_once):
    weights = np.arange(5, dtype=np.float32)

    def compute(sample, weight):
        assert sample.shape == (1, 3, 2) and weight.shape == (1,)
        return {"weighted": weight[0] * sample[0], "count": tf.constant(1.0)}, tf.reduce_max(
            sample, axis=[1, 2]
        )

    run = tf.function(
        lambda samples, weights: sample_loop.summed(
            compute,
            (samples, weights),
            {"weighted": tf.TensorSpec((3, 2)), "count": tf.TensorSpec(())},
            at_once=at_once,
        )
    )
    sums, rows = run(tf.constant(SAMPLES), tf.constant(weights))
    np.testing.assert_allclose(
        sums["weighted"], (weights[:, None, None] * SAMPLES).sum(0), rtol=1e-5
    )
    assert float(sums["count"]) == 5.0
    np.testing.assert_array_equal(rows, SAMPLES.max((1, 2)))


@pytest.mark.parametrize("at_once", [1, 3])
def test_joined_results_are_in_the_order_of_the_samples(at_once):
    run = tf.function(
        lambda batch: sample_loop.map_samples(lambda sample: 2.0 * sample, batch, at_once=at_once)
    )
    np.testing.assert_array_equal(run(tf.constant(SAMPLES)), 2.0 * SAMPLES)
