"""Reads the pixels of a stack of slices as HU; padding becomes air."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage

from preprocessing import dicom_header, rules
from preprocessing.dicom_slices import Slice, StoredPixels
from preprocessing.rules import IntegrityError, broken

_AIR_HU = -1024
# Between air and the largest value of a scanner's 12 bits, padding values may also occur in tissue.
_PADDING_TISSUE_HU = (-900.0, 3000.0)


def read_hu(slices: Sequence[Slice]) -> tuple[np.ndarray, list[IntegrityError]]:
    """Returns the HU of a sorted stack and warnings.

    Returns:
      HU [x, y, z], Fortran-ordered: int16 if every value is a whole number that fits, otherwise
      float32.
    Raises:
      IntegrityError: naming a file whose pixels cannot be read or do not fit its header.
    """
    rows, columns = slices[0].size
    # Pixels first: a header alone must not reserve memory.
    opened, in_file = slices[0].file, _pixels(slices[0].stored)
    hu: np.ndarray = np.empty((len(slices), rows, columns), dtype=np.int16)
    in_tissue = 0
    for number, one in enumerate(slices):
        if opened != one.file:
            opened, in_file = one.file, _pixels(one.stored)
        pixels = in_file if one.frame is None else in_file[one.frame]
        padded, doubtful = _padded(pixels, one)
        in_tissue += doubtful
        measured = pixels if padded is None else pixels[~padded]
        lowest, highest = (int(measured.min()), int(measured.max())) if measured.size else (0, 0)
        _require_in_range(one.stored, lowest, highest)
        slope, intercept = one.rescale
        whole = (
            slope == 1.0
            and intercept.is_integer()
            and lowest + intercept >= -32768
            and highest + intercept <= 32767
        )
        if hu.dtype == np.int16 and whole:
            # modulo 2**16, which is exact because every result fits
            shift = np.array(int(intercept) % 2**16, np.uint16).astype(np.int16)
            hu[number] = pixels.astype(np.int16) + shift
        else:
            hu = hu.astype(np.float32, copy=False)
            hu[number] = pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        if padded is not None:
            hu[number][padded] = _AIR_HU
    warnings = []
    if in_tissue:
        problem = (
            f"PixelPaddingValue {slices[0].stored.padding} equals HU of tissue; "
            f"{in_tissue} pixels at borders became air"
        )
        warnings.append(broken(rules.PADDING_IN_TISSUE, slices[0].file, problem))
    return hu.transpose(2, 1, 0), warnings


def _padded(pixels: np.ndarray, one: Slice) -> tuple[np.ndarray | None, int]:
    """Returns the mask of a slice's padding and how many padded pixels have HU of tissue.

    The mask is None if there is no padding.
    """
    if one.stored.padding is None:
        return None, 0
    first, last = one.stored.padding
    mask = (pixels >= first) & (pixels <= last)
    if not mask.any():
        return None, 0
    slope, intercept = one.rescale
    low, high = sorted((first * slope + intercept, last * slope + intercept))
    if high <= _PADDING_TISSUE_HU[0] or low >= _PADDING_TISSUE_HU[1]:
        return mask, 0
    # The value also occurs in tissue. Outside the reconstruction it fills the border of the slice;
    # inside the patient it occurs in isolated pixels.
    parts, _ = scipy.ndimage.label(mask)
    border = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    mask = np.isin(parts, border[border > 0])
    count = int(np.count_nonzero(mask))
    return (mask, count) if count else (None, 0)


def _require_in_range(stored: StoredPixels, lowest: int, highest: int) -> None:
    """Raises IntegrityError if pixels exceed BitsStored, because readers disagree about those."""
    used = stored.bits[1]
    low, high = (-(2 ** (used - 1)), 2 ** (used - 1) - 1) if stored.signed else (0, 2**used - 1)
    if lowest < low or highest > high:
        kind = "signed" if stored.signed else "unsigned"
        problem = f"BitsStored is {used} ({kind}), but pixels range from {lowest} to {highest}"
        raise broken(rules.ATTRIBUTE, stored.file, problem)


def _pixels(stored: StoredPixels) -> np.ndarray:
    """Returns a file's pixels: [rows, columns], in a multi-frame file [frames, rows, columns]."""
    shape = stored.size if stored.frames is None else (stored.frames, *stored.size)
    if stored.transfer_syntax in dicom_header.NATIVE:
        kind = np.dtype(f"<{'i' if stored.signed else 'u'}{stored.bits[0] // 8}")
        try:
            pixels = np.fromfile(
                stored.file, kind, count=int(np.prod(shape)), offset=stored.where.start
            )
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            raise broken(rules.MISSING, stored.file, problem) from error
        if pixels.size == np.prod(shape):
            return pixels.reshape(shape)
        problem = f"holds {pixels.size} pixels instead of {shape}"
        raise broken(rules.UNDECODABLE, stored.file, problem)
    pixels = dicom_header.decode(stored.file, stored.transfer_syntax)
    if stored.frames == 1 and pixels.ndim == 2:
        pixels = pixels[np.newaxis]
    if pixels.shape != shape or pixels.dtype.kind not in "iu":
        problem = f"decodes to {pixels.shape} pixels of {pixels.dtype} instead of {shape}"
        raise broken(rules.UNDECODABLE, stored.file, problem)
    return pixels
