"""NIfTI files in and out. The only file that imports nibabel, and that for headers only.

Reading is one decompression, block by block into the array of the voxels: it keeps the file's order
(x fastest), so nothing is transposed, and a value is converted once.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping
from typing import BinaryIO

import nibabel
import numpy as np
from isal import igzip, isal_zlib

from preprocessing import geometry, regular_files
from preprocessing.checks import rules
from preprocessing.checks.rules import broken
from preprocessing.volume import Grid, Volume
from runkit import atomic
from runkit.classes import CLASSES

_GZIP_MAGIC = b"\x1f\x8b"
_APPLE_DOUBLE = b"\x00\x05\x16\x07"
_MAGIC = {348: b"n+1\0", 540: b"n+2\0"}
_HEADERS = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
_SMALLEST_VOXEL_MM3 = 1e-9  # below it the header has an axis without extent
_UNITS = {
    0: "unknown",
    1: "m",
    2: "mm",
    3: "micron",
}  # of lengths: the lowest three bits of xyzt_units
_MILLIMETRES = (0, 2)  # many writers leave "unknown"; everyone reads it as mm
_CT_RANGE = (-200, 100)  # no label map spans it, every CT does
_FRACTION = 1e-4  # of a class: what a slope in float32 leaves
_UNSET_PIXDIM = (0.0, 1.0)  # in all three places: a writer that set the sform only
_DENSEST = 1032  # bytes that one byte of a deflated file can stand for
_BLOCK = 2**18  # bytes decompressed at a time
_LONGEST_QUATERNION = 1.0001  # printed digits and float32 leave less; longer, it is not a rotation
_SMALLEST_SLOPE = 1e-12  # other software takes less for "not scaled"
_LARGEST_INTERCEPT = 1e30  # beyond it, float32 may overflow
_FORM_FIX = "write a valid sform or qform into the header, or say how the axes of the array run: --orientation=LPS or the like"
_LABEL_FORM_FIX = (
    "write the affine of its scan into it, or say how the axes of its array run: --orientation=LPS or the like, or in the manifest "
    '"label_turn": "+x+y+z" for a label whose voxels are in the order of the scan\'s'
)
_BROKEN_FILE = (OSError, EOFError, zlib.error, isal_zlib.error)


def read_ct(path: str | os.PathLike, orientation: str | None = None) -> Volume:
    """Reads a CT.

    Args:
      path: a .nii or .nii.gz file, recognised by its content.
      orientation: where the array's axes run in a file whose header gives no orientation (sform and
        qform code 0), e.g. "LPS": the first axis towards the left, the second backwards, the third
        upwards. A header that gives one is believed.
    Returns:
      HU [x, y, z] in the file's axis order, slope and intercept applied: int16 as stored,
      read-only, where the file holds HU as int16, else float32.
    Raises:
      IntegrityError: one message with the file and the remedy, if it is missing, truncated or
        corrupt, not three-dimensional, has NaN or infinite voxels, or a header that places no voxel
        or each at two places, or gives no orientation.
    """
    header, stored = _read(path)
    affine, (slope, intercept) = _affine(path, header, orientation), _scaling(path, header)
    placed = _is_placed(header)
    if stored.dtype == np.int16 and (slope, intercept) == (1.0, 0.0):
        return Volume(stored, affine, placed)
    hu = stored.astype(np.float32, order="K")
    if slope != 1.0:
        hu *= np.float32(slope)
    if intercept != 0.0:
        hu += np.float32(intercept)
    # whole numbers as they are cannot be NaN
    if stored.dtype.kind == "f" or slope != 1.0 or abs(intercept) > _LARGEST_INTERCEPT:
        _require_finite(path, hu)
    return Volume(hu, affine, placed)


def read_labels(
    path: str | os.PathLike,
    values: Mapping[int, int] | None = None,
    *,
    ignore_place: bool = False,
    orientation: str | None = None,
) -> Volume:
    """Reads a label map: 0 background, 1 pancreas, 2 tumour.

    Args:
      path: a .nii or .nii.gz file of any real data type.
      values: for a map with other values, which of them is which class, e.g. `{7: 1}`; every other
          value becomes background.
      ignore_place: where the header is known to place the voxels wrongly: it may say anything, the
          affine is the identity.
      orientation: as for `read_ct`.
    Returns:
      uint8 [x, y, z] in the file's axis order; read-only where the file holds uint8.
    Raises:
      IntegrityError: as `read_ct`; and if a voxel is no whole number, or, without `values`, not 0,
          1 or 2, or if the file holds a CT.
    """
    header, stored = _read(path)
    affine = np.eye(4) if ignore_place else _affine(path, header, orientation, _LABEL_FORM_FIX)
    placed = ignore_place or _is_placed(header)
    slope, intercept = _scaling(path, header)
    if slope != 1.0 or intercept != 0.0:
        stored = stored.astype(np.float32, order="K") * np.float32(slope) + np.float32(intercept)
    if stored.dtype.kind == "f":
        _require_finite(path, stored)
    lowest, highest = stored.min(), stored.max()
    if lowest <= _CT_RANGE[0] and highest >= _CT_RANGE[1]:
        raise broken(
            rules.LABEL_IS_CT,
            path,
            f"values from {lowest:g} to {highest:g} are those of a CT, not of a label map",
        )
    if stored.dtype.kind == "f":
        whole = np.rint(stored)
        fractional = np.abs(stored - whole) > _FRACTION
        if fractional.any():
            raise broken(
                rules.FRACTIONAL,
                path,
                f"{np.count_nonzero(fractional)} label voxels are no whole number (e.g. {float(stored[fractional][0]):g})",
            )
        stored = whole
    if values is not None:
        return Volume(_mapped(stored, values), affine, placed)
    if lowest < -_FRACTION or highest > max(CLASSES) + _FRACTION:
        others = [int(v) for v in np.unique(stored) if v not in CLASSES]
        listed = ", ".join(map(str, others[:8])) + (", ..." if len(others) > 8 else "")
        known = ", ".join(f"{v} {name}" for v, name in CLASSES.items())
        raise broken(rules.UNKNOWN_VALUES, path, f"label values {listed} are none of {known}")
    return Volume(stored.astype(np.uint8, order="K", copy=False), affine, placed)


def write_volume(path: str | os.PathLike, volume: Volume, *, compress_level: int = 1) -> None:
    """Writes a volume as NIfTI-1: labels from uint8, CT from int16 or float32, as the array is.

    The same volume gives the same bytes. The file is there whole or not at all.

    Args:
      compress_level: 0 to 3 (ISA-L's levels); ignored for a path without .gz.
    Raises:
      ValueError: for another dtype, a path that is no .nii or .nii.gz, or an axis of more than
          32767 voxels.
    """
    if volume.array.dtype not in (np.uint8, np.int16, np.float32):
        raise ValueError(
            f"{path}: voxels are {volume.array.dtype}; convert them to uint8 (labels), int16 or float32 (HU)"
        )
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
    _write(path, header, volume.array, compress_level)


def write_labels_like(
    path: str | os.PathLike,
    mask: np.ndarray,
    reference_path: str | os.PathLike,
    *,
    compress_level: int = 1,
) -> None:
    """Writes a mask on the grid of a scan: sform, qform, pixdim and units stay bit for bit those of
    the scan.

    Free text and header extensions of the scan, which may name a patient, are left out.

    Args:
      mask: uint8 [x, y, z] in the scan's own axis order.
      reference_path: the scan.
    Raises:
      ValueError: if the mask is no uint8 or has another shape than the scan, or the scan's header
          cannot be read.
    """
    reference = read_header(reference_path)
    shape = _shape(reference_path, reference)
    if mask.dtype != np.uint8 or mask.shape != shape:
        raise ValueError(
            f"{path}: mask is {mask.dtype} {mask.shape}, the scan {reference_path} is a grid of {shape}; "
            "bring the mask back to the scan's own grid, as uint8, before writing it"
        )
    header = reference.copy()
    header.set_data_dtype(np.uint8)
    for name in ("cal_min", "cal_max", "intent_p1", "intent_p2", "intent_p3", "intent_code"):
        header[name] = 0
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        if name in header.keys():  # noqa: SIM118 - a header is no mapping; db_name exists in NIfTI-1 only
            header[name] = b""
    _write(path, header, mask, compress_level)


def read_header(path: str | os.PathLike) -> nibabel.Nifti1Header:
    """Reads only the header of a file. Raises IntegrityError as `read_ct`."""
    try:
        with _opened(path) as stream:
            start = stream.read(max(_HEADERS))
    except _BROKEN_FILE as error:
        raise _unreadable(path, error) from error
    return _parse_header(path, start)


def stored_form(
    path: str | os.PathLike, *, ignore_place: bool = False, orientation: str | None = None
) -> tuple[Grid, np.dtype, bool]:
    """Returns what the header alone says: the grid, the voxels' data type, and whether a slope or
    intercept applies.

    Args, raises: as `read_labels`.
    """
    header = read_header(path)
    shape = _shape(path, header)
    grid = Grid(shape, np.eye(4) if ignore_place else _affine(path, header, orientation))
    return grid, _data_type(path, header), _scaling(path, header) != (1.0, 0.0)


def holds_its_voxels(path: str | os.PathLike) -> bool:
    """Returns whether a file is as long as its header says; a compressed one is decompressed to its
    end. Raises as `read_ct`.
    """
    header = read_header(path)
    size = math.prod(_shape(path, header)) * _data_type(path, header).itemsize
    expected, held = _voxel_offset(path, header) + size, 0
    try:
        with _opened(path) as stream:
            while held < expected and (block := stream.read(_BLOCK)):
                held += len(block)
    except _BROKEN_FILE as error:
        raise _unreadable(path, error) from error
    return held >= expected


def _opened(path: str | os.PathLike) -> BinaryIO:
    """Opens a file for reading what it holds, decompressed where it is compressed."""
    regular_files.require(path)
    with open(path, "rb") as stream:
        compressed = stream.read(2) == _GZIP_MAGIC
    return (igzip.open if compressed else open)(path, "rb")


def _read(path: str | os.PathLike) -> tuple[nibabel.Nifti1Header, np.ndarray]:
    """Returns header and voxels as stored, Fortran-ordered and read-only."""
    try:
        with _opened(path) as stream:
            start = stream.read(max(_HEADERS))
            header = _parse_header(path, start)
            shape, dtype = _shape(path, header), _data_type(path, header)
            offset = _voxel_offset(path, header)
            size = math.prod(shape) * dtype.itemsize
            content, held = _voxels(stream, start, offset, size, os.path.getsize(path) * _DENSEST)
            while stream.read(_BLOCK):  # to the end, where the checksum of a compressed file is
                pass
    except _BROKEN_FILE as error:
        raise _unreadable(path, error) from error
    if held < size:
        raise broken(rules.TRUNCATED, path, f"holds {held} of the {size} bytes of {shape} voxels")
    stored = content.view(dtype).reshape(shape, order="F")
    stored.flags.writeable = False
    return header, stored


def _voxels(
    stream: BinaryIO, start: bytes, offset: int, size: int, most: int
) -> tuple[np.ndarray, int]:
    """Reads the bytes from `offset` on, `start` being those already read, and returns room for
    `size` of them and how many there were.

    They go where they stay, in blocks that the processor's cache holds, so that neither the file
    nor a growing buffer is in memory beside them. A header that declares more than `most` bytes
    gets no room.
    """
    content = np.empty(size if size <= most else 0, dtype=np.uint8)
    skipped, block, held = 0, start, 0
    while block and held < size:
        piece = memoryview(block)[max(0, offset - skipped) :]
        skipped += len(block)
        piece = piece[: size - held]
        content[held : held + len(piece)] = piece[: len(content)]
        held += len(piece)
        block = stream.read(_BLOCK)
    return content, held


def _parse_header(path: str | os.PathLike, start: bytes) -> nibabel.Nifti1Header:
    for order, mark in (("little", "<"), ("big", ">")):
        size = int.from_bytes(start[:4], order)
        if size in _HEADERS and len(start) >= size:
            header = _HEADERS[size](start[:size], endianness=mark, check=False)
            kind = np.asarray(header["magic"]).tobytes()[:4]
            if (
                kind == _MAGIC[size]
            ):  # another ending is no NIfTI to other software, which takes its place for unknown
                return header
            if kind[:2] == b"ni":
                raise broken(
                    rules.NOT_NIFTI,
                    path,
                    "is one half of a .hdr/.img pair",
                    "convert the pair to one .nii.gz file",
                )
    if start[:2] == _GZIP_MAGIC:
        raise broken(rules.NOT_NIFTI, path, "is compressed twice", "decompress it once (gunzip)")
    if start[:4] == _APPLE_DOUBLE:
        raise broken(
            rules.NOT_NIFTI,
            path,
            "is what macOS writes beside a file, no scan",
            "name the file without ._",
        )
    raise broken(rules.NOT_NIFTI, path, "is no NIfTI file, or cut short in its header")


def _shape(path: str | os.PathLike, header: nibabel.Nifti1Header) -> tuple[int, int, int]:
    dimensions = int(header["dim"][0])
    sizes = tuple(int(n) for n in header["dim"][1 : 1 + max(dimensions, 0)])
    # many exporters append axes of length 1
    if not 3 <= dimensions <= 7 or min(sizes) < 1 or set(sizes[3:]) - {1}:
        raise broken(
            rules.DIMENSIONS,
            path,
            f"has {dimensions} dimensions {sizes}; expected one volume with the three axes x, y, z",
        )
    return sizes[:3]


def _data_type(path: str | os.PathLike, header: nibabel.Nifti1Header) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except (KeyError, nibabel.spatialimages.HeaderDataError) as error:
        fix = "export the volume again with a standard data type"
        raise broken(
            rules.DATA_TYPE, path, f"data type {int(header['datatype'])} is unknown", fix
        ) from error
    if dtype.kind not in "iuf":
        raise broken(
            rules.DATA_TYPE, path, f"voxels are {dtype}; expected one real number per voxel"
        )
    return dtype


def _voxel_offset(path: str | os.PathLike, header: nibabel.Nifti1Header) -> int:
    given, first = float(header["vox_offset"]), int(header["sizeof_hdr"]) + 4
    if not (given >= first and given.is_integer()):  # NaN fails the first comparison
        problem = f"its voxels begin at byte {given:g}, its header ends at {first}: software differs on what that means"
        raise broken(rules.NOT_NIFTI, path, problem, "export it again")
    return int(given)


def _scaling(path: str | os.PathLike, header: nibabel.Nifti1Header) -> tuple[float, float]:
    if "scl_slope" not in header.keys():  # noqa: SIM118 - a header is no mapping
        return 1.0, 0.0
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(
        slope
    ):  # the standard: not scaled; an intercept beside it is read in two ways
        if intercept == 0 or math.isnan(intercept):
            return 1.0, 0.0
        raise broken(
            rules.SCALING,
            path,
            f"slope is {slope:g}, intercept {intercept:g}: software differs on whether they apply",
        )
    if not math.isfinite(intercept) or abs(slope) < _SMALLEST_SLOPE:
        raise broken(rules.SCALING, path, f"slope is {slope:g}, intercept {intercept:g}")
    return slope, intercept


def _is_placed(header: nibabel.Nifti1Header) -> bool:
    return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0


def _affine(
    path: str | os.PathLike,
    header: nibabel.Nifti1Header,
    orientation: str | None = None,
    fix: str = _FORM_FIX,
) -> np.ndarray:
    unit, shape = int(header["xyzt_units"]) & 7, _shape(path, header)
    if unit not in _MILLIMETRES:
        raise broken(
            rules.UNITS,
            path,
            f"its header gives lengths in {_UNITS.get(unit, f'unit {unit}, which is unknown')}",
        )
    if not _is_placed(header):
        # zooms alone say nothing about left and right, and readers guess differently
        if orientation is None:
            raise broken(
                rules.NO_PLACE,
                path,
                "its header gives no orientation: the codes of sform and qform are both 0",
                fix,
            )
        spacing = [abs(float(length)) for length in header["pixdim"][1:4]]
        affine = geometry.affine_of_axes(orientation, shape, spacing)
    elif int(header["sform_code"]) > 0:
        affine = np.eye(4)
        affine[:3] = [np.asarray(header[f"srow_{axis}"], dtype=np.float64) for axis in "xyz"]
    else:
        affine = _qform(path, header)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < _SMALLEST_VOXEL_MM3:
        raise broken(rules.NO_PLACE, path, f"affine {affine[:3].tolist()} places no voxel")
    with np.errstate(all="ignore"):  # what overflows is refused by its distance
        _require_one_place(path, header, Grid(shape, affine))
    return affine


def _qform(path: str | os.PathLike, header: nibabel.Nifti1Header) -> np.ndarray:
    """Returns the affine of the qform, read as the standard's own library reads it where nibabel
    refuses what is only rounded.

    Raises:
      IntegrityError: if the quaternion is no rotation, a spacing is negative, or pixdim[0] is not
          1, -1 or 0, which stands for 1.
    """
    quaternion = np.array([float(header[f"quatern_{name}"]) for name in "bcd"])
    length, handedness = float(np.linalg.norm(quaternion)), float(header["pixdim"][0])
    if not length <= _LONGEST_QUATERNION:  # NaN fails as well
        raise broken(
            rules.NO_PLACE,
            path,
            f"its qform is invalid (the quaternion's length is {length:.6g}, more than 1)",
        )
    if handedness == 0 or length > 1:
        header = header.copy()
        header["pixdim"][0] = handedness or 1.0
        for name, value in zip("bcd", quaternion / max(length, 1.0), strict=True):
            header[f"quatern_{name}"] = value
    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except (ValueError, nibabel.spatialimages.HeaderDataError) as error:
        raise broken(rules.NO_PLACE, path, f"its qform is invalid ({error})") from error


def _require_one_place(path: str | os.PathLike, header: nibabel.Nifti1Header, grid: Grid) -> None:
    """Compares the sform, which counts, with what other software may read instead: the qform, or
    else pixdim.
    """
    if int(header["sform_code"]) <= 0:
        return
    tolerance = rules.MISPLACED_VOXELS * min(grid.spacing_mm)
    pixdim = [float(length) for length in header["pixdim"][1:4]]
    if int(header["qform_code"]) > 0:
        distance = geometry.corner_displacement_mm(grid, Grid(grid.shape, _qform(path, header)))
        if not distance <= tolerance:
            raise broken(
                rules.TWO_PLACES,
                path,
                f"its sform and qform place a corner {distance:.3g} mm apart",
            )
    elif not set(pixdim) <= set(_UNSET_PIXDIM):
        distance = max(
            (n - 1) * abs(s - p)
            for n, s, p in zip(grid.shape, grid.spacing_mm, pixdim, strict=True)
        )
        if not distance <= tolerance:
            raise broken(
                rules.TWO_PLACES,
                path,
                f"pixdim {pixdim} differs from the sform by {distance:.3g} mm over the volume",
            )


def _mapped(stored: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    unknown = sorted(set(values.values()) - set(CLASSES))
    if unknown:
        raise ValueError(
            f"label values are mapped to {unknown}; expected the classes {sorted(CLASSES)}"
        )
    if (
        stored.dtype == np.uint8
    ):  # what organ maps are: one pass through a table, however many values
        table = np.zeros(256, dtype=np.uint8)
        for value, class_ in values.items():
            if 0 <= value < 256:
                table[value] = class_
        return table[stored.ravel(order="F")].reshape(stored.shape, order="F")
    mapped = np.zeros(stored.shape, dtype=np.uint8, order="F")
    for value, class_ in values.items():
        mapped[stored == value] = class_
    return mapped


def _require_finite(path: str | os.PathLike, array: np.ndarray) -> None:
    # the extremes first: they need no mask of the whole volume, and NaN passes through both
    if np.isfinite(array.min()) and np.isfinite(array.max()):
        return
    bad = ~np.isfinite(array)
    first = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), array.shape))
    raise broken(
        rules.NOT_FINITE, path, f"{int(bad.sum())} voxels are NaN or infinite, the first at {first}"
    )


def _unreadable(path: str | os.PathLike, error: Exception) -> rules.IntegrityError:
    if isinstance(error, FileNotFoundError):
        if os.path.islink(path):
            return regular_files.not_there(path, "restore the file or correct the link")
        return broken(rules.MISSING, path, "no such file")
    if isinstance(error, EOFError):
        end = _end_of_members(path)
        if end is None:
            return broken(rules.TRUNCATED, path, "its compressed data end too early")
        problem = (
            f"its compressed data end at byte {end}; what follows is neither padding nor compressed"
        )
        return broken(
            rules.CORRUPT,
            path,
            problem,
            f"copy or export it again, or keep its first {end} bytes (head -c {end})",
        )
    if isinstance(error, OSError) and error.errno is not None:  # of a decompressor it has none
        return broken(
            rules.MISSING,
            path,
            f"cannot be read ({error.strerror})",
            "give the path of a readable .nii or .nii.gz file",
        )
    return broken(rules.CORRUPT, path, f"its compressed data are corrupt ({error})")


def _end_of_members(path: str | os.PathLike) -> int | None:
    """Returns where the whole members of a gzip file end and something else begins; None where its
    last member is cut short.

    Padding with zeros and further members are part of a gzip file, anything else is not.
    """
    with open(path, "rb") as stream:
        position, pending, member = 0, b"", isal_zlib.decompressobj(wbits=31)
        while block := pending or stream.read(_BLOCK):
            pending = b""
            try:
                member.decompress(block)
            except isal_zlib.error:
                return None
            position += len(block)
            if not member.eof:
                continue
            rest = member.unused_data or stream.read(_BLOCK)
            position = stream.tell() - len(rest)
            while rest and not rest.strip(b"\0"):
                rest = stream.read(_BLOCK)
            rest = rest.lstrip(b"\0")
            rest += stream.read(1) if len(rest) == 1 else b""
            if rest and not rest.startswith(_GZIP_MAGIC):
                return position
            pending, member = rest, isal_zlib.decompressobj(wbits=31)
    return None


def _write(
    path: str | os.PathLike, header: nibabel.Nifti1Header, array: np.ndarray, compress_level: int
) -> None:
    name = os.fspath(path)
    if not name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: a NIfTI file is named .nii or .nii.gz; choose such a name")
    if compress_level not in range(4):
        raise ValueError(f"compress_level is {compress_level}; expected 0 to 3")
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = (
        int(header["sizeof_hdr"]) + 4,
        1,
        0,
    )
    header["magic"] = header.single_magic
    voxels = array.astype(header.get_data_dtype(), copy=False)  # in the header's byte order
    content = header.binaryblock + bytes(4) + voxels.tobytes("F")
    if name.lower().endswith(".gz"):
        content = igzip.compress(content, compress_level, mtime=0)
    atomic.write_bytes(path, content)
