"""The pictures of a run: every function takes arrays, rows or events and returns a matplotlib `Figure`; none opens a file.

Figures are made with matplotlib's object interface, so that no global state is touched and no display is needed. Colours are
blue and yellow for pancreas and tumour, as in the paper, and Okabe and Ito's for models: both sets can be told apart with any
colour vision.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Patch, PathPatch
from matplotlib.path import Path

from experiments import results

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
_PART_TITLES = {
    "loss": "Loss",
    "total": "Loss",
    "dice": "Dice loss",
    "cross_entropy": "Cross-entropy",
    "kl": "KL (VAE)",
    "reconstruction": "L2 (VAE)",
}
ACTIVITY_COLOURS = {"trains": "#0072b2", "scores": "#56b4e9", "sends or receives": "#e69f00", "evaluates": "#cc79a7", "waits": "#d3dae1"}
_OTHER_COLOUR = "#7a7a7a"
_INK, _MUTED, _RULE = "#1d2733", "#5d6b7a", "#d8dee5"
_DPI = 160


# --- slices -------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CaseSlice:
    """One axial slice of one case, with what every model made of it. All arrays are [x, y] in RAS+ order.

    Attributes:
      title: stands left of the row, e.g. "C2, case 7".
      image: float in [-1, 1], the network's input.
      truth: uint8, 1 = pancreas, 2 = tumour.
      predictions: model -> uint8 mask.
      spacing_mm: voxel spacing along x and y.
      captions: model -> line beneath its picture, e.g. its Dice on the whole case.
    """

    title: str
    image: np.ndarray
    truth: np.ndarray
    predictions: Mapping[str, np.ndarray]
    spacing_mm: tuple[float, float]
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name, mask in {"truth": self.truth, **self.predictions}.items():
            if mask.shape != self.image.shape or self.image.ndim != 2:
                raise ValueError(
                    f"{self.title}: {name} has shape {mask.shape}, the slice {self.image.shape}; give one axial slice of one grid [x, y]"
                )


def choose_slice(truth: np.ndarray) -> int:
    """Returns the index along z of the slice with most tumour, or with most pancreas where there is no tumour.

    Args:
      truth: uint8 [x, y, z]. Without any foreground the middle slice is taken.
    """
    for foreground in (truth == 2, truth > 0):
        voxels = np.count_nonzero(foreground, axis=(0, 1))
        if voxels.any():
            return int(np.argmax(voxels))
    return truth.shape[2] // 2


def slice_case(
    title: str,
    image: np.ndarray,
    truth: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    spacing_mm: Sequence[float],
    *,
    captions: Mapping[str, str] | None = None,
    width_mm: float | None = 180.0,
) -> CaseSlice:
    """Cuts the slice of `choose_slice` out of whole volumes [x, y, z], cropped to a square about the truth.

    Args:
      width_mm: side of the square; None keeps the whole slice.
    """
    z = choose_slice(truth)
    window: tuple[slice, ...] = (slice(None), slice(None))
    if width_mm is not None:
        where = np.argwhere(truth[:, :, z] > 0)
        centre = (where.min(axis=0) + where.max(axis=0)) / 2 if len(where) else (np.array(truth.shape[:2]) - 1) / 2
        window = tuple(_interval(c, width_mm / s, n) for c, s, n in zip(centre, spacing_mm, truth.shape, strict=False))
    plane = (*window, z)
    masks = {model: np.asarray(mask[plane]) for model, mask in predictions.items()}
    image_plane, truth_plane = np.asarray(image[plane], np.float32), np.asarray(truth[plane])
    return CaseSlice(title, image_plane, truth_plane, masks, (float(spacing_mm[0]), float(spacing_mm[1])), captions or {})


def radiological(plane: np.ndarray) -> np.ndarray:
    """Turns [x, y] in RAS+ order into rows and columns as radiologists look at them: patient's right on the left, front on top."""
    return plane[::-1, ::-1].T


