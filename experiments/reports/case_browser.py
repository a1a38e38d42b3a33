"""Cases for the slice browser of a page: all slices around the pancreas, and each model's masks.

The pictures are made where the scans are. They go into the site's own page, and into a joint page
only if the cohort is synthetic or public.
"""

from __future__ import annotations

import base64
import io
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from c2fnas.scores import metrics
from experiments.figures.slices import (
    SIDE_MM,
    CaseSlice,
    choose_slice,
    comparison,
    radiological,
    slice_case,
)
from experiments.results import table1_values
from preprocessing.case_source import PreparedCase
from preprocessing.case_store import CaseStore

_MARGIN_MM = 12.0  # along z, beyond the first and last slice of truth
_FIRST = 3  # cases that are shown where nothing chooses them
_LABEL_GREY = 100  # grey levels between classes, so that rounding in a browser cannot confuse them


def masks_of(folders: Iterable[str | os.PathLike], number: int) -> dict[str, np.ndarray]:
    """Returns model -> predicted mask of a case, in the table's order.

    The masks are the files `case<number>.<model>.npy` in any of the folders.
    """
    files = [
        file
        for folder in folders
        for file in sorted(pathlib.Path(folder).glob(f"case{number:03d}.*.npy"))
    ]
    found = {file.name.split(".")[1]: np.load(file, allow_pickle=False) for file in files}
    return {model: found[model] for model in sorted(found, key=table1_values.position)}


