"""Reads mutated NIfTI files as every program does: each ends in a value or in a rule with its file.

    .venv/py3.11/bin/python -m tests.soak.fuzz_nifti --files=1500 \\
        --peers_python=.venv/peers/bin/python

Every third file is a label. Each is read by the functions that the programs call (`programs`
beside this file). Anything but a value or an IntegrityError counts as a failure, also a finding of
rule F09 that is a programming error. `odd_cohort` starts the programs themselves.

With a Python that has SimpleITK (requirements-segmentation.txt), SimpleITK reads the same files. If
both read one, voxels and positions of the corners must agree, or the product should have refused.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from tests.soak import cost

_SECONDS = 0.07  # per file
_LABEL_EVERY = 3  # every third file is a label, the others are scans


def is_label(number: int) -> bool:
    return number % _LABEL_EVERY == _LABEL_EVERY - 1


def fuzz(
    folder: pathlib.Path, files: int, seed: int = 1
) -> tuple[collections.Counter[str], list[str]]:
    """Returns the number of files per outcome, and the failures.

    The mutated files stay in the folder.
    """
    from preprocessing.case_list import Case
    from tests.preprocessing.nifti_fuzz import mutations, whole_files
    from tests.soak import programs

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
        found, other = programs.ends(case, path, folder, plain[1])
        ends.update(f"{program}: {end}" for program, end in found.items())
        wrong += [f"{path.name} ({what}), {line}" for line in other]
    return ends, wrong


def compare(
    folder: pathlib.Path, files: int, peers_python: str
) -> tuple[collections.Counter[str], list[str]]:
    """Returns how often both readers read, refused or differed, and the differences."""
    from preprocessing import nifti, rules
    from preprocessing.rules import IntegrityError

    paths = [folder / f"{number:05d}.nii.gz" for number in range(files) if not is_label(number)]
    (folder / "list.json").write_text(json.dumps([str(path) for path in paths]))
    subprocess.run(
        [peers_python, "-m", "tests.soak.fuzz_nifti", f"--read={folder / 'list.json'}"],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    theirs = json.loads((folder / "list.json.read").read_text())
    counts: collections.Counter[str] = collections.Counter()
    differing: list[str] = []
    for path, their in zip(paths, theirs, strict=True):
        try:
            ours = nifti.read_ct(path)
        except IntegrityError:
            counts["the product refuses, SimpleITK reads" if their else "both refuse"] += 1
            continue
        if not their:
            counts["the product reads, SimpleITK refuses"] += 1
            continue
        with np.load(their["voxels"]) as file:
            voxels = file["voxels"]
        while voxels.ndim > 3 and voxels.shape[-1] == 1:
            voxels = voxels[..., 0]
        corners = np.array(np.meshgrid(*((0, n - 1) for n in ours.shape), indexing="ij")).reshape(
            3, -1
        )
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
        affine[:3, :3] = (
            np.diag([-1, -1, 1])
            @ np.reshape(image.GetDirection(), (3, 3))
            @ np.diag(image.GetSpacing())
        )
        affine[:3, 3] = np.diag([-1, -1, 1]) @ image.GetOrigin()
        voxels = path.with_suffix(".npz")
        np.savez(voxels, voxels=SimpleITK.GetArrayViewFromImage(image).transpose(2, 1, 0))
        found.append({"affine": affine.tolist(), "voxels": str(voxels)})
    pathlib.Path(f"{listed}.read").write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--peers_python",
        help="Python of an environment with SimpleITK; without it the readers are not compared",
    )
    parser.add_argument("--read", help="list of the files that this process, the peer's, reads")
    flags = parser.parse_args()
    if flags.read:
        _read_with_simpleitk(pathlib.Path(flags.read))
        return
    cost.tell(f"{flags.files} files, without a peer", _SECONDS * flags.files)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ends, wrong = fuzz(folder, flags.files, flags.seed)
        for end, count in sorted(ends.items()):
            print(f"{count:6d}  {end}")
        print(
            f"{flags.files} files, {len(wrong)} ends that are neither a value nor a rule",
            *wrong[:50],
            sep="\n",
        )
        differing: list[str] = []
        if flags.peers_python:
            counts, differing = compare(folder, flags.files, flags.peers_python)
            for end, count in sorted(counts.items()):
                print(f"{count:6d}  {end}")
            print(*differing[:50], sep="\n")
    sys.exit(bool(wrong or differing))


if __name__ == "__main__":
    main()
