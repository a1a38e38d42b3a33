"""The paper's Fig. 2 and 3, drawn from the genotype's cells and the VAE branch's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiments.figures.shapes import arrow, box
from experiments.figures.style import DPI, INK, MUTED, RULE

if TYPE_CHECKING:
    from c2fnas.genotype import Genotype
    from c2fnas.network import Network

_OP_COLOURS = {"conv2d": "#56b4e9", "conv3d": "#e69f00", "p3d": "#009e73"}
_FURTHER_COLOURS = ("#cc79a7", "#d55e00", "#0072b2", "#f0e442")  # for operations not in the paper
# Layers that are one step in the figure: the two dense heads are parallel, and the latent vector is
# computed from both and the noise.
_TOGETHER = {
    "mean": "mean and std",
    "std": "mean and std",
    "noise": "mean + std · noise",
    "latent": "mean + std · noise",
}
_OP_NAMES = {
    "conv2d": "2D, kernel (3,3,1)",
    "conv3d": "3D, kernel (3,3,3)",
    "p3d": "pseudo-3D, (3,3,1) then (1,1,3)",
}


def genotype_figure(
    architecture: Genotype, patch_size: Sequence[int] = (96, 96, 96), *, vae: bool = True
) -> Figure:
    """Draws a genotype (the paper's Fig. 2).

    Each cell is a box at its scale in the colour of its operation; each input is an arrow.

    Args:
      architecture: a `c2fnas.genotype.Genotype`; the figure shows only what it contains.
      patch_size: x, y, z in voxels, for the sizes on the left.
      vae: whether to show where the VAE branch begins.
    """
    cells = architecture.cells
    colours = _colours([cell.op for cell in cells])
    figure = Figure(figsize=(11, 1.5 + 0.95 * (architecture.depth + 1)), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0.12, 1, 0.8))
    axes.axis("off")
    # Boxes have the same size in a network of few cells; wider ones would cover the arrows' heads.
    right = max(len(cells), 12) + 2.2
    axes.set(xlim=(-3.4, right), ylim=(-architecture.depth - 0.6, 0.6))
    places = {
        0: (0.0, -1.0),
        **{
            number: (float(number), -float(cell.level))
            for number, cell in enumerate(cells, start=1)
        },
    }
    for level in range(architecture.depth + 1):
        size = " × ".join(str(n // 2**level) for n in patch_size)
        axes.text(
            -3.3,
            -level,
            f"{size}\n{architecture.filters_at(level)} filters",
            fontsize=8.5,
            color=MUTED,
            va="center",
        )
        axes.axhline(-level, color=RULE, linewidth=0.6, zorder=0, xmin=0.11)
    _box(axes, -1.0, 0.0, "stem", RULE)
    _box(axes, 0.0, -1.0, "stem", RULE)
    _arrow(axes, (-1.0, 0.0), (0.0, -1.0))
    for number, cell in enumerate(cells, start=1):
        _box(axes, *places[number], str(number), colours[cell.op])
        for source in cell.inputs:
            _arrow(axes, places[source], places[number], bend=0.0 if number - source == 1 else 0.32)
    end = (len(cells) + 1.0, -1.0)
    _box(axes, *end, "end", RULE)
    for number in (len(cells) - 1, len(cells)):
        _arrow(axes, places[number], end, bend=0.0 if number == len(cells) else 0.32)
    logits = (len(cells) + 1.8, 0.0)
    _box(axes, *logits, "out", RULE)
    axes.text(
        logits[0] + 0.3,
        0.4,
        f"{architecture.classes} classes",
        fontsize=8.5,
        color=MUTED,
        ha="right",
        va="center",
    )
    _arrow(axes, end, logits)
    if vae:
        place = places[architecture.encoder_end]
        axes.annotate(
            "VAE",
            place,
            (place[0] + 0.75, place[1] - 0.35),
            fontsize=8.5,
            color=INK,
            va="center",
            arrowprops={"arrowstyle": "<-", "color": MUTED},
        )
    handles: list[Artist] = [
        Patch(facecolor=colour, label=_OP_NAMES.get(op, op)) for op, colour in colours.items()
    ]
    handles.append(Line2D([], [], color=INK, linewidth=1.2, label="input"))
    figure.legend(handles=handles, loc="lower center", ncols=4, frameon=False, fontsize=9)
    gmac = architecture.macs(tuple(patch_size)) / 1e9
    weights = f"{architecture.conv_weights():,} convolution weights"
    _title(figure, 0.96, f"{architecture.name}: {weights}, {gmac:.1f} GMAC")
    return figure


def _colours(operations: Sequence[str]) -> dict[str, str]:
    """Returns operation -> colour: first the paper's in a fixed order, then any others by name."""
    used = set(operations)
    others = sorted(used - _OP_COLOURS.keys())
    further = {
        op: _FURTHER_COLOURS[number % len(_FURTHER_COLOURS)] for number, op in enumerate(others)
    }
    return {op: colour for op, colour in _OP_COLOURS.items() if op in used} | further


def vae_figure(network: Network) -> Figure:
    """Draws the VAE branch as layers with the shapes of their outputs (the paper's Fig. 3).

    Args:
      network: a `c2fnas.network.Network` built with the branch; its trainer's layers named `vae_*`
          are drawn in order.
    Raises:
      ValueError: if the network has no VAE branch.
    """
    layers = [layer for layer in network.trainer.layers if layer.name.startswith("vae_")]
    if not layers:
        raise ValueError("the network has no VAE branch; build it with vae='reduced' or 'direct'")
    steps = _steps(layers)
    rows = 2
    columns = -(-len(steps) // rows)
    figure = Figure(figsize=(11, 3.2), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 0.9))
    axes.axis("off")
    axes.set(xlim=(0, columns), ylim=(0, rows))
    where = {}
    for index, (name, shape) in enumerate(steps):
        row, column = divmod(index, columns)
        x, y = column + 0.5, rows - row - 0.5
        where[index] = (x, y)
        colour = "#e3f3ee" if "mean" in name else "#eef2f6"
        look = {"facecolor": colour, "edgecolor": RULE}
        box(axes, x - 0.42, y - 0.26, 0.84, 0.52, rounding=0.06, **look)
        axes.text(x, y + 0.07, name, fontsize=10, color=INK, ha="center", va="center")
        axes.text(x, y - 0.12, shape, fontsize=8.5, color=MUTED, ha="center", va="center")
        if index:
            x0, y0 = where[index - 1]
            if y0 == y:
                start, end, bend = (x0 + 0.43, y), (x - 0.43, y), 0.0
            else:
                start, end, bend = (x0, y0 - 0.27), (x, y + 0.27), 0.02
            curve = f"arc3,rad={bend}"
            look = {"arrowstyle": "->", "color": MUTED, "connectionstyle": curve}
            axes.annotate("", end, start, arrowprops=look)
    _title(
        figure,
        0.97,
        "VAE branch (training only): from the end of the encoder to the reconstructed patch",
    )
    return figure


def _steps(layers: Sequence[Any]) -> list[tuple[str, str]]:
    """Returns (name, output shape) of each step; layers whose names share a first word are one."""
    steps: dict[str, str] = {}
    for layer in layers:
        output = layer.output
        shape = tuple((output[0] if isinstance(output, (list, tuple)) else output).shape)[1:]
        name = layer.name.split("_")[1]
        steps[_TOGETHER.get(name, name)] = (
            " × ".join(map(str, shape[:-1])) + f", {shape[-1]}" if len(shape) > 1 else str(shape[0])
        )
    return list(steps.items())


def _title(figure: Figure, y: float, text: str) -> None:
    figure.text(0.01, y, text, fontsize=10.5, fontweight="bold", color=INK, va="top")


def _box(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    look = {"facecolor": colour, "edgecolor": INK, "linewidth": 0.9, "zorder": 3}
    box(axes, x - 0.3, y - 0.22, 0.6, 0.44, rounding=0.08, **look)
    axes.text(x, y, text, fontsize=9.5, color=INK, ha="center", va="center", zorder=4)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], *, bend: float = 0.0
) -> None:
    curve = f"arc3,rad={-bend}"
    arrow(axes, start, end, head=9, gap=13, linewidth=1.1, zorder=2, connectionstyle=curve)
