"""Runs the programs on a cohort of thousands of odd scans and labels.

    .venv/py3.11/bin/python -m tests.soak.odd_cohort --series=1000 --files=1000

The programs are prepare, prepare --check, cohort_report, predict and evaluate. Each is started
once, predict with a small real network. Every third mutated NIfTI file is a label. A good case
comes first, in the middle and last. Every case must end in a value or in one rule with a file of
the cohort, and the good ones in a value. No program may print a stack trace or change an input.
"""

from __future__ import annotations

import argparse
import collections
import csv
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np

from tests.soak import cost

_ROOT = pathlib.Path(__file__).parents[2]
_SECONDS = 0.25  # per scan, in all programs
_GOOD = ("a_good", "m_good", "z_good")
_START_S = 60  # of the programs
_LABEL_EVERY = 3


def write(folder: pathlib.Path, series: int, files: int, first: int = 0) -> list[str]:
    """Writes scans, labels and manifest of a cohort and returns the case ids.

    No two scans and no two labels are the same.
    """
    from preprocessing import nifti
    from preprocessing.volume import Volume
    from tests.preprocessing import corpus_files, dicom_mutations, nifti_fuzz

    cases = []
    for sub in ("scans", "labels"):
        (folder / sub).mkdir(parents=True)

    def case(name: str, image: str) -> pathlib.Path:
        cases.append({"case_id": name, "image": f"scans/{image}", "label": f"labels/{name}.nii.gz"})
        return folder / cases[-1]["label"]

    def another(label: np.ndarray, number: int) -> np.ndarray:
        label, places = label.copy(), np.argwhere(label == 1)
        for bit in range(14):  # no two labels are the same
            label[tuple(places[7 * bit % len(places)])] = 1 + (number >> bit & 1)
        return label

    for number in range(series):
        name = f"d{number:05d}"
        dicom_mutations.write(folder / "scans" / name, first + number, voxels=number)
        nifti.write_volume(
            case(name, name),
            Volume(another(dicom_mutations.label(), number), dicom_mutations.AFFINE),
        )
    rng = np.random.default_rng(first)
    for number in range(files + len(_GOOD)):
        good = number >= files
        name = _GOOD[number - files] if good else f"n{number:05d}"
        hu = corpus_files.CT.array + rng.integers(-3, 4, corpus_files.SHAPE)
        contents = nifti_fuzz.whole_files(
            folder, hu.astype(np.int16), another(corpus_files.LABEL.array, number)
        )
        odd = None if good else int(number % _LABEL_EVERY == _LABEL_EVERY - 1)
        paths = folder / "scans" / f"{name}.nii.gz", case(name, f"{name}.nii.gz")
        for which, (path, content) in enumerate(zip(paths, contents, strict=True)):
            mutated = (
                next(nifti_fuzz.mutations(content, first + number))[1] if which == odd else None
            )
            path.write_bytes(content if mutated is None else mutated)
    cases.sort(key=lambda one: one["case_id"])
    (folder / "manifest.json").write_text(json.dumps({"site": "C1", "cases": cases}))
    return [one["case_id"] for one in cases]


