"""Colours and axes that all figures share.

Blue and yellow for pancreas and tumour, as in the paper, and Okabe and Ito's colours for models:
both sets can be told apart with any colour vision.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

PANCREAS, TUMOUR = "#3f97ff", "#ffd60a"
CLASS_COLOURS = {1: PANCREAS, 2: TUMOUR}
MODEL_COLOURS = {
    "C1_baseline": "#56b4e9",
    "C1_FL_local": "#0072b2",
    "C2_baseline": "#e69f00",
    "C2_FL_local": "#d55e00",
    "FL_global": "#009e73",
    "FL_best_global": "#00614a",
}
COLUMN_HEADINGS = {
    "C1_pancreas": "C1 pancreas",
    "C2_pancreas": "C2 pancreas",
    "C2_tumour": "C2 tumour",
    "pancreas_average": "Pancreas average",
    "average": "Average",
}
OTHER_COLOUR = "#7a7a7a"
INK, MUTED, RULE = "#1d2733", "#5d6b7a", "#d8dee5"
DPI = 160


def colour(name: str) -> str:
    """Returns a model's colour; with the gate it is the model's own."""
    return MODEL_COLOURS.get(name.removesuffix("_gated"), OTHER_COLOUR)


def model_style(name: str) -> dict[str, Any]:
    return {"color": colour(name), "linestyle": "--" if name.endswith("baseline") else "-"}


def plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(labelsize=9.5, colors=MUTED, labelcolor=INK, width=0.7, length=3)
    axes.set_axisbelow(True)


def ink(legend) -> None:
    for text in legend.get_texts():
        text.set_color(INK)
