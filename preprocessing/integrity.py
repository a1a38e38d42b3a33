"""The rules a case must pass before it is prepared. Each has an id, so that a report can be searched and a rule be cited."""

from __future__ import annotations

import dataclasses

import numpy as np

from preprocessing import geometry
from preprocessing.volume import Volume

_MISPLACED_VOXELS = 0.25  # of the shortest voxel edge: header rounding stays far below, half a voxel of shift is above
_SPACING_MM = (0.05, 20.0)
_TISSUE_SHARE = 0.01  # a patient fills a third of a field of view; raw detector values and swapped files fall far below


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is asked of a case, and what to do about one that fails."""

    id: str
    demand: str
    fix: str


UNREADABLE = Rule("unreadable", "the file is one readable 3D NIfTI volume with finite values", "export the file again")
NO_SPACING = Rule(
    "spacing", f"voxel spacing lies between {_SPACING_MM[0]} and {_SPACING_MM[1]} mm", "correct pixdim and affine in the header"
)
ONE_SLICE = Rule("one-slice", "the volume has at least two voxels along each axis", "export the whole series as one volume")
OTHER_SHAPE = Rule(
    "grid-shape",
    "image and label have the same voxels",
    "redraw the label on the scan's grid, or list the case under `excluded` in the manifest",
)
MISPLACED = Rule(
    "grid-position",
    "image and label lie at the same place",
    "export the label with the scan's own affine, or list the case under `excluded` in the manifest",
)
NOT_HU = Rule(
    "ct-range",
    "the CT is in Hounsfield units: air below 0, and soft tissue between -200 and 300",
    "apply the rescale slope and intercept, and check that image and label are not swapped",
)
EMPTY = Rule("label-empty", "the label marks pancreas or tumour", "add the label, or list the case under `excluded` in the manifest")

RULES = (UNREADABLE, NO_SPACING, ONE_SLICE, OTHER_SHAPE, MISPLACED, NOT_HU, EMPTY)


class IntegrityError(ValueError):
    """A case that breaks a rule.

    Attributes:
      rule: id of the rule.
      file: the file that breaks it.
      problem: what was found there.
      fix: the way out.
    """

    def __init__(self, rule: str, file: str, problem: str, fix: str):
        super().__init__(f"{file}: {problem} [{rule}]; {fix}")
        self.rule, self.file, self.problem, self.fix = rule, str(file), problem, fix

    def __reduce__(self):  # travels from worker processes
        return IntegrityError, (self.rule, self.file, self.problem, self.fix)


def check_case(image: Volume, label: Volume, names: tuple[str, str] = ("image", "label")) -> None:
    """Checks a scan and its label against the rules.

    The two may be stored in different axis orders: what counts is where each voxel lies in the patient.

    Args:
      image, label: as read from their files, or brought to RAS+.
      names: what to call the two in the error, as a rule their paths.
    Raises:
      IntegrityError: for the first rule that is broken.
    """
    image_name, label_name = (str(name) for name in names)
    for volume, name in ((image, image_name), (label, label_name)):
        if not all(_SPACING_MM[0] <= s <= _SPACING_MM[1] for s in volume.spacing_mm):
            raise _broken(NO_SPACING, name, f"spacing is {_lengths(volume.spacing_mm)}")
        if min(volume.shape) < 2:
            raise _broken(ONE_SLICE, name, f"volume has {_shape(volume)} voxels")
    upright_image, upright_label = geometry.to_ras(image), geometry.to_ras(label)
    if upright_image.shape != upright_label.shape:
        raise _broken(
            OTHER_SHAPE, label_name, f"label has {_shape(upright_label)} voxels (x, y, z), its CT {image_name} has {_shape(upright_image)}"
        )
    displacement = geometry.corner_displacement_mm(upright_image.grid, upright_label.grid)
    if displacement > _MISPLACED_VOXELS * min(image.spacing_mm):
        raise _broken(MISPLACED, label_name, f"label lies up to {displacement:.3g} mm from its CT {image_name}")
    sample = image.array[::3, ::3, ::3]
    lowest, highest = float(sample.min()), float(sample.max())
    if lowest >= 0 or np.mean((sample > -200) & (sample < 300)) < _TISSUE_SHARE:
        raise _broken(NOT_HU, image_name, f"values from {lowest:g} to {highest:g} are not the HU of an abdomen")
    if not np.any(label.array):
        raise _broken(EMPTY, label_name, "no voxel is labelled")


def _broken(rule: Rule, file: str, problem: str) -> IntegrityError:
    return IntegrityError(rule.id, file, problem, rule.fix)


def _shape(volume: Volume) -> str:
    return " x ".join(map(str, volume.shape))


def _lengths(values) -> str:
    return " x ".join(f"{v:.4g}" for v in values) + " mm"
