"""The paper's Fig. 1, drawn from the messages of a recorded round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments.figures.style import DPI, INK, MODEL_COLOURS, MUTED, RULE

_WORDS = {"pulled": "global model", "scored": "its score", "pushed": "weights after training"}


def round_figure(events: Sequence[Mapping[str, Any]], number: int = 1) -> Figure:
    """Draws the messages between the server and each site in one round, in order, with their sizes.

    Args:
      events: the server's events.
      number: the round. A model has the number of the round that produced it, so in round n the
          sites pull model n - 1.
    Raises:
      ValueError: if the log has no such round.
    """
    events = [e for e in events if isinstance(e.get("time"), (int, float))]
    begin = next(
        (e["time"] for e in events if e["event"] == "round_opened" and e["round"] == number), None
    )
    if begin is None:
        rounds = sorted({e["round"] for e in events if e["event"] == "round_opened"})
        raise ValueError(
            f"round {number} is not in the log; it has {', '.join(map(str, rounds)) or 'none'}"
        )
    closing = next((e for e in events if e["event"] == "aggregated" and e["round"] == number), None)
    end = closing["time"] if closing else max(e["time"] for e in events)
    messages = [
        e for e in events if begin <= e["time"] <= end and e.get("site") and e["event"] in _WORDS
    ]
    sites = sorted({e["site"] for e in messages})
    lanes = {"server": 0.0}
    for index, site in enumerate(sites):
        lanes[site] = (1 + index // 2) * (1.0 if index % 2 else -1.0)
    height = 1.9 + 0.42 * (len(messages) + 1)
    figure = Figure(figsize=(10, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0.02, 0.04, 0.96, 0.86))
    axes.axis("off")
    reach = max((abs(x) for x in lanes.values()), default=1.0)
    axes.set(xlim=(-reach - 0.5, reach + 0.5), ylim=(-len(messages) - 1.6, 0.9))
    for name, x in lanes.items():
        colour = INK if name == "server" else MODEL_COLOURS.get(f"{name}_FL_local", MUTED)
        axes.plot((x, x), (0.35, -len(messages) - 1.3), color=RULE, linewidth=1.6, zorder=0)
        axes.text(
            x, 0.6, name, fontsize=12, fontweight="bold", color=colour, ha="center", va="center"
        )
    for index, event in enumerate(messages, start=1):
        site, y = lanes[event["site"]], -float(index)
        start, stop = (0.0, site) if event["event"] == "pulled" else (site, 0.0)
        axes.annotate(
            "",
            (stop, y),
            (start, y),
            arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.3},
        )
        about = _WORDS[event["event"]]
        if event.get("bytes"):
            about += f", {event['bytes'] / 2**20:.1f} MiB"
        if event["event"] == "scored":
            about += (
                f", Dice {event['scores'].get('dice', 0.0):.2f}"
                if isinstance(event.get("scores"), Mapping)
                else ""
            )
        axes.text(site / 2, y + 0.13, about, fontsize=8.8, color=INK, ha="center", va="bottom")
        axes.text(
            -reach - 0.45,
            y,
            f"{event['time'] - begin:.1f} s",
            fontsize=8.2,
            color=MUTED,
            va="center",
        )
    if closing:
        shares = closing.get("sites", {})
        text = "mean of the weights"
        if isinstance(shares, Mapping):
            text += "; cases: " + ", ".join(f"{site} {n}" for site, n in shares.items())
        axes.text(
            0,
            -len(messages) - 1.0,
            text,
            fontsize=9,
            color=INK,
            ha="center",
            va="center",
            bbox={"boxstyle": "round,pad=0.35", "facecolor": "#e3f3ee", "edgecolor": RULE},
        )
    figure.text(
        0.02,
        0.985,
        f"Round {number} as recorded",
        fontsize=10.5,
        fontweight="bold",
        color=INK,
        va="top",
    )
    return figure
