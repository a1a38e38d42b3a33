"""CT slices overlaid with truth and predictions, in the style of the paper's Fig. 4 and 5."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiments.figures.style import CLASS_COLOURS, DPI, INK, MUTED, PANCREAS, TUMOUR, ink
from experiments.results import table1_values

SIDE_MM = 180.0  # of the square around the truth that is shown


@dataclasses.dataclass(frozen=True)
class CaseSlice:
    """One axial slice of one case with the models' predictions. Arrays are [x, y] in RAS+ order.

    Attributes:
      title: text to the left of the row, e.g. "C2, case 7".
      image: float in [-1, 1], the network's input.
      truth: uint8, 1 = pancreas, 2 = tumour.
      predictions: model -> uint8 mask.
      spacing_mm: voxel spacing along x and y.
      captions: model -> text below its picture, e.g. its Dice on the whole case.
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
                    f"{self.title}: {name} has shape {mask.shape}, the slice {self.image.shape}; "
                    "give axial slices [x, y] on the same grid"
                )


def choose_slice(truth: np.ndarray) -> int:
    """Returns the z index of the slice with the most tumour, or without tumour the most pancreas.

    Args:
      truth: uint8 [x, y, z]; if it has no foreground, the result is the middle slice.
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
) -> CaseSlice:
    """Cuts the slice of `choose_slice` from volumes [x, y, z], as a square around the truth."""
    z = choose_slice(truth)
    where = np.argwhere(truth[:, :, z] > 0)
    centre = (
        (where.min(axis=0) + where.max(axis=0)) / 2
        if len(where)
        else (np.array(truth.shape[:2]) - 1) / 2
    )
    along_x, along_y = (
        _interval(centre[axis], SIDE_MM / spacing_mm[axis], truth.shape[axis]) for axis in (0, 1)
    )
    plane = (along_x, along_y, z)
    masks = {model: np.asarray(mask[plane]) for model, mask in predictions.items()}
    image_plane, truth_plane = np.asarray(image[plane], np.float32), np.asarray(truth[plane])
    return CaseSlice(
        title,
        image_plane,
        truth_plane,
        masks,
        (float(spacing_mm[0]), float(spacing_mm[1])),
        captions or {},
    )


def radiological(plane: np.ndarray) -> np.ndarray:
    """Turns [x, y] in RAS+ order into the radiological view: right on the left, front on top."""
    return plane[::-1, ::-1].T


def comparison(slices: Sequence[CaseSlice]) -> Figure:
    """Draws one row per case: CT, truth and the models' predictions (the paper's Fig. 4 and 5).

    The columns after the truth are all models of the slices, in the table's order.

    Raises:
      ValueError: without a slice.
    """
    if not slices:
        raise ValueError("comparison has no slice to draw; give at least one case")
    present = {model for case in slices for model in case.predictions}
    models = [
        m for m in (*table1_values.MODELS, table1_values.BEST_GLOBAL) if m in present
    ] + sorted(present - {*table1_values.MODELS, table1_values.BEST_GLOBAL})
    width, left, right, top, bottom, gap = 11.0, 0.32, 0.06, 0.36, 0.42, 0.05
    caption = 0.24 if any(case.captions for case in slices) else 0.05
    columns = 2 + len(models)
    panel = (width - left - right - gap * (columns - 1)) / columns
    extents = [
        (case.image.shape[0] * case.spacing_mm[0], case.image.shape[1] * case.spacing_mm[1])
        for case in slices
    ]
    heights = [panel * y / x for x, y in extents]
    height = top + sum(heights) + caption * len(slices) + gap * (len(slices) - 1) + bottom
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    edge = height - top
    for row, (case, tall) in enumerate(zip(slices, heights, strict=True)):
        edge -= tall
        pictures = [
            ("CT", None),
            ("truth", case.truth),
            *((model, case.predictions.get(model)) for model in models),
        ]
        for column, (name, mask) in enumerate(pictures):
            x = left + column * (panel + gap)
            middle = x + panel / 2
            axes = figure.add_axes((x / width, edge / height, panel / width, tall / height))
            if row == 0:
                _write(figure, middle, height - top + 0.08, name, va="bottom", fontsize=10.5)
            if mask is None and name != "CT":
                _not_evaluated(axes)
                continue
            _show(axes, case.image, mask, case.spacing_mm)
            if column == 0:
                _scale_bar(axes, extents[row])
                _patients_right(axes, 0.035)
            if name in case.captions:
                look = {"va": "top", "fontsize": 8.2, "color": MUTED}
                _write(figure, middle, edge - 0.05, case.captions[name], **look)
        look = {"va": "center", "fontsize": 9.5, "rotation": 90}
        _write(figure, 0.13, edge + tall / 2, case.title, **look)
        edge -= caption + gap
    _class_legend(figure, 0.07 / height, dice=any(case.captions for case in slices))
    return figure


def overlay(image: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float]) -> Figure:
    """Draws the slice with the most foreground, without and with its mask, and a coronal slice.

    Args:
      image: float [x, y, z] in [-1, 1], RAS+.
      mask: uint8 [x, y, z].
    """
    if image.shape != mask.shape:
        raise ValueError(
            f"the image has {image.shape} voxels, its mask {mask.shape}; give both on the same grid"
        )
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
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    for column, ((name, plane, part, spacing), (x_mm, y_mm)) in enumerate(
        zip(planes, extents, strict=True)
    ):
        tall = panel * y_mm / x_mm
        x = side + column * (panel + gap)
        axes = figure.add_axes(
            (x / width, (height - top - tall) / height, panel / width, tall / height)
        )
        _show(axes, plane, part, spacing)
        _patients_right(axes, 0.03)
        if column == 0:
            _scale_bar(axes, (x_mm, y_mm))
        _write(figure, x + panel / 2, height - top + 0.08, name, va="bottom", fontsize=9.5)
    _class_legend(figure, 0.07 / height)
    return figure


def _write(figure: Figure, x: float, y: float, text: str, **look: Any) -> None:
    """Writes a centred text at a place in inches from the lower left corner of the figure."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, **{"ha": "center", "color": INK, **look})


