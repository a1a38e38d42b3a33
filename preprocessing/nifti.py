"""Reads and writes NIfTI files; `nifti_header` interprets their headers.

A file is decompressed once, block by block, straight into the array of its voxels. The array keeps
the file's order (x fastest), so that nothing is transposed, and each value is converted once.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from isal import igzip, isal_zlib

from preprocessing import nifti_header, regular_files, rules
from preprocessing.nifti_header import GZIP_MAGIC, NiftiHeader
from preprocessing.rules import broken
from preprocessing.volume import Grid, Volume
from runkit import atomic
from runkit.classes import CLASSES

_CT_RANGE = (-200, 100)  # the values of every CT span it; those of label maps never do
_FRACTION = 1e-4  # largest rounding error that a float32 slope leaves in a class
_DENSEST = 1032  # largest compression ratio that deflate can reach
_BLOCK = 2**18  # bytes decompressed at a time
_COMPRESS_LEVEL = 1  # of ISA-L's 0 to 3
_LARGEST_INTERCEPT = 1e30  # beyond it, float32 may overflow
_ISAL_ERROR: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # wrong in isal's stub
_BROKEN_FILE = (OSError, EOFError, zlib.error, _ISAL_ERROR)


def read_ct(path: str | os.PathLike, orientation: str | None = None) -> Volume:
    """Reads a CT.

    Args:
      path: a .nii or .nii.gz file, recognised by its content.
      orientation: directions of the array's axes for a file whose header gives none (sform and
        qform code 0), e.g. "LPS": the first axis runs to the left, the second to the back, the
        third upwards. Ignored if the header gives an orientation.
    Returns:
      HU [x, y, z] in the file's axis order, with slope and intercept applied. int16 and read-only
      if the file stores HU as int16, otherwise float32.
    Raises:
      IntegrityError: naming the file and the remedy, if it is missing, truncated or corrupt, is not
        three-dimensional, has NaN or infinite voxels, or if its header gives no orientation, no
        valid affine, or contradictory ones.
    """
    header, stored = _read(path)
    affine = nifti_header.affine(path, header, orientation)
    slope, intercept = nifti_header.scaling(path, header)
    placed = nifti_header.is_placed(header)
    if stored.dtype == np.int16 and (slope, intercept) == (1.0, 0.0):
        return Volume(stored, affine, placed)
    hu = stored.astype(np.float32, order="K")
    if slope != 1.0:
        hu *= np.float32(slope)
    if intercept != 0.0:
        hu += np.float32(intercept)
    # unscaled integers cannot be NaN
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
      values: file value -> class for a map with other values, e.g. `{7: 1}`. Values that are not
        listed become background.
      ignore_place: ignore the header's affine, which is known to be wrong, and return the identity.
      orientation: as for `read_ct`.
    Returns:
      uint8 [x, y, z] in the file's axis order; read-only if the file stores uint8.
    Raises:
      IntegrityError: as `read_ct`; and if a voxel is not a whole number or, without `values`, not
          0, 1 or 2, or if the file holds a CT.
    """
    header, stored = _read(path)
    affine = (
        np.eye(4)
        if ignore_place
        else nifti_header.affine(path, header, orientation, nifti_header.LABEL_FORM_FIX)
    )
    placed = ignore_place or nifti_header.is_placed(header)
    slope, intercept = nifti_header.scaling(path, header)
    if slope != 1.0 or intercept != 0.0:
        stored = stored.astype(np.float32, order="K") * np.float32(slope) + np.float32(intercept)
    if stored.dtype.kind == "f":
        _require_finite(path, stored, "export it again, or write 0 (background) in their place")
    lowest, highest = stored.min(), stored.max()
    if lowest <= _CT_RANGE[0] and highest >= _CT_RANGE[1]:
        problem = f"values from {lowest:g} to {highest:g} are those of a CT, not of a label map"
        raise broken(rules.LABEL_IS_CT, path, problem)
    if stored.dtype.kind == "f":
        whole = np.rint(stored)
        fractional = np.abs(stored - whole) > _FRACTION
        if fractional.any():
            count, example = np.count_nonzero(fractional), float(stored[fractional][0])
            problem = f"{count} label voxels are not whole numbers (e.g. {example:g})"
            raise broken(rules.FRACTIONAL, path, problem)
        stored = whole
    if values is not None:
        return Volume(_mapped(stored, values), affine, placed)
    if lowest < -_FRACTION or highest > max(CLASSES) + _FRACTION:
        others = [int(v) for v in np.unique(stored) if v not in CLASSES]
        listed = ", ".join(map(str, others[:8])) + (", ..." if len(others) > 8 else "")
        known = ", ".join(f"{v} {name}" for v, name in CLASSES.items())
        problem = f"label values {listed} are unknown; known are {known}"
        raise broken(rules.UNKNOWN_VALUES, path, problem)
    return Volume(stored.astype(np.uint8, order="K", copy=False), affine, placed)


