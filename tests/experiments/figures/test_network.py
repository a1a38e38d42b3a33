"""The architecture as a figure: cells, inputs, operations."""

import copy

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from c2fnas import genotype
from c2fnas.genotype import CellGene, Genotype
from experiments import figures


def test_the_genotype_figure_shows_all_cells_and_inputs():
    architecture = genotype.load("c2fnas")
    figure = figures.genotype_figure(architecture)
    words = [text.get_text() for text in figure.axes[0].texts]
    # Only cells are numbered.
    assert [word for word in words if word.isdigit()] == [str(n) for n in range(1, 13)]
    assert "3 classes" in words
    # an arrow for every input, from stem to stem, two into the end and one out of it
    arrows = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == sum(len(cell.inputs) for cell in architecture.cells) + 4
    assert "19,559,360 convolution weights, 189.8 GMAC" in figure.texts[0].get_text()
    assert "VAE" in words
    without = figures.genotype_figure(architecture, vae=False).axes[0]
    assert "VAE" not in [text.get_text() for text in without.texts]


def test_boxes_leave_the_heads_of_the_arrows_free_and_no_text_is_cut_off():
    cells = (CellGene((0,), 1, "conv3d"), CellGene((1,), 2, "conv3d"), CellGene((2,), 1, "conv2d"))
    for architecture in (genotype.load("c2fnas"), Genotype("mine", cells)):
        figure = figures.genotype_figure(architecture)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        axes, edge = figure.axes[0], figure.bbox
        boxes = [p for p in axes.patches if isinstance(p, FancyBboxPatch)]
        widest = max(box.get_window_extent().width for box in boxes)
        (one, two) = (axes.transData.transform((x, 0))[0] for x in (1.0, 2.0))
        assert widest < 0.75 * (two - one) and widest < 0.05 * edge.width
        for text in [*axes.texts, *figure.texts]:
            extent = text.get_window_extent(canvas.get_renderer())
            assert extent.x0 >= 0 and extent.x1 <= edge.width and extent.y1 <= edge.height


def test_an_operation_that_is_not_in_the_paper_gets_a_colour_and_its_name(monkeypatch):
    architecture = copy.deepcopy(genotype.load("c2fnas"))
    cells = list(architecture.cells)
    # set directly: the figure needs only a colour for it, the genotype would need kernels
    object.__setattr__(cells[3], "op", "depthwise")
    object.__setattr__(architecture, "cells", tuple(cells))
    monkeypatch.setattr(type(architecture), "conv_weights", lambda self: 0)
    monkeypatch.setattr(type(architecture), "macs", lambda self, size: 0)
    figure = figures.genotype_figure(architecture)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert (
        "depthwise" in legend
        and len({patch.get_facecolor() for patch in figure.legends[0].get_patches()})
        == len(legend) - 1
    )
