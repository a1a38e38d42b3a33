"""A sample of mutated NIfTI files.

`tests/soak/fuzz_nifti.py` runs thousands of them and compares the results with SimpleITK.
"""

import json
import pathlib
import subprocess
import sys

from tests.preprocessing.nifti_fuzz import mutations, whole_files
from tests.soak import fuzz_nifti

ROOT = pathlib.Path(__file__).parents[2]


def test_a_mutated_file_is_read_or_refused_by_a_rule_that_names_it(tmp_path):
    ends, wrong = fuzz_nifti.fuzz(tmp_path, 90, seed=7)
    assert wrong == []
    assert {
        f"{program}: a value" for program in ("prepare", "check", "predict", "evaluate")
    } <= set(ends)
    assert len({end.split(": ")[1] for end in ends}) >= 7  # rules of many kinds are met


def test_the_same_seed_gives_the_same_files(tmp_path):
    content, _ = whole_files(tmp_path)
    one, other, third = (mutations(content, seed) for seed in (3, 3, 4))
    files = [[next(stream) for _ in range(20)] for stream in (one, other, third)]
    assert files[0] == files[1] != files[2]


def test_a_cohort_of_mutated_files_goes_through_the_program(tmp_path):
    """With worker processes: the good case is examined, every other one is refused by a rule."""
    content, label = whole_files(tmp_path)
    cases, stream = [], mutations(content, 11)
    (tmp_path / "label.nii").write_bytes(label)
    for number in range(20):
        (tmp_path / f"{number}.nii.gz").write_bytes(next(stream)[1] if number else content)
        cases.append(
            {
                "case_id": f"c{number}",
                "image": f"{number}.nii.gz",
                "label": None if number else "label.nii",
            }
        )
    (tmp_path / "m.json").write_text(json.dumps({"site": "C1", "cases": cases}))
    for program, report in (
        ("prepare", "check/check.json"),
        ("cohort_report", "cohort_cases.json"),
    ):
        command = [
            sys.executable,
            "-m",
            f"experiments.{program}",
            f"--manifest={tmp_path / 'm.json'}",
            f"--site_folder={tmp_path / 'site'}",
        ]
        command += ["--workers=2", *(["--check"] if program == "prepare" else [])]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        found = json.loads((tmp_path / "site" / report).read_text())
        assert (
            found["finished"]
            and found["cases"] == 20
            and found["findings"][0]["usable"]
            and 0 < found["refused"] < 20
        )
        assert (
            f"{found['refused']} "
            in done.stdout.strip().splitlines()[-2] + done.stdout.strip().splitlines()[-1]
        )
        for finding in found["findings"]:
            assert finding["usable"] or finding["problems"][0]["file"].endswith(
                f"{finding['case_id'][1:]}.nii.gz"
            )
            assert all("unforeseen" not in problem["problem"] for problem in finding["problems"])
