import numpy as np
import pytest

from c2fnas.cells import Cell
from c2fnas.genotype import CellGene, Genotype
from tests.c2fnas import reference
from tests.c2fnas.test_operations import evaluate

PORT = {"merge": "before_op", "outer": "conv", "down": "before_first"}


def _cell(gene_1, gene_2, gene_3, number):
    """Cell `number` of a small network; level l has 2**l channels."""
    genotype = Genotype("small", (gene_1, gene_2, gene_3, CellGene((3, 0), 1, "conv2d")), filters=1)

    def make(layers):
        cell = Cell(layers, genotype, number)
        return lambda inputs: cell(inputs if isinstance(inputs, list) else [inputs])

    return make


def _plain(voxels, weights, name):
    return reference.convolve(voxels, weights[f"{name}/kernel"])


def test_two_inputs_each_with_its_own_operation():
    genes = (CellGene((0,), 1, "conv3d"), CellGene((1, 0), 1, "p3d"), CellGene((2,), 1, "conv3d"))
    (a, b), weights, found = evaluate(_cell(*genes, 2), (4, 4, 6, 2), (4, 4, 6, 2))
    branches = [
        reference.block(
            reference.block(v, weights, f"cell02/input{i}/first"), weights, f"cell02/input{i}/op"
        )
        for i, v in enumerate((a, b))
    ]
    np.testing.assert_allclose(
        found, reference.block(branches[0] + branches[1], weights, "cell02/last"), atol=1e-5
    )


def test_two_inputs_summed_before_one_operation():
    genes = (
        CellGene((0,), 1, "conv3d"),
        CellGene((1, 0), 1, "p3d", **PORT),
        CellGene((2,), 1, "conv3d"),
    )
    (a, b), weights, found = evaluate(_cell(*genes, 2), (4, 4, 6, 2), (4, 4, 6, 2))
    total = _plain(a, weights, "cell02/input0/first") + _plain(b, weights, "cell02/input1/first")
    np.testing.assert_allclose(
        found,
        _plain(reference.block(total, weights, "cell02/op"), weights, "cell02/last"),
        atol=1e-5,
    )
    assert not any("input0/op" in name for name in weights)


@pytest.mark.parametrize("port", [{}, PORT])
def test_down_cell(port):
    genes = (
        CellGene((0,), 1, "conv3d"),
        CellGene((1,), 2, "conv3d", **port),
        CellGene((2,), 1, "conv3d"),
    )
    (voxels,), weights, found = evaluate(_cell(*genes, 2), (6, 6, 8, 2))
    assert found.shape == (3, 3, 4, 4)
    voxels = reference.block(voxels, weights, "cell02/input0/down", stride=2)
    if port:
        voxels = _plain(voxels, weights, "cell02/input0/first")
        expected = _plain(reference.block(voxels, weights, "cell02/op"), weights, "cell02/last")
    else:
        expected = reference.block(
            reference.block(voxels, weights, "cell02/input0/op"), weights, "cell02/last"
        )
        assert "cell02/input0/first/kernel" not in weights
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("port", [{}, PORT])
def test_up_cell_with_a_skip(port):
    genes = (
        CellGene((0,), 1, "conv3d"),
        CellGene((1,), 2, "conv3d"),
        CellGene((2, 1), 1, "conv2d", **port),
    )
    (deep, skip), weights, found = evaluate(_cell(*genes, 3), (2, 3, 2, 4), (4, 6, 4, 2))
    up = reference.block(reference.double(deep), weights, "cell03/input0/up")
    if port:
        total = up + _plain(skip, weights, "cell03/input1/first")
        expected = _plain(reference.block(total, weights, "cell03/op"), weights, "cell03/last")
    else:
        skip = reference.block(
            reference.block(skip, weights, "cell03/input1/first"), weights, "cell03/input1/op"
        )
        expected = reference.block(
            reference.block(up, weights, "cell03/input0/op") + skip, weights, "cell03/last"
        )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_names_are_recorded_in_walk_order():
    genes = (CellGene((0,), 1, "conv3d"), CellGene((1, 0), 1, "p3d"), CellGene((2,), 1, "conv3d"))
    _, weights, _ = evaluate(_cell(*genes, 2), (2, 2, 2, 2), (2, 2, 2, 2))
    kernels = [name for name in weights if name.endswith("kernel")]
    assert kernels == [
        "cell02/input0/first/kernel",
        "cell02/input0/op/in_plane/kernel",
        "cell02/input0/op/through_plane/kernel",
        "cell02/input1/first/kernel",
        "cell02/input1/op/in_plane/kernel",
        "cell02/input1/op/through_plane/kernel",
        "cell02/last/kernel",
    ]
