"""Colours, headings and axes that all figures share.

Pancreas and tumour are blue and yellow, as in the paper; the models have the colours of Okabe and
Ito. Both sets can be told apart with any colour vision.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.legend import Legend

from experiments.results import gated_rows

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
    """Returns a model's colour, which is the same with the healthy gate."""
    return MODEL_COLOURS.get(name.removesuffix(gated_rows.SUFFIX), OTHER_COLOUR)


def model_style(name: str) -> dict[str, Any]:
    """Returns a model's line style for matplotlib; baselines are dashed."""
    return {"color": colour(name), "linestyle": "--" if name.endswith("baseline") else "-"}


def remove_frame(axes: Axes) -> None:
    """Removes the frame of the axes except for thin lines on the left and at the bottom."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(labelsize=9.5, colors=MUTED, labelcolor=INK, width=0.7, length=3)
    axes.set_axisbelow(True)


def ink(legend: Legend) -> None:
    """Gives a legend the text colour of all figures."""
    for text in legend.get_texts():
        text.set_color(INK)
