"""The scans of the preprocessing benchmarks: two synthetic CTs of full size, made once and kept.

Scan a has 512 x 512 x 200 voxels of 0.7 x 0.7 x 1.0 mm, scan b 512 x 512 x 50 of
0.68 x 0.68 x 5.0 mm. Both are int16 with noise, stored LPS as converters of scanners leave them, at
gzip level 6, with a label map each.
"""

from __future__ import annotations

import gzip
import pathlib
import tempfile

SHAPES = {"a": (512, 512, 200), "b": (512, 512, 50)}
SPACINGS_MM = {"a": (0.7, 0.7, 1.0), "b": (0.68, 0.68, 5.0)}


def folder() -> pathlib.Path:
    return pathlib.Path(tempfile.gettempdir()) / "c2fnas_benchmark_scans"


def paths(name: str) -> tuple[str, str]:
    """Returns the image and label files of scan `name`, which `make` has made."""
    return str(folder() / f"{name}.nii.gz"), str(folder() / f"{name}_label.nii.gz")


def make() -> None:
    """Makes the scans that are missing.

    It needs the product's environment, about half a minute and 90 MB.
    """
    from preprocessing import nifti
    from preprocessing.phantom import phantom
    from preprocessing.phantom.config import CohortConfig
    from preprocessing.volume import Volume

    folder().mkdir(exist_ok=True)
    for name, shape in SHAPES.items():
        if all(pathlib.Path(p).exists() for p in paths(name)):
            continue
        in_plane, _, slices = spacing = SPACINGS_MM[name]
        extent = tuple(
            (n + 2) * s / (0.95 if axis == 2 else 1.0)
            for axis, (n, s) in enumerate(zip(shape, spacing, strict=True))
        )
        config = CohortConfig(
            site="C2",
            cases=1,
            seed=1,
            in_plane_mm=(in_plane, in_plane),
            slice_mm=(slices, slices),
            field_of_view_mm=extent,
        )
        for volume, path in zip(phantom.render_case(config, 0), paths(name), strict=True):
            whole = volume.array[: shape[0], : shape[1], : shape[2]]
            affine = volume.affine.copy()
            for axis in (0, 1):  # RAS+ -> LPS
                affine[axis, 3] += affine[axis, axis] * (shape[axis] - 1)
                affine[axis, axis] *= -1
            plain = pathlib.Path(path).with_suffix("")
            nifti.write_volume(plain, Volume(whole[::-1, ::-1], affine))
            partial = pathlib.Path(f"{path}.partial")
            partial.write_bytes(gzip.compress(plain.read_bytes(), 6, mtime=0))
            partial.rename(path)
            plain.unlink()
