import json

import numpy as np
import pytest

from preprocessing import manifest
from preprocessing.checks import survey
from tests.experiments.programs import run
from tests.preprocessing.corpus_files import both
from tests.preprocessing.layouts.test_pancreas_ct import HEALTHY, download


def test_the_nih_collection_becomes_a_manifest_that_passes_the_check(tmp_path):
    symmetric = np.zeros_like(HEALTHY)
    symmetric[20:44, 20:34, 8:20] = 1
    images, labels = download(
        tmp_path, {1: np.ascontiguousarray(HEALTHY[:, ::-1]), 3: symmetric, 25: HEALTHY}
    )
    done = run(
        "list_cases",
        "--layout=pancreas_ct",
        "--site=C1",
        f"--images={images}",
        f"--labels={labels}",
        f"--output={tmp_path / 'manifest.json'}",
    )
    assert done.returncode == 0, done.stderr
    assert (
        "PANCREAS_0003: excluded" in done.stdout
        and "N01" in done.stdout
        and "2 cases, 0 without label, 1 excluded" in done.stdout
    )
    found = manifest.read(tmp_path / "manifest.json")
    assert [case.case_id for case in found.included] == ["PANCREAS_0001"] and found.included[
        0
    ].label_turn is not None
    assert [finding.usable for finding in survey.survey(found)] == [True]


def test_files_of_two_folders_become_a_manifest(tmp_path):
    for name, folder in (("image", "ct"), ("label", "masks")):
        (tmp_path / folder).mkdir()
        both()(tmp_path)
        (tmp_path / f"{name}.nii.gz").rename(tmp_path / folder / "a.nii.gz")
    done = run(
        "list_cases",
        "--site=C2",
        f"--images={tmp_path / 'ct'}",
        f"--labels={tmp_path / 'masks'}",
        f"--output={tmp_path / 'manifest.json'}",
    )
    assert done.returncode == 0, done.stderr
    assert [
        finding.usable for finding in survey.survey(manifest.read(tmp_path / "manifest.json"))
    ] == [True]


@pytest.mark.parametrize(
    "flags",
    [["--site=C1"], ["--site=C1", "--images=nowhere", "--labels=nowhere", "--output=m.json"]],
)
def test_what_is_missing_is_one_clear_line(flags):
    done = run("list_cases", *flags)
    assert done.returncode == 1 and "Traceback" not in done.stderr and ("--images is missing" in done.stderr or "no such folder" in done.stderr)  # fmt: skip


def list_nifti(tmp_path, *, site="C1", labels="masks"):
    for folder in ("ct", "masks"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            (tmp_path / folder / f"{name}.nii.gz").touch()
    return run(
        "list_cases",
        f"--site={site}",
        f"--images={tmp_path / 'ct'}",
        f"--labels={tmp_path / labels}",
        f"--output={tmp_path / 'manifest.json'}",
    )


@pytest.mark.parametrize("labels", ["ct", "masks/../ct", "link"])
def test_one_folder_for_scans_and_labels_is_refused(tmp_path, labels):
    (tmp_path / "link").symlink_to(tmp_path / "ct")
    done = list_nifti(tmp_path, labels=labels)
    assert done.returncode == 1 and "a.nii.gz: is both the scan and the label" in done.stderr
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("site", ["C 1", "Köln", "server", "C1/", "x" * 33])
def test_a_name_that_no_federation_admits_is_refused_before_the_work(tmp_path, site):
    done = list_nifti(tmp_path, site=site)
    assert done.returncode == 1 and f"site name {site!r} cannot be used" in done.stderr
    assert not (tmp_path / "manifest.json").exists()


def test_an_edited_manifest_is_kept_beside_the_new_one(tmp_path):
    both()(tmp_path)
    for name, folder in (("image", "ct"), ("label", "masks")):
        (tmp_path / folder).mkdir()
        (tmp_path / f"{name}.nii.gz").rename(tmp_path / folder / "a.nii.gz")
    output = tmp_path / "manifest.json"
    flags = [f"--images={tmp_path / 'ct'}", f"--labels={tmp_path / 'masks'}", f"--output={output}"]
    assert run("list_cases", "--site=C2", *flags).returncode == 0
    first = output.read_bytes()
    again = run("list_cases", "--site=C2", *flags)
    assert again.returncode == 0 and "is kept" not in again.stdout
    assert sorted(tmp_path.glob("manifest.json*")) == [output]
    for number in (1, 2):
        edited = json.dumps({"edited": number})
        output.write_text(edited)
        done = run("list_cases", "--site=C2", *flags)
        kept = tmp_path / f"manifest.json.{number}"
        assert f"{output} was there and differs; it is kept as {kept}" in done.stdout
        assert kept.read_text() == edited and output.read_bytes() == first
