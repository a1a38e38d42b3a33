import collections
import functools

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import genotype, named_weights, network
from c2fnas.genotype import CellGene, Genotype
from tests.c2fnas import reference
from tests.c2fnas.fixtures import make_fixture

SMALL = Genotype(
    "small",
    (CellGene((0,), 2, "conv3d"), CellGene((1, 0), 1, "p3d"), CellGene((2,), 1, "conv2d")),
    filters=2,
)


_committed = functools.cache(make_fixture.build)  # every test assigns all of its weights


def _image(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 1)).astype(np.float32)


def count_macs(model, size):
    """Counts output voxels times kernel of each convolution layer.

    It only traces `model` for one volume and computes nothing.
    """
    counted = collections.Counter()

    def watch(layer):
        compute = layer.call

        def call(inputs):
            outputs = compute(inputs)
            counted[layer.name] += int(np.prod(outputs.shape[1:4])) * int(
                np.prod(layer.kernel.shape)
            )
            return outputs

        layer.call = call

    for layer in model.layers:
        if hasattr(layer, "kernel") and len(layer.kernel.shape) == 5:
            watch(layer)
    tf.function(lambda image: model(image)).get_concrete_function(
        tf.TensorSpec((1, *size, 1), tf.float32)
    )
    return sum(counted.values())


@pytest.mark.parametrize(
    ("name", "conv_weights", "macs"),
    [("c2fnas", 19_559_360, 189_772_333_056), ("c2fnas_sum", 15_307_712, 157_553_786_880)],
)
def test_full_size_counts(name, conv_weights, macs):
    built = network.build(genotype.load(name), patch_size=(96, 96, 96), vae=None)
    kernels = {
        weight: variable
        for weight, variable in built.variables.items()
        if weight.endswith("kernel")
    }
    assert sum(int(np.prod(variable.shape)) for variable in kernels.values()) == conv_weights
    assert count_macs(built.segmenter, (96, 96, 96)) == macs
    expected = {
        conv.name: (*conv.kernel, conv.channels_in, conv.channels_out)
        for conv in built.genotype.convolutions()
    }
    assert {weight: tuple(variable.shape) for weight, variable in kernels.items()} == expected


@pytest.fixture(scope="module")
def small():
    return network.build(SMALL, patch_size=(8, 12, 4), latent_size=3, seed=2)


def test_vae_branch_changes_no_logit(small):
    without = network.build(SMALL, patch_size=(8, 12, 4), vae=None, seed=2)
    shared = named_weights.read(without)
    for name, array in named_weights.read(small).items():
        assert name.startswith("vae/") == (name not in shared)
        if name in shared:
            np.testing.assert_array_equal(array, shared[name])
    image = _image(2, 8, 12, 4)
    logits = without.train_outputs(image)["logits"]
    for noise in (None, np.ones((2, 3), np.float32)):
        np.testing.assert_allclose(small.train_outputs(image, noise)["logits"], logits, atol=1e-6)
    np.testing.assert_allclose(small.segmenter(image), logits, atol=1e-6)


def test_trainer_and_segmenter_share_their_weights(small):
    before = named_weights.read(small)
    image = _image(1, 8, 12, 4)
    old = small.segmenter(image).numpy()
    small.variables["end/classifier/bias"].assign([1.0, 2.0, 3.0])
    np.testing.assert_allclose(
        small.segmenter(image) - old, np.broadcast_to([1.0, 2.0, 3.0], old.shape), atol=1e-5
    )
    np.testing.assert_allclose(
        small.train_outputs(image)["logits"], small.segmenter(image), atol=1e-6
    )
    named_weights.assign(small, before)


def test_every_weight_is_named_once_and_trained(small):
    named = {id(variable) for variable in small.variables.values()}
    assert len(named) == len(small.variables) == len(small.trainer.trainable_variables)
    values = [
        variable.value if hasattr(variable, "value") and not callable(variable.value) else variable
        for variable in small.variables.values()
    ]
    with tf.GradientTape() as tape:
        outputs = small.train_outputs(_image(1, 8, 12, 4), np.ones((1, 3), np.float32))
        total = sum(
            tf.reduce_sum(output * _image(*output.shape[:-1]))
            for output in (outputs["logits"], outputs["reconstruction"])
        )
    gradients = tape.gradient(total, values)
    assert [
        name for name, gradient in zip(small.variables, gradients, strict=True) if gradient is None
    ] == []


def test_volumes_of_other_sizes_and_batches(small):
    assert tuple(small.segmenter(_image(3, 12, 4, 8)).shape) == (3, 12, 4, 8, 3)


