import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from preprocessing import manifest, nifti
from preprocessing.manifest import Case, CaseManifest
from preprocessing.volume import Volume
from tests.preprocessing.corpus_files import AFFINE, CT, LABEL

ROOT = pathlib.Path(__file__).parents[2]


def run(program, *flags):
    done = subprocess.run(
        [sys.executable, "-m", program, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The reports of a healthy site and of one with tumours, by their programs, and what the
    comparison printed.
    """
    folder = tmp_path_factory.mktemp("cohorts")
    for site, labels in (("C1", LABEL.array > 0), ("C2", LABEL.array)):
        cases = []
        for number in range(3):
            case = Case(
                f"{site}_secret_{number}",
                folder / site / f"i{number}.nii.gz",
                folder / site / f"l{number}.nii.gz",
            )
            label = labels.astype(np.uint8)
            label[28, 26, 14 + number] = 1
            nifti.write_volume(case.image, Volume(CT.array + np.int16(number), AFFINE))
            nifti.write_volume(case.label, Volume(label, AFFINE))
            cases.append(case)
        manifest.write(folder / site / "manifest.json", CaseManifest(site, tuple(cases)))
        printed = run("experiments.cohort_report", f"--manifest={folder / site / 'manifest.json'}", f"--site_folder={folder / site}", "--workers=1")  # fmt: skip
        assert "pancreas, ml" in printed and site in printed and "█" in printed
    files = ",".join(str(folder / site / "cohort.json") for site in ("C1", "C2"))
    return folder, run(
        "experiments.compare_cohorts", f"--reports={files}", f"--output={folder / 'both.html'}"
    )


def test_a_report_names_no_case_and_no_path(reports):
    folder, _ = reports
    for site in ("C1", "C2"):
        text = (folder / site / "cohort.json").read_text()
        assert json.loads(text)["cases"]["usable"] == 3
        assert "secret" not in text and str(folder) not in text and "nii" not in text
        assert not re.search(r"\d{4}-\d\d-\d\d", text)
        assert "secret" not in (folder / site / "cohort.html").read_text()


def test_two_sites_are_compared_from_their_reports_alone(reports):
    folder, printed = reports
    assert "tumour is labelled at C2 only" in printed
    page = (folder / "both.html").read_text()
    assert (
        "tumour is labelled at C2 only" in page
        and page.count("<svg") == 4
        and "<script" not in page
    )
