"""Building blocks of the corpus: a small patient, and functions that write it to files."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pathlib
from collections.abc import Callable
from typing import Any

import nibabel
import numpy as np

from preprocessing.volume import Volume
from tests.preprocessing.dicom_files import save, slices

AFFINE = np.array([[3.0, 0, 0, -95.0], [0, 3.0, 0, -80.0], [0, 0, 5.0, -60.0], [0, 0, 0, 1.0]])
SHAPE = (64, 54, 28)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
      group: "nifti", "dicom", "manifest" or "cohort".
      rule: id of the rule that refuses it, None for a valid input.
      make: writes image, label or manifest into a folder; its result is merged into the manifest.
      file: end of the path that the refusal names.
    """

    name: str
    group: str
    rule: str | None
    make: Callable[[pathlib.Path], dict[str, Any] | None]
    file: str = "image.nii.gz"


def patient() -> tuple[Volume, Volume]:
    """Returns a small abdomen without any symmetry: int16 HU and labels, both RAS+."""
    x, y, z = np.meshgrid(
        *(AFFINE[a, 3] + AFFINE[a, a] * np.arange(n) for a, n in enumerate(SHAPE)), indexing="ij"
    )

    def inside(centre, radii):
        return sum(((v - c) / r) ** 2 for v, c, r in zip((x, y, z), centre, radii, strict=True)) < 1

    hu = np.full(SHAPE, -1000.0)
    hu[inside((0, 0, 0), (86, 68, 1e9))] = 45
    hu[inside((0, 4, 0), (72, 54, 1e9))] = -95
    for centre, radii, value in (
        ((45, 10, 10), (26, 32, 45), 110),  # liver
        ((-48, -18, 30), (16, 20, 24), 115),  # spleen
        ((0, -48, 0), (15, 15, 1e9), 300),  # spine
        ((-30, 30, 40), (22, 16, 18), -850),  # gas in the stomach
        ((36, -25, -20), (14, 16, 26), 160),  # kidneys
        ((-36, -27, -12), (14, 16, 26), 165),
    ):
        hu[inside(centre, radii)] = value
    label = np.zeros(SHAPE, np.uint8)
    label[inside((-14, -8, 2), (26, 10, 12)) | inside((8, -3, -8), (12, 11, 16))] = 1
    label[inside((-2, -4, -2), (8, 8, 9)) & (label == 1)] = 2
    hu[label == 1], hu[label == 2] = 95, 55
    hu += np.random.default_rng(5).normal(0, 12, SHAPE)
    return Volume(np.rint(hu).astype(np.int16), AFFINE), Volume(label, AFFINE)


CT, LABEL = patient()


def nifti(
    path: pathlib.Path,
    array: np.ndarray,
    affine=AFFINE,
    *,
    change=None,
    kind=nibabel.Nifti1Image,
    dtype=None,
    header=None,
) -> None:
    """Saves an array with nibabel.

    Args:
      change: edits the bytes of the header, which nibabel would correct.
    """
    image = kind(array, affine, header, dtype=dtype or array.dtype)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    if change is not None:
        content = path.read_bytes()
        raw = bytearray(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
        change(raw)
        path.write_bytes(gzip.compress(bytes(raw), 1) if path.suffix == ".gz" else bytes(raw))


def image(array=CT.array, affine=AFFINE, **changes):
    return lambda folder: nifti(folder / "image.nii.gz", array, affine, **changes)


def label(array=LABEL.array, affine=AFFINE, **changes):
    return lambda folder: nifti(folder / "label.nii.gz", array, affine, **changes)


def both(array=CT.array, labels=LABEL.array, affine=AFFINE, **changes):
    def make(folder):
        image(array, affine, **changes)(folder)
        label(labels, affine, **changes)(folder)

    return make


def write(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def damaged(name: str, damage: Callable[[bytes], bytes]):
    def make(folder):
        both()(folder)
        (folder / name).write_bytes(damage((folder / name).read_bytes()))

    return make


def put(offset: int, dtype: str, *values):
    """Returns an edit of a header that writes values from a byte on."""

    def change(raw: bytearray) -> None:
        content = np.array(values, dtype).tobytes()
        raw[offset : offset + len(content)] = content

    return change


def flip_byte(content: bytes) -> bytes:
    raw = bytearray(content)
    raw[len(raw) // 2] ^= 0x55
    return bytes(raw)


def with_values(array: np.ndarray, where, value) -> np.ndarray:
    changed = np.array(array)
    changed[where] = value
    return changed


def moved(array: np.ndarray, *voxels: int) -> np.ndarray:
    return np.roll(array, voxels, axis=(0, 1, 2))


def shifted(*mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += mm
    return affine


def turned(*degrees: float) -> np.ndarray:
    turn = nibabel.eulerangles.euler2mat(*np.deg2rad(degrees))
    affine = AFFINE.copy()
    affine[:3] = turn @ AFFINE[:3]
    return affine


def tall_affine(columns) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, :3] = columns
    return affine


def flip_x() -> np.ndarray:
    matrix = np.diag([-1.0, 1, 1, 1])
    matrix[0, 3] = SHAPE[0] - 1
    return matrix


def flip_y() -> np.ndarray:
    matrix = np.diag([1.0, -1, 1, 1])
    matrix[1, 3] = SHAPE[1] - 1
    return matrix


def entry(case_id="case", **changes) -> dict[str, Any]:
    return {"case_id": case_id, "image": "image.nii.gz", "label": "label.nii.gz", **changes}


def series(change=None, *, volume=CT, syntax=None, **entries):
    """Returns a function that writes a DICOM case.

    Args:
      change: takes the list of slices and returns the ones to write.
    """

    def make(folder):
        label()(folder)
        made = slices(volume)
        save(folder / "series", change(made) if change else made, syntax=syntax)
        return {"cases": [entry(image="series", **entries)]}

    return make


def each(edit):
    def change(made):
        for k, ds in enumerate(made):
            edit(ds, k)
        return made

    return change


def two_series(folder):
    found = series()(folder)
    save(folder / "series", slices(CT, series="1.2.9")[:9], name=lambda i: f"b{i}.dcm")
    return found


def listing(value, files=True):
    def make(folder):
        if files:
            both()(folder)
        (folder / "manifest.json").write_text(
            value if isinstance(value, str) else json.dumps(value)
        )

    return make


def site(**changes):
    return {"site": "C2", "cases": [entry()], **changes}


def decathlon(**changes):
    return {
        "name": "PANCREAS",
        "labels": {"0": "background", "1": "pancreas", "2": "cancer"},
        "training": [{"image": "./image.nii.gz", "label": "./label.nii.gz"}],
        **changes,
    }


def then(*steps):
    def make(folder):
        result = None
        for step in steps:
            result = step(folder) or result
        return result

    return make