def run(folder: pathlib.Path, case_ids: list[str]) -> list[str]:
    """Starts the programs, prints how the cases ended, and returns the failures."""
    from tests.c2fnas import tiny

    model, site = folder / "model", folder / "site"
    tiny.save_model(model, spacing_mm=[4.0, 4.0, 5.0])
    before, wrong = _digests(folder), []
    manifest, workers = f"--manifest={folder / 'manifest.json'}", "--workers=2"
    programs = {
        "prepare": (
            [
                "prepare",
                manifest,
                f"--site_folder={site}",
                workers,
                "--spacing_mm=4,4,5",
                "--nostrict",
            ],
            _prepared,
        ),
        "check": (
            ["prepare", "--check", manifest, f"--site_folder={site}", workers],
            _findings("check/check.json"),
        ),
        "cohort": (
            ["cohort_report", manifest, f"--site_folder={site}", workers],
            _findings("cohort_cases.json"),
        ),
        "predict": (
            [
                "predict",
                f"--model={model}",
                f"--image={folder / 'scans'}",
                f"--output={folder / 'masks'}",
            ],
            _predicted,
        ),
        "evaluate": (
            [
                "evaluate",
                f"--prediction={folder / 'masks'}",
                f"--truth={folder / 'labels'}",
                f"--output={folder / 'scores'}",
                "--missing=skip",
            ],
            _evaluated,
        ),
    }
    for program, (command, ends_of) in programs.items():
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", f"experiments.{command[0]}", *command[1:]],
            cwd=_ROOT,
            env={**os.environ, "RUST_BACKTRACE": "0"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        ends = ends_of(folder)
        counts = collections.Counter(ends.values())
        print(
            f"{program}: {len(ends)} cases in {time.monotonic() - began:.0f} s, "
            f"exit code {done.returncode}: {dict(sorted(counts.items()))}"
        )
        said = done.stdout + done.stderr
        if done.returncode not in (0, 1) or "Traceback" in said or "an unforeseen" in said:
            wrong.append(f"{program}: exit code {done.returncode}: {said[-3000:]}")
        wrong += [f"{program}: {name}: no end" for name in sorted(set(case_ids) - set(ends))]
        wrong += [
            f"{program}: {name}: {end}"
            for name, end in ends.items()
            if end == "?" or (name in _GOOD and end != "a value")
        ]
        changed = [
            str(path)
            for path, digest in _digests(folder).items()
            if before.get(path, digest) != digest
        ]
        wrong += [f"{program}: changed {path}" for path in changed]
    return wrong


def _prepared(folder: pathlib.Path) -> dict[str, str]:
    refused = json.loads((folder / "site/cases/rejected.json").read_text())
    splits = json.loads((folder / "site/cases/index.json").read_text())["splits"]
    ends = {case_id: "a value" for ids in splits.values() for case_id in ids}
    return ends | {
        one["case_id"]: _rule(one["rule"], one["file"], one["problem"], folder) for one in refused
    }


def _findings(name: str):
    def ends(folder: pathlib.Path) -> dict[str, str]:
        document = json.loads((folder / "site" / name).read_text())
        assert document["finished"]
        found = {}
        for one in document["findings"]:
            errors = [problem for problem in one["problems"] if problem["severity"] == "error"]
            found[one["case_id"]] = (
                _rule(errors[0]["rule"], errors[0]["file"], errors[0]["problem"], folder)
                if errors
                else "a value"
            )
        return found

    return ends


def _predicted(folder: pathlib.Path) -> dict[str, str]:
    from preprocessing import names, rules

    with open(folder / "masks" / "volumes.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {}
    for row in rows:
        failed = row["note"].startswith("failed: ")
        rule = next(
            (rule.id for rule in rules.RULES if f"[{rule.id} {rule.name}]" in row["note"]), "?"
        )
        found[names.stem(row["scan"])] = (
            _rule(rule, row["note"].removeprefix("failed: "), row["note"], folder)
            if failed
            else "a value"
        )
        assert failed != (folder / "masks" / f"{names.stem(row['scan'])}.nii.gz").exists()
    return found


def _evaluated(folder: pathlib.Path) -> dict[str, str]:
    summary = json.loads((folder / "scores/summary.json").read_text())
    with open(folder / "scores" / "cases.csv", newline="") as stream:
        found = {row["case"]: "a value" for row in csv.DictReader(stream)}
    found |= dict.fromkeys(summary["without_mask"], "no mask")
    for name, problem in summary["failed"].items():
        rule = (
            problem.rpartition("[")[2].partition(" ")[0]
            if "[" in problem
            else "two grids"
            if "have different grids" in problem
            else "?"
        )
        found[name] = _rule(rule, problem, problem, folder)
    return found


def _rule(rule: str, file: str, problem: str, folder: pathlib.Path) -> str:
    return (
        rule
        if file.startswith(str(folder)) and "an unforeseen" not in problem and "\n" not in problem
        else "?"
    )


def _digests(folder: pathlib.Path) -> dict[pathlib.Path, str]:
    inputs = [
        folder / "manifest.json",
        *(
            path
            for sub in ("scans", "labels", "model")
            for path in sorted((folder / sub).rglob("*"))
        ),
    ]
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() for path in inputs if path.is_file()
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", type=int, default=1000, help="mutated DICOM series")
    parser.add_argument("--files", type=int, default=1000, help="mutated NIfTI files")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument(
        "--folder", help="folder in which the cohort is kept; otherwise it is deleted"
    )
    flags = parser.parse_args()
    warnings.simplefilter("ignore")
    scans = flags.series + flags.files
    cost.tell(f"{scans} scans", _START_S + _SECONDS * scans)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(flags.folder or temporary)
        wrong = run(folder, write(folder, flags.series, flags.files, flags.first))
    print(
        f"{flags.series} series, {flags.files} files, "
        f"{len(wrong)} ends that are neither a value nor a rule",
        *wrong[:50],
        sep="\n",
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
