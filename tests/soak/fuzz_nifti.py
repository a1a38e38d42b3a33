"""Mutated NIfTI files through every program that reads scans: each ends in a value or in a rule with its file.

    .venv/py3.11/bin/python -m tests.soak.fuzz_nifti --files=1500 --peers_python=.venv/peers/bin/python

Each mutated file, every third one a label, is read by what the programs call: `pipeline.plan` and `prepare_case` (prepare),
`survey.look_at` (prepare --check, cohort_report), `predict_scan` with a network of thresholds (predict) and `case_rows.of_files`
(evaluate). An IntegrityError or a value is an end; anything else, also a finding of rule F09 that is a programming error, is counted and fails.
A few go through the programs themselves, as processes.

With an interpreter that has SimpleITK (requirements-segmentation.txt), it reads the same files. Where both read one, voxels and the places of the
corners must agree, or ours must have refused.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np

_SETTINGS = {"target_mm": [4.0, 4.0, 5.0], "window_hu": [-200.0, 250.0], "label_values": None}
_LABEL_EVERY = 3  # files; the others are scans
_UNFORESEEN = "an unforeseen"


def is_label(number: int) -> bool:
    return number % _LABEL_EVERY == _LABEL_EVERY - 1


def fuzz(folder: pathlib.Path, files: int, seed: int = 1) -> tuple[collections.Counter[str], list[str]]:
    """Returns how often each end was met, and what ended in something else. The mutated files stay in the folder."""
    from preprocessing.manifest import Case
    from preprocessing.rules import IntegrityError
    from tests.preprocessing.nifti_fuzz import mutations, whole_files

    ends: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    contents = whole_files(folder)
    plain = [folder / "plain_image.nii", folder / "plain_label.nii"]
    for path, content in zip(plain, contents, strict=True):
        path.write_bytes(content)
    streams = [mutations(content, seed + i) for i, content in enumerate(contents)]
    for number in range(files):
        what, content = next(streams[is_label(number)])
        path = folder / f"{number:05d}.nii.gz"
        path.write_bytes(content)
        path.with_suffix(".txt").write_text(what)
        case = Case("case", *((plain[0], path) if is_label(number) else (path, plain[1])))
        for program, run in _programs(case, path, folder).items():
            try:
                refused = run()
            except IntegrityError as error:
                refused = error
            except Exception as error:
                wrong.append(f"{path.name} ({what}), {program}: {type(error).__name__}: {error}")
                continue
            ends[f"{program}: {'a value' if refused is None else refused.rule}"] += 1
            if refused is not None and (_UNFORESEEN in str(refused) or not pathlib.Path(refused.file).is_relative_to(folder)):
                wrong.append(f"{path.name} ({what}), {program}: {refused}")
    return ends, wrong


def _programs(case, path: pathlib.Path, folder: pathlib.Path) -> dict[str, Callable]:
    """Returns program -> what it does with one case; each returns the rule that is broken, or None, or raises it."""
    from c2fnas.sliding_window import WindowConfig
    from experiments import case_rows, scan_prediction
    from preprocessing import budget, nifti, survey
    from preprocessing.case_preparation import prepare_case
    from preprocessing.rules import IntegrityError

    def prepare():
        budget.case_need(case, _SETTINGS["target_mm"])
        outcome = prepare_case(case, folder / "store", _SETTINGS)
        return IntegrityError(outcome["rule"], outcome["file"], outcome["problem"], "") if "rule" in outcome else None

    def check():
        errors = survey.look_at(case).errors
        return errors[0] if errors else None

    def predict():
        settings = scan_prediction.Settings(spacing_mm=(6.0, 6.0, 10.0), window_hu=(-200.0, 250.0), window=WindowConfig((16, 16, 8), 0.25))
        scan_prediction.predict_scan(path, folder / "mask.nii.gz", _threshold, settings)
        nifti.read_labels(folder / "mask.nii.gz")

    def evaluate():
        try:
            case_rows.of_files(path, folder / "plain_label.nii", None, 2.0)
        except ValueError as error:
            if type(error) is not ValueError or "are two grids" not in str(error):
                raise

    return {"prepare": prepare, "check": check, **({"evaluate": evaluate} if path == case.label else {"predict": predict})}


def _threshold(patches: np.ndarray) -> np.ndarray:
    """Three logits per voxel: pancreas above 25 HU, tumour above 160."""
    return np.concatenate([np.zeros_like(patches), 4 * patches, 8 * patches - 2.4], axis=-1)


def compare(folder: pathlib.Path, files: int, peers_python: str) -> tuple[collections.Counter[str], list[str]]:
    """Returns how often both readers read, refused or differed, and what differed."""
    from preprocessing import nifti, rules
    from preprocessing.rules import IntegrityError

    paths = [folder / f"{number:05d}.nii.gz" for number in range(files) if not is_label(number)]
    (folder / "list.json").write_text(json.dumps([str(path) for path in paths]))
    subprocess.run([peers_python, "-m", "tests.soak.fuzz_nifti", f"--read={folder / 'list.json'}"], check=True, stderr=subprocess.DEVNULL)
    theirs = json.loads((folder / "list.json.read").read_text())
    counts: collections.Counter[str] = collections.Counter()
    differing: list[str] = []
    for path, their in zip(paths, theirs, strict=True):
        try:
            ours = nifti.read_ct(path)
        except IntegrityError:
            counts["ours refuses, SimpleITK reads" if their else "both refuse"] += 1
            continue
        if not their:
            counts["ours reads, SimpleITK refuses"] += 1
            continue
        with np.load(their["voxels"]) as file:
            voxels = file["voxels"]
        while voxels.ndim > 3 and voxels.shape[-1] == 1:
            voxels = voxels[..., 0]
        corners = np.array(np.meshgrid(*((0, n - 1) for n in ours.shape), indexing="ij")).reshape(3, -1)
        place = ours.affine[:3, :3] @ corners + ours.affine[:3, 3:]
        there = np.array(their["affine"])
        problem = ""
        if voxels.shape != ours.shape:
            problem = f"shape {voxels.shape}, ours {ours.shape}"
        elif not np.allclose(voxels, ours.array, rtol=1e-5, atol=1e-2):
            problem = f"voxels differ by up to {np.abs(voxels - ours.array).max():g}"
        else:
            apart = np.linalg.norm(there[:3, :3] @ corners + there[:3, 3:] - place, axis=0).max()
            if not apart <= rules.MISPLACED_VOXELS * min(ours.spacing_mm):
                problem = f"a corner lies {apart:.3g} mm apart"
        counts["both read and agree" if not problem else "both read and DIFFER"] += 1
        if problem:
            differing.append(f"{path.name} ({path.with_suffix('.txt').read_text()}): {problem}")
    return counts, differing


def _read_with_simpleitk(listed: pathlib.Path) -> None:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    found = []
    for path in map(pathlib.Path, json.loads(listed.read_text())):
        try:
            image = SimpleITK.ReadImage(str(path), SimpleITK.sitkFloat64)
            if image.GetDimension() == 4 and image.GetSize()[3] == 1:
                image = image[:, :, :, 0]
            if image.GetDimension() != 3 or np.prod(image.GetSize()) > 2e7:
                raise RuntimeError("not one volume")
        except RuntimeError:
            found.append(None)
            continue
        affine = np.eye(4)
        affine[:3, :3] = np.diag([-1, -1, 1]) @ np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
        affine[:3, 3] = np.diag([-1, -1, 1]) @ image.GetOrigin()
        voxels = path.with_suffix(".npz")
        np.savez(voxels, voxels=SimpleITK.GetArrayViewFromImage(image).transpose(2, 1, 0))
        found.append({"affine": affine.tolist(), "voxels": str(voxels)})
    pathlib.Path(f"{listed}.read").write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peers_python", help="interpreter of an environment with SimpleITK; without it the readers are not compared")
    parser.add_argument("--read", help="what the peer's process does itself: read the files of this list")
    flags = parser.parse_args()
    if flags.read:
        _read_with_simpleitk(pathlib.Path(flags.read))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ends, wrong = fuzz(folder, flags.files, flags.seed)
        for end, count in sorted(ends.items()):
            print(f"{count:6d}  {end}")
        print(f"{flags.files} files, {len(wrong)} ends that are neither a value nor a rule", *wrong[:50], sep="\n")
        differing: list[str] = []
        if flags.peers_python:
            counts, differing = compare(folder, flags.files, flags.peers_python)
            for end, count in sorted(counts.items()):
                print(f"{count:6d}  {end}")
            print(*differing[:50], sep="\n")
    sys.exit(bool(wrong or differing))


if __name__ == "__main__":
    main()
