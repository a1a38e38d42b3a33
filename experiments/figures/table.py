"""Table 1 as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiments.figures.style import (
    COLUMN_HEADINGS,
    DPI,
    INK,
    MUTED,
    OTHER_COLOUR,
    RULE,
    ink,
    remove_frame,
)
from experiments.figures.style import colour as colour_of
from experiments.results import table1_values
from experiments.results.case_rows import CaseRow


def table_figure(rows: Sequence[CaseRow], title: str = "") -> Figure:
    """Draws Table 1: a bar per model and column, a mark for the paper's value, a dot per case.

    Args:
      rows: per-case rows, as in `results`.
    """
    lines = table1_values.table(rows)
    names = list(lines)
    places = {  # with a gap below the paper's models
        name: -(index + 0.5 * (index > _last_model(names))) for index, name in enumerate(names)
    }
    figure = Figure(
        figsize=(11, 1.35 + 0.36 * max(1, len(names))),
        dpi=DPI,
        facecolor="white",
        layout="constrained",
    )
    panels = figure.subplots(1, len(COLUMN_HEADINGS), sharey=True)
    for axes, (column, heading) in zip(panels, COLUMN_HEADINGS.items(), strict=True):
        remove_frame(axes)
        for name in names:
            _table_bar(axes, places[name], name, column, lines[name])
            dots = _case_dots(rows, name, column)
            spread = np.linspace(-0.2, 0.2, len(dots)) if len(dots) > 1 else np.zeros(len(dots))
            axes.plot(
                dots,
                places[name] + spread,
                "o",
                markersize=2.6,
                color=INK,
                alpha=0.55,
                markeredgewidth=0,
                zorder=3,
            )
        axes.set_title(heading, fontsize=10.5, color=INK, loc="left")
        axes.set(xlim=(0, 100), xticks=(0, 25, 50, 75, 100))
        axes.grid(axis="x", color=RULE, linewidth=0.7)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_color(RULE)
    panels[0].set_yticks(list(places.values()), names)
    figure.supxlabel("Dice, per cent", fontsize=10, color=MUTED)
    handles = [
        Patch(facecolor=OTHER_COLOUR, label="this run"),
        Line2D(
            [],
            [],
            marker="o",
            markersize=4,
            linestyle="none",
            color=INK,
            alpha=0.6,
            label="one test case",
        ),
        Line2D(
            [],
            [],
            marker="D",
            markersize=5.5,
            linestyle="none",
            markerfacecolor="white",
            markeredgecolor=INK,
            label="paper",
        ),
    ]
    legend = figure.legend(
        handles=handles,
        loc="outside upper right",
        ncols=3,
        frameon=False,
        fontsize=9.5,
        handletextpad=0.5,
    )
    ink(legend)
    if title:
        figure.suptitle(title, x=0.008, ha="left", fontsize=11.5, color=INK, fontweight="bold")
    return figure


def _table_bar(
    axes: Axes, place: float, name: str, column: str, line: table1_values.TableRow
) -> None:
    value = line.percent[column]
    if value is None:
        axes.text(2, place, "no cases", fontsize=8, color=MUTED, va="center")
        return
    colour = colour_of(name)
    axes.barh(
        place,
        value,
        height=0.66,
        color=colour,
        alpha=0.55,
        edgecolor=colour,
        linewidth=1.0,
        zorder=2,
    )
    printed = table1_values.PAPER_TABLE.get(name, {}).get(column)
    if printed is not None:
        axes.plot(
            printed,
            place,
            "D",
            markersize=5.5,
            markerfacecolor="white",
            markeredgecolor=INK,
            markeredgewidth=1.0,
            zorder=4,
            clip_on=False,
        )
    x = 2.5  # inside the bar
    if value <= 20:  # to the right of the bar and of a mark near it
        mark = printed or 0.0
        x = max(value, mark if mark < value + 18 else 0.0) + 5
    axes.text(x, place, f"{value:.1f}", fontsize=8.8, color=INK, va="center", ha="left", zorder=5)


def _case_dots(rows: Sequence[Mapping[str, Any]], name: str, column: str) -> list[float]:
    site, _, part = column.partition("_")
    key = f"dice_{part}"
    return [
        100.0 * row[key]
        for row in rows
        if (row["model"], row["grid"], row["site"]) == (name, "training", site)
        and row.get(key) is not None
    ]


def _last_model(names: Sequence[str]) -> int:
    return max(
        (index for index, name in enumerate(names) if name in table1_values.MODELS), default=-1
    )