def write_volume(path: str | os.PathLike, volume: Volume, *, description: str = "") -> None:
    """Writes a volume as NIfTI-1 in the array's own type.

    The same volume gives the same bytes. The file is written completely or not at all.

    Args:
      volume: labels as uint8, or a CT as int16 or float32.
      description: free text of the header, at most 79 ASCII characters.
    Raises:
      ValueError: for another dtype, a path that does not end in .nii or .nii.gz, or an axis of more
          than 32767 voxels.
    """
    if volume.array.dtype not in (np.uint8, np.int16, np.float32):
        raise ValueError(
            f"{path}: voxels are {volume.array.dtype}; "
            "convert them to uint8 (labels), int16 or float32 (HU)"
        )
    header = nifti_header.new(path, volume)
    header["descrip"] = description
    _write(path, header, volume.array)


def write_labels_like(
    path: str | os.PathLike,
    mask: np.ndarray,
    reference_path: str | os.PathLike,
    *,
    description: str = "",
) -> None:
    """Writes a mask on the grid of a scan, with the scan's sform, qform, pixdim and units.

    These stay bit for bit the same. Free text and header extensions of the scan, which may name a
    patient, are left out.

    Args:
      mask: uint8 [x, y, z] in the scan's own axis order.
      reference_path: the scan.
      description: free text of the mask's header, at most 79 ASCII characters.
    Raises:
      ValueError: if the mask is not uint8 or has another shape than the scan, or the scan's header
          cannot be read.
    """
    reference = read_header(reference_path)
    shape = nifti_header.shape(reference_path, reference)
    if mask.dtype != np.uint8 or mask.shape != shape:
        raise ValueError(
            f"{path}: mask is {mask.dtype} {mask.shape}, the grid of scan {reference_path} is "
            f"{shape}; bring the mask back to the scan's own grid, as uint8, before writing it"
        )
    header = nifti_header.like(reference)
    header["descrip"] = description
    _write(path, header, mask)


def read_header(path: str | os.PathLike) -> NiftiHeader:
    """Reads only the header of a file. Raises IntegrityError as `read_ct`."""
    try:
        with _opened(path) as stream:
            start = stream.read(nifti_header.LONGEST)
    except _BROKEN_FILE as error:
        raise _unreadable(path, error) from error
    return nifti_header.parse(path, start)


def stored_form(
    path: str | os.PathLike, *, ignore_place: bool = False, orientation: str | None = None
) -> tuple[Grid, np.dtype, bool]:
    """Returns the properties of the voxels that the header states.

    Args, raises: as `read_labels`.
    Returns:
      Their grid, their data type, and whether a slope or an intercept applies.
    """
    header = read_header(path)
    shape = nifti_header.shape(path, header)
    affine = np.eye(4) if ignore_place else nifti_header.affine(path, header, orientation)
    scaled = nifti_header.scaling(path, header) != (1.0, 0.0)
    return Grid(shape, affine), nifti_header.data_type(path, header), scaled


def holds_its_voxels(path: str | os.PathLike) -> bool:
    """Returns whether a file is as long as its header says. Raises as `read_ct`.

    A compressed file is decompressed to its end.
    """
    header = read_header(path)
    voxels = math.prod(nifti_header.shape(path, header))
    size = voxels * nifti_header.data_type(path, header).itemsize
    expected, held = nifti_header.voxel_offset(path, header) + size, 0
    try:
        with _opened(path) as stream:
            while held < expected and (block := stream.read(_BLOCK)):
                held += len(block)
    except _BROKEN_FILE as error:
        raise _unreadable(path, error) from error
    return held >= expected


