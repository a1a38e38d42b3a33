"""The header of a NIfTI file: shape, data type, scaling and place of its voxels.

This is the only module that imports nibabel, which interprets headers but does not read voxels.
"""

from __future__ import annotations

import math
import os
from typing import Literal

import nibabel
import numpy as np

from preprocessing import axes, geometry, rules
from preprocessing.rules import broken
from preprocessing.volume import Grid, Volume

NiftiHeader = nibabel.Nifti1Header  # a Nifti2Header is one as well

GZIP_MAGIC = b"\x1f\x8b"
_APPLE_DOUBLE = b"\x00\x05\x16\x07"
_MAGIC = {348: b"n+1\0", 540: b"n+2\0"}
_HEADERS = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
LONGEST = max(_HEADERS)  # bytes of a header
_ORDERS: tuple[tuple[Literal["little", "big"], str], ...] = (("little", "<"), ("big", ">"))
_SMALLEST_VOXEL_MM3 = 1e-9  # below it, an axis has no extent
# Units of length: the lowest three bits of xyzt_units.
_UNITS = {0: "unknown", 1: "m", 2: "mm", 3: "micron"}
_MILLIMETRES = (0, 2)  # many writers leave "unknown"; all readers take it as mm
_UNSET_PIXDIM = (0.0, 1.0)  # on all three axes, if the writer set only the sform
_LONGEST_QUATERNION = 1.0001  # rounding leaves less; a longer one is not a rotation
_SMALLEST_SLOPE = 1e-12  # other software takes a smaller slope to mean "not scaled"
FORM_FIX = (
    "write a valid sform or qform into the header, or say how the axes of the array run: "
    "--orientation=LPS or the like"
)
LABEL_FORM_FIX = (
    "write the affine of its scan into it, or say how the axes of its array run: "
    '--orientation=LPS or the like, or in the manifest "label_turn": "+x+y+z" for a label whose '
    "voxels are in the order of the scan's"
)


def parse(path: str | os.PathLike, start: bytes) -> NiftiHeader:
    """Returns the header of a file from its first `LONGEST` bytes, decompressed.

    Raises:
      IntegrityError: if they are not the beginning of a NIfTI file.
    """
    for order, mark in _ORDERS:
        size = int.from_bytes(start[:4], order)
        if size in _HEADERS and len(start) >= size:
            header = _HEADERS[size](start[:size], endianness=mark, check=False)
            kind = np.asarray(header["magic"]).tobytes()[:4]
            # With other suffixes, some software does not recognise NIfTI and ignores its geometry.
            if kind == _MAGIC[size]:
                return header
            if kind[:2] == b"ni":
                problem = "is one half of a .hdr/.img pair"
                raise broken(rules.NOT_NIFTI, path, problem, "convert the pair to one .nii.gz file")
    if start[:2] == GZIP_MAGIC:
        raise broken(rules.NOT_NIFTI, path, "is compressed twice", "decompress it once (gunzip)")
    if start[:4] == _APPLE_DOUBLE:
        problem = "is a companion file that macOS writes, not a scan"
        raise broken(rules.NOT_NIFTI, path, problem, "name the file without ._")
    raise broken(rules.NOT_NIFTI, path, "is not a NIfTI file, or cut short in its header")


def new(path: str | os.PathLike, volume: Volume) -> NiftiHeader:
    """Returns a NIfTI-1 header for a volume.

    Raises:
      ValueError: if an axis has more than 32767 voxels.
    """
    header = nibabel.Nifti1Header()
    try:
        header.set_data_shape(volume.shape)
    except nibabel.spatialimages.HeaderDataError as error:
        raise ValueError(
            f"{path}: shape {volume.shape} does not fit into NIfTI-1 ({error}); crop the volume"
        ) from error
    header.set_data_dtype(volume.array.dtype)
    header.set_sform(volume.affine, code=1)
    header.set_qform(volume.affine, code=1)
    header.set_xyzt_units("mm", "unknown")
    return header


