"""Checks whether a scan and its label belong together: their geometry, then their voxels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from preprocessing import geometry, rules
from preprocessing.checks import content
from preprocessing.rules import IntegrityError, broken
from preprocessing.volume import Volume

_VIEW_MM = (100.0, 1000.0)
_LARGEST_COSINE = 0.002  # between two axes: 0.1 degrees, 0.7 mm over a field of view


def check_case(
    image: Volume,
    label: Volume,
    names: tuple[str, str] = ("image", "label"),
    *,
    accepted: Collection[str] = (),
) -> list[IntegrityError]:
    """Checks a scan and its label against the rules.

    The two may be stored in different axis orders: what matters is where each voxel lies in the
    patient.

    Args:
      image, label: as read from their files, or in RAS+.
      names: names of the two in error messages, usually their paths.
      accepted: ids of rules that this case may break.
    Returns:
      The broken rules of severity "warning", including those that the scan's reader found.
    Raises:
      IntegrityError: for the first broken rule of severity "error".
    """
    image_name, label_name = (str(name) for name in names)
    for volume, name in ((image, image_name), (label, label_name)):
        _check_grid(volume, name)
    upright_image, upright_label = geometry.to_ras(image), geometry.to_ras(label)
    if upright_image.shape != upright_label.shape:
        require_whole_scan(upright_image.shape, upright_label.shape, (image_name, label_name))
        problem = (
            f"label has {_shape(upright_label)} voxels (x, y, z), "
            f"its CT {image_name} has {_shape(upright_image)}"
        )
        raise broken(rules.OTHER_SHAPE, label_name, problem)
    displacement = geometry.corner_displacement_mm(upright_image.grid, upright_label.grid)
    if displacement > rules.MISPLACED_VOXELS * min(image.spacing_mm):
        problem = f"label lies up to {displacement:.3g} mm from its CT {image_name}"
        raise broken(rules.MISPLACED, label_name, problem)
    warnings = [
        *image.warnings,
        *content.check(upright_image, upright_label, (image_name, label_name), accepted=accepted),
    ]
    extent = sorted(n * s for n, s in zip(image.shape, image.spacing_mm, strict=True))[1:]
    if not all(_VIEW_MM[0] <= length <= _VIEW_MM[1] for length in extent):
        problem = f"the volume covers {_lengths(extent)} in its two widest axes"
        warnings.append(broken(rules.SMALL_VIEW, image_name, problem))
    return warnings


def check_scan(image: Volume, name: str) -> list[IntegrityError]:
    """Checks a scan without a label. Returns, raises: as `check_case`."""
    _check_grid(image, name)
    content.check_hu(image.array, name)
    return list(image.warnings)


def require_whole_scan(image: Sequence[int], label: Sequence[int], names: tuple[str, str]) -> None:
    """Raises IntegrityError, naming the scan, if its label has more slices.

    In that case, slices of the scan are probably missing, and the label may be right.

    Args:
      image, label: voxels along each axis, in the same order.
      names: names of the two in error messages.
    """
    differ = [axis for axis in range(3) if image[axis] != label[axis]]
    if len(differ) != 1 or label[differ[0]] < image[differ[0]]:
        return
    slices, expected = image[differ[0]], label[differ[0]]
    problem = (
        f"has {slices} slices, its label {names[1]} has {expected}: "
        f"{expected - slices} of the scan did not arrive"
    )
    fix = "fetch the whole scan again; if it is whole, redraw the label on its grid"
    raise broken(rules.OTHER_SHAPE, names[0], problem, fix)


def _check_grid(volume: Volume, name: str) -> None:
    if not all(rules.SPACING_MM[0] <= s <= rules.SPACING_MM[1] for s in volume.spacing_mm):
        raise broken(rules.SPACING, name, f"spacing is {_lengths(volume.spacing_mm)}")
    if min(volume.shape) < 2:
        raise broken(rules.ONE_SLICE, name, f"volume has {_shape(volume)} voxels")
    axes = volume.affine[:3, :3] / volume.spacing_mm
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine > _LARGEST_COSINE:
        angle = np.degrees(np.arccos(min(cosine, 1.0)))
        problem = f"two of its axes are {angle:.2f} degrees apart, not 90"
        raise broken(rules.SHEARED, name, problem)


def _shape(volume: Volume) -> str:
    return " x ".join(map(str, volume.shape))


def _lengths(values: Iterable[float]) -> str:
    return " x ".join(f"{v:.4g}" for v in values) + " mm"
