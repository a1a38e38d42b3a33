"""Times resampling one CT to 1 mm, beside MONAI, SimpleITK, torch and scipy.

    .venv/py3.11/bin/python -m tests.benchmarks.resample --peers_python=.venv/peers/bin/python

The peers are MONAI's Spacing, SimpleITK's linear resample, torch's interpolate and scipy's zoom.
Each candidate gets the voxels as its own reader returns them: `ours` int16 in file order, SimpleITK
an image, the others a float32 array. `peak_mib` is the peak memory while resampling, including
input and result but not the libraries. The difference is the largest one from MONAI's result as a
share of the HU range (4096), if shape and affine are equal.

Medians of 3 on two shared cores, as multiples of `ours`: MONAI's default 19 to 22, SimpleITK 2.8 to
4.0, torch 1.3 to 1.6.
"""

from __future__ import annotations

import pathlib
import tempfile
import time

from tests.benchmarks import peak_memory, scans, side_by_side

TARGET_MM = (1.0, 1.0, 1.0)
_HU_RANGE = 4096.0


def ours(name: str) -> dict[str, float]:
    import numpy as np

    from preprocessing import geometry, nifti, resampling
    from tests.preprocessing.training_grid import training_grid

    upright = geometry.to_ras(nifti.read_ct(scans.paths(name)[0]))
    before = peak_memory.reset()
    start = time.perf_counter()
    hu = resampling.resample_linear(upright.array, upright.spacing_mm, TARGET_MM)
    figures = _figures(start, before, input_mib=upright.array.nbytes / 2**20)
    reference = _reference(name)
    if reference is not None:
        voxels, affine = reference
        same = voxels.shape == hu.shape and np.array_equal(
            affine, training_grid(upright.grid, TARGET_MM).affine
        )
        figures["difference"] = (
            float(np.abs(voxels - hu).max()) / _HU_RANGE if same else float("inf")
        )
    return figures


def monai(name: str, dtype: str) -> dict[str, float]:
    import numpy as np
    from monai.transforms import LoadImage, Orientation, Spacing

    image = Orientation("RAS")(LoadImage(ensure_channel_first=True)(scans.paths(name)[0]))
    before = peak_memory.reset()
    start = time.perf_counter()
    result = Spacing(
        TARGET_MM,
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
        dtype=getattr(np, dtype),
    )(image)
    figures = _figures(start, before, input_mib=image.nbytes / 2**20)
    if dtype == "float64":
        np.save(_kept(name), result[0].numpy().astype(np.float32))
        np.save(_kept(f"{name}_affine"), result.affine.numpy())
    return figures


def simpleitk(name: str) -> dict[str, float]:
    import SimpleITK

    image = SimpleITK.ReadImage(scans.paths(name)[0])
    image = SimpleITK.DICOMOrient(image, "RAS")
    size = [
        round((n - 1) * s + 1) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    before = peak_memory.reset()
    start = time.perf_counter()
    SimpleITK.Resample(
        image,
        size,
        SimpleITK.Transform(),
        SimpleITK.sitkLinear,
        image.GetOrigin(),
        TARGET_MM,
        image.GetDirection(),
        -1024.0,
        SimpleITK.sitkFloat32,
    )
    return _figures(start, before, input_mib=image.GetNumberOfPixels() * 2 / 2**20)


def torch(name: str) -> dict[str, float]:
    import torch

    array = _float_array(name)
    size = [
        round((n - 1) * s + 1) for n, s in zip(array.shape, scans.SPACINGS_MM[name], strict=True)
    ]
    image = torch.from_numpy(array)[None, None]
    before = peak_memory.reset()
    start = time.perf_counter()
    torch.nn.functional.interpolate(image, size=size, mode="trilinear", align_corners=False)
    return _figures(start, before, input_mib=array.nbytes / 2**20)


def scipy_zoom(name: str) -> dict[str, float]:
    import scipy.ndimage

    array = _float_array(name)
    before = peak_memory.reset()
    start = time.perf_counter()
    scipy.ndimage.zoom(array, scans.SPACINGS_MM[name], order=1)
    return _figures(start, before, input_mib=array.nbytes / 2**20)


def _float_array(name: str):
    import nibabel
    import numpy as np

    return np.ascontiguousarray(
        np.asanyarray(nibabel.load(scans.paths(name)[0]).dataobj)[::-1, ::-1], dtype=np.float32
    )


def _figures(start: float, before_mib: float, *, input_mib: float) -> dict[str, float]:
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mib": peak_memory.peak_mib() - before_mib + input_mib}


def _kept(name: str) -> pathlib.Path:
    return pathlib.Path(tempfile.gettempdir()) / f"c2fnas_benchmark_monai_{name}.npy"


def _reference(name: str):
    import numpy as np

    files = _kept(name), _kept(f"{name}_affine")
    return tuple(np.load(f) for f in files) if all(f.exists() for f in files) else None


def main() -> None:
    flags = side_by_side.arguments(__doc__)
    scans.make()
    module = "tests.benchmarks.resample"
    threads = {"OMP_NUM_THREADS": "2", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "2"}
    for name in scans.SHAPES:
        for suffix in ("", "_affine"):
            _kept(f"{name}{suffix}").unlink(missing_ok=True)
        candidates = []
        if flags.peers_python:
            for label, function, arguments in (
                ("MONAI Spacing, float64 (its default)", "monai", {"dtype": "float64"}),
                ("MONAI Spacing, float32", "monai", {"dtype": "float32"}),
                ("SimpleITK linear", "simpleitk", {}),
                ("torch interpolate", "torch", {}),
                ("scipy zoom, order 1", "scipy_zoom", {}),
            ):
                candidates.append(
                    side_by_side.Candidate(
                        label,
                        f"{module}:{function}",
                        flags.peers_python,
                        {"name": name, **arguments},
                        threads,
                    )
                )
        candidates.append(
            side_by_side.Candidate(
                "ours", f"{module}:ours", arguments={"name": name}, environment=threads
            )
        )
        figures = side_by_side.measure(candidates, repetitions=flags.repetitions)
        print(
            f"\n## {name}: {scans.SHAPES[name]} voxels of {scans.SPACINGS_MM[name]} mm "
            f"to {TARGET_MM} mm\n"
        )
        for figure in ("seconds", "peak_mib"):
            print(side_by_side.table(figures, figure=figure, reference="ours"), end="\n\n")
        if "difference" in figures["ours"]:
            print(
                "largest difference from MONAI (float64): "
                f"{max(figures['ours']['difference']):.2g} "
                "of the HU range, shape and affine equal"
            )


if __name__ == "__main__":
    main()