def like(reference: NiftiHeader) -> NiftiHeader:
    """Returns a header for labels on the grid of a scan, without free text and extensions."""
    header = reference.copy()
    header.set_data_dtype(np.uint8)
    for name in ("cal_min", "cal_max", "intent_p1", "intent_p2", "intent_p3", "intent_code"):
        header[name] = 0
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        if name in header.keys():  # noqa: SIM118 - not a mapping; db_name exists in NIfTI-1 only
            header[name] = b""
    return header


def file_beginning(header: NiftiHeader) -> bytes:
    """Returns the bytes before the voxels in an unscaled file: the header, no extensions."""
    header["vox_offset"] = int(header["sizeof_hdr"]) + 4
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["magic"] = header.single_magic
    return header.binaryblock + bytes(4)


def shape(path: str | os.PathLike, header: NiftiHeader) -> tuple[int, int, int]:
    """Returns the voxels along x, y, z. Raises IntegrityError unless there are three axes."""
    dimensions = int(header["dim"][0])
    sizes = tuple(int(n) for n in header["dim"][1 : 1 + max(dimensions, 0)])
    # many exporters append axes of length 1
    if not 3 <= dimensions <= 7 or min(sizes) < 1 or set(sizes[3:]) - {1}:
        problem = (
            f"has {dimensions} dimensions {sizes}; expected one volume with the three axes x, y, z"
        )
        raise broken(rules.DIMENSIONS, path, problem)
    return axes.three(sizes[:3])


def data_type(path: str | os.PathLike, header: NiftiHeader) -> np.dtype:
    """Returns the type of a stored voxel. Raises IntegrityError unless it is one real number."""
    try:
        dtype = header.get_data_dtype()
    except (KeyError, nibabel.spatialimages.HeaderDataError) as error:
        problem = f"data type {int(header['datatype'])} is unknown"
        fix = "export the volume again with a standard data type"
        raise broken(rules.DATA_TYPE, path, problem, fix) from error
    if dtype.kind not in "iuf":
        problem = f"voxels are {dtype}; expected one real number per voxel"
        raise broken(rules.DATA_TYPE, path, problem)
    return dtype


def voxel_offset(path: str | os.PathLike, header: NiftiHeader) -> int:
    """Returns the byte at which the voxels begin. Raises IntegrityError if it is ambiguous."""
    given, first = float(header["vox_offset"]), int(header["sizeof_hdr"]) + 4
    if not (given >= first and given.is_integer()):  # NaN fails the first comparison
        problem = (
            f"its voxels begin at byte {given:g}, its header ends at {first}: "
            "software differs on what that means"
        )
        raise broken(rules.NOT_NIFTI, path, problem, "export it again")
    return int(given)


def scaling(path: str | os.PathLike, header: NiftiHeader) -> tuple[float, float]:
    """Returns the slope and the intercept. Raises IntegrityError if they are not usable numbers."""
    if "scl_slope" not in header.keys():  # noqa: SIM118 - a header is not a mapping
        return 1.0, 0.0
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    # By the standard such a slope means "not scaled"; readers disagree about its intercept.
    if slope == 0 or not math.isfinite(slope):
        if intercept == 0 or math.isnan(intercept):
            return 1.0, 0.0
        problem = (
            f"slope is {slope:g}, intercept {intercept:g}: software differs on whether they apply"
        )
        raise broken(rules.SCALING, path, problem)
    if not math.isfinite(intercept) or abs(slope) < _SMALLEST_SLOPE:
        raise broken(rules.SCALING, path, f"slope is {slope:g}, intercept {intercept:g}")
    return slope, intercept


def is_placed(header: NiftiHeader) -> bool:
    """Returns whether the header says where the voxels lie in the patient."""
    return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0