def _show(
    axes: Axes, image: np.ndarray, mask: np.ndarray | None, spacing_mm: tuple[float, float]
) -> None:
    """Draws a slice in millimetres, so that its proportions are right for any spacing."""
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
        padded = np.pad(radiological(mask), 1)  # closes contours at the border
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


def _not_evaluated(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[], facecolor="#f1f4f7")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.text(
        0.5,
        0.5,
        "not evaluated",
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=8,
        color=MUTED,
    )


def _scale_bar(axes: Axes, extent_mm: tuple[float, float]) -> None:
    x_mm, y_mm = extent_mm
    length = 50.0 if x_mm >= 150 else 20.0
    start, y = 0.05 * x_mm, 0.94 * y_mm
    axes.plot((start, start + length), (y, y), color="white", linewidth=2.2, solid_capstyle="butt")
    axes.text(
        start,
        y - 0.025 * y_mm,
        f"{length / 10:.0f} cm",
        color="white",
        fontsize=7.5,
        ha="left",
        va="bottom",
    )


def _patients_right(axes: Axes, x: float) -> None:
    axes.text(
        x,
        0.5,
        "R",
        transform=axes.transAxes,
        color="white",
        fontsize=8,
        ha="left",
        va="center",
        alpha=0.9,
    )


def _class_legend(figure: Figure, y: float, *, dice: bool = False) -> None:
    handles: list[Artist] = [
        Patch(facecolor=PANCREAS, edgecolor="none", label="pancreas"),
        Patch(facecolor=TUMOUR, edgecolor="none", label="tumour"),
    ]
    if dice:
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                label="P, T: Dice of pancreas and tumour over the whole case",
            )
        )
    legend = figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, y),
        ncols=3,
        frameon=False,
        fontsize=9,
        handlelength=1.1,
        borderaxespad=0,
        borderpad=0,
    )
    ink(legend)


def _interval(centre: float, length: float, size: int) -> slice:
    length = min(size, math.ceil(length))
    start = min(max(0, round(centre - (length - 1) / 2)), size - length)
    return slice(start, start + length)
