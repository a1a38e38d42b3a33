"""Walks "Add an operation of the genotype" of CONTRIBUTING.md with an operation of its own."""

import json

import numpy as np
import pytest

from c2fnas import genotype, named_weights
from c2fnas.genotype import CellGene, Genotype
from c2fnas.operations import OperationBlock
from experiments import figures
from tests.c2fnas import reference, tiny
from tests.c2fnas.test_operations import evaluate


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """The single entry that the instructions require."""
    monkeypatch.setitem(
        genotype.OPERATIONS, "wide", {"in_plane/kernel": (5, 5, 1), "along/kernel": (1, 1, 5)}
    )


def architecture(op="wide"):
    cells = (CellGene((0,), 2, "conv3d"), CellGene((1, 0), 1, op), CellGene((2,), 1, "conv2d"))
    return Genotype("with a wide cell", cells, filters=2)


def test_its_block_computes_what_the_entry_says():
    (voxels,), weights, found = evaluate(
        lambda layers: OperationBlock(layers, "op", "wide", 3), (6, 7, 8, 2)
    )
    kernels = [name for name in weights if name.endswith("kernel")]
    assert kernels == ["op/in_plane/kernel", "op/along/kernel"]
    expected = reference.relu(voxels)
    for kernel in kernels:
        expected = reference.convolve(expected, weights[kernel])
    expected = reference.normalise(expected, weights["op/along/gamma"], weights["op/along/beta"])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_network_with_it_is_built_and_learns(tmp_path):
    path = tmp_path / "wide.json"
    path.write_text(json.dumps(architecture().to_json()))
    genes = genotype.load(path)
    assert genes == architecture()
    # two inputs with 4 channels each: 25 + 5 instead of 27 weights per pair of channels
    assert genes.conv_weights() == architecture("conv3d").conv_weights() + 2 * (25 + 5 - 27) * 4 * 4

    trainer = tiny.trainer(genes)
    before = trainer.weights()
    assert before["cell02/input0/op/in_plane/kernel"].shape == (5, 5, 1, 4, 4)
    losses = []
    trainer.train(tiny.datasets, 3, on_step=lambda step, values: losses.append(values["total"]))
    assert losses[-1] < losses[0]
    after = named_weights.read(trainer.network)
    moved = [name for name in after if "/op/" in name and (after[name] != before[name]).any()]
    assert {"cell02/input1/op/in_plane/kernel", "cell02/input1/op/along/kernel"} <= set(moved)


def test_the_architecture_figure_shows_it():
    figure = figures.genotype_figure(architecture(), patch_size=(16, 16, 8))
    legend = figure.legends[0]
    labels = [text.get_text() for text in legend.get_texts()]
    colours = [patch.get_facecolor() for patch in legend.get_patches()]
    assert "wide" in labels and len(set(colours)) == len(colours) == 3