def affine(
    path: str | os.PathLike,
    header: NiftiHeader,
    orientation: str | None = None,
    fix: str = FORM_FIX,
) -> np.ndarray:
    """Returns the affine: the sform, or else the qform, or else the one given by `orientation`.

    Args:
      orientation: directions of the array's axes, e.g. "LPS", for a header that gives none.
      fix: remedy for a header that gives none.
    Raises:
      IntegrityError: if lengths are not in mm, no orientation is known, the affine is singular, or
          sform, qform and pixdim contradict each other.
    """
    unit, size = int(header["xyzt_units"]) & 7, shape(path, header)
    if unit not in _MILLIMETRES:
        name = _UNITS.get(unit, f"unit {unit}, which is unknown")
        raise broken(rules.UNITS, path, f"its header gives lengths in {name}")
    if not is_placed(header):
        # pixdim does not tell left from right, and readers guess differently
        if orientation is None:
            problem = "its header gives no orientation: the codes of sform and qform are both 0"
            raise broken(rules.NO_PLACE, path, problem, fix)
        spacing = [abs(float(length)) for length in header["pixdim"][1:4]]
        found = geometry.affine_of_axes(orientation, size, spacing)
    elif int(header["sform_code"]) > 0:
        found = np.eye(4)
        found[:3] = [np.asarray(header[f"srow_{axis}"], dtype=np.float64) for axis in "xyz"]
    else:
        found = _qform(path, header)
    if not np.isfinite(found).all() or abs(np.linalg.det(found[:3, :3])) < _SMALLEST_VOXEL_MM3:
        raise broken(rules.NO_PLACE, path, f"affine {found[:3].tolist()} is singular")
    with np.errstate(all="ignore"):  # overflow shows as a large distance
        _require_one_place(path, header, Grid(size, found))
    return found


def _qform(path: str | os.PathLike, header: NiftiHeader) -> np.ndarray:
    """Returns the affine of the qform.

    It is read as in the standard's own library; nibabel would refuse a quaternion that is slightly
    too long because of rounding.

    Raises:
      IntegrityError: if the quaternion is not a rotation, a spacing is negative, or pixdim[0] is
          not 1, -1 or 0, which stands for 1.
    """
    quaternion = np.array([float(header[f"quatern_{name}"]) for name in "bcd"])
    length, handedness = float(np.linalg.norm(quaternion)), float(header["pixdim"][0])
    if not length <= _LONGEST_QUATERNION:  # NaN fails as well
        problem = f"its qform is invalid (the quaternion's length is {length:.6g}, more than 1)"
        raise broken(rules.NO_PLACE, path, problem)
    if handedness == 0 or length > 1:
        header = header.copy()
        header["pixdim"][0] = handedness or 1.0
        for name, value in zip("bcd", quaternion / max(length, 1.0), strict=True):
            header[f"quatern_{name}"] = value
    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except (ValueError, nibabel.spatialimages.HeaderDataError) as error:
        raise broken(rules.NO_PLACE, path, f"its qform is invalid ({error})") from error


def _require_one_place(path: str | os.PathLike, header: NiftiHeader, grid: Grid) -> None:
    """Raises IntegrityError if other software would place the voxels elsewhere.

    Other software may read the qform instead of the sform, or pixdim if there is no qform.
    """
    if int(header["sform_code"]) <= 0:
        return
    tolerance = rules.MISPLACED_VOXELS * min(grid.spacing_mm)
    pixdim = [float(length) for length in header["pixdim"][1:4]]
    if int(header["qform_code"]) > 0:
        other = Grid(grid.shape, _qform(path, header))
        distance = geometry.corner_displacement_mm(grid, other)
        if not (
            distance <= tolerance
            or geometry.corner_displacement_mm(_at_right_angles(header, grid), other) <= tolerance
        ):
            problem = f"its sform and qform place a corner {distance:.3g} mm apart"
            raise broken(rules.TWO_PLACES, path, problem)
    elif not set(pixdim) <= set(_UNSET_PIXDIM):
        distance = max(
            (n - 1) * abs(s - p)
            for n, s, p in zip(grid.shape, grid.spacing_mm, pixdim, strict=True)
        )
        if not distance <= tolerance:
            problem = f"pixdim {pixdim} differs from the sform by {distance:.3g} mm over the volume"
            raise broken(rules.TWO_PLACES, path, problem)


def _at_right_angles(header: NiftiHeader, grid: Grid) -> Grid:
    """Returns a grid as a qform can describe it: with its axes turned to right angles.

    A writer that is given axes which are not at right angles writes this into the qform. How far
    they may be from right angles is another rule.
    """
    closest = header.copy()
    closest.set_qform(grid.affine, code=1)
    return Grid(grid.shape, np.asarray(closest.get_qform(), dtype=np.float64))
