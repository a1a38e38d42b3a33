import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import inference, named_weights, network
from c2fnas.genotype import CellGene, Genotype
from c2fnas.search import supernet
from c2fnas.search.operation_space import OperationSpace
from tests.c2fnas import tiny

PATCH, PATH = (8, 8, 4), (1, 2)
SPACE = OperationSpace(
    Genotype("tiny", (CellGene((0,), 2, "conv2d"), CellGene((1, 0), 1, "conv2d")), filters=2)
)
SETTINGS = {"patch_size": PATCH, "latent_size": 3, "class_prior": (0.9, 0.08, 0.02)}


@pytest.fixture(scope="module")
def made():
    """A supernet, and the start values that it had."""
    made = supernet.build(SPACE, **SETTINGS, seed=4)
    arrays = named_weights.read(made)
    rng = np.random.default_rng(0)  # so that no norm has its start values
    named_weights.assign(
        made, {name: a + 0.1 * rng.normal(size=a.shape) for name, a in arrays.items()}
    )
    return made, arrays


@pytest.fixture(scope="module")
def built(made):
    return made[0]


def _alone(made, gene, space=SPACE, **settings):
    alone = network.build(space.genotype(gene), **{**SETTINGS, **settings})
    named_weights.assign(alone, supernet.path_arrays(made, gene))
    return alone


def _image(count=2):
    return np.random.default_rng(1).normal(size=(count, *PATCH, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def alone(built):
    """The network of one path, with its weights in the supernet."""
    return _alone(built, PATH)


def test_a_path_computes_the_bits_of_its_network_alone(built, alone):
    """Logits of the compiled segmentation network, and all outputs of training."""
    built.choose(PATH)
    image, noise = _image(), np.random.default_rng(2).normal(size=(2, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        inference.logits_fn(built)(image), inference.logits_fn(alone)(image)
    )
    found, expected = built.train_outputs(image, noise), alone.train_outputs(image, noise)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    np.testing.assert_array_equal(
        built.train_outputs(image)["mean"], alone.train_outputs(image)["mean"]
    )


def test_cells_that_add_up_before_the_operation_and_no_branch():
    port = {"merge": "before_op", "outer": "conv", "down": "before_first"}
    base = dataclasses.replace(
        SPACE.base, cells=tuple(dataclasses.replace(cell, **port) for cell in SPACE.base.cells)
    )
    space = OperationSpace(base, ("p3d", "conv2d"))
    made = supernet.build(space, **{**SETTINGS, "vae": None})
    made.choose((1, 0))
    alone = _alone(made, (1, 0), space, vae=None)
    np.testing.assert_array_equal(made.segmenter(_image()), alone.segmenter(_image()))
    assert made.train_outputs(_image()).keys() == {"logits"}


def test_one_function_for_all_paths(built):
    traces = []

    @tf.function(autograph=False)
    def logits(image):
        traces.append(1)
        return built.segmenter(image)

    found = {}
    for gene in [(0, 0), (1, 0), (1, 2), (0, 0)]:
        built.choose(gene)
        assert built.path == gene
        found.setdefault(gene, []).append(logits(_image()).numpy())
    assert len(traces) == 1
    np.testing.assert_array_equal(*found.pop((0, 0)))
    assert not np.array_equal(found[1, 0], found[1, 2])


def test_weights_that_paths_share_have_the_names_and_start_values_of_a_network(made, alone):
    built, ours = made
    theirs = named_weights.initial(alone, 4)
    shared = {name for name in theirs if "/op/" not in name}
    assert shared == ours.keys() & theirs.keys()
    for name in shared:
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert supernet.path_arrays(built, PATH).keys() == theirs.keys()


def test_every_operations_weights_are_one_group(built):
    grouped = [name for one in built.alternatives for group in one.groups for name in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {name for name in built.variables if "/op/" in name}
    assert [len(one.groups) for one in built.alternatives] == [3, 3]


def test_wrong_paths_and_counts_are_refused(built):
    with pytest.raises(ValueError, match="choice 3 at place 0"):
        built.choose((3, 0))
    with pytest.raises(ValueError, match=r"shape \(2, 2\), expected \(2, 3\)"):
        built.set_counts(np.zeros((2, 2), np.int64))
    with pytest.raises(ValueError, match=r"\(8, 9, 4\)"):
        supernet.build(SPACE, patch_size=(8, 9, 4))


def test_counts_and_back(built):
    counts = np.arange(6).reshape(2, 3)
    built.set_counts(counts)
    np.testing.assert_array_equal(built.counts(), counts)
    built.set_counts(np.zeros((2, 3)))


tiny.make_deterministic()
