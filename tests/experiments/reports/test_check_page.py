"""The result of a check: counts, findings as JSON, and text for the terminal."""

import dataclasses

from experiments.reports import check_page
from preprocessing import rules
from runkit import atomic
from tests.preprocessing.checks.test_cohort import finding


def findings():
    fault = rules.broken(rules.EMPTY, "l1.nii.gz", "no voxel is labelled")
    remark = rules.broken(rules.POOR_FIT, "l2.nii.gz", "fits <poorly>")
    return [
        finding(0, pancreas_ml=81.236),
        dataclasses.replace(finding(1), problems=(fault,), facts=None, picture=None),
        finding(2, problems=(remark,), tumour_ml=5.0),
    ]


def test_cases_are_counted_once_by_their_worst_problem():
    content = check_page.document("C2", findings(), finished=False)
    assert (content["cases"], content["refused"], content["with_warnings"]) == (3, 1, 1)
    assert content["rules"] == {rules.EMPTY.id: 1, rules.POOR_FIT.id: 1}
    assert content["finished"] is False and content["site"] == "C2"
    first, second, third = content["findings"]
    assert first["volume_ml"] == {"1": 81.24} and first["usable"] and first["problems"] == []
    assert "volume_ml" not in second and not second["usable"]
    assert second["problems"][0]["fix"] == rules.EMPTY.fix
    assert third["usable"] and third["problems"][0]["severity"] == "warning"


def test_the_terminal_gets_a_line_per_problem_and_the_counts():
    *lines, last = check_page.summary(findings()).splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["DOE_JANE_1", "DOE_JANE_2"]
    assert [line.split(": ")[1] for line in lines] == ["error", "warning"]
    assert last == "3 cases checked: 1 refused, 1 with warnings"


def test_files_hold_the_document_and_a_page_with_refused_cases_first(tmp_path):
    document, page = check_page.write(tmp_path, "C2", findings())
    assert atomic.read_json(document) == check_page.document("C2", findings())
    text = page.read_text(encoding="utf-8")
    places = [text.index(f"<b>DOE_JANE_{number}</b>") for number in (1, 2, 0)]
    assert places == sorted(places)
    assert "fits &lt;poorly&gt;" in text and "fits <poorly>" not in text
    assert text.count("no picture") == 1
