"""Fixtures that tests of several programs share; each is made once."""

import numpy as np
import pytest

from preprocessing import manifest, nifti
from preprocessing.case_list import Case, CaseManifest
from preprocessing.volume import Volume
from tests import forked
from tests.experiments import programs
from tests.experiments.study import SHALLOW, Study
from tests.preprocessing.corpus_files import AFFINE, CT, LABEL


def run(program, *flags):
    done = programs.run(program, *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def cohort_reports(tmp_path_factory):
    """The reports of a healthy site and of a site with tumours, and the printed comparison."""
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
        printed = run("cohort_report", f"--manifest={folder / site / 'manifest.json'}", f"--site_folder={folder / site}", "--workers=1")  # fmt: skip
        assert "pancreas, ml" in printed and site in printed and "█" in printed
    files = ",".join(str(folder / site / "cohort.json") for site in ("C1", "C2"))
    return folder, run("compare_cohorts", f"--reports={files}", f"--output={folder / 'both.html'}")


@pytest.fixture(scope="session")
def shallow(tmp_path_factory):
    """A study of the smallest network, without a VAE branch: its initial model, and the output."""
    made = Study(tmp_path_factory.mktemp("shallow"), genotype=SHALLOW)
    done = forked.run(
        "experiments.init_model", *made.flags(output=made.initial, vae="none", threads=1)
    )
    assert done.returncode == 0, done.stderr
    return made, done.stdout
