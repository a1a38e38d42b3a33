"""Proposes settings that suit all sites' datasets, from the sums in their cohort reports alone.

If no relevant count was withheld, a proposal equals the result of the same rule for the pooled
values of all sites; otherwise it states the bounds of that result.

Rules marked "nnU-Net" are those of Isensee et al. 2021, nnU-Net: a self-configuring method for deep
learning-based biomedical image segmentation, Nature Methods 18, Supplementary Note 2.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from preprocessing.checks import patient_counts
from preprocessing.checks.cohort_sums import EXTENT_MM, HU, SPACING_MM, SiteSums
from preprocessing.checks.patient_counts import FEWEST_PATIENTS, Counts, Scale
from runkit.classes import FOREGROUND

_SOURCE = "nnU-Net, Isensee et al. 2021"
_MEDIAN, _TENTH = 500, 100  # per mille
_WINDOW = (5, 995)
_ANISOTROPIC = 3.0  # if an axis is this many times coarser, with this many times fewer voxels
_LEAST_BATCH, _MOST_OF_DATASET = 2, 0.05
_MOST_OF_PATCH = 0.5  # largest share of a patch that pancreas and tumour fill
_LEAST_SHARE = 1e-4  # smallest share of a class; the classifier's bias is its logarithm


@dataclasses.dataclass(frozen=True)
class Base:
    """The settings that a proposal starts from.

    Attributes:
      patch_size: in voxels; the memory of the devices must hold this number of voxels.
      batch_size: patches per step.
      size_multiple: number of which every size in voxels must be a multiple, for the network.
      foreground_fraction: share of patches centred on pancreas or tumour.
      class_prior: shares of background and the other classes.
    """

    patch_size: tuple[int, int, int]
    batch_size: int
    size_multiple: int
    foreground_fraction: float
    class_prior: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A setting's proposed value, and one line on how it was found and by which rule."""

    setting: str
    value: Any
    reason: str

    @property
    def text(self) -> str:
        """The value as the text of a flag."""
        value = self.value if isinstance(self.value, tuple) else (self.value,)
        return ",".join(f"{number:.6g}" for number in value)


@dataclasses.dataclass(frozen=True)
class _Level:
    """A quantile: its value, and the bounds of the quantile of the pooled values."""

    value: float
    low: float
    high: float


def propose(sites: Sequence[SiteSums], base: Base) -> list[Proposal]:
    """Returns proposals for spacing_mm, window_hu, patch_size, batch_size and class_prior.

    Raises:
      ValueError: if at every site a quantity covers fewer than three patients.
    """
    extents = [
        _level([site.extent_mm[i] for site in sites], _MEDIAN, EXTENT_MM, f"extent along {axis}")
        for i, axis in enumerate("xyz")
    ]
    spacing = _spacing(sites, [level.value for level in extents])
    spacing_mm = spacing.value
    patch = _patch(sites, extents, spacing_mm, base)
    batch = _batch(sites, spacing_mm, patch.value, base)
    prior = _prior(sites, spacing_mm, patch.value, base)
    return [spacing, _window(sites), patch, batch, prior]


def _spacing(sites: Sequence[SiteSums], extents_mm: Sequence[float]) -> Proposal:
    axes = [[site.spacing_mm[axis] for site in sites] for axis in range(3)]
    levels = [
        _level(counts, _MEDIAN, SPACING_MM, f"spacing along {axis}")
        for counts, axis in zip(axes, "xyz", strict=True)
    ]
    medians = [level.value for level in levels]
    coarse = max(range(3), key=lambda axis: medians[axis])
    others = [axis for axis in range(3) if axis != coarse]
    voxels = [extent / mm for extent, mm in zip(extents_mm, medians, strict=True)]
    note = ""
    if medians[coarse] > _ANISOTROPIC * max(medians[axis] for axis in others) and (
        voxels[coarse] * _ANISOTROPIC < min(voxels[axis] for axis in others)
    ):
        tenth = _level(axes[coarse], _TENTH, SPACING_MM, f"spacing along {'xyz'[coarse]}")
        # Never finer than the other axes.
        floor = max(medians[axis] for axis in others)
        levels[coarse] = dataclasses.replace(tenth, value=max(tenth.value, floor))
        note = f", along {'xyz'[coarse]}, where scans are far coarser, the 10th percentile"
    return Proposal(
        "spacing_mm",
        tuple(level.value for level in levels),
        f"median over {_scans(sites)}{note}, to 0.1 mm ({_SOURCE})"
        + _bounds(levels, "mm")
        + _missing(sites, axes[0]),
    )


