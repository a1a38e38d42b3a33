"""Checks the voxels of a scan and its label, independently of their headers.

It reads only a subset of the scan's voxels and a box around the label, which takes a few
milliseconds; preparing a case takes about a second. Mirrored and moved positions are tried only if
the label fits its CT suspiciously badly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import scipy.spatial

from preprocessing import rules
from preprocessing.axes import memory_order
from preprocessing.checks import label_fit
from preprocessing.rules import IntegrityError, Rule, broken
from preprocessing.volume import Volume

_SAMPLES = 60_000  # voxels sampled from the whole scan
_TISSUE_HU, _AIR_HU = (-200, 300), -200
# A patient fills a third of a field of view; raw detector values and swapped files have far less.
_TISSUE_SHARE = 0.01
# A larger share of a scan than bone, metal, contrast medium or padding fill.
_OFFSET_SHARE = 0.05
_IN_AIR = 0.2
_MEDIAN_HU = (-60, 250)
_TOO_LARGE = 1 / 3
# If a tumour of 10 cm touches the pancreas, a fifth of it lies this close.
_NEAR_MM, _NEAR_SHARE = 30.0, 0.2
_POINTS = 3000
_VOLUME_ML = (10.0, 600.0)
# The fit (`label_fit`) of a label is 0.6 or more in the right place, at most 0.3 if mirrored, at
# most 0.5 if moved by 10 mm, and at most 0.6 on another patient.
_GOOD_FIT, _POOR_FIT = 0.45, 0.25
_MIRRORED_FIT, _MIRRORED_GAIN = 0.6, 0.3
_MOVED_FIT, _MOVED_GAIN = 0.55, 0.4


def check(
    image: Volume, label: Volume, names: tuple[str, str], *, accepted: Collection[str] = ()
) -> list[IntegrityError]:
    """Checks the voxels of a scan and a label on one grid, both in RAS+.

    Returns, raises: as `integrity.check_case`.
    """
    image_name, label_name = names
    check_hu(image.array, image_name)
    where = label_fit.sample(label.array, label.spacing_mm)
    if where is None:
        raise broken(rules.EMPTY, label_name, "no voxel is labelled")
    inside = where.label > 0
    share = np.mean(_thinned(label.array) > 0)
    if share > _TOO_LARGE:
        raise broken(rules.TOO_LARGE, label_name, f"{share:.0%} of the volume is labelled")

    def refuse(rule: Rule, problem: str) -> None:
        if rule.id not in accepted:
            raise broken(rule, label_name, problem)

    step = label_fit.goodness_of_fit(image.array, where)
    _check_place(image.array, where, step, refuse, accepted)
    distance, near = _tumour_distance_mm(where)
    if near < _NEAR_SHARE:
        refuse(
            rules.TUMOUR_ALONE,
            "marks a tumour but no pancreas"
            if distance is None
            else f"tumour lies {distance:.0f} mm from the pancreas",
        )
    warnings = []
    if step is not None and step < _POOR_FIT:
        problem = (
            f"fits its CT poorly: across its surface HU change by {step:.2f} of their spread; "
            "0.6 or more is usual"
        )
        warnings.append(broken(rules.POOR_FIT, label_name, problem))
    volume_ml = np.count_nonzero(inside) * np.prod(where.spacing_mm) / 1000
    if not _VOLUME_ML[0] <= volume_ml <= _VOLUME_ML[1]:
        problem = f"pancreas and tumour together measure {volume_ml:.3g} ml"
        warnings.append(broken(rules.UNUSUAL_VOLUME, label_name, problem))
    return warnings


def check_hu(image: np.ndarray, name: str) -> None:
    """Raises IntegrityError, naming a CT, if its values are not HU."""
    sample = _thinned(image)

    def share(low: float, high: float) -> float:
        return float(np.mean((sample >= low) & (sample < high)))

    lowest, highest = float(sample.min()), float(sample.max())
    values = f"values from {lowest:g} to {highest:g}"
    tissue = share(*_TISSUE_HU)
    if lowest > -200 and share(824, 1324) > _OFFSET_SHARE:
        raise broken(rules.HU_OFFSET, name, f"{values} are HU plus 1024")
    if (
        tissue < _TISSUE_SHARE
        and share(-3100, -1500) > _OFFSET_SHARE
        and share(-1224, -724) > _OFFSET_SHARE
    ):
        raise broken(rules.HU_OFFSET, name, f"{values} are HU minus 1024")
    if lowest >= 0 or tissue < _TISSUE_SHARE:
        raise broken(rules.NOT_HU, name, f"{values} are not the HU of an abdomen")


def _check_place(
    image: np.ndarray,
    where: label_fit.Sample,
    step: float | None,
    refuse: Callable[[Rule, str], None],
    accepted: Collection[str],
) -> None:
    """Refuses a label that does not lie on an organ or would fit much better elsewhere."""
    hu = where.of(image)[where.label > 0]
    air, median = float(np.mean(hu < _AIR_HU)), float(np.median(hu))
    hint = ""
    # skipped if a person has checked the label's place and accepted it
    if (
        step is not None
        and step < _GOOD_FIT
        and not {rules.LABEL_FLIPPED.id, rules.LABEL_SHIFTED.id} & set(accepted)
    ):
        flip, mirrored = next(iter(label_fit.fits(image, where).items()))
        if mirrored >= max(_MIRRORED_FIT, step + _MIRRORED_GAIN):
            names = zip(("left-right", "front-back", "head-feet"), flip, strict=True)
            axes = " and ".join(name for name, flipped in names if flipped)
            problem = f"fits its CT better mirrored {axes}: {mirrored:.2f} instead of {step:.2f}"
            refuse(rules.LABEL_FLIPPED, problem)
        best = label_fit.best_shift(image, where)
        if best is not None and best[0] >= max(_MOVED_FIT, step + _MOVED_GAIN):
            moved, shift = best
            place = ", ".join(f"{mm:+.0f}" for mm in shift)
            hint = (
                f"fits its CT better {place} mm (right, front, head) away: "
                f"{moved:.2f} instead of {step:.2f}"
            )
    also = f"; it {hint}" if hint else ""
    if air > _IN_AIR:
        refuse(rules.LABEL_IN_AIR, f"{air:.0%} of the label lies in air{also}")
    if not _MEDIAN_HU[0] <= median <= _MEDIAN_HU[1]:
        refuse(rules.LABEL_NOT_ORGAN, f"the median inside the label is {median:.0f} HU{also}")
    if hint:
        refuse(rules.LABEL_SHIFTED, hint)


def _tumour_distance_mm(where: label_fit.Sample) -> tuple[float | None, float]:
    """Returns the distance from tumour to pancreas and the share of the tumour that is near it.

    The distance is None if there is no pancreas.
    """
    tumour, pancreas = (np.argwhere(where.label == value) * where.spacing_mm for value in (2, 1))
    if not len(tumour):
        return 0.0, 1.0
    if not len(pancreas):
        return None, 0.0
    tumour, pancreas = (points[:: max(1, len(points) // _POINTS)] for points in (tumour, pancreas))
    distances, _ = scipy.spatial.cKDTree(pancreas).query(tumour)
    return float(distances.min()), float(np.mean(distances <= _NEAR_MM))


def _thinned(array: np.ndarray) -> np.ndarray:
    """Returns some ten thousand voxels from all over a volume.

    The fastest axis in memory is thinned least, so that few lines of memory are read.
    """
    order = memory_order(array)
    steps = [1, 1, 1]
    for axis in (*order, *order):
        if array.size / np.prod(steps) > _SAMPLES:
            excess = array.size / np.prod(steps) / _SAMPLES
            steps[axis] = min(steps[axis] * 4, int(np.ceil(steps[axis] * excess)))
    return array[tuple(slice(s // 2, None, s) for s in steps)]
