"""What each site did and when, from the server's events."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiments.figures.style import DPI, MODEL_COLOURS, MUTED, ink, remove_frame

ACTIVITY_COLOURS = {
    "trains": "#0072b2",
    "scores": "#56b4e9",
    "sends or receives": "#e69f00",
    "evaluates": "#cc79a7",
    "waits": "#d3dae1",
}


def federation_timeline(events: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws what each site did and when, as the server saw it, with the rounds marked.

    Args:
      events: the server's events in order (`time`, `event`, usually `site`); unknown kinds are
        ignored. Of two consecutive events of a site, the second shows what it did in between: it
        computed a score, or it trained an update.
    """
    events = [event for event in events if isinstance(event.get("time"), (int, float))]
    sites = sorted({event["site"] for event in events if event.get("site")})
    lanes = {site: -1.0 - index for index, site in enumerate(sites)}
    figure = Figure(
        figsize=(11, 1.5 + 0.5 * (len(sites) + 1)), dpi=DPI, facecolor="white", layout="constrained"
    )
    axes = figure.subplots()
    remove_frame(axes)
    start = min((event["time"] for event in events), default=0.0)
    end = max((event["time"] for event in events), default=1.0)
    unit, name = (3600.0, "hours") if end - start > 3 * 3600 else (60.0, "minutes")
    opened, closed = round_times(events)
    for number, begin in opened.items():
        until = closed.get(number, end)
        if number % 2:
            axes.axvspan(
                (begin - start) / unit,
                (until - start) / unit,
                color="#eef2f6",
                linewidth=0,
                zorder=0,
            )
        if number == 1 or number % max(1, math.ceil(len(opened) / 20)) == 0:
            axes.text(
                ((begin + until) / 2 - start) / unit,
                0.62,
                str(number),
                fontsize=9,
                color=MUTED,
                ha="center",
                va="bottom",
            )
    for site, place in lanes.items():
        for activity, begin, until in activities(
            [event for event in events if event.get("site") == site]
        ):
            axes.barh(
                place,
                (until - begin) / unit,
                left=(begin - start) / unit,
                height=0.58,
                color=ACTIVITY_COLOURS[activity],
                linewidth=0,
                zorder=2,
            )
    for event in events:
        if event["event"] == "aggregated":
            axes.plot(
                (event["time"] - start) / unit,
                0,
                "D",
                markersize=5.5,
                color=MODEL_COLOURS["FL_global"],
                zorder=3,
            )
    axes.set_yticks([0.0, *lanes.values()], ["server", *sites])
    axes.set(
        ylim=(min(lanes.values(), default=0.0) - 0.5, 1.0),
        xlim=(0, max((end - start) / unit, 1e-3)),
    )
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        f"{name} since the server started (numbers above: rounds)", fontsize=9.5, color=MUTED
    )
    handles: list[Artist] = [
        Patch(facecolor=colour, label=activity) for activity, colour in ACTIVITY_COLOURS.items()
    ]
    handles.append(
        Line2D(
            [],
            [],
            marker="D",
            markersize=5.5,
            linestyle="none",
            color=MODEL_COLOURS["FL_global"],
            label="aggregated",
        )
    )
    ink(
        figure.legend(
            handles=handles,
            loc="outside upper right",
            ncols=len(handles),
            frameon=False,
            fontsize=9.5,
            handlelength=1.1,
        )
    )
    return figure


def round_times(
    events: Sequence[Mapping[str, Any]],
) -> tuple[dict[int, float], dict[int, float]]:
    """Returns when each round was opened and when it was aggregated, in the rounds' order."""
    opened = {  # the first time counts: a restarted server repeats the event
        event["round"]: event["time"]
        for event in reversed(events)
        if event["event"] == "round_opened"
    }
    closed = {event["round"]: event["time"] for event in events if event["event"] == "aggregated"}
    return dict(sorted(opened.items())), dict(sorted(closed.items()))


def activities(events: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """Returns (activity, begin, end) of one site, in the server's time."""
    spans: list[tuple[str, float, float]] = []
    for earlier, later in itertools.pairwise(events):
        begin, end, kind = earlier["time"], later["time"], later["event"]
        moved = min(float(later.get("seconds") or 0.0), end - begin)
        evaluating = earlier["event"] == "pulled" and not str(earlier.get("model", "")).startswith(
            "round_"
        )
        if kind == "login":
            continue  # it was not connected
        if kind == "scored":
            spans.append(("scores", begin, end))
        elif kind == "rows":
            spans.append(("evaluates", begin, end))
        elif kind in ("pulled", "pushed", "published"):
            before = "trains" if kind == "pushed" else "evaluates" if evaluating else "waits"
            spans += [(before, begin, end - moved), ("sends or receives", end - moved, end)]
        else:
            spans.append(("waits", begin, end))
    return [span for span in spans if span[2] > span[1]]
