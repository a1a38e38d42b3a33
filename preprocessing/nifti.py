"""NIfTI files in and out: the only importer of nibabel."""

from __future__ import annotations

import os
import pathlib
import zlib
from collections.abc import Mapping

import nibabel
import numpy as np
from isal import igzip, isal_zlib

from preprocessing.volume import Volume
from runkit import atomic

LABEL_VALUES = (0, 1, 2)  # background, pancreas, tumour


def read_ct(path: str | os.PathLike) -> Volume:
    """Reads a CT: float32 HU [x, y, z] in file order, slope and intercept applied.

    Raises:
      ValueError: naming the file, if it is missing, cut short, not NIfTI, not three-dimensional, or holds NaN or infinity.
    """
    array, affine = _read(path)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise ValueError(f"{path}: {bad} voxels are NaN or infinite; export the scan again, or exclude the case")
    return Volume(array.astype(np.float32, copy=False), affine)


def read_labels(path: str | os.PathLike, values: Mapping[int, int] | None = None) -> Volume:
    """Reads a label map: uint8 [x, y, z] with 0 background, 1 pancreas, 2 tumour.

    Args:
      path: the file.
      values: file value -> label for organ maps, e.g. {7: 1}; every other value becomes background.
    Raises:
      ValueError: naming the file, as `read_ct`, and for values that are no labels.
    """
    array, affine = _read(path)
    if values is not None:
        labels = np.zeros(array.shape, dtype=np.uint8, order="F")
        for value, label in values.items():
            labels[array == value] = label
        return Volume(labels, affine)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{path}: the label holds NaN or infinity; export it again as whole numbers")
    low, high = array.min(), array.max()
    labels = array.astype(np.uint8) if low >= 0 and high <= max(LABEL_VALUES) else None
    if labels is None or (array.dtype.kind == "f" and not np.array_equal(labels, array)):
        found = np.unique(array)
        shown = ", ".join(f"{value:g}" for value in found[~np.isin(found, LABEL_VALUES)][:6])
        raise ValueError(
            f"{path}: label values {shown} are none of 0 background, 1 pancreas, 2 tumour; map them with `label_values` in the manifest"
        )
    return Volume(labels, affine)


def write_volume(path: str | os.PathLike, volume: Volume, *, compress_level: int = 1) -> None:
    """Writes .nii.gz (or .nii) atomically, in the array's dtype; the same volume gives the same bytes.

    Args:
      compress_level: of igzip, 0 (fastest) to 3 (smallest).
    """
    image = nibabel.Nifti1Image(volume.array, volume.affine, dtype=volume.array.dtype)
    image.header.set_xyzt_units("mm")
    _write(path, image, compress_level)


def write_labels_like(path: str | os.PathLike, mask: np.ndarray, reference: str | os.PathLike) -> None:
    """Writes a mask uint8 [x, y, z] on the grid of a reference scan, with its affine bit for bit and its header's space.

    Raises:
      ValueError: if the mask has another shape than the reference.
    """
    content = _content(reference)
    source = _image_class(reference, content).from_bytes(content)
    if tuple(source.shape[:3]) != mask.shape:
        raise ValueError(f"{reference}: has {source.shape[:3]} voxels, the mask {mask.shape}; restore the mask to the scan's grid first")
    header = source.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(mask.shape)
    header["scl_slope"], header["scl_inter"], header["cal_max"], header["cal_min"] = 1, 0, 0, 0
    # affine None: nibabel keeps the header's sform, qform and their codes as they are.
    image = type(source)(np.asfortranarray(mask.astype(np.uint8, copy=False)), None, header)
    _write(path, image, compress_level=1)


def _write(path: str | os.PathLike, image: nibabel.Nifti1Image, compress_level: int) -> None:
    content = image.to_bytes()
    if str(path).endswith(".gz"):
        content = igzip.compress(content, compress_level, mtime=0)
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(content)


def _read(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns the stored voxels in file order, scaled where the header says so, and the affine."""
    content = _content(path)
    try:
        image = _image_class(path, content).from_bytes(content)
        header = image.header
        shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(image.dataobj.offset)  # the header says 0 once read
    except (nibabel.spatialimages.HeaderDataError, nibabel.wrapstruct.WrapStructError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: its NIfTI header cannot be read ({error}); convert the scan again") from error
    while len(shape) > 3 and shape[-1] == 1:  # some tools write one volume as a series of one
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 2:
        raise ValueError(
            f"{path}: has {len(shape)} dimensions {tuple(shape)}; expected one three-dimensional volume of at least 2 voxels an axis"
        )
    count = int(np.prod(shape, dtype=np.int64))
    if len(content) < offset + count * dtype.itemsize:
        raise ValueError(f"{path}: cut short, {len(content)} of {offset + count * dtype.itemsize} bytes; copy the file again")
    if dtype.kind not in "iuf":
        raise ValueError(f"{path}: holds voxels of type {dtype}; expected one number a voxel")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"{path}: its affine does not place the voxels in space; convert the scan again")
    array = np.frombuffer(content, dtype, count, offset).reshape(shape, order="F")
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    if (slope, intercept) != (1.0, 0.0):
        array = array * np.float32(slope) + np.float32(intercept)
    return array, affine


def _content(path: str | os.PathLike) -> bytes:
    """Returns the uncompressed bytes of a file."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; correct its path in the manifest")
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return igzip.decompress(content)
    except (EOFError, OSError, isal_zlib.error, zlib.error) as error:
        raise ValueError(f"{path}: the compressed file is cut short or damaged ({error}); copy the file again") from error


def _image_class(path: str | os.PathLike, content: bytes) -> type[nibabel.Nifti1Image]:
    size = {int.from_bytes(content[:4], order) for order in ("little", "big")}
    if len(content) >= 352 and 348 in size:
        return nibabel.Nifti1Image
    if len(content) >= 544 and 540 in size:
        return nibabel.Nifti2Image
    raise ValueError(f"{path}: not a NIfTI file, or cut short in its header; convert the scan to .nii.gz")
