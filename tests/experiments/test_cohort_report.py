import json
import re


def test_a_report_names_no_case_and_no_path(cohort_reports):
    folder, _ = cohort_reports
    for site in ("C1", "C2"):
        text = (folder / site / "cohort.json").read_text()
        assert json.loads(text)["cases"]["usable"] == 3
        assert "secret" not in text and str(folder) not in text and "nii" not in text
        assert not re.search(r"\d{4}-\d\d-\d\d", text)
        assert "secret" not in (folder / site / "cohort.html").read_text()
