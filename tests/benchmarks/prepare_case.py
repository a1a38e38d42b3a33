"""Times the preparation of one case from two .nii.gz files, beside MONAI and SimpleITK.

    .venv/py3.11/bin/python -m tests.benchmarks.prepare_case --peers_python=.venv/peers/bin/python

`ours` ends with all files of the case written and synced to disk, with hashes and all checks; the
peers end with arrays in memory. The floor only decompresses both files (isal) and writes and syncs
as many bytes as a case has.

Medians for scans a and b, as multiples of `ours`. An idle Xeon with AVX-512: MONAI 9.1 and 12.6,
SimpleITK 2.2 and 3.2, the floor 0.82 and 0.70. A busy EPYC with AVX2 only: MONAI 9.4 and 8.8. An
earlier run on two shared cores: MONAI 16 and 13, SimpleITK 2.3 and 2.5.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
import time

from tests.benchmarks import scans, side_by_side

TARGET_MM = (1.0, 1.0, 1.0)


def ours(name: str) -> dict[str, float]:
    from preprocessing.case_list import Case
    from preprocessing.preparation.case_preparation import Prepared, prepare_case

    image, label = map(pathlib.Path, scans.paths(name))
    settings = {"target_mm": list(TARGET_MM), "window_hu": [-200.0, 250.0], "label_values": None}
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        start = time.perf_counter()
        outcome = prepare_case(Case("case", image, label), folder, settings, threads=2)
        seconds = time.perf_counter() - start
    finally:
        shutil.rmtree(folder)
    if not isinstance(outcome, Prepared):
        raise RuntimeError(str(outcome))
    return {"seconds": seconds}


def floor(name: str) -> dict[str, float]:
    import numpy as np
    from isal import igzip

    shape = tuple(
        round((n - 1) * s + 1)
        for n, s in zip(scans.SHAPES[name], scans.SPACINGS_MM[name], strict=True)
    )
    image, label = np.ones(shape, dtype=np.float16), np.zeros(shape, dtype=np.uint8)
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        start = time.perf_counter()
        for path in scans.paths(name):
            igzip.decompress(pathlib.Path(path).read_bytes())
        for file, array in (("image", image), ("label", label)):
            with open(folder / file, "wb") as stream:
                stream.write(array.data)
                stream.flush()
                os.fsync(stream.fileno())
        return {"seconds": time.perf_counter() - start}
    finally:
        shutil.rmtree(folder)


def monai(name: str) -> dict[str, float]:
    from monai.transforms import Compose, LoadImaged, Orientationd, ScaleIntensityRanged, Spacingd

    keys = ["image", "label"]
    chain = Compose(
        [
            LoadImaged(keys, ensure_channel_first=True),
            Orientationd(keys, axcodes="RAS"),
            Spacingd(keys, TARGET_MM, mode=("bilinear", "nearest")),
            ScaleIntensityRanged("image", -200, 250, -1, 1, clip=True),
        ]
    )
    start = time.perf_counter()
    chain(dict(zip(keys, scans.paths(name), strict=True)))
    return {"seconds": time.perf_counter() - start}


def simpleitk(name: str) -> dict[str, float]:
    import SimpleITK

    start = time.perf_counter()
    arrays = []
    for path, interpolator, kind in zip(
        scans.paths(name),
        (SimpleITK.sitkLinear, SimpleITK.sitkNearestNeighbor),
        (SimpleITK.sitkFloat32, SimpleITK.sitkUInt8),
        strict=True,
    ):
        image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(path), "RAS")
        size = [
            round((n - 1) * s + 1) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)
        ]
        image = SimpleITK.Resample(
            image,
            size,
            SimpleITK.Transform(),
            interpolator,
            image.GetOrigin(),
            TARGET_MM,
            image.GetDirection(),
            0.0,
            kind,
        )
        if kind == SimpleITK.sitkFloat32:
            image = SimpleITK.IntensityWindowing(image, -200.0, 250.0, -1.0, 1.0)
        arrays.append(SimpleITK.GetArrayFromImage(image))
    return {"seconds": time.perf_counter() - start}


def shelf(name: str) -> dict[str, float]:
    """Combines the fastest available parts: isal and torch's interpolate.

    This is not a product: it reads no header and checks nothing.
    """
    import numpy as np
    import torch
    from isal import igzip

    start = time.perf_counter()
    shape, spacing = scans.SHAPES[name], scans.SPACINGS_MM[name]
    size = [round((n - 1) * s + 1) for n, s in zip(shape, spacing, strict=True)][::-1]
    for path, dtype, mode in zip(
        scans.paths(name), (np.int16, np.uint8), ("trilinear", "nearest"), strict=True
    ):
        content = igzip.decompress(pathlib.Path(path).read_bytes())
        array = np.frombuffer(content, dtype, int(np.prod(shape)), 352).reshape(shape[::-1])[
            :, ::-1, ::-1
        ]
        tensor = torch.from_numpy(np.ascontiguousarray(array))[None, None]
        if mode == "trilinear":
            tensor = tensor.float().clamp_(-200, 250)
            tensor = (
                torch.nn.functional.interpolate(tensor, size=size, mode=mode).sub_(25).div_(225)
            )
        else:
            tensor = torch.nn.functional.interpolate(tensor, size=size, mode=mode)
    return {"seconds": time.perf_counter() - start}


def main() -> None:
    flags = side_by_side.arguments(__doc__)
    scans.make()
    threads = {"OMP_NUM_THREADS": "2", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "2"}
    for name in scans.SHAPES:
        candidates = [
            side_by_side.Candidate(
                label,
                f"tests.benchmarks.prepare_case:{function}",
                flags.peers_python,
                {"name": name},
                threads,
            )
            for label, function in (
                ("MONAI's chain", "monai"),
                ("SimpleITK", "simpleitk"),
                ("isal + torch, unchecked", "shelf"),
            )
            if flags.peers_python
        ]
        for label, function in (("floor: decompress and write", "floor"), ("ours", "ours")):
            candidates.append(
                side_by_side.Candidate(
                    label,
                    f"tests.benchmarks.prepare_case:{function}",
                    arguments={"name": name},
                    environment=threads,
                )
            )
        figures = side_by_side.measure(candidates, repetitions=flags.repetitions)
        print(
            f"\n## {name}: {scans.SHAPES[name]} voxels of {scans.SPACINGS_MM[name]} mm "
            f"to a ready case at {TARGET_MM} mm\n"
        )
        for figure in ("seconds", "peak_mib"):
            print(side_by_side.table(figures, figure=figure, reference="ours"), end="\n\n")


if __name__ == "__main__":
    main()
