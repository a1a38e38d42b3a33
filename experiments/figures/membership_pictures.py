"""Pictures of membership inference: ROC curves, scores of members and others, areas with bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.style import DPI, INK, MUTED, RULE, ink, remove_frame
from experiments.results.statistics import membership_rates
from experiments.results.statistics.membership_rates import Stratum

_COLOURS = {"loss": "#0072b2", "calibrated": "#d55e00", "update": "#009e73", "alignment": "#cc79a7"}
_LINES = ("-", "--", ":", "-.")
_MARKS = "os^D"
_LEAST = 1e-3  # lower end of the log axes; a curve begins at one scan


def strata(entry: Mapping[str, Any]) -> list[Stratum]:
    """Returns the scores of one entry of `membership.json`, one stratum per site."""
    return [
        Stratum(np.array(own["members"]), np.array(own["nonmembers"]))
        for own in entry["scores"].values()
    ]


def curves(entries: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draws the ROC curves of several attacks on one model, on logarithmic axes.

    On linear axes, an attack that is certain about a few members looks like guessing.
    """
    figure, axes = _axes(4.6, 4.3)
    grid = np.logspace(np.log10(_LEAST), 0, 200)
    axes.plot(grid, grid, color=RULE, linewidth=1.2)
    axes.axvline(membership_rates.FALSE_POSITIVES, color=RULE, linewidth=0.8, linestyle=":")
    for entry in entries:
        axes.plot(
            grid,
            np.maximum(found_at(strata(entry), grid), _LEAST),
            label=f"{entry['attack']}, AUC {entry['auc']['estimate']:.2f}",
            color=_COLOURS.get(entry["attack"], MUTED),
            linewidth=1.8,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(_LEAST, 1)
    axes.set_ylim(_LEAST, 1.05)
    axes.set_xlabel("non-members accused", color=MUTED)
    axes.set_ylabel("members found", color=MUTED)
    axes.set_title(title, color=INK, fontsize=11, loc="left")
    ink(axes.legend(frameon=False, fontsize=9, loc="lower right"))
    return figure


def found_at(parts: Sequence[Stratum], shares: np.ndarray) -> np.ndarray:
    """Returns the share of members found at shares of accused non-members, over all strata."""
    total = sum(len(one.members) for one in parts)
    result = np.zeros(len(shares))
    for one in parts:
        accused, caught = membership_rates.curve(one)
        place = np.searchsorted(accused, shares, side="right") - 1
        result += caught[place] * len(one.members) / total
    return result


def histogram(entry: Mapping[str, Any], title: str) -> Figure:
    """Draws histograms of the scores of members and non-members, each site centred.

    Sites are centred on the mean of their non-members, because the losses of healthy patients and
    of patients with tumours differ.
    """
    parts = strata(entry)
    others = np.concatenate([one.others - one.others.mean() for one in parts])
    members = np.concatenate([one.members - one.others.mean() for one in parts])
    figure, axes = _axes(4.6, 3.0)
    both = np.concatenate([others, members])
    edges = np.linspace(both.min(), both.max() + 1e-12, 25)
    for values, label, colour in (
        (others, "non-members", MUTED),
        (members, "members", _COLOURS.get(entry["attack"], MUTED)),
    ):
        weights = np.full(len(values), 1 / len(values))
        axes.hist(values, edges, weights=weights, label=label, color=colour, alpha=0.55)
    axes.set_xlabel(f"score of attack '{entry['attack']}'", color=MUTED)
    axes.set_ylabel("share of scans", color=MUTED)
    axes.set_title(title, color=INK, fontsize=11, loc="left")
    ink(axes.legend(frameon=False, fontsize=9))
    return figure


def areas(
    series: Mapping[tuple[str, str], Sequence[tuple[str, Mapping[str, Any]]]], axis: str
) -> Figure:
    """Draws areas under the curve with their 95 % intervals.

    Args:
      series: (model, attack) -> (label on the axis, area with its interval), in order. Each attack
          has a colour, each model a line style and a mark; the model is "" if there is only one.
          Areas are joined by a line if all labels are numbers, e.g. of rounds: between settings
          there is nothing.
      axis: title of the axis.
    """
    labels = list(dict.fromkeys(label for own in series.values() for label, _ in own))
    joined = all(label.isdecimal() for label in labels)
    models = list(dict.fromkeys(model for model, _ in series))
    figure, axes = _axes(max(4.6, 1.5 + 0.75 * len(labels)), 3.6)
    axes.axhline(0.5, color=RULE, linewidth=1.2)
    for number, ((model, attack), own) in enumerate(series.items()):
        look = models.index(model)
        shift = 0.12 * (number - (len(series) - 1) / 2)
        places = np.array([labels.index(label) + shift for label, _ in own])
        middle = np.array([area["estimate"] for _, area in own])
        ends = np.array([[area["low"], area["high"]] for _, area in own]).T
        axes.errorbar(
            places,
            middle,
            yerr=np.abs(ends - middle),
            label=", ".join(filter(None, (model, attack))),
            color=_COLOURS.get(attack, INK),
            linestyle=_LINES[look % len(_LINES)] if joined else "none",
            linewidth=1.2,
            marker=_MARKS[look % len(_MARKS)],
            markersize=4,
            capsize=2,
        )
    axes.set_xticks(range(len(labels)), labels, rotation=20 if len(labels) > 5 else 0)
    axes.set_xlabel(axis, color=MUTED)
    axes.set_ylabel("AUC (0.5: guessing)", color=MUTED)
    axes.set_ylim(0.0, 1.02)
    ink(axes.legend(frameon=False, fontsize=8.5, ncols=2))
    return figure


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    remove_frame(axes)
    return figure, axes