def comparison(slices: Sequence[CaseSlice], models: Sequence[str] | None = None) -> Figure:
    """Draws one row per case: CT, truth and every model's prediction side by side, in the manner of the paper's Fig. 4 and 5.

    Args:
      slices: at least one.
      models: columns after the truth; by default the table's models that any slice has, in the table's order.
    """
    if not slices:
        raise ValueError("comparison has no slice to draw; give at least one case")
    if models is None:
        present = {model for case in slices for model in case.predictions}
        models = [m for m in (*results.MODELS, results.BEST_GLOBAL) if m in present] + sorted(
            present - {*results.MODELS, results.BEST_GLOBAL}
        )
    width, left, right, top, bottom, gap = 11.0, 0.32, 0.06, 0.36, 0.42, 0.05
    caption = 0.24 if any(case.captions for case in slices) else 0.05
    columns = 2 + len(models)
    panel = (width - left - right - gap * (columns - 1)) / columns
    extents = [(case.image.shape[0] * case.spacing_mm[0], case.image.shape[1] * case.spacing_mm[1]) for case in slices]
    heights = [panel * y / x for x, y in extents]
    height = top + sum(heights) + caption * len(slices) + gap * (len(slices) - 1) + bottom
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    edge = height - top
    for row, (case, tall) in enumerate(zip(slices, heights, strict=True)):
        edge -= tall
        pictures = [("CT", None), ("truth", case.truth), *((model, case.predictions.get(model)) for model in models)]
        for column, (name, mask) in enumerate(pictures):
            x = left + column * (panel + gap)
            axes = figure.add_axes((x / width, edge / height, panel / width, tall / height))
            if row == 0:
                figure.text(
                    (x + panel / 2) / width, (height - top + 0.08) / height, name, ha="center", va="bottom", fontsize=10.5, color=_INK
                )
            if mask is None and name != "CT":
                _blank(axes, "not evaluated")
                continue
            _show(axes, case.image, mask, case.spacing_mm)
            if column == 0:
                _scale_bar(axes, extents[row])
                _letter(axes, 0.035, 0.5, "R")
            if name in case.captions:
                figure.text(
                    (x + panel / 2) / width, (edge - 0.05) / height, case.captions[name], ha="center", va="top", fontsize=8.2, color=_MUTED
                )
        figure.text(0.13 / width, (edge + tall / 2) / height, case.title, rotation=90, ha="center", va="center", fontsize=9.5, color=_INK)
        edge -= caption + gap
    _class_legend(figure, 0.5, 0.07 / height, dice=any(case.captions for case in slices))
    return figure


def overlay(image: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float], title: str = "") -> Figure:
    """Draws the slice with most foreground without and with its mask, and a coronal slice beside them.

    Args:
      image: float [x, y, z] in [-1, 1], RAS+.
      mask: uint8 [x, y, z].
    """
    if image.shape != mask.shape:
        raise ValueError(f"the image has {image.shape} voxels, its mask {mask.shape}; give both on one grid")
    z = choose_slice(mask)
    y = choose_slice(np.moveaxis(mask, 1, 2))
    sx, sy, sz = (float(s) for s in spacing_mm)
    planes = [
        ("axial", image[:, :, z], None, (sx, sy)),
        ("axial", image[:, :, z], mask[:, :, z], (sx, sy)),
        ("coronal", image[:, y], mask[:, y], (sx, sz)),
    ]
    extents = [(plane.shape[0] * s[0], plane.shape[1] * s[1]) for _, plane, _, s in planes]
    width, side, top, bottom, gap = 10.0, 0.08, 0.36, 0.42, 0.08
    panel = (width - 2 * side - 2 * gap) / 3
    tallest = max(panel * y_mm / x_mm for x_mm, y_mm in extents)
    height = top + tallest + bottom
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    for column, ((name, plane, part, spacing), (x_mm, y_mm)) in enumerate(zip(planes, extents, strict=True)):
        tall = panel * y_mm / x_mm
        x = side + column * (panel + gap)
        axes = figure.add_axes((x / width, (height - top - tall) / height, panel / width, tall / height))
        _show(axes, plane, part, spacing)
        _letter(axes, 0.03, 0.5, "R")
        if column == 0:
            _scale_bar(axes, (x_mm, y_mm))
        label = f"{title}   {name}" if title and column == 0 else name
        figure.text((x + panel / 2) / width, (height - top + 0.08) / height, label, ha="center", va="bottom", fontsize=9.5, color=_INK)
    _class_legend(figure, 0.5, 0.07 / height)
    return figure