def _opened(path: str | os.PathLike) -> BinaryIO:
    """Opens a file for reading and decompresses it if it is compressed."""
    regular_files.require_readable(path)
    with open(path, "rb") as stream:
        compressed = stream.read(2) == GZIP_MAGIC
    return (igzip.open if compressed else open)(path, "rb")


def _read(path: str | os.PathLike) -> tuple[NiftiHeader, np.ndarray]:
    """Returns the header and the voxels as stored, Fortran-ordered and read-only."""
    try:
        with _opened(path) as stream:
            start = stream.read(nifti_header.LONGEST)
            header = nifti_header.parse(path, start)
            shape = nifti_header.shape(path, header)
            dtype = nifti_header.data_type(path, header)
            offset = nifti_header.voxel_offset(path, header)
            size = math.prod(shape) * dtype.itemsize
            content, held = _voxels(stream, start, offset, size, os.path.getsize(path) * _DENSEST)
            while stream.read(_BLOCK):  # to the end, where a compressed file has its checksum
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
    """Reads the `size` bytes of the voxels.

    They are copied to their final place in blocks that fit the processor's cache, so that neither
    the file nor a growing buffer is in memory beside them.

    Args:
      start: bytes of the file that were already read.
      offset: byte of the file at which the voxels begin.
      most: bytes that the file can hold; no memory is allocated for a header that declares more.
    Returns:
      uint8 [size], and the number of bytes that the file held.
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


def _mapped(stored: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    unknown = sorted(set(values.values()) - set(CLASSES))
    if unknown:
        raise ValueError(
            f"label values are mapped to {unknown}; expected the classes {sorted(CLASSES)}"
        )
    # uint8, the usual type of organ maps: one pass through a table for any number of values
    if stored.dtype == np.uint8:
        table = np.zeros(256, dtype=np.uint8)
        for value, class_ in values.items():
            if 0 <= value < 256:
                table[value] = class_
        return table[stored.ravel(order="F")].reshape(stored.shape, order="F")
    mapped = np.zeros(stored.shape, dtype=np.uint8, order="F")
    for value, class_ in values.items():
        mapped[stored == value] = class_
    return mapped


def _require_finite(path: str | os.PathLike, array: np.ndarray, fix: str | None = None) -> None:
    # the extremes first: NaN propagates to both, so that no mask of the whole volume is needed
    if np.isfinite(array.min()) and np.isfinite(array.max()):
        return
    bad = ~np.isfinite(array)
    first = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), array.shape))
    problem = f"{int(bad.sum())} voxels are NaN or infinite, the first at {first}"
    raise broken(rules.NOT_FINITE, path, problem, fix)


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
        fix = f"copy or export it again, or keep its first {end} bytes (head -c {end})"
        return broken(rules.CORRUPT, path, problem, fix)
    if isinstance(error, OSError) and error.errno is not None:  # a decompressor sets none
        fix = "give the path of a readable .nii or .nii.gz file"
        return broken(rules.MISSING, path, f"cannot be read ({error.strerror})", fix)
    return broken(rules.CORRUPT, path, f"its compressed data are corrupt ({error})")


def _end_of_members(path: str | os.PathLike) -> int | None:
    """Returns the byte at which the complete members of a gzip file end and other data begin.

    None if the last member is cut short. Zeros and further members are part of a gzip file.
    """
    with open(path, "rb") as stream:
        position, pending, member = 0, b"", isal_zlib.decompressobj(wbits=31)
        while block := pending or stream.read(_BLOCK):
            pending = b""
            try:
                member.decompress(block)
            except _ISAL_ERROR:
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
            if rest and not rest.startswith(GZIP_MAGIC):
                return position
            pending, member = rest, isal_zlib.decompressobj(wbits=31)
    return None


def _write(path: str | os.PathLike, header: NiftiHeader, array: np.ndarray) -> None:
    name = os.fspath(path)
    if not name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: the name of a NIfTI file ends in .nii or .nii.gz; choose one")
    beginning = nifti_header.file_beginning(header)
    voxels = array.astype(header.get_data_dtype(), copy=False)  # in the header's byte order
    content = beginning + voxels.tobytes("F")
    if name.lower().endswith(".gz"):
        content = igzip.compress(content, _COMPRESS_LEVEL, mtime=0)
    atomic.write_bytes(path, content)
