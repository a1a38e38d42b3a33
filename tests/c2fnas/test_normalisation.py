import numpy as np
import pytest
import tensorflow as tf

from c2fnas import gpus
from c2fnas.normalisation import instance_normalise
from tests.c2fnas import reference

# One sample, several, and more than the fused gradient takes.
SHAPES = [(2, 4, 5, 3, 3), (1, 20, 20, 20, 2), (2, 22, 20, 20, 2), (9, 3, 4, 2, 2)]


def _case(shape, seed=0):
    rng = np.random.default_rng(seed)
    channels = shape[-1]
    voxels = (
        rng.normal(size=shape) * rng.uniform(0.5, 3, size=channels) + rng.normal(size=channels)
    ).astype(np.float32)
    return (
        voxels,
        rng.uniform(0.5, 2, size=channels).astype(np.float32),
        rng.normal(size=channels).astype(np.float32),
    )


@pytest.fixture(params=["processor", "gpu"])
def branch(request, monkeypatch):
    """The arithmetic for a processor, and that for a GPU, whose operations a processor has too."""
    monkeypatch.setattr(gpus, "is_used", lambda: request.param == "gpu")
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_the_definition(shape, branch):
    voxels, gamma, beta = _case(shape)
    found = instance_normalise(tf.constant(voxels), gamma, beta, epsilon=1e-5)
    for sample in range(shape[0]):
        np.testing.assert_allclose(
            found[sample], reference.normalise(voxels[sample], gamma, beta), atol=1e-5
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_agrees_with_the_closed_form(shape, branch):
    voxels, gamma, beta = _case(shape, seed=1)
    upstream = np.random.default_rng(2).normal(size=shape)
    arguments = [tf.constant(voxels), tf.constant(gamma), tf.constant(beta)]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        total = tf.reduce_sum(
            instance_normalise(*arguments, epsilon=1e-5) * upstream.astype(np.float32)
        )
    to_voxels, to_gamma, to_beta = tape.gradient(total, arguments)
    x = voxels.astype(np.float64)
    mean, variance = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
    unit = (x - mean) / np.sqrt(variance + 1e-5)
    centred = (
        upstream
        - upstream.mean((1, 2, 3), keepdims=True)
        - unit * (upstream * unit).mean((1, 2, 3), keepdims=True)
    )
    np.testing.assert_allclose(to_voxels, gamma / np.sqrt(variance + 1e-5) * centred, atol=2e-5)
    np.testing.assert_allclose(to_gamma, (upstream * unit).sum((0, 1, 2, 3)), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(to_beta, upstream.sum((0, 1, 2, 3)), rtol=1e-4, atol=1e-3)


def test_unknown_sizes_give_the_same():
    voxels, gamma, beta = _case((2, 20, 20, 20, 2))
    unknown = tf.function(
        lambda v: instance_normalise(v, gamma, beta, epsilon=1e-5),
        input_signature=[tf.TensorSpec((None, None, None, None, 2), tf.float32)],
    )
    np.testing.assert_allclose(
        unknown(voxels),
        instance_normalise(tf.constant(voxels), gamma, beta, epsilon=1e-5),
        atol=1e-5,
    )


def test_a_constant_channel_becomes_beta():
    voxels = np.full((1, 20, 20, 20, 1), 7.0, np.float32)
    np.testing.assert_allclose(
        instance_normalise(tf.constant(voxels), [2.0], [0.3], epsilon=1e-5), 0.3, atol=1e-4
    )
