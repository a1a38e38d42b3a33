"""Reports of cohorts as text and as pages."""

from experiments.reports import cohort_page
from preprocessing.checks import cohort
from tests.preprocessing.checks.test_cohort import finding


def report(site, volumes, tumour_ml=None):
    found = [
        finding(number, pancreas_ml=volume, tumour_ml=tumour_ml)
        for number, volume in enumerate(volumes)
    ]
    return cohort.summarise(site, found, {"training": 3, "validation": 1, "test": 1})


ONE = report("C1", [61.0, 83.0, 72.0, 95.0, 118.0])
TWO = report("C2", [61.0, 62.0, 63.0, 64.0, 65.0], tumour_ml=9.0)


def test_the_table_has_a_column_per_site_below_its_name():
    lines = cohort_page.text_table([ONE, TWO]).splitlines()
    assert lines[0].split() == ["C1", "C2"]
    column = lines[0].index("C2")
    assert all(line[column - 2 : column].strip() == "" for line in lines if len(line) > column)
    (cases,) = [line for line in lines if line.startswith("cases with tumour")]
    assert cases[column:].strip() == "3 to 5" and cases.count("fewer than 3") == 1


def test_bars_are_relative_to_the_largest_count_and_the_smallest_is_visible():
    text = cohort_page.text_histograms([ONE, TWO])
    titles = [line for line in text.splitlines() if not line.startswith("  ")]
    assert any(title.startswith("pancreas: HU of its voxels, -200 to 400 HU") for title in titles)
    hu = text.splitlines()[text.splitlines().index(titles[1]) + 1]
    bars = hu.split("|")[1]
    # all voxels have 100 HU: one full bar in the 31st bin of 10 HU from -200
    assert bars.index("█") == 30 and bars.replace("█", "").strip() == ""
    assert cohort_page.text_histograms([report("C1", [])]) == ""


def test_the_page_of_two_sites_shows_what_differs():
    page = cohort_page.page([ONE, TWO])
    assert "Cohorts of C1 and C2" in page and "tumour is labelled at C2 only" in page
    alone = cohort_page.page([ONE])
    assert "Cohort of C1" in alone and "<h2>Differences</h2>" not in alone
    assert alone.count("<svg") == 2  # the pancreas: volume and HU