def _show(axes: Axes, image: np.ndarray, mask: np.ndarray | None, spacing_mm: tuple[float, float]) -> None:
    """Draws a slice in millimetres, so that its aspect is the patient's whatever the spacing is."""
    x_mm, y_mm = image.shape[0] * spacing_mm[0], image.shape[1] * spacing_mm[1]
    axes.imshow(
        radiological(image.astype(np.float32)),
        cmap="gray",
        vmin=-1,
        vmax=1,
        extent=(0, x_mm, y_mm, 0),
        interpolation="bicubic",
        aspect="auto",
    )
    if mask is not None:
        padded = np.pad(radiological(mask), 1)  # contours that reach the border are closed by the padding
        columns = (np.arange(padded.shape[1]) - 0.5) * spacing_mm[0]
        rows = (np.arange(padded.shape[0]) - 0.5) * spacing_mm[1]
        for value, colour in CLASS_COLOURS.items():
            part = (padded == value).astype(np.float32)
            if part.any():
                axes.contourf(columns, rows, part, levels=(0.5, 1.5), colors=[colour], alpha=0.45)
                axes.contour(columns, rows, part, levels=(0.5,), colors=[colour], linewidths=0.9)
    axes.set(xlim=(0, x_mm), ylim=(y_mm, 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _blank(axes: Axes, text: str) -> None:
    axes.set(xticks=[], yticks=[], facecolor="#f1f4f7")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=8, color=_MUTED)


def _scale_bar(axes: Axes, extent_mm: tuple[float, float]) -> None:
    x_mm, y_mm = extent_mm
    length = 50.0 if x_mm >= 150 else 20.0
    start, y = 0.05 * x_mm, 0.94 * y_mm
    axes.plot((start, start + length), (y, y), color="white", linewidth=2.2, solid_capstyle="butt")
    axes.text(start, y - 0.025 * y_mm, f"{length / 10:.0f} cm", color="white", fontsize=7.5, ha="left", va="bottom")


def _letter(axes: Axes, x: float, y: float, letter: str) -> None:
    axes.text(x, y, letter, transform=axes.transAxes, color="white", fontsize=8, ha="left", va="center", alpha=0.9)


def _class_legend(figure: Figure, x: float, y: float, *, dice: bool = False) -> None:
    handles = [Patch(facecolor=PANCREAS, edgecolor="none", label="pancreas"), Patch(facecolor=TUMOUR, edgecolor="none", label="tumour")]
    if dice:
        handles.append(Line2D([], [], linestyle="none", label="P, T: Dice of pancreas and tumour on the whole case"))
    legend = figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(x, y),
        ncols=3,
        frameon=False,
        fontsize=9,
        handlelength=1.1,
        borderaxespad=0,
        borderpad=0,
    )
    for text in legend.get_texts():
        text.set_color(_INK)


def _interval(centre: float, length: float, size: int) -> slice:
    length = min(size, math.ceil(length))
    start = min(max(0, round(centre - (length - 1) / 2)), size - length)
    return slice(start, start + length)


# --- numbers ------------------------------------------------------------------------------------------------------------------