def choose_cases(
    cases: Sequence[PreparedCase], folders: Sequence[str | os.PathLike], model: str
) -> list[tuple[str, PreparedCase]]:
    """Returns ("best", "median" or "worst", case), by the model's mean Dice over its classes.

    With fewer than three masked cases there are fewer entries. If this model has no masks, the
    first three cases are returned, each with "" in place of the word.
    """
    scored = []
    for case in cases:
        masks = masks_of(folders, case.number)
        if model in masks:
            dice = [
                value
                for value in metrics.dice(masks[model], np.asarray(case.label)).values()
                if value is not None
            ]
            scored.append((sum(dice) / len(dice) if dice else 0.0, case.number, case))
    if not scored:
        return [("", case) for case in cases if masks_of(folders, case.number)][:_FIRST]
    scored.sort(key=lambda entry: entry[:2])
    places = {"worst": 0, "median": len(scored) // 2, "best": len(scored) - 1}
    chosen: dict[int, str] = {}
    for word in ("best", "median", "worst"):
        chosen.setdefault(places[word], word)
    return [(word, scored[place][2]) for place, word in chosen.items()]


def figure(run_folder: str | os.PathLike, site: str) -> Figure:
    """Draws a site's best, median and worst case for FL_global, like the paper's Fig. 4 and 5.

    Raises:
      ValueError: if no case of the site has a predicted mask.
    """
    home = pathlib.Path(run_folder) / "sites" / site
    store = CaseStore(home / "cases")
    folders = mask_folders(home)
    slices = []
    for word, case in choose_cases(
        [store.open(case_id) for case_id in store.case_ids("test")], folders, "FL_global"
    ):
        title = f"{site}, case {case.number}" + (f"\n{word} of FL_global" if word else "")
        slices.append(_slice(title, case, masks_of(folders, case.number)))
    return _figure(slices, home, site)


def first_cases(cases: Iterable[PreparedCase], masks: str | os.PathLike, site: str) -> Figure:
    """Draws a site's first cases with masks beside the masks of all models.

    The picture shows scans, so it stays at the site.

    Args:
      cases: the site's prepared test cases.
      masks: folder of predicted masks on the training grid, see `masks_of`.
      site: name of the site.
    Raises:
      ValueError: if no case has a mask.
    """
    slices: list[CaseSlice] = []
    for case in cases:
        if len(slices) == _FIRST:
            break
        if predictions := masks_of([masks], case.number):
            slices.append(_slice(f"{site}, case {case.number}", case, predictions))
    return _figure(slices, masks, site)


def _slice(title: str, case: PreparedCase, masks: Mapping[str, np.ndarray]) -> CaseSlice:
    truth = np.asarray(case.label)
    return slice_case(
        title, case.image, truth, masks, case.target_mm, captions=_captions(masks, truth)
    )


def _figure(slices: Sequence[CaseSlice], folder: str | os.PathLike, site: str) -> Figure:
    if not slices:
        raise ValueError(
            f"{folder}: site {site} has no predicted mask of its test cases yet; let it finish its "
            "evaluation first"
        )
    return comparison(slices)


def mask_folders(site_folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the folders of a site's example masks: of federated models, and of others."""
    return site_folder / "federated" / "examples", site_folder / "scored" / "examples"


def entry(case: PreparedCase, masks: Mapping[str, np.ndarray], title: str) -> dict[str, Any]:
    """Returns the data of one case for the page's browser.

    Args:
      case: a prepared case.
      masks: model -> uint8 [x, y, z] on the training grid.
      title: name of the case.
    Raises:
      ValueError: naming the model whose mask is on another grid.
    """
    truth = np.asarray(case.label)
    for model, mask in masks.items():
        if mask.shape != truth.shape:
            raise ValueError(
                f"{title}: {model}'s mask has {mask.shape} voxels, the case {truth.shape}; score "
                "the model again"
            )
    window = _window(truth, case.target_mm)
    start = choose_slice(truth) - window[2].start
    image = np.asarray(case.image[window], dtype=np.float32)
    grey = np.clip((image + 1.0) * 127.5, 0, 255).astype(np.uint8)
    width, height, slices = grey.shape
    columns = math.ceil(math.sqrt(slices))
    return {
        "title": title,
        "width": width,
        "height": height,
        "slices": slices,
        "columns": columns,
        "start": int(start),
        "spacing": [float(case.target_mm[0]), float(case.target_mm[1])],
        "image": _picture(montage(grey, columns), "jpeg"),
        "truth": _picture(montage(truth[window] * _LABEL_GREY, columns)),
        "masks": {
            model: _picture(montage(mask[window] * _LABEL_GREY, columns))
            for model, mask in masks.items()
        },
        "captions": _captions(masks, truth),
    }


def montage(volume: np.ndarray, columns: int) -> np.ndarray:
    """Returns all axial slices of [x, y, z] in radiological view, row by row in one picture."""
    width, height, slices = volume.shape
    rows = math.ceil(slices / columns)
    sheet = np.zeros((rows * height, columns * width), volume.dtype)
    for z in range(slices):
        row, column = divmod(z, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = (
            radiological(volume[:, :, z])
        )
    return sheet


def _window(truth: np.ndarray, spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    where = np.argwhere(truth > 0)
    low, high = (
        (where.min(axis=0), where.max(axis=0))
        if len(where)
        else (np.zeros(3), np.array(truth.shape) - 1)
    )
    window = []
    for axis, size in enumerate(truth.shape):
        length = (
            SIDE_MM / spacing_mm[axis]
            if axis < 2
            else high[2] - low[2] + 1 + 2 * _MARGIN_MM / spacing_mm[2]
        )
        length = min(size, math.ceil(length))
        start = min(max(0, round((low[axis] + high[axis] - length + 1) / 2)), size - length)
        window.append(slice(int(start), int(start) + length))
    return tuple(window)


def _picture(sheet: np.ndarray, kind: str = "png") -> str:
    """Returns a picture as a data URL.

    CT is stored as JPEG, at a fifth of the size, because nothing is measured in it; labels are
    stored exactly, as PNG.
    """
    stream = io.BytesIO()
    options: dict[str, Any] = {"quality": 85} if kind == "jpeg" else {"optimize": True}
    Image.fromarray(sheet).save(stream, format=kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _captions(masks: Mapping[str, np.ndarray], truth: np.ndarray) -> dict[str, str]:
    """Returns model -> the Dice of its mask for both classes, as text."""
    return {model: _caption(metrics.dice(mask, truth)) for model, mask in masks.items()}


def _caption(dice: Mapping[int, float | None]) -> str:
    return "   ".join(
        f"{letter} {'–' if dice[value] is None else format(dice[value], '.2f')}"
        for letter, value in (("P", 1), ("T", 2))
    )
