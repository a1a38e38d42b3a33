import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from absl import flags as absl_flags

from experiments import flag_files, setting_flags
from experiments.configuration import ExperimentConfig
from preprocessing import manifest, nifti
from preprocessing.manifest import Case, CaseManifest
from preprocessing.volume import Volume
from runkit import atomic
from tests.preprocessing.corpus_files import AFFINE, CT, LABEL

ROOT = pathlib.Path(__file__).parents[2]


def start(program, *flags):
    return subprocess.run(
        [sys.executable, "-m", program, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run(program, *flags):
    done = start(program, *flags)
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
    flags = ["--flagfile=experiments/flagfiles/demo.flags", "--seed=7", f"--reports={files}"]
    outputs = [f"--output={folder / 'both.html'}", f"--plan={folder / 'plan.flags'}"]
    return folder, run("experiments.compare_cohorts", *flags, *outputs)


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


def settings_of(path):
    values = absl_flags.FlagValues()
    setting_flags.define(ExperimentConfig, into=values)
    flag_files.parse(values, ["program", f"--flagfile={path}"])
    return ExperimentConfig(**setting_flags.values(ExperimentConfig, values))


def test_the_plan_is_a_flag_file_that_changes_five_settings_of_the_given_ones(reports):
    folder, printed = reports
    plan, demo = (
        settings_of(path)
        for path in (folder / "plan.flags", ROOT / "experiments" / "flagfiles" / "demo.flags")
    )
    changed = {key for key, value in plan.to_json().items() if value != demo.to_json()[key]} - {
        "profile",
        "seed",
    }
    assert changed <= {"spacing_mm", "window_hu", "patch_size", "batch_size", "class_prior"}
    assert (plan.profile, plan.seed) == ("planned", 7)
    # All six scans have one spacing, that of the corpus.
    spacing = np.round(np.linalg.norm(AFFINE[:3, :3], axis=0), 1)
    np.testing.assert_allclose(plan.spacing_mm, spacing)
    lines = (folder / "plan.flags").read_text().splitlines()
    assert "# Proposed by experiments.compare_cohorts from the reports of C1, C2." in lines
    for line in lines:
        if line.startswith("# - spacing_mm"):
            assert "median over 6 scans" in line and "nnU-Net, Isensee et al. 2021" in line
    assert "--spacing_mm=" in printed.partition("Proposed for all sites:")[2]
    assert "Proposed for all sites" in (folder / "both.html").read_text()


def test_reports_of_an_earlier_release_are_compared_and_no_plan_is_made_of_them(reports, tmp_path):
    folder, _ = reports
    older = {**json.loads((folder / "C2" / "cohort.json").read_text()), "format": 1}
    del older["sums"]
    atomic.write_json(tmp_path / "older.json", older)
    atomic.write_json(tmp_path / "third.json", {**older, "site": "C3"})
    files = [folder / "C1" / "cohort.json", tmp_path / "older.json", tmp_path / "third.json"]
    compared = run(
        "experiments.compare_cohorts",
        f"--reports={','.join(map(str, files))}",
        f"--output={tmp_path / 'three.html'}",
    )
    assert "tumour is labelled at C2 only" in compared and "labelled at C3 only" in compared
    assert "no plan can be proposed: the report of site C2 has format 1" in compared
    page = (tmp_path / "three.html").read_text()
    assert "Cohorts of C1 and C2 and C3" in page and 'polyline class="three"' in page
    done = start(
        "experiments.compare_cohorts",
        f"--reports={folder / 'C1' / 'cohort.json'},{tmp_path / 'older.json'}",
        f"--plan={tmp_path / 'plan.flags'}",
    )
    assert done.returncode == 1 and not (tmp_path / "plan.flags").exists()
    assert done.stderr.count("\n") == 1
    assert "site C2 has format 1, which holds no sums" in done.stderr
