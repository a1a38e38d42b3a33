"""A drawing of the federated system: two hospitals that keep their scans, and a server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, PathPatch
from matplotlib.path import Path

from experiments.figures.shapes import arrow, box
from experiments.figures.style import DPI, INK, MODEL_COLOURS, MUTED, PANCREAS, TUMOUR


def overview() -> Figure:
    """Draws two hospitals that keep their scans, the server, and what travels between them."""
    figure = Figure(figsize=(11, 5.5), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 11), ylim=(0, 5.5))
    axes.axis("off")
    sites = (
        (
            "C1",
            0.25,
            MODEL_COLOURS["C1_FL_local"],
            "Hospital C1",
            "healthy pancreas, stomach inflated,\nslices of 1 mm or less",
        ),
        (
            "C2",
            7.6,
            MODEL_COLOURS["C2_FL_local"],
            "Hospital C2",
            "pancreatic cancer, another scanner,\nslices of 1 mm and 5 mm",
        ),
    )
    for site, left, colour, name, about in sites:
        _card(axes, left, 0.3, 3.15, 4.9, edge=colour)
        axes.text(
            left + 0.22, 4.82, name, fontsize=14, fontweight="bold", color=colour, va="center"
        )
        axes.text(left + 0.22, 4.36, about, fontsize=9, color=MUTED, va="center", linespacing=1.35)
        _abdomen(axes, left + 0.22, 2.42, 2.71, 1.62, tumour=site == "C2")
        _chip(
            axes,
            left + 0.22,
            1.6,
            2.71,
            0.6,
            "     C2FNAS + VAE, ten local epochs\n     on the hospital's own GPUs",
            face="#eef2f6",
        )
        _number(axes, left + 0.43, 1.9, "2")
        axes.text(
            left + 0.22,
            1.26,
            "Never leaves",
            fontsize=9.5,
            fontweight="bold",
            color=INK,
            va="center",
        )
        axes.text(
            left + 0.22,
            0.81,
            "scans, labels and pictures\nof them; patients' identifiers;\nfile names and paths",
            fontsize=9,
            color=MUTED,
            va="center",
            linespacing=1.35,
        )
    _card(axes, 4.55, 1.02, 1.9, 3.46, edge=INK)
    axes.text(
        5.5, 4.15, "Server", fontsize=14, fontweight="bold", color=INK, ha="center", va="center"
    )
    axes.text(5.5, 3.8, "never sees a scan", fontsize=9, color=MUTED, ha="center", va="center")
    _chip(axes, 4.7, 2.95, 1.6, 0.6, "     mean, weighted\n     by training cases", face="#e3f3ee")
    _number(axes, 4.9, 3.25, "4")
    _chip(axes, 4.7, 2.1, 1.6, 0.5, "FL_global", face=MODEL_COLOURS["FL_global"], ink="white")
    arrow(axes, (5.5, 2.95), (5.5, 2.6), head=12, gap=2, linewidth=1.5)
    _chip(axes, 4.7, 1.25, 1.6, 0.5, "Table 1", face="#eef2f6")
    for near, far in ((3.4, 4.7), (7.6, 6.3)):  # edge of a hospital, edge of the server
        for y, text, number, tail, head, line in (
            (3.25, "weights", "3", near, far, "-"),
            (2.35, "global model", "1", far, near, "-"),
            (1.5, "Dice per case", "5", near, far, "--"),
        ):
            arrow(axes, (tail, y), (head, y), head=13, gap=3, linewidth=1.6, linestyle=line)
            middle = (near + (4.55 if near < far else 6.45)) / 2
            axes.text(middle, y + 0.24, text, fontsize=9.2, color=INK, ha="center", va="center")
            _number(axes, middle, y, number)
    axes.text(
        5.5,
        0.62,
        "gRPC over TLS, one token per site;\nsteps 1 to 4 are one round",
        fontsize=9,
        color=MUTED,
        ha="center",
        va="center",
        linespacing=1.35,
    )
    return figure


def _number(axes: Axes, x: float, y: float, number: str) -> None:
    axes.add_patch(Ellipse((x, y), 0.23, 0.23, facecolor=INK, edgecolor="none", zorder=4))
    axes.text(
        x,
        y - 0.008,
        number,
        fontsize=8,
        fontweight="bold",
        color="white",
        ha="center",
        va="center",
        zorder=5,
    )


def _card(axes: Axes, x: float, y: float, width: float, height: float, *, edge: str) -> None:
    look = {"facecolor": "#fbfcfd", "edgecolor": edge, "linewidth": 1.6}
    box(axes, x, y, width, height, rounding=0.14, **look)


def _chip(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str,
    *,
    face: str,
    ink: str = INK,
) -> None:
    box(axes, x, y, width, height, rounding=0.1, facecolor=face, edgecolor="none")
    axes.text(
        x + width / 2,
        y + height / 2,
        text,
        fontsize=9.2,
        color=ink,
        ha="center",
        va="center",
        linespacing=1.3,
    )


def _abdomen(axes: Axes, x: float, y: float, width: float, height: float, *, tumour: bool) -> None:
    """Draws a schematic axial slice, the patient's right on the left.

    Args:
      tumour: with a tumour and an empty stomach (C2); otherwise with an inflated stomach (C1).
    """
    box(axes, x, y, width, height, rounding=0.08, facecolor="#0f141a", edgecolor="none")
    unit = height / 2.16  # half the depth of the body, so that it just fits
    cx, cy = x + width / 2, y + height / 2

    def at(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(cx + unit * px, cy + unit * py) for px, py in points]

    def ellipse(px: float, py: float, w: float, h: float, colour: str, angle: float = 0.0) -> None:
        axes.add_patch(
            Ellipse(
                at([(px, py)])[0],
                unit * w,
                unit * h,
                angle=angle,
                facecolor=colour,
                edgecolor="none",
            )
        )

    def blob(points: Sequence[tuple[float, float]], colour: str) -> None:
        axes.add_patch(PathPatch(_smooth(at(points)), facecolor=colour, edgecolor="none"))

    ellipse(0, 0, 2.94, 1.98, "#4b535c")  # skin and fat
    ellipse(0, 0.02, 2.62, 1.68, "#7b858f")  # muscle
    ellipse(0, 0.1, 2.44, 1.46, "#3a424b")  # fat between the organs
    blob(
        [
            (-1.16, 0.1),
            (-0.98, 0.6),
            (-0.5, 0.76),
            (-0.02, 0.7),
            (-0.12, 0.42),
            (-0.42, 0.2),
            (-0.56, -0.14),
            (-0.84, -0.44),
            (-1.1, -0.26),
        ],
        "#98a2ac",
    )  # liver
    blob(
        [(1.16, 0.05), (1.02, 0.32), (0.86, 0.2), (0.86, -0.12), (0.98, -0.34), (1.1, -0.22)],
        "#8f99a3",
    )  # spleen
    if tumour:
        blob(
            [(0.12, 0.62), (0.4, 0.66), (0.66, 0.5), (0.62, 0.34), (0.34, 0.42), (0.14, 0.48)],
            "#88929c",
        )  # stomach, empty
    else:
        blob(
            [
                (0.06, 0.62),
                (0.4, 0.76),
                (0.84, 0.56),
                (0.9, 0.26),
                (0.6, 0.22),
                (0.3, 0.34),
                (0.1, 0.44),
            ],
            "#88929c",
        )  # stomach, inflated
        blob(
            [(0.14, 0.6), (0.4, 0.69), (0.76, 0.54), (0.8, 0.42), (0.4, 0.46), (0.18, 0.5)],
            "#0f141a",
        )  # its air
    ellipse(-0.56, -0.42, 0.4, 0.5, "#a8b2bb", 20)  # kidneys
    ellipse(0.58, -0.42, 0.4, 0.5, "#a8b2bb", -20)
    ellipse(0, -0.46, 0.5, 0.4, "#e8edf1")  # vertebra
    ellipse(0, -0.72, 0.2, 0.3, "#e8edf1")
    ellipse(0, -0.7, 0.13, 0.12, "#59626c")  # its canal
    ellipse(0.12, -0.18, 0.17, 0.17, "#c6ced5")  # aorta
    ellipse(-0.14, -0.16, 0.2, 0.15, "#b3bdc6")  # vena cava
    pancreas = [(-0.42, 0.0), (-0.3, 0.16), (-0.08, 0.2), (0.14, 0.16), (0.42, 0.16), (0.76, 0.06)]
    pancreas += [(0.78, -0.08), (0.5, -0.02), (0.2, -0.01), (0, 0.02), (-0.14, -0.04)]
    pancreas += [(-0.3, -0.14), (-0.42, -0.12)]
    blob(pancreas, PANCREAS)
    if tumour:
        ellipse(-0.28, 0.02, 0.22, 0.2, TUMOUR)


def _smooth(points: Sequence[tuple[float, float]]) -> Path:
    """Returns a closed Catmull-Rom curve through the points, as Bézier segments."""
    around = np.asarray(points, dtype=float)
    before, after = np.roll(around, 1, axis=0), np.roll(around, -1, axis=0)
    tangent = (after - before) / 6.0
    vertices, codes = [around[0]], [Path.MOVETO]
    for index in range(len(around)):
        following = (index + 1) % len(around)
        vertices += [
            around[index] + tangent[index],
            around[following] - tangent[following],
            around[following],
        ]
        codes += [Path.CURVE4] * 3
    return Path(vertices, codes, closed=False)
