import numpy as np
import pytest
import tensorflow as tf

from c2fnas.named_weights import NamedLayers
from c2fnas.operations import (
    ConvNorm,
    OperationBlock,
    TrilinearUpsampling,
    UpBlock,
    UpsampledConv3D,
)
from tests.c2fnas import reference

keras = tf.keras


def evaluate(make, *shapes, seed=0):
    """Builds `make(layers)` on inputs of the given shapes with random weights.

    Returns:
      (inputs, weights, outputs).
    """
    rng = np.random.default_rng(seed)
    layers = NamedLayers()
    module = make(layers)
    symbols = [keras.Input(shape) for shape in shapes]
    inputs = symbols if len(shapes) > 1 else symbols[0]
    model = keras.Model(inputs, module(inputs))
    weights = {}
    for name, variable in layers.variables().items():
        weights[name] = rng.normal(scale=0.5, size=tuple(variable.shape)).astype(np.float32)
        variable.assign(weights[name])
    arrays = [rng.normal(size=(1, *shape)).astype(np.float32) for shape in shapes]
    return (
        [array[0] for array in arrays],
        weights,
        model(arrays if len(arrays) > 1 else arrays[0]).numpy()[0],
    )


@pytest.mark.parametrize("op", ["conv2d", "conv3d", "p3d"])
def test_operation_block(op):
    (voxels,), weights, found = evaluate(
        lambda layers: OperationBlock(layers, "op", op, 3), (5, 4, 6, 2)
    )
    kernels = {name: array.shape[:3] for name, array in weights.items() if name.endswith("kernel")}
    expected_kernels = {
        "conv2d": {"op/kernel": (3, 3, 1)},
        "conv3d": {"op/kernel": (3, 3, 3)},
        "p3d": {"op/in_plane/kernel": (3, 3, 1), "op/through_plane/kernel": (1, 1, 3)},
    }
    assert kernels == expected_kernels[op]
    np.testing.assert_allclose(found, reference.block(voxels, weights, "op"), atol=1e-5)


def test_in_plane_operation_does_not_mix_slices():
    layers = NamedLayers()
    block = ConvNorm(layers, "op", 1, (3, 3, 1), norm=False)
    symbol = keras.Input((4, 4, 4, 1))
    model = keras.Model(symbol, block(symbol))
    layers.variables()["op/kernel"].assign(np.ones((3, 3, 1, 1, 1), np.float32))
    voxels = np.zeros((1, 4, 4, 4, 1), np.float32)
    voxels[0, 1, 1, 2] = 1.0
    touched = np.argwhere(model(voxels).numpy()[0, ..., 0] != 0)
    assert set(touched[:, 2]) == {2}
    assert set(touched[:, 0]) == {0, 1, 2}


@pytest.mark.parametrize("size", [(6, 4, 8), (3, 5, 7)])
def test_stride_two_block_samples_around_even_voxels(size):
    (voxels,), weights, found = evaluate(
        lambda layers: ConvNorm(layers, "down", 3, (3, 3, 3), stride=2, relu_first=True), (*size, 2)
    )
    assert found.shape[:3] == tuple((n + 1) // 2 for n in size)
    np.testing.assert_allclose(found, reference.block(voxels, weights, "down", stride=2), atol=1e-5)


def test_up_block():
    (voxels,), weights, found = evaluate(lambda layers: UpBlock(layers, "up", 2), (3, 2, 4, 4))
    np.testing.assert_allclose(
        found, reference.block(reference.double(voxels), weights, "up"), atol=1e-5
    )


def test_convolution_with_bias_and_without_norm():
    (voxels,), weights, found = evaluate(
        lambda layers: ConvNorm(layers, "c", 3, (1, 1, 1), norm=False, bias=True), (2, 3, 2, 2)
    )
    assert set(weights) == {"c/kernel", "c/bias"}
    np.testing.assert_allclose(
        found, reference.convolve(voxels, weights["c/kernel"]) + weights["c/bias"], atol=1e-5
    )


def test_doubling_convolution():
    (voxels,), weights, found = evaluate(
        lambda layers: ConvNorm(layers, "c", 2, (3, 3, 3), double=True, bias=True, norm=False),
        (2, 3, 4, 3),
    )
    assert {name: array.shape for name, array in weights.items()} == {
        "c/kernel": (3, 3, 3, 3, 2),
        "c/bias": (2,),
    }
    expected = reference.convolve(reference.double(voxels), weights["c/kernel"]) + weights["c/bias"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_layers_are_copied_from_their_config():
    double = TrilinearUpsampling.from_config(TrilinearUpsampling(name="mine").get_config())
    assert double.name == "mine"
    assert tuple(double.compute_output_shape((None, None, 4, 5, 3))) == (None, None, 8, 10, 3)
    layer = UpsampledConv3D(5, use_bias=False)
    before = layer.get_config()
    layer(np.zeros((1, 2, 2, 2, 3), np.float32))
    assert layer.get_config() == before
    copy = UpsampledConv3D.from_config(before)
    assert (copy.filters, copy.use_bias) == (5, False)
    assert tuple(copy.compute_output_shape((None, None, 4, 5, 3))) == (None, None, 8, 10, 5)