def table_figure(rows: Sequence[Mapping[str, Any]], grid: str = "training", title: str = "") -> Figure:
    """Draws Table 1: a bar per model and column, the paper's number as a mark on it, every case as a dot.

    Args:
      rows: per-case rows, as in `results`.
    """
    lines = results.table(rows, grid)
    names = list(lines)
    places = {name: -(index + 0.5 * (index > _last_model(names))) for index, name in enumerate(names)}  # a gap above what is no model's row
    headings = ("C1 pancreas", "C2 pancreas", "C2 tumour", "Pancreas average", "Average")
    figure = Figure(figsize=(11, 1.35 + 0.36 * max(1, len(names))), dpi=_DPI, facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(headings), sharey=True)
    for axes, column, heading in zip(panels, results.COLUMNS, headings, strict=True):
        _plain(axes)
        for name in names:
            _table_bar(axes, places[name], name, column, lines[name])
            dots = _case_dots(rows, name, column, grid)
            spread = np.linspace(-0.2, 0.2, len(dots)) if len(dots) > 1 else np.zeros(len(dots))
            axes.plot(dots, places[name] + spread, "o", markersize=2.6, color=_INK, alpha=0.55, markeredgewidth=0, zorder=3)
        axes.set_title(heading, fontsize=10.5, color=_INK, loc="left")
        axes.set(xlim=(0, 100), xticks=(0, 25, 50, 75, 100))
        axes.grid(axis="x", color=_RULE, linewidth=0.7)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_color(_RULE)
    panels[0].set_yticks(list(places.values()), names)
    figure.supxlabel("Dice, per cent", fontsize=10, color=_MUTED)
    handles = [
        Patch(facecolor=_OTHER_COLOUR, label="this run"),
        Line2D([], [], marker="o", markersize=4, linestyle="none", color=_INK, alpha=0.6, label="one test case"),
        Line2D([], [], marker="D", markersize=5.5, linestyle="none", markerfacecolor="white", markeredgecolor=_INK, label="paper"),
    ]
    legend = figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False, fontsize=9.5, handletextpad=0.5)
    _ink(legend)
    if title:
        figure.suptitle(title, x=0.008, ha="left", fontsize=11.5, color=_INK, fontweight="bold")
    return figure


def training_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], rounds: int | None = None) -> Figure:
    """Draws validation Dice and loss parts of every model over the rounds, which are marked.

    Args:
      histories: model -> its events in order: "epoch" (`round`, `step` and loss parts), "validation" (`round`, `step`, `dice` and
        possibly Dice per class) and "global_score" (`step`, `dice`: the received global model on this site's validation cases).
        Events and keys beyond these are passed over.
      rounds: length of the run; by default as far as the events go.
    """
    timelines = {name: _Timeline(events) for name, events in histories.items()}
    rounds = rounds or max((line.rounds for line in timelines.values()), default=1) or 1
    parts = sorted({part for line in timelines.values() for part in line.parts}, key=_part_order)
    figure = Figure(figsize=(11, 6.2 if parts else 3.6), dpi=_DPI, facecolor="white", layout="constrained")
    grid = figure.add_gridspec(2 if parts else 1, max(1, len(parts)), height_ratios=(1.35, 1.0) if parts else (1,))
    main = figure.add_subplot(grid[0, :])
    _round_axis(main, rounds)
    for name, line in timelines.items():
        style = _model_style(name)
        main.plot(*line.series("validation", "dice"), label=name, marker="o", markersize=4, linewidth=1.8, clip_on=False, zorder=3, **style)
        received = line.series("global_score", "dice")
        if len(received[0]):
            label = f"global model at {name.split('_')[0]}"
            main.plot(
                *received, label=label, color=style["color"], linestyle=":", linewidth=1.5, marker="D", markersize=4.5,
                markerfacecolor="white", clip_on=False, zorder=3,
            )  # fmt: skip
    main.set_ylim(0, 1)
    main.set_title("Validation Dice on the site's own cases (whole volumes, mean of its classes)", fontsize=10.5, color=_INK, loc="left")
    if timelines:
        _ink(figure.legend(loc="outside lower center", fontsize=9.5, frameon=False, ncols=6, handlelength=2.6))
    main.set_xlabel("round", fontsize=9.5, color=_MUTED)
    for column, part in enumerate(parts):
        axes = figure.add_subplot(grid[1, column])
        _round_axis(axes, rounds)
        for name, line in timelines.items():
            axes.plot(*line.series("epoch", part), linewidth=1.4, **_model_style(name))
        axes.set_title(_PART_TITLES.get(part, part.replace("_", " ")), fontsize=10, color=_INK, loc="left")
        axes.set_xlabel("round", fontsize=9.5, color=_MUTED)
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="y", nbins=5)
    return figure


