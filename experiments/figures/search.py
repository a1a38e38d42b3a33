"""Pictures of an architecture search: Dice against MACs, its progress, and rank correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.style import DPI, INK, MUTED, RULE, ink, remove_frame
from experiments.results import search_table
from experiments.results.search_table import ScoredCandidate

ARM_COLOURS = {search_table.EVOLUTION: "#0072b2", search_table.RANDOM: "#e69f00"}
_FURTHER = "#7a7a7a"


def pareto_figure(
    candidates: Sequence[ScoredCandidate], *, published_gmac: float | None = None
) -> Figure:
    """Draws the score of each candidate against its MACs, with the front and each arm's best.

    Args:
      candidates: those of all arms.
      published_gmac: GMAC of the published genotype at the same width and patch size, to mark it.
    """
    figure, axes = _axes()
    for arm in search_table.arms(candidates):
        own = search_table.of_arm(candidates, arm)
        axes.scatter(
            [one.macs / 1e9 for one in own],
            [100 * one.score for one in own],
            s=26,
            color=_colour(arm),
            marker=_marker(arm),
            alpha=0.75,
            linewidth=0,
            label=f"{arm}, {len(own)} scored",
            zorder=3,
        )
    front = search_table.pareto_front(candidates)
    most = max((one.macs for one in candidates), default=0.0)  # the line extends to the right end
    axes.step(
        [one.macs / 1e9 for one in front] + [most / 1e9],
        [100 * one.score for one in front] + [100 * one.score for one in front[-1:]],
        where="post",
        color=INK,
        linewidth=1.1,
        label="Pareto front",
        zorder=2,
    )
    for arm in search_table.arms(candidates):
        if (best := search_table.winner(candidates, arm)) is not None:
            axes.scatter(
                best.macs / 1e9,
                100 * best.score,
                s=150,
                facecolor="none",
                edgecolor=_colour(arm),
                marker=_marker(arm),
                linewidth=1.8,
                label=f"best of {arm}",
                zorder=4,
            )
    if published_gmac is not None:
        axes.axvline(published_gmac, color=MUTED, linestyle=":", linewidth=1.2)
        axes.annotate(
            "published",
            (published_gmac, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=9,
            color=MUTED,
        )
    _labels(axes, "GMAC per patch", "Dice on validation cases, points")
    ink(figure.legend(loc="outside right upper", frameon=False, fontsize=9))
    return figure


def progress_figure(candidates: Sequence[ScoredCandidate]) -> Figure:
    """Draws every score in order, the best so far, and the beginning of each generation."""
    figure, axes = _axes()
    for arm in search_table.arms(candidates):
        own = search_table.of_arm(candidates, arm)
        numbers = [one.number for one in own]
        axes.scatter(
            numbers,
            [100 * one.score for one in own],
            s=18,
            color=_colour(arm),
            marker=_marker(arm),
            alpha=0.6,
            linewidth=0,
            zorder=3,
        )
        axes.step(
            numbers,
            [100 * score for score in search_table.best_so_far(own)],
            where="post",
            color=_colour(arm),
            linewidth=1.8,
            label=f"best so far, {arm}",
            zorder=2,
        )
    evolution = search_table.of_arm(candidates, search_table.EVOLUTION)
    for generation, own in search_table.by_generation(evolution).items():
        axes.axvline(own[0].number - 0.5, color=RULE, linewidth=1.0, zorder=1)
        axes.annotate(
            f"generation {generation + 1}",
            (own[0].number - 0.4, 1.01),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            color=MUTED,
        )
    _labels(axes, "candidates scored in an arm", "Dice on validation cases, points")
    ink(figure.legend(loc="outside right upper", frameon=False, fontsize=9))
    return figure


def ranks_figure(
    supernet: Mapping[str, float], alone: Mapping[str, Sequence[float]], *, caption: str
) -> Figure:
    """Draws each path's score in the supernet against its score when trained alone.

    Args:
      supernet: path -> score from 0 to 1.
      alone: path -> the score of each training, from 0 to 1; a line joins them.
      caption: what was found, e.g. tau with its interval.
    """
    figure, axes = _axes()
    for name, score in supernet.items():
        own = 100 * np.asarray(alone[name], dtype=float)
        axes.plot([100 * score] * len(own), own, color=RULE, linewidth=1.4, zorder=1)
        axes.scatter([100 * score] * len(own), own, s=16, color=MUTED, linewidth=0, zorder=2)
        mean_colour = ARM_COLOURS[search_table.EVOLUTION]
        axes.scatter(100 * score, own.mean(), s=46, color=mean_colour, zorder=3)
    _labels(axes, "Dice in the supernet, points", "Dice trained alone, points")
    axes.set_title(caption, fontsize=9.5, color=INK, loc="left")
    return figure


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.6, 4.2), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    remove_frame(axes)
    axes.grid(color=RULE, linewidth=0.6)
    return figure, axes


def _labels(axes: Axes, x: str, y: str) -> None:
    style: dict[str, Any] = {"fontsize": 10, "color": MUTED}
    axes.set_xlabel(x, **style)
    axes.set_ylabel(y, **style)


def _colour(arm: str) -> str:
    return ARM_COLOURS.get(arm, _FURTHER)


def _marker(arm: str) -> str:
    return "o" if arm == search_table.EVOLUTION else "^"