def test_one_sample_does_not_see_another(small):
    image = _image(2, 8, 8, 8)
    alone = small.segmenter(image[1:]).numpy()
    np.testing.assert_allclose(small.segmenter(image)[1:], alone, atol=1e-5)


def test_outputs_have_the_documented_shapes(small):
    outputs = small.train_outputs(_image(2, 8, 12, 4), np.zeros((2, 3), np.float32))
    shapes = {name: tuple(value.shape) for name, value in outputs.items()}
    assert shapes == {
        "logits": (2, 8, 12, 4, 3),
        "reconstruction": (2, 8, 12, 4, 1),
        "mean": (2, 3),
        "std": (2, 3),
    }
    assert {value.dtype for value in outputs.values()} == {tf.float32}


def test_an_untrained_network_predicts_the_class_prior():
    built = network.build(SMALL, patch_size=(8, 8, 8), vae=None, class_prior=(0.9, 0.08, 0.02))
    built.variables["end/classifier/kernel"].assign(np.zeros((1, 1, 1, 2, 3), np.float32))
    probabilities = tf.nn.softmax(built.segmenter(_image(1, 8, 8, 8)))
    np.testing.assert_allclose(
        probabilities, np.broadcast_to([0.9, 0.08, 0.02], probabilities.shape), rtol=1e-5
    )


@pytest.mark.parametrize("name", genotype.NAMES)
def test_committed_weights_give_the_committed_logits(name):
    """They are recorded on one stack and read by both, so the stacks agree with each other."""
    built = _committed(name)
    arrays, _ = named_weights.load(make_fixture.FOLDER / f"{name}.safetensors")
    expected = {
        key.removeprefix("expected/"): arrays.pop(key)
        for key in list(arrays)
        if key.startswith("expected/")
    }
    named_weights.assign(built, arrays)
    image, noise = make_fixture.patch()
    found = make_fixture.recorded(built.train_outputs(image, noise))
    assert found.keys() == expected.keys()
    assert np.ptp(expected["logits"]) > 1
    for key, array in expected.items():
        np.testing.assert_allclose(found[key], array, atol=1e-4, err_msg=key)


def test_logits_are_those_of_float64_arithmetic():
    """Compares the whole searched network with NumPy.

    A norm that adds up a channel voxel by voxel in float32 would fail here.
    """
    architecture = genotype.load("c2fnas").with_size(filters=1)
    arrays, _ = named_weights.load(make_fixture.FOLDER / "c2fnas.safetensors")
    image, _ = make_fixture.patch()
    expected = reference.logits(architecture, arrays, image[0])
    built = _committed("c2fnas")
    named_weights.assign(
        built, {name: array for name, array in arrays.items() if not name.startswith("expected/")}
    )
    found = built.segmenter(image).numpy()[0]
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(found, expected, atol=1e-4)
    unknown_size = tf.function(
        built.segmenter, input_signature=[tf.TensorSpec((None, None, None, None, 1), tf.float32)]
    )
    np.testing.assert_allclose(unknown_size(image)[0], expected, atol=1e-4)


def test_an_end_that_brings_its_second_input_up():
    """As in the topologies of the search whose last step goes up."""
    cells = (CellGene((0,), 2, "conv3d"), CellGene((1,), 2, "p3d"), CellGene((2, 0), 1, "conv2d"))
    built = network.build(Genotype("up", cells, filters=2), patch_size=(8, 8, 4), vae=None, seed=4)
    image = _image(1, 8, 8, 4)
    expected = reference.logits(built.genotype, named_weights.read(built), image[0])
    np.testing.assert_allclose(built.segmenter(image).numpy()[0], expected, atol=1e-4)
    kernels = {
        name: tuple(variable.shape)
        for name, variable in built.variables.items()
        if name.endswith("kernel")
    }
    assert kernels == {
        conv.name: (*conv.kernel, conv.channels_in, conv.channels_out)
        for conv in built.genotype.convolutions()
    }


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match=r"\(8, 10, 8\).*multiples of 4"):
        network.build(SMALL, patch_size=(8, 10, 8))
    with pytest.raises(ValueError, match=r"class_prior is \(0.5, 0.5\); expected 3 shares"):
        network.build(SMALL, patch_size=(8, 8, 8), class_prior=(0.5, 0.5))
    with pytest.raises(ValueError, match="class_prior"):
        network.build(SMALL, patch_size=(8, 8, 8), class_prior=(1.0, 0.0, 0.0))
