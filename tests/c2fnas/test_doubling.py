import numpy as np
import pytest
import tensorflow as tf

from c2fnas import doubling, gpus
from tests.c2fnas import reference

SIZES = [(3, 4, 2), (1, 1, 1), (1, 2, 5)]


@pytest.fixture(params=["processor", "gpu"])
def branch(request, monkeypatch):
    """The operations for a processor, and those for a GPU, which a processor has too."""
    monkeypatch.setattr(gpus, "is_used", lambda: request.param == "gpu")


def _case(size, outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, *size, 3)).astype(np.float32), rng.normal(
        size=(3, 3, 3, 3, outputs)
    ).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_doubling_agrees_with_positions(size):
    voxels, _ = _case(size)
    for found, sample in zip(doubling.double(tf.constant(voxels)), voxels, strict=True):
        np.testing.assert_allclose(found, reference.double(sample), atol=1e-6)


def test_doubling_by_hand_along_one_axis():
    voxels = np.broadcast_to(
        np.array([0.0, 4.0, 8.0], np.float32)[None, :, None, None, None], (1, 3, 2, 2, 1)
    )
    np.testing.assert_allclose(
        doubling.double(tf.constant(voxels))[0, :, 0, 0, 0], [0, 1, 3, 5, 7, 8], atol=1e-6
    )


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_joined_convolution_agrees_with_both_steps(size, outputs, branch):
    """At faces, edges and corners of the doubled volume the convolution sees zeros."""
    voxels, kernel = _case(size, outputs)
    for found, sample in zip(
        doubling.double_and_convolve(tf.constant(voxels), tf.constant(kernel)), voxels, strict=True
    ):
        np.testing.assert_allclose(
            found, reference.convolve(reference.double(sample), kernel), atol=2e-5
        )


def test_joined_gradient_is_that_of_both_steps(branch):
    arguments = [tf.constant(array) for array in _case((3, 4, 2))]
    upstream = tf.constant(np.random.default_rng(1).normal(size=(2, 6, 8, 4, 2)).astype(np.float32))

    def in_two_steps(voxels, kernel):
        return tf.nn.conv3d(doubling.double(voxels), kernel, strides=[1] * 5, padding="SAME")

    gradients = []
    for function in (doubling.double_and_convolve, in_two_steps):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            total = tf.reduce_sum(function(*arguments) * upstream)
        gradients.append(tape.gradient(total, arguments))
    for joined, stepwise in zip(*gradients, strict=True):
        np.testing.assert_allclose(joined, stepwise, atol=5e-5)


@pytest.mark.parametrize(
    "function", [lambda v, k: doubling.double(v), doubling.double_and_convolve]
)
def test_unknown_sizes_give_the_same(function):
    voxels, kernel = _case((3, 4, 2))
    unknown = tf.function(
        lambda v: function(v, kernel),
        input_signature=[tf.TensorSpec((None, None, None, None, 3), tf.float32)],
    )
    np.testing.assert_allclose(
        unknown(voxels), function(tf.constant(voxels), tf.constant(kernel)), atol=2e-5
    )