def _window(sites: Sequence[SiteSums]) -> Proposal:
    given = [counts for site in sites for counts in site.hu.values() if counts is not None]
    if not given:
        raise ValueError(
            f"no site gives HU of at least {FEWEST_PATIENTS} labelled patients; a window cannot "
            "be proposed"
        )
    low, high = (patient_counts.quantile(given, level, HU) for level in _WINDOW)
    notes = []
    if low.lowest != low.highest or high.lowest != high.highest:
        notes.append(
            f"; bounds in HU: low {HU.low(low.lowest):g} to {HU.low(low.highest):g}, high "
            f"{HU.high(high.lowest):g} to {HU.high(high.highest):g}, because "
            f"{sum(counts.withheld for counts in given)} voxels in bins of fewer than "
            f"{FEWEST_PATIENTS} patients are withheld; proposed is the value of the other voxels"
        )
    if low.likely == 0 or high.likely == HU.bins - 1:
        notes.append(f"; the scale ends at {HU.low(0):g} and {HU.high(HU.bins - 1):g} HU")
    withheld = [
        f"{FOREGROUND[class_]} of {site.site}"
        for site in sites
        for class_, counts in site.hu.items()
        if counts is None
    ]
    if withheld:
        notes.append(f"; without {', '.join(withheld)}: fewer than {FEWEST_PATIENTS} patients")
    return Proposal(
        "window_hu",
        (HU.low(low.likely), HU.high(high.likely)),
        f"0.5 and 99.5 % of the HU of {sum(counts.total for counts in given)} voxels of pancreas "
        f"and tumour, outwards to {HU.width:g} HU ({_SOURCE})" + "".join(notes),
    )


def _patch(
    sites: Sequence[SiteSums],
    extents: Sequence[_Level],
    spacing_mm: Sequence[float],
    base: Base,
) -> Proposal:
    voxels = [level.value / mm for level, mm in zip(extents, spacing_mm, strict=True)]
    most = math.prod(base.patch_size)
    return Proposal(
        "patch_size",
        patch_shape(voxels, most, base.size_multiple),
        f"shape of the median scan, {' x '.join(f'{n:.0f}' for n in voxels)} voxels at this "
        f"spacing, shrunk to the {most} voxels of the base's patch, in multiples of "
        f"{base.size_multiple} ({_SOURCE}; there the limit is a GPU's memory)"
        + _bounds(extents, "mm of the median extent")
        + _missing(sites, [site.extent_mm[0] for site in sites]),
    )


