import numpy as np
import pytest
import tensorflow as tf

from c2fnas import network
from c2fnas.genotype import CellGene, Genotype, load
from c2fnas.named_weights import NamedLayers
from c2fnas.vae_branch import PositiveDeviation, VaeBranch, cost
from tests.c2fnas import reference

SMALL = Genotype(
    "small",
    (CellGene((0,), 2, "conv3d"), CellGene((1, 0), 1, "p3d"), CellGene((2,), 1, "conv2d")),
    filters=1,
)


def _weights(built, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {
        name: rng.normal(scale=0.3, size=tuple(variable.shape)).astype(np.float32)
        for name, variable in built.variables.items()
    }
    for name, variable in built.variables.items():
        variable.assign(arrays[name])
    return arrays


def _outputs(built, patches, noise):
    return {name: value.numpy() for name, value in built.train_outputs(patches, noise).items()}


def _encoder_end(patch, weights):
    voxels = reference.normalise(
        reference.convolve(patch, weights["stem/first/kernel"]),
        weights["stem/first/gamma"],
        weights["stem/first/beta"],
    )
    voxels = reference.block(voxels, weights, "stem/second", stride=2)
    voxels = reference.block(voxels, weights, "cell01/input0/down", stride=2)
    return reference.block(
        reference.block(voxels, weights, "cell01/input0/op"), weights, "cell01/last"
    )


def _softplus(x):
    return np.log1p(np.exp(x))


@pytest.mark.parametrize("size", [(8, 8, 8), (12, 8, 4)])
@pytest.mark.parametrize("kind", ["reduced", "direct"])
def test_outputs_agree_with_the_definition(kind, size):
    """A size of 12 has an encoder end of 3 voxels, which halves to 2; a size of 4 has 1."""
    built = network.build(SMALL, patch_size=size, vae=kind, latent_size=5)
    w = _weights(built)
    rng = np.random.default_rng(1)
    patch, noise = (
        rng.normal(size=(1, *size, 1)).astype(np.float32),
        rng.normal(size=(1, 5)).astype(np.float32),
    )
    found = _outputs(built, patch, noise)

    end = _encoder_end(patch[0], w)
    features = end
    if kind == "reduced":
        features = reference.relu(
            reference.normalise(end, w["vae/reduce/gamma"], w["vae/reduce/beta"])
        )
        features = reference.convolve(features, w["vae/reduce/kernel"], stride=2)
    mean = features.reshape(-1) @ w["vae/mean/kernel"] + w["vae/mean/bias"]
    std = _softplus(features.reshape(-1) @ w["vae/std/kernel"] + w["vae/std/bias"]) + 1e-6
    latent = mean + std * noise[0]
    voxels = reference.relu(latent @ w["vae/recover/kernel"] + w["vae/recover/bias"]).reshape(
        features.shape
    )
    if kind == "reduced":
        voxels = reference.double(voxels)[: end.shape[0], : end.shape[1], : end.shape[2]]
    voxels = reference.double(reference.convolve(voxels, w["vae/level1/narrow/kernel"]))
    residual = voxels
    for part in ("vae/level1/residual0", "vae/level1/residual1"):
        residual = reference.relu(
            reference.normalise(residual, w[f"{part}/gamma"], w[f"{part}/beta"])
        )
        residual = reference.convolve(residual, w[f"{part}/kernel"])
    expected = (
        reference.convolve(reference.double(voxels + residual), w["vae/end/kernel"])
        + w["vae/end/bias"]
    )

    np.testing.assert_allclose(found["mean"][0], mean, atol=1e-4)
    np.testing.assert_allclose(found["std"][0], std, atol=1e-4)
    np.testing.assert_allclose(found["reconstruction"][0], expected, atol=2e-4)


def test_without_noise_the_latent_is_the_mean():
    built = network.build(SMALL, patch_size=(8, 8, 8), latent_size=4)
    _weights(built)
    patch = np.random.default_rng(2).normal(size=(2, 8, 8, 8, 1)).astype(np.float32)
    silent, zeros = (
        _outputs(built, patch, None),
        _outputs(built, patch, np.zeros((2, 4), np.float32)),
    )
    noisy = _outputs(built, patch, np.ones((2, 4), np.float32))
    np.testing.assert_array_equal(silent["reconstruction"], zeros["reconstruction"])
    assert np.abs(noisy["reconstruction"] - zeros["reconstruction"]).max() > 1e-3
    np.testing.assert_array_equal(silent["mean"], noisy["mean"])


def test_noise_of_one_patch_does_not_reach_another():
    built = network.build(SMALL, patch_size=(8, 8, 8), latent_size=4)
    _weights(built)
    patch = np.random.default_rng(3).normal(size=(2, 8, 8, 8, 1)).astype(np.float32)
    noise = np.zeros((2, 4), np.float32)
    before = _outputs(built, patch, noise)["reconstruction"]
    noise[1] = 1.0
    after = _outputs(built, patch, noise)["reconstruction"]
    np.testing.assert_allclose(after[0], before[0], atol=1e-6)
    assert np.abs(after[1] - before[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "expected"), [("direct", 3 * 512 * 6**3 * 128 // 32), ("reduced", 3 * 16 * 3**3 * 128)]
)
def test_sizes_of_the_dense_layers_by_hand(kind, expected):
    """At full width the direct layers hold 42.5 million weights, the reduced ones 0.17.

    Here the width is one 32nd.
    """
    layers, genotype = NamedLayers(), load("c2fnas").with_size(filters=1)
    branch = VaeBranch(layers, genotype, (96, 96, 96), kind=kind, latent_size=128)
    branch(tf.keras.Input((6, 6, 6, 16)), tf.keras.Input((128,)))
    kernels = {
        name: variable for name, variable in layers.variables().items() if name.endswith("kernel")
    }
    assert (
        sum(
            int(np.prod(kernels[f"vae/{name}/kernel"].shape)) for name in ("mean", "std", "recover")
        )
        == expected
    )


def test_deviation_stays_positive():
    found = PositiveDeviation()(np.array([[-200.0, 0.0, 3.0]], np.float32)).numpy()[0]
    np.testing.assert_allclose(found, [1e-6, np.log(2) + 1e-6, np.log1p(np.exp(3.0))], rtol=1e-5)


def test_unknown_kind_and_size_are_refused():
    with pytest.raises(ValueError, match=r"'wide'.*reduced, direct"):
        network.build(SMALL, patch_size=(8, 8, 8), vae="wide")
    with pytest.raises(ValueError, match="latent_size is 0"):
        network.build(SMALL, patch_size=(8, 8, 8), latent_size=0)


def test_cost_at_full_size_by_hand():
    """The encoder's end is 6x6x6x512, reduced to 3x3x3x16, and the latent vector has 128 values.

    The decoder has 256, 128 and 64 filters at sizes 12, 24 and 48.
    """
    built = network.build(load("c2fnas"), patch_size=(96, 96, 96))
    dense = 432 * 128 * 2 + 128 * 432
    scales = [
        (16, 256, 6),
        (256, 128, 12),
        (128, 64, 24),
    ]  # channels in and out, size before the doubling
    kernels = 27 * 512 * 16 + dense + sum(i * o + 2 * 27 * o * o for i, o, _ in scales) + 27 * 64
    biases_and_norms = 2 * 128 + 432 + 1 + 2 * 512 + sum(4 * o for _, o, _ in scales)
    macs = (
        27 * (27 * 512 * 16)
        + dense
        + sum(n**3 * i * o + (2 * n) ** 3 * 2 * 27 * o * o for i, o, n in scales)
        + 96**3 * 27 * 64
    )
    assert cost(built) == (kernels + biases_and_norms, macs)
    assert cost(
        network.build(load("c2fnas").with_size(filters=1), patch_size=(16, 16, 16), vae=None)
    ) == (0, 0)
