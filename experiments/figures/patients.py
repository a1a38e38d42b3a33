"""Free-response curves: the tumours that a model finds against its false alarms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from experiments.figures.style import DPI, INK, MUTED, RULE, ink, model_style, remove_frame
from experiments.results import gated_rows


def froc_figure(measures: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws free-response curves: one step line per model over all thresholds.

    A dot with its exact interval marks the unchanged mask. With the healthy gate, the same curve
    ends earlier, at a hollow square.

    Args:
      measures: the result of `patients.of_runs`.
    """
    drawn = [name for name, own in measures.items() if own.get("froc")]
    figure = Figure(figsize=(8.2, 4.6), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    remove_frame(axes)
    for name in drawn:
        curve, style = measures[name]["froc"], model_style(name)
        alarms, found = ([point[key] for point in curve] for key in ("false_alarms", "found"))
        end = curve[-1]
        errors = [[100 * (end["found"] - end["low"])], [100 * (end["high"] - end["found"])]]
        gated = name.endswith(gated_rows.SUFFIX)
        if not gated:
            axes.step(
                [0.0, *alarms],
                [0.0, *(100 * share for share in found)],
                where="post",
                linewidth=1.6,
                label=name,
                **style,
            )
        axes.errorbar(
            end["false_alarms"],
            100 * end["found"],
            yerr=None if gated else errors,
            color=style["color"],
            linewidth=0.8,
            capsize=2,
            marker="s" if gated else "o",
            markersize=6,
            markerfacecolor="white" if gated else style["color"],
            label=None,
            zorder=4,
        )
    axes.set(ylim=(-2, 102), yticks=(0, 25, 50, 75, 100))
    axes.set_xlim(left=0)
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_xlabel("false alarms per patient", fontsize=10, color=MUTED)
    axes.set_ylabel("tumours found, per cent", fontsize=10, color=MUTED)
    axes.set_title(
        "Free response over score thresholds; dots: unchanged masks, squares: with the gate",
        fontsize=9.5,
        color=INK,
        loc="left",
    )
    if drawn:
        ink(figure.legend(loc="outside right upper", frameon=False, fontsize=8.5))
    return figure
