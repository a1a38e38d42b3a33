import json
import re

import pytest

from tests.experiments.programs import refused, run
from tests.preprocessing import corpus


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A checked site: a good case, a flipped label, missing files, and a thin DICOM series."""
    folder = tmp_path_factory.mktemp("site")
    kinds = {kind.name: kind for kind in (*corpus.MALFORMED, *corpus.VALID)}
    cases = []
    for name, kind in (
        ("good", "DICOM as RLE"),
        ("flipped", "label's voxels mirrored left-right"),
        ("gap", "missing slice"),
    ):
        listed = json.loads(corpus.write_kind(kinds[kind], folder / name).read_text())["cases"][0]
        cases.append(
            {
                "case_id": name,
                "image": f"{name}/{listed['image']}",
                "label": f"{name}/{listed['label']}",
            }
        )
    cases.append({"case_id": "gone", "image": "gone.nii.gz", "label": "gone_label.nii.gz"})
    (folder / "manifest.json").write_text(json.dumps({"site": "C2", "cases": cases}))
    flags = [f"--manifest={folder / 'manifest.json'}", f"--site_folder={folder / 'out'}"]
    return folder, {
        strict: run("prepare", "--check", *flags, "--workers=1", f"--strict={str(strict).lower()}")
        for strict in (True, False)
    }


def test_strict_makes_a_refused_case_the_exit_code(checked):
    _, runs = checked
    assert (runs[True].returncode, runs[False].returncode) == (1, 0), runs[True].stderr
    assert (
        "4 cases checked: 3 refused" in runs[True].stdout and "Traceback" not in runs[True].stderr
    )


def test_the_json_names_rule_file_and_way_out(checked):
    folder, _ = checked
    report = json.loads((folder / "out/check/check.json").read_text())
    assert {f["case_id"]: [p["rule"] for p in f["problems"]] for f in report["findings"]} == {
        "good": [],
        "flipped": ["C06"],
        "gap": ["D04"],
        "gone": ["F01"],
    }
    assert report["findings"][1]["problems"][0]["file"].endswith("flipped/label.nii.gz")
    assert (
        report["findings"][0]["spacing_mm"] == [3, 3, 5] and report["findings"][0]["axes"] == "RAS"
    )
    assert report["rules"] == {"C06": 1, "D04": 1, "F01": 1}
    assert not (folder / "out/cases").exists()  # nothing was prepared


def test_the_page_stands_alone_and_shows_every_case_that_can_be_shown(checked):
    folder, _ = checked
    page = (folder / "out/check/check.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 2 and page.count("no picture") == 2
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    assert "prefers-color-scheme: dark" in page


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--site_folder=x"], "--manifest is missing: the site's list of scans"),
        (["--manifest=none.json", "--site_folder=x"], "none.json: "),
    ],
)
def test_a_missing_list_of_scans_is_named(flags, words, tmp_path):
    assert refused("prepare", *flags, folder=tmp_path).startswith(words)
