"""Reads thousands of DICOM series with faulty headers: each is read, or refused by a rule.

    .venv/py3.11/bin/python -m tests.soak.dicom_headers --series=2000 \\
        --peers_python=.venv/peers/bin/python

A refusal must name the file. If the product reads a series, SimpleITK (GDCM) and plain pydicom
(every file, sorted by position, rescaled) read it as well, in their own environment
(requirements-dicom.txt beside this file). If a peer gets other voxels or other positions, the
product should have refused: the series is named and the exit code is 1. Padding is not compared,
because the peers leave it as it is. The peers do not read series that the product refuses, because
SimpleITK takes minutes for some of them.

Each series also goes through the steps of the programs (`programs` beside this file). `--first`
chooses the seeds.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings
from typing import Any

import numpy as np

from tests.soak import cost

_SECONDS = 0.07  # per series
_AIR_HU = -1024
_MM, _HU = 0.01, 0.01


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument(
        "--peers_python",
        help="Python of the peers' environment; without it only the product is run",
    )
    parser.add_argument("--peer", help="reader that this process runs: simpleitk or pydicom")
    parser.add_argument(
        "--folder", help="folder of the series, for --peer; otherwise where they are kept"
    )
    flags = parser.parse_args()
    warnings.simplefilter("ignore")
    if flags.peer:
        read_all(
            pathlib.Path(flags.folder), {"simpleitk": _simpleitk, "pydicom": _pydicom}[flags.peer]
        )
        return 0
    cost.tell(f"{flags.series} series, without peers", _SECONDS * flags.series)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(flags.folder or temporary)
        made = write_all(folder, range(flags.first, flags.first + flags.series))
        rules = collections.Counter(read_or_refused(folder / name) for name in made)
        print(
            f"{flags.series} series: {rules.pop('read')} read, "
            f"{rules.total()} refused: {dict(sorted(rules.items()))}",
            flush=True,
        )
        found = 0
        for peer in ("simpleitk", "pydicom") if flags.peers_python else ():
            subprocess.run(
                [
                    flags.peers_python,
                    "-m",
                    "tests.soak.dicom_headers",
                    f"--peer={peer}",
                    f"--folder={folder}",
                ],
                check=True,
                stderr=subprocess.DEVNULL,
            )
            found += compare(folder, made, peer)
    return 1 if found else 0


def write_all(folder: pathlib.Path, seeds: range) -> dict[str, str]:
    """Writes the series and returns name in the folder -> fault."""
    from tests.preprocessing import dicom_mutations

    return {
        f"{seed:06d}": dicom_mutations.write(folder / f"{seed:06d}" / "series", seed)
        for seed in seeds
    }


def read_or_refused(folder: pathlib.Path) -> str:
    """Returns "read", with the volume in ours.npz beside the series, or the id of the rule.

    Raises:
      AssertionError: if a refusal names no file of the series or has several lines, if voxels are
        not finite, or if a program ends in anything but a value or a rule.
      Exception: any error of a reader that is not a rule.
    """
    from preprocessing import dicom, nifti, rules
    from preprocessing.case_list import Case
    from preprocessing.volume import Volume
    from tests.preprocessing import dicom_mutations
    from tests.soak import programs

    series, label = folder / "series", folder / "label.nii"
    nifti.write_volume(label, Volume(dicom_mutations.label(), dicom_mutations.AFFINE))
    ends, wrong = programs.ends(Case("case", series, label), series, folder, label)
    assert not wrong, wrong
    try:
        volume = dicom.read_series(series)
    except rules.IntegrityError as error:
        text = str(error)
        assert error.file.startswith(str(series)) and error.fix in text, text
        assert {ends.pop("evaluate"), *ends.values()} == {programs.VALUE, error.rule}, (text, ends)
        return error.rule
    assert np.isfinite(volume.array).all() and np.isfinite(volume.affine).all(), folder
    np.savez(folder / "ours.npz", array=volume.array, affine=volume.affine)
    return "read"


def compare(folder: pathlib.Path, made: dict[str, str], peer: str) -> int:
    """Prints how the peer read the series that the product read; returns how many differ."""
    counts: collections.Counter[str] = collections.Counter()
    outcomes = json.loads((folder / f"{peer}.json").read_text())
    differing = []
    for name, what in made.items():
        ours, theirs = folder / name / "ours.npz", folder / name / f"{peer}.npz"
        if not ours.exists():
            counts["refused here"] += 1
        elif not theirs.exists():
            counts["refused there"] += 1
        else:
            difference = _difference(*(dict(np.load(path)) for path in (ours, theirs)))
            counts["read alike" if difference is None else "read otherwise"] += 1
            if difference is not None:
                differing.append(f"  {name} ({what}): {difference}; {outcomes[name]}")
    print(
        f"{peer}: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())),
        flush=True,
    )
    print("\n".join(differing), end="\n" if differing else "", flush=True)
    return len(differing)


def _difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> str | None:
    """Returns how two readings differ; None if each voxel has the same value and position in both.

    They may run along z in opposite directions.
    """
    array, affine = theirs["array"].astype(np.float64), theirs["affine"]
    if array.shape != ours["array"].shape:
        return f"{ours['array'].shape} voxels here, {array.shape} there"
    if np.dot(affine[:3, 2], ours["affine"][:3, 2]) < 0:
        array = array[:, :, ::-1]
        affine = affine @ np.array(
            [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, array.shape[2] - 1], [0, 0, 0, 1.0]]
        )
    corners = np.array(
        [
            [x, y, z, 1]
            for x in (0, array.shape[0] - 1)
            for y in (0, array.shape[1] - 1)
            for z in (0, array.shape[2] - 1)
        ]
    )
    apart = float(np.abs(corners @ (affine - ours["affine"]).T).max())
    if apart > _MM + 0.002 * np.abs(affine[:3, :3]).max() * max(array.shape):
        return f"a corner lies {apart:.3g} mm apart"
    # SimpleITK gives all slices the type of the first and truncates fractions of the others
    allowed = 1.0 if theirs["array"].dtype.kind in "iu" else _HU
    values = np.abs(array - ours["array"]) > allowed + 1e-6 * np.abs(array)
    values &= ours["array"] != _AIR_HU
    return f"{np.count_nonzero(values)} voxels have other values" if values.any() else None


def read_all(folder: pathlib.Path, read: Any) -> None:
    """Reads every series that the product read with a peer.

    The volumes go into <peer>.npz beside the series, the outcomes into <peer>.json.
    """
    outcomes, peer = {}, read.__name__.strip("_")
    for case in sorted(path.parent for path in folder.glob("*/ours.npz")):
        try:
            array, affine = read(case / "series")
            np.savez(case / f"{peer}.npz", array=array, affine=affine)
            outcomes[case.name] = "read"
        except Exception as error:  # after any error, the peer has not read it
            outcomes[case.name] = f"{type(error).__name__}: {str(error)[:200]}"
    (folder / f"{peer}.json").write_text(json.dumps(outcomes))


def _simpleitk(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the series with the most files, or this file if there is only one."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    files = sorted(map(str, folder.iterdir()))
    if len(files) > 1:
        listed = [
            SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
            for uid in SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        ]
        files = max(listed, key=len)
    reader = SimpleITK.ImageSeriesReader() if len(files) > 1 else SimpleITK.ImageFileReader()
    reader.SetFileNames(files) if len(files) > 1 else reader.SetFileName(files[0])
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).T, np.diag([-1.0, -1, 1, 1]) @ affine


def _pydicom(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads as short scripts do.

    Every file that pydicom parses and that has pixels counts, sorted along the normal of the first.
    """
    import pydicom
    from pydicom.pixels import apply_rescale

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    slices = []
    for path in sorted(folder.iterdir()):
        ds = pydicom.dcmread(path, force=True)
        if "PerFrameFunctionalGroupsSequence" in ds:
            slices += _frames(ds)
        elif "PixelData" in ds:
            slices.append((ds, apply_rescale(ds.pixel_array, ds)))
    orientation = np.reshape([float(v) for v in slices[0][0].ImageOrientationPatient], (2, 3))
    normal = np.cross(*orientation)
    slices.sort(
        key=lambda one: float(np.dot([float(v) for v in one[0].ImagePositionPatient], normal))
    )
    first, last = (
        np.array([float(v) for v in slices[end][0].ImagePositionPatient]) for end in (0, -1)
    )
    rows, columns = (float(v) for v in slices[0][0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, :3] = np.stack(
        [orientation[0] * columns, orientation[1] * rows, (last - first) / (len(slices) - 1)],
        axis=1,
    )
    affine[:3, 3] = first
    return np.stack([pixels.T for _, pixels in slices], axis=-1), np.diag([-1.0, -1, 1, 1]) @ affine


def _frames(ds: Any) -> list[tuple[Any, np.ndarray]]:
    import pydicom

    shared, found = ds.SharedFunctionalGroupsSequence[0], []
    scale = shared.PixelValueTransformationSequence[0]
    for frame, pixels in zip(ds.PerFrameFunctionalGroupsSequence, ds.pixel_array, strict=True):
        one = pydicom.Dataset()
        one.ImagePositionPatient = frame.PlanePositionSequence[0].ImagePositionPatient
        one.ImageOrientationPatient = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        one.PixelSpacing = shared.PixelMeasuresSequence[0].PixelSpacing
        found.append((one, pixels * float(scale.RescaleSlope) + float(scale.RescaleIntercept)))
    return found


if __name__ == "__main__":
    sys.exit(main())