def federation_timeline(events: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws who scored, trained, sent and waited when, as the server saw it, with the rounds marked.

    Args:
      events: the server's events in order (`time`, `event`, mostly `site`); kinds it does not know are passed over. What a site did
        between two of its events follows from the second: a score was being computed, an update was being trained.
    """
    events = [event for event in events if isinstance(event.get("time"), (int, float))]
    sites = sorted({event["site"] for event in events if event.get("site")})
    lanes = {site: -1.0 - index for index, site in enumerate(sites)}
    figure = Figure(figsize=(11, 1.5 + 0.5 * (len(sites) + 1)), dpi=_DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    start = min((event["time"] for event in events), default=0.0)
    end = max((event["time"] for event in events), default=1.0)
    unit, name = (3600.0, "hours") if end - start > 3 * 3600 else (60.0, "minutes")
    opened = {
        event["round"]: event["time"] for event in reversed(events) if event["event"] == "round_opened"
    }  # a restarted server repeats it
    closed = {event["round"]: event["time"] for event in events if event["event"] == "aggregated"}
    for number, begin in sorted(opened.items()):
        until = closed.get(number, end)
        if number % 2:
            axes.axvspan((begin - start) / unit, (until - start) / unit, color="#eef2f6", linewidth=0, zorder=0)
        if number == 1 or number % max(1, math.ceil(len(opened) / 20)) == 0:
            axes.text(((begin + until) / 2 - start) / unit, 0.62, str(number), fontsize=9, color=_MUTED, ha="center", va="bottom")
    for site, place in lanes.items():
        for activity, begin, until in _activities([event for event in events if event.get("site") == site]):
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
            axes.plot((event["time"] - start) / unit, 0, "D", markersize=5.5, color=MODEL_COLOURS["FL_global"], zorder=3)
    axes.set_yticks([0.0, *lanes.values()], ["server", *sites])
    axes.set(ylim=(min(lanes.values(), default=0.0) - 0.5, 1.0), xlim=(0, max((end - start) / unit, 1e-3)))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{name} since the server started; numbers: rounds", fontsize=9.5, color=_MUTED)
    handles = [Patch(facecolor=colour, label=activity) for activity, colour in ACTIVITY_COLOURS.items()]
    handles.append(Line2D([], [], marker="D", markersize=5.5, linestyle="none", color=MODEL_COLOURS["FL_global"], label="aggregated"))
    _ink(figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False, fontsize=9.5, handlelength=1.1))
    return figure


def _activities(events: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """Returns (activity, begin, end) of one site, by the server's clock."""
    spans: list[tuple[str, float, float]] = []
    for earlier, later in itertools.pairwise(events):
        begin, end, kind = earlier["time"], later["time"], later["event"]
        moved = min(float(later.get("seconds") or 0.0), end - begin)
        evaluating = earlier["event"] == "pulled" and not str(earlier.get("model", "")).startswith("round_")
        if kind == "login":
            continue  # it was away
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


class _Timeline:
    """One model's events, each at its place in rounds: step 30 of a round that took steps 20 to 40 is at that round's middle."""

    _ABOUT = frozenset({"time", "event", "model", "site", "round", "step", "epoch", "seconds", "patches_per_second", "learning_rate"})

    def __init__(self, events: Sequence[Mapping[str, Any]]):
        # A resumed epoch is reported again: the last report of a step holds.
        self._events = {(e.get("event"), e.get("step")): e for e in events if isinstance(e.get("step"), (int, float))}
        ends: dict[int, float] = {}
        for event in self._events.values():
            if isinstance(event.get("round"), int):
                ends[event["round"]] = max(ends.get(event["round"], 0), event["step"])
        self.rounds = max(ends, default=0)
        self._steps, self._places = [0.0, *(ends[r] for r in sorted(ends))], [0.0, *(float(r) for r in sorted(ends))]
        epochs = [e for e in self._events.values() if e["event"] == "epoch"]
        self.parts = {key for e in epochs for key, value in e.items() if key not in self._ABOUT and isinstance(value, (int, float))}

    def series(self, event: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns places (in rounds) and values of one key of one kind of event, in order."""
        found = sorted((e["step"], e[key]) for e in self._events.values() if e["event"] == event and isinstance(e.get(key), (int, float)))
        steps, values = (np.array([pair[i] for pair in found], dtype=float) for i in (0, 1))
        return np.interp(steps, self._steps, self._places), values


def _round_axis(axes: Axes, rounds: int) -> None:
    _plain(axes)
    for number in range(0, rounds, 2):
        axes.axvspan(number, number + 1, color="#eef2f6", linewidth=0, zorder=0)
    step = max(1, math.ceil(rounds / 12))
    axes.set(xlim=(0, rounds), xticks=list(range(0, rounds + 1, step)))
    axes.grid(axis="y", color=_RULE, linewidth=0.7)


def _model_style(name: str) -> dict[str, Any]:
    return {"color": MODEL_COLOURS.get(name, _OTHER_COLOUR), "linestyle": "--" if name.endswith("baseline") else "-"}


def _part_order(part: str) -> tuple[int, str]:
    return (list(_PART_TITLES).index(part) if part in _PART_TITLES else len(_PART_TITLES), part)


def _table_bar(axes: Axes, place: float, name: str, column: str, line: results.TableRow) -> None:
    value = line.percent[column]
    if value is None:
        axes.text(2, place, "no case", fontsize=8, color=_MUTED, va="center")
        return
    colour = MODEL_COLOURS.get(name, _OTHER_COLOUR)
    axes.barh(place, value, height=0.66, color=colour, alpha=0.55, edgecolor=colour, linewidth=1.0, zorder=2)
    printed = results.PAPER_TABLE.get(name, {}).get(column)
    if printed is not None:
        axes.plot(
            printed, place, "D", markersize=5.5, markerfacecolor="white", markeredgecolor=_INK, markeredgewidth=1.0, zorder=4, clip_on=False
        )
    x = 2.5 if value > 20 else max(value, printed or 0.0 if (printed or 0.0) < value + 18 else 0.0) + 5  # inside the bar, or past all marks
    axes.text(x, place, f"{value:.1f}", fontsize=8.8, color=_INK, va="center", ha="left", zorder=5)


def _case_dots(rows: Sequence[Mapping[str, Any]], name: str, column: str, grid: str) -> list[float]:
    site, _, part = column.partition("_")
    key = f"dice_{part}"
    own = [row for row in rows if row["model"] == name and row["grid"] == grid and row["site"] == site]
    return [100.0 * row[key] for row in own if row.get(key) is not None]


def _last_model(names: Sequence[str]) -> int:
    return max((index for index, name in enumerate(names) if name in results.MODELS), default=-1)


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_RULE)
    axes.tick_params(labelsize=9.5, colors=_MUTED, labelcolor=_INK, width=0.7, length=3)
    axes.set_axisbelow(True)


def _ink(legend) -> None:
    for text in legend.get_texts():
        text.set_color(_INK)


# --- the system ---------------------------------------------------------------------------------------------------------------


def overview() -> Figure:
    """Draws the federated system: two hospitals that keep their scans, a server that sees none, and what travels between them."""
    figure = Figure(figsize=(11, 5.5), dpi=_DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 11), ylim=(0, 5.5))
    axes.axis("off")
    sites = (
        ("C1", 0.25, MODEL_COLOURS["C1_FL_local"], "Hospital C1", "healthy pancreas, stomach inflated,\nslices of 1 mm and less"),
        ("C2", 7.6, MODEL_COLOURS["C2_FL_local"], "Hospital C2", "pancreatic cancer, another scanner,\nslices of 1 mm and 5 mm"),
    )
    for site, left, colour, name, about in sites:
        _card(axes, left, 0.3, 3.15, 4.9, edge=colour)
        axes.text(left + 0.22, 4.82, name, fontsize=14, fontweight="bold", color=colour, va="center")
        axes.text(left + 0.22, 4.36, about, fontsize=9, color=_MUTED, va="center", linespacing=1.35)
        _abdomen(axes, left + 0.22, 2.42, 2.71, 1.62, tumour=site == "C2")
        _chip(axes, left + 0.22, 1.6, 2.71, 0.6, "     C2FNAS + VAE, ten local epochs\n     on the hospital's own GPUs", face="#eef2f6")
        _number(axes, left + 0.43, 1.9, "2")
        axes.text(left + 0.22, 1.26, "Never leaves", fontsize=9.5, fontweight="bold", color=_INK, va="center")
        axes.text(
            left + 0.22, 0.81, "scans, labels and every picture\nof them; patients' identifiers,\nfile names and paths",
            fontsize=9, color=_MUTED, va="center", linespacing=1.35,
        )  # fmt: skip
    _card(axes, 4.55, 1.02, 1.9, 3.46, edge=_INK)
    axes.text(5.5, 4.15, "Server", fontsize=14, fontweight="bold", color=_INK, ha="center", va="center")
    axes.text(5.5, 3.8, "sees no scan", fontsize=9, color=_MUTED, ha="center", va="center")
    _chip(axes, 4.7, 2.95, 1.6, 0.6, "     mean, weighted\n     by training cases", face="#e3f3ee")
    _number(axes, 4.9, 3.25, "4")
    _chip(axes, 4.7, 2.1, 1.6, 0.5, "FL_global", face=MODEL_COLOURS["FL_global"], ink="white")
    axes.add_patch(
        FancyArrowPatch((5.5, 2.95), (5.5, 2.6), arrowstyle="-|>", mutation_scale=12, linewidth=1.5, color=_INK, shrinkA=2, shrinkB=2)
    )
    _chip(axes, 4.7, 1.25, 1.6, 0.5, "Table 1", face="#eef2f6")
    for near, far in ((3.4, 4.7), (7.6, 6.3)):  # a hospital's edge, the server's chip
        for y, text, number, tail, head, line in (
            (3.25, "weights", "3", near, far, "-"),
            (2.35, "global model", "1", far, near, "-"),
            (1.5, "Dice per case", "5", near, far, "--"),
        ):
            style = {
                "arrowstyle": "-|>",
                "mutation_scale": 13,
                "linewidth": 1.6,
                "color": _INK,
                "linestyle": line,
                "shrinkA": 3,
                "shrinkB": 3,
            }
            axes.add_patch(FancyArrowPatch((tail, y), (head, y), **style))
            middle = (near + (4.55 if near < far else 6.45)) / 2
            axes.text(middle, y + 0.24, text, fontsize=9.2, color=_INK, ha="center", va="center")
            _number(axes, middle, y, number)
    axes.text(
        5.5,
        0.62,
        "gRPC over TLS, a token per site;\nsteps 1 to 4 make a round",
        fontsize=9,
        color=_MUTED,
        ha="center",
        va="center",
        linespacing=1.35,
    )
    return figure


def _number(axes: Axes, x: float, y: float, number: str) -> None:
    axes.add_patch(Ellipse((x, y), 0.23, 0.23, facecolor=_INK, edgecolor="none", zorder=4))
    axes.text(x, y - 0.008, number, fontsize=8, fontweight="bold", color="white", ha="center", va="center", zorder=5)


def _card(axes: Axes, x: float, y: float, width: float, height: float, *, edge: str) -> None:
    style = "round,pad=0,rounding_size=0.14"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor="#fbfcfd", edgecolor=edge, linewidth=1.6))


def _chip(axes: Axes, x: float, y: float, width: float, height: float, text: str, *, face: str, ink: str = _INK) -> None:
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.1", facecolor=face, edgecolor="none"))
    axes.text(x + width / 2, y + height / 2, text, fontsize=9.2, color=ink, ha="center", va="center", linespacing=1.3)


def _abdomen(axes: Axes, x: float, y: float, width: float, height: float, *, tumour: bool) -> None:
    """Draws a schematic axial slice, patient's right on the left; C1's stomach is inflated, C2's pancreas has a tumour."""
    frame = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.08", facecolor="#0f141a", edgecolor="none")
    axes.add_patch(frame)
    unit, cx, cy = height / 2.16, x + width / 2, y + height / 2  # unit: half the body's depth, so that it just fits

    def at(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(cx + unit * px, cy + unit * py) for px, py in points]

    def ellipse(px: float, py: float, w: float, h: float, colour: str, angle: float = 0.0) -> None:
        axes.add_patch(Ellipse(at([(px, py)])[0], unit * w, unit * h, angle=angle, facecolor=colour, edgecolor="none"))

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
    blob([(1.16, 0.05), (1.02, 0.32), (0.86, 0.2), (0.86, -0.12), (0.98, -0.34), (1.1, -0.22)], "#8f99a3")  # spleen
    if tumour:
        blob([(0.12, 0.62), (0.4, 0.66), (0.66, 0.5), (0.62, 0.34), (0.34, 0.42), (0.14, 0.48)], "#88929c")  # stomach, empty
    else:
        blob([(0.06, 0.62), (0.4, 0.76), (0.84, 0.56), (0.9, 0.26), (0.6, 0.22), (0.3, 0.34), (0.1, 0.44)], "#88929c")  # stomach, inflated
        blob([(0.14, 0.6), (0.4, 0.69), (0.76, 0.54), (0.8, 0.42), (0.4, 0.46), (0.18, 0.5)], "#0f141a")  # its air
    ellipse(-0.56, -0.42, 0.4, 0.5, "#a8b2bb", 20)  # kidneys
    ellipse(0.58, -0.42, 0.4, 0.5, "#a8b2bb", -20)
    ellipse(0, -0.46, 0.5, 0.4, "#e8edf1")  # vertebra
    ellipse(0, -0.72, 0.2, 0.3, "#e8edf1")
    ellipse(0, -0.7, 0.13, 0.12, "#59626c")  # its canal
    ellipse(0.12, -0.18, 0.17, 0.17, "#c6ced5")  # aorta
    ellipse(-0.14, -0.16, 0.2, 0.15, "#b3bdc6")  # vena cava
    blob([(-0.42, 0.0), (-0.3, 0.16), (-0.08, 0.2), (0.14, 0.16), (0.42, 0.16), (0.76, 0.06), (0.78, -0.08), (0.5, -0.02), (0.2, -0.01), (0, 0.02), (-0.14, -0.04), (-0.3, -0.14), (-0.42, -0.12)], PANCREAS)  # fmt: skip
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
        vertices += [around[index] + tangent[index], around[following] - tangent[following], around[following]]
        codes += [Path.CURVE4] * 3
    return Path(vertices, codes, closed=False)
