"""The rules a case must pass before it may train a network, each with an id."""

from __future__ import annotations

import dataclasses

import numpy as np

from preprocessing import geometry
from preprocessing.volume import Volume

RULES = {
    "grid-shape": "CT and label have the same number of voxels",
    "grid-place": "CT and label lie at the same place, to a tenth of the smallest voxel edge",
    "spacing": "voxel edges are between 0.1 and 10 mm",
    "ct-range": "the CT looks like Hounsfield units: air below -500 or tissue between -200 and 300 is there",
    "label-empty": "the label has foreground",
}


class IntegrityError(ValueError):
    """A case breaks a rule; the message carries the rule's id, the file and the way out.

    Attributes:
      rule: key of `RULES`.
    """

    def __init__(self, rule: str, message: str):
        super().__init__(f"{message} [{rule}]")
        self.rule = rule


@dataclasses.dataclass(frozen=True)
class Names:
    """What error messages call the two files."""

    image: str
    label: str


def check_case(image: Volume, label: Volume, names: Names) -> None:
    """Raises IntegrityError for the first rule that a case breaks.

    Args:
      image: CT in HU, native grid.
      label: 0, 1, 2, native grid.
      names: for the message.
    """
    if image.shape != label.shape:
        raise IntegrityError(
            "grid-shape",
            f"{names.label}: label has {label.shape} voxels, its CT {names.image} has {image.shape}; redraw the label on the CT's grid, or take the case out of the manifest",
        )
    spacing = image.spacing_mm
    if min(spacing) < 0.1 or max(spacing) > 10.0:
        raise IntegrityError("spacing", f"{names.image}: voxel edges are {_mm(spacing)}; expected 0.1 to 10 mm, so correct the header")
    displacement = geometry.corner_displacement_mm(image.grid, label.grid)
    if displacement > 0.1 * min(spacing):
        raise IntegrityError(
            "grid-place",
            f"{names.label}: label and CT {names.image} lie up to {displacement:.3g} mm apart; resave the label with the CT's header if the voxels do match, else redraw it",
        )
    sample = image.array[::4, ::4, ::2]
    tissue = float(np.mean((sample > -200) & (sample < 300)))
    if tissue < 0.02 or sample.min() > 0:
        raise IntegrityError(
            "ct-range",
            f"{names.image}: values from {sample.min():g} to {sample.max():g} are not Hounsfield units of an abdomen; apply the rescale slope and intercept, and check that CT and label are not swapped",
        )
    if not label.array.any():
        raise IntegrityError(
            "label-empty", f"{names.label}: the label has no foreground voxel; annotate the case or take it out of the manifest"
        )


def _mm(lengths: tuple[float, float, float]) -> str:
    return " x ".join(f"{length:g}" for length in lengths) + " mm"
