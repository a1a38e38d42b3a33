"""Proposes settings that suit all sites' datasets, from the counts in their cohort reports alone.

A quantile of all sites' cases or voxels is known to lie between two bins; see `patient_counts`. If
they are the same bin, the proposal equals the result of the same rule for the pooled values of all
sites; otherwise it states the bounds of that result.

Rules marked "nnU-Net" are those of Isensee et al. 2021, nnU-Net: a self-configuring method for deep
learning-based biomedical image segmentation, Nature Methods 18, Supplementary Note 2.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from preprocessing.checks import cohort_counts, patient_counts
from preprocessing.checks.cohort_counts import HU, SCALES, SiteCounts
from preprocessing.checks.patient_counts import FEWEST_PATIENTS
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


class _Level(NamedTuple):
    """A quantile: its value, and the bounds of the quantile of the pooled values."""

    value: float
    low: float
    high: float


def propose(sites: Sequence[SiteCounts], base: Base) -> list[Proposal]:
    """Returns proposals for spacing_mm, window_hu, patch_size, batch_size and class_prior.

    Raises:
      ValueError: if at every site a quantity covers fewer than three patients.
    """
    extents = [_level(sites, "extent_mm", axis, _MEDIAN) for axis in "xyz"]
    extents_mm = [level.value for level in extents]
    spacing = _spacing(sites, extents)
    spacing_mm = spacing.value
    patch = _patch(sites, extents, spacing_mm, base)
    batch = _batch(sites, extents_mm, spacing_mm, patch.value, base)
    prior = _prior(sites, extents_mm, spacing_mm, patch.value, base)
    return [spacing, _window(sites), patch, batch, prior]


def _spacing(sites: Sequence[SiteCounts], extents: Sequence[_Level]) -> Proposal:
    medians = [_level(sites, "spacing_mm", axis, _MEDIAN) for axis in "xyz"]
    levels, note = list(medians), ""
    for axis, name in enumerate("xyz"):
        likely, possible, certain = _far_coarser(axis, medians, extents)
        if not possible:
            continue
        # Never finer than the other axes.
        finest = (_level(sites, "spacing_mm", name, _TENTH), *_others(axis, medians))
        value, low, high = map(max, zip(*finest, strict=True))
        if likely:
            note += f", along {name}, where scans are far coarser, the 10th percentile"
        else:
            value = medians[axis].value
        if not certain:
            low, high = min(low, medians[axis].low), max(high, medians[axis].high)
            if low < high:
                note += (
                    f"; whether scans are far coarser along {name} is uncertain, and the bounds "
                    "hold either way"
                )
        levels[axis] = _Level(value, low, high)
    return Proposal(
        "spacing_mm",
        tuple(level.value for level in levels),
        f"median over {_scans(sites)}{note}, to 0.1 mm ({_SOURCE})"
        + _bounds(levels, "mm")
        + _missing(sites),
    )


def _far_coarser(
    axis: int, medians: Sequence[_Level], extents: Sequence[_Level]
) -> tuple[bool, bool, bool]:
    """Returns whether scans are far coarser along an axis: probably, possibly, certainly.

    Args:
      medians: of the spacing along x, y, z.
      extents: medians of the extent along x, y, z.
    """

    def holds(own: str, other: str) -> bool:
        """Takes these bounds of the spacing along the axis and along the others."""
        mm, others_mm = getattr(medians[axis], own), [getattr(m, other) for m in rest]
        # The axis must be coarse and have few voxels. A longer extent means more voxels, so each
        # extent takes the bound opposite to that of its spacing.
        voxels = getattr(extents[axis], other) / mm
        others_voxels = [
            getattr(extent, own) / other_mm
            for extent, other_mm in zip(_others(axis, extents), others_mm, strict=True)
        ]
        return mm > _ANISOTROPIC * max(others_mm) and voxels * _ANISOTROPIC < min(others_voxels)

    rest = _others(axis, medians)
    return holds("value", "value"), holds("high", "low"), holds("low", "high")


def _others(axis: int, levels: Sequence[_Level]) -> list[_Level]:
    return [level for number, level in enumerate(levels) if number != axis]


def _window(sites: Sequence[SiteCounts]) -> Proposal:
    voxels = {
        site.site: [counts for counts in site.hu.values() if counts is not None] for site in sites
    }
    given = [counts for of_site in voxels.values() for counts in of_site]
    if not any(counts.given for counts in given):
        raise ValueError(
            f"no site gives HU of at least {FEWEST_PATIENTS} labelled patients; add the report of "
            "a site with more of them"
        )
    low, high = (patient_counts.quantile(given, level, HU) for level in _WINDOW)
    notes = []
    if low.lowest != low.highest or high.lowest != high.highest:
        notes.append(
            f"; bounds in HU: low {HU.low(low.lowest):g} to {HU.low(low.highest):g}, high "
            f"{HU.high(high.lowest):g} to {HU.high(high.highest):g}, because "
            f"{sum(counts.withheld for counts in given)} voxels in bins of fewer than "
            f"{FEWEST_PATIENTS} patients are withheld; the proposal uses the other voxels"
        )
    if low.likely == 0 or high.likely == HU.bins - 1:
        notes.append(f"; the scale ends at {HU.low(0):g} and {HU.high(HU.bins - 1):g} HU")
    total = sum(counts.total for counts in given)
    for name, of_site in voxels.items():
        share = sum(counts.total for counts in of_site) / total
        if len(sites) > 1 and share > 0.5:
            notes.append(f"; {100 * share:.0f} % of these voxels are of {name}")
    absent = [site.site for site in sites if not voxels[site.site]]
    if absent:
        notes.append(f"; without {', '.join(absent)}: HU of fewer than {FEWEST_PATIENTS} patients")
    return Proposal(
        "window_hu",
        (HU.low(low.likely), HU.high(high.likely)),
        f"0.5 and 99.5 % of the HU of {total} voxels of pancreas "
        f"and tumour, rounded outwards to {HU.width:g} HU ({_SOURCE})" + "".join(notes),
    )


def _patch(
    sites: Sequence[SiteCounts],
    extents: Sequence[_Level],
    spacing_mm: Sequence[float],
    base: Base,
) -> Proposal:
    voxels = [level.value / mm for level, mm in zip(extents, spacing_mm, strict=True)]
    most = math.prod(base.patch_size)
    return Proposal(
        "patch_size",
        patch_shape(voxels, most, base.size_multiple),
        f"shape of the median scan, about {' x '.join(f'{n:.0f}' for n in voxels)} voxels at this "
        f"spacing (its extent is known to {SCALES['extent_mm'].width:g} mm), shrunk to the {most} "
        f"voxels of the base's patch, in multiples of {base.size_multiple} ({_SOURCE}; there the "
        "limit is a GPU's memory)" + _bounds(extents, "mm of the median extent") + _missing(sites),
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
    sites: Sequence[SiteCounts],
    extents_mm: Sequence[float],
    spacing_mm: Sequence[float],
    patch: Sequence[int],
    base: Base,
) -> Proposal:
    fits = base.batch_size * math.prod(base.patch_size) // math.prod(patch)
    dataset = sum(site.cases for site in sites) * math.prod(extents_mm) / math.prod(spacing_mm)
    batch = min(fits, int(_MOST_OF_DATASET * dataset // math.prod(patch)))
    return Proposal(
        "batch_size",
        max(_LEAST_BATCH, batch),
        "as many patches as fill the voxels of the base's step, at most 5 % of the "
        f"{dataset:.3g} voxels of all scans, as if each were the median scan, and at least "
        f"{_LEAST_BATCH} ({_SOURCE})",
    )


def _prior(
    sites: Sequence[SiteCounts],
    extents_mm: Sequence[float],
    spacing_mm: Sequence[float],
    patch: Sequence[int],
    base: Base,
) -> Proposal:
    patch_ml = math.prod(patch) * math.prod(spacing_mm) / 1000
    scan_ml = math.prod(extents_mm) / 1000
    means: dict[int, float] = {}  # class -> ml of a labelled case, 0 without the class
    notes = []
    for class_, name in FOREGROUND.items():
        cases, ml = 0, 0.0
        for site in sites:
            volumes = site.of_cases["volume_ml"].get(name)
            if site.unlabelled(name):
                notes.append(f"; without the {name} of {site.site}, which is not labelled there")
            elif site.labelled < FEWEST_PATIENTS:
                notes.append(
                    f"; without the {name} of {site.site}: fewer than {FEWEST_PATIENTS} patients"
                )
            elif volumes is not None and not volumes.given:
                notes.append(
                    f"; without the {name} of {site.site}: fewer than {FEWEST_PATIENTS} patients "
                    "in any bin"
                )
            else:
                cases += site.labelled
                if volumes is not None:
                    ml += volumes.total * cohort_counts.mean(volumes, SCALES["volume_ml"].centre)
        if cases:
            means[class_] = ml / cases
        else:
            notes.append(f"; {name} as in the base")
    organ_ml = sum(means.values())
    inside = min(1.0, _MOST_OF_PATCH * patch_ml / organ_ml) if organ_ml else 1.0
    fraction = base.foreground_fraction
    shares = []
    for class_ in FOREGROUND:
        share = base.class_prior[class_]
        if class_ in means:
            share = means[class_] * (fraction * inside / patch_ml + (1 - fraction) / scan_ml)
        shares.append(float(f"{max(share, _LEAST_SHARE):.4g}"))
    return Proposal(
        "class_prior",
        (round(1 - sum(shares), 6), *shares),
        f"mean share in patches: {100 * fraction:g} % of them hold the organ, the others lie "
        "anywhere in the median scan; mean volumes are known to "
        f"{SCALES['volume_ml'].width:g} ml (a rule of this product; only "
        "--classifier_bias=log_prior uses it)" + "".join(notes),
    )


def _level(sites: Sequence[SiteCounts], quantity: str, axis: str, per_mille: int) -> _Level:
    counts = [site.of_cases[quantity][axis] for site in sites]
    told = [one for one in counts if one is not None]
    if not any(one.given for one in told):
        raise ValueError(
            f"no site gives the {quantity.partition('_')[0]} along {axis} of at least "
            f"{FEWEST_PATIENTS} patients in the same bin; add the report of a site with more cases"
        )
    scale = SCALES[quantity]
    return _Level(*map(scale.centre, patient_counts.quantile(told, per_mille, scale)))


def _bounds(levels: Iterable[_Level], unit: str) -> str:
    open_ = [
        f"{axis} {level.low:g} to {level.high:g}"
        for axis, level in zip("xyz", levels, strict=True)
        if level.low != level.high
    ]
    if not open_:
        return ""
    return (
        f"; bounds in {unit}: {', '.join(open_)}, because cases are counted in groups of "
        f"{FEWEST_PATIENTS} and the others are in no bin; the proposal uses those counted"
    )


def _scans(sites: Sequence[SiteCounts]) -> str:
    return f"{sum(site.cases for site in sites if site.cases >= FEWEST_PATIENTS)} scans"


def _missing(sites: Sequence[SiteCounts]) -> str:
    absent = [site.site for site in sites if site.cases < FEWEST_PATIENTS]
    return f"; without {', '.join(absent)}: fewer than {FEWEST_PATIENTS} patients" if absent else ""