def patch_shape(voxels: Sequence[float], most: int, multiple: int) -> tuple[int, int, int]:
    """Returns the largest patch with the proportions of a scan.

    The patch starts as large as the scan; then the axis along which it is largest, relative to the
    scan, is shortened until the patch has at most `most` voxels.

    Args:
      voxels: voxels of the scan along x, y, z.
      multiple: number of which every size must be a multiple.
    """
    least = multiple * math.ceil(8 / multiple)  # the shortest side that a patch may have
    shape = [max(least, int(n // multiple) * multiple) for n in voxels]
    while math.prod(shape) > most and max(shape) > least:
        longest = max(
            (axis for axis in range(3) if shape[axis] > least),
            key=lambda axis: (shape[axis] / voxels[axis], shape[axis]),
        )
        shape[longest] -= multiple
    return shape[0], shape[1], shape[2]


def _batch(
    sites: Sequence[SiteSums], spacing_mm: Sequence[float], patch: Sequence[int], base: Base
) -> Proposal:
    fits = base.batch_size * math.prod(base.patch_size) // math.prod(patch)
    batch, reason = fits, "as many patches as fill the voxels of the base's step"
    volumes = [site.scan_ml for site in sites]
    known = [ml for ml in volumes if ml is not None]
    if known:
        dataset = 1000 * math.fsum(known) / math.prod(spacing_mm)
        batch = min(batch, int(_MOST_OF_DATASET * dataset // math.prod(patch)))
        reason += f", at most 5 % of the {dataset:.3g} voxels of all scans"
    return Proposal(
        "batch_size",
        max(_LEAST_BATCH, batch),
        f"{reason}, and at least {_LEAST_BATCH} ({_SOURCE})" + _missing(sites, volumes),
    )


def _prior(
    sites: Sequence[SiteSums], spacing_mm: Sequence[float], patch: Sequence[int], base: Base
) -> Proposal:
    patch_ml = math.prod(patch) * math.prod(spacing_mm) / 1000
    means: dict[int, tuple[float, float]] = {}  # class -> ml and share of the scan of a case
    notes = []
    for class_, name in FOREGROUND.items():
        given = []
        for site in sites:
            sums = site.labelled[class_]
            if site.unlabelled(class_):
                notes.append(f"; without the {name} of {site.site}, which is not labelled there")
            elif sums is None:
                notes.append(
                    f"; without the {name} of {site.site}: fewer than {FEWEST_PATIENTS} patients"
                )
            else:
                given.append(sums)
        cases = sum(sums.cases for sums in given)
        if cases:
            means[class_] = (
                math.fsum(sums.ml for sums in given) / cases,
                math.fsum(sums.share for sums in given) / cases,
            )
        else:
            notes.append(f"; {name} as in the base")
    organ_ml = sum(ml for ml, _ in means.values())
    inside = min(1.0, _MOST_OF_PATCH * patch_ml / organ_ml) if organ_ml else 1.0
    fraction = base.foreground_fraction
    shares = []
    for class_ in FOREGROUND:
        share = base.class_prior[class_]
        if class_ in means:
            ml, of_scan = means[class_]
            share = fraction * inside * ml / patch_ml + (1 - fraction) * of_scan
        shares.append(float(f"{max(share, _LEAST_SHARE):.4g}"))
    return Proposal(
        "class_prior",
        (round(1 - sum(shares), 6), *shares),
        f"mean share in patches, {100 * fraction:g} % of them around the organ, which is taken to "
        "lie inside, the others anywhere (a rule of this product; only "
        "--classifier_bias=log_prior uses it)" + "".join(notes),
    )


def _level(sites: Sequence[Counts | None], per_mille: int, scale: Scale, what: str) -> _Level:
    given = [counts for counts in sites if counts is not None]
    if not given:
        raise ValueError(
            f"no site gives the {what} of at least {FEWEST_PATIENTS} patients; a plan cannot be "
            "proposed"
        )
    found = patient_counts.quantile(given, per_mille, scale)
    return _Level(*map(scale.centre, found))


def _bounds(levels: Iterable[_Level], unit: str) -> str:
    open_ = [
        f"{axis} {level.low:g} to {level.high:g}"
        for axis, level in zip("xyz", levels, strict=True)
        if level.low != level.high
    ]
    if not open_:
        return ""
    return (
        f"; bounds in {unit}: {', '.join(open_)}, because bins of fewer than {FEWEST_PATIENTS} "
        "patients are withheld; proposed is the value of the other scans"
    )


def _scans(sites: Sequence[SiteSums]) -> str:
    return f"{sum(site.cases for site in sites if site.spacing_mm[0] is not None)} scans"


def _missing(sites: Sequence[SiteSums], given: Sequence[object | None]) -> str:
    absent = [site.site for site, one in zip(sites, given, strict=True) if one is None]
    return f"; without {', '.join(absent)}: fewer than {FEWEST_PATIENTS} patients" if absent else ""
