"""Two sites compared from their reports alone."""

from tests.experiments.programs import refused


def test_two_sites_are_compared_from_their_reports_alone(cohort_reports):
    folder, printed = cohort_reports
    assert "tumour is labelled at C2 only" in printed
    page = (folder / "both.html").read_text()
    assert (
        "tumour is labelled at C2 only" in page
        and page.count("<svg") == 4
        and "<script" not in page
    )


def test_one_report_and_a_file_of_another_kind_are_refused(tmp_path, cohort_reports):
    folder, _ = cohort_reports
    error = refused("compare_cohorts", f"--reports={folder / 'C1' / 'cohort.json'}")
    only = folder / "C1" / "cohort.json"
    assert error.startswith(f"--reports names only {only}; expected two")
    (tmp_path / "x.json").write_text('{"cases": []}')
    both = f"--reports={folder / 'C1' / 'cohort.json'},{tmp_path / 'x.json'}"
    assert f"{tmp_path / 'x.json'}: not a cohort report" in refused("compare_cohorts", both)
    absent = f"--reports={folder / 'C1' / 'cohort.json'},{tmp_path / 'absent.json'}"
    assert refused("compare_cohorts", absent) == (
        f"{tmp_path / 'absent.json'}: no such file or directory; correct the path"
    )
