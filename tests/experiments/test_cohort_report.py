import json
import re

from tests import forked


def test_a_report_names_no_case_and_no_path(cohort_reports):
    folder, _ = cohort_reports
    for site in ("C1", "C2"):
        text = (folder / site / "cohort.json").read_text()
        assert json.loads(text)["cases"]["usable"] == 3
        assert "secret" not in text and str(folder) not in text and "nii" not in text
        assert not re.search(r"\d{4}-\d\d-\d\d", text)
        assert "secret" not in (folder / site / "cohort.html").read_text()


def test_a_report_that_replaces_another_one_warns_of_the_difference(tmp_path, cohort_reports):
    folder, _ = cohort_reports
    written = json.loads((folder / "C2" / "cohort.json").read_text())
    earlier = {**written, "cases": {**written["cases"], "usable": 2}, "hu": {}}
    (tmp_path / "cohort.json").write_text(json.dumps(earlier))
    done = forked.run(
        "experiments.cohort_report",
        f"--manifest={folder / 'C2' / 'manifest.json'}",
        f"--site_folder={tmp_path}",
        "--workers=1",
    )
    assert "of 3 usable cases, replaces a different one, of 2. Anyone with both" in done.stdout
    assert json.loads((tmp_path / "cohort.json").read_text()) == written
