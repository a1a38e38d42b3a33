"""Training curves over the rounds of a federation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.style import DPI, INK, MUTED, RULE, ink, model_style, remove_frame

_PART_TITLES = {
    "loss": "Loss",
    "total": "Loss",
    "dice": "Dice loss",
    "cross_entropy": "Cross-entropy",
    "kl": "KL (VAE)",
    "reconstruction": "L2 (VAE)",
}

# The first losses are tens of times higher and would flatten the rest, so the loss axes are scaled
# to what follows this share of the run.
_SETTLED = 0.1


def training_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], rounds: int | None = None
) -> Figure:
    """Draws validation Dice and the parts of the loss of every model by round.

    Args:
      histories: model -> its events in order: "epoch" (`round`, `step` and loss parts),
        "validation" (`round`, `step`, `dice` and possibly Dice per class) and "global_score"
        (`step`, `dice`: the received global model on this site's validation cases). Other events
        and keys are ignored.
      rounds: number of rounds to show; by default all in the events.
    """
    timelines = {name: Timeline(events) for name, events in histories.items()}
    rounds = rounds or max((line.rounds for line in timelines.values()), default=1) or 1
    parts = sorted({part for line in timelines.values() for part in line.parts}, key=_part_order)
    figure = Figure(
        figsize=(11, 6.2 if parts else 3.6), dpi=DPI, facecolor="white", layout="constrained"
    )
    grid = figure.add_gridspec(
        2 if parts else 1, max(1, len(parts)), height_ratios=(1.35, 1.0) if parts else (1,)
    )
    main = figure.add_subplot(grid[0, :])
    _round_axis(main, rounds)
    for name, line in timelines.items():
        style = model_style(name)
        main.plot(
            *line.series("validation", "dice"),
            label=name,
            marker="o",
            markersize=4,
            linewidth=1.8,
            clip_on=False,
            zorder=3,
            **style,
        )
        received = line.series("global_score", "dice")
        if len(received[0]):
            label = f"global model at {name.split('_')[0]}"
            main.plot(
                *received,
                label=label,
                color=style["color"],
                linestyle=":",
                linewidth=1.5,
                marker="D",
                markersize=4.5,
                markerfacecolor="white",
                clip_on=False,
                zorder=3,
            )
    main.set_ylim(0, 1)
    main.set_title(
        "Validation Dice on the site's own cases (whole volumes, mean over its classes)",
        fontsize=10.5,
        color=INK,
        loc="left",
    )
    if timelines:
        ink(
            figure.legend(
                loc="outside lower center", fontsize=9.5, frameon=False, ncols=6, handlelength=2.6
            )
        )
    main.set_xlabel("round", fontsize=9.5, color=MUTED)
    for column, part in enumerate(parts):
        axes = figure.add_subplot(grid[1, column])
        _round_axis(axes, rounds, ticks=4)
        highest = 0.0
        for name, line in timelines.items():
            places, values = line.series("epoch", part)
            axes.plot(places, values, linewidth=1.4, **model_style(name))
            highest = max([highest, *values[places >= _SETTLED * rounds]])
        axes.set_title(
            _PART_TITLES.get(part, part.replace("_", " ")), fontsize=10, color=INK, loc="left"
        )
        axes.set_xlabel("round", fontsize=9.5, color=MUTED)
        axes.set_ylim(0, 1.1 * highest or None)
        axes.locator_params(axis="y", nbins=5)
    return figure


class Timeline:
    """One model's events, placed by round: step 30 is the middle of a round of steps 20 to 40."""

    _ABOUT = frozenset(
        {
            "time",
            "event",
            "model",
            "site",
            "round",
            "step",
            "epoch",
            "seconds",
            "patches_per_second",
            "learning_rate",
        }
        | {"gradient_norm", "data_wait_share", "skipped_steps"}
    )

    def __init__(self, events: Sequence[Mapping[str, Any]]):
        # A resumed epoch is reported again; the last report for a step counts.
        self._events = {
            (e.get("event"), e.get("step")): e
            for e in events
            if isinstance(e.get("step"), (int, float))
        }
        ends: dict[int, float] = {}
        for event in self._events.values():
            if isinstance(event.get("round"), int):
                ends[event["round"]] = max(ends.get(event["round"], 0), event["step"])
        self.rounds = max(ends, default=0)
        self._steps = [0.0, *(ends[number] for number in sorted(ends))]
        self._places = [0.0, *map(float, sorted(ends))]
        epochs = [e for e in self._events.values() if e["event"] == "epoch"]
        self.parts = {
            key
            for e in epochs
            for key, value in e.items()
            if key not in self._ABOUT and isinstance(value, (int, float))
        }

    def series(self, event: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the places (in rounds) and values of one key of one kind of event, in order."""
        found = sorted(
            (e["step"], e[key])
            for e in self._events.values()
            if e["event"] == event and isinstance(e.get(key), (int, float))
        )
        steps, values = (np.array([pair[i] for pair in found], dtype=float) for i in (0, 1))
        return np.interp(steps, self._steps, self._places), values


def _round_axis(axes: Axes, rounds: int, ticks: int = 12) -> None:
    remove_frame(axes)
    for number in range(0, rounds, 2):
        axes.axvspan(number, number + 1, color="#eef2f6", linewidth=0, zorder=0)
    step = max(1, math.ceil(rounds / ticks))
    axes.set(xlim=(0, rounds), xticks=list(range(0, rounds + 1, step)))
    axes.grid(axis="y", color=RULE, linewidth=0.7)


def _part_order(part: str) -> tuple[int, str]:
    return (list(_PART_TITLES).index(part) if part in _PART_TITLES else len(_PART_TITLES), part)
