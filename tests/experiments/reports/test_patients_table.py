"""Measures of patients in words."""

from experiments.reports import patients_table


def measure(estimate, low, high, count):
    return {"estimate": estimate, "low": low, "high": high, "count": count}


def test_shares_are_counts_and_per_cents_and_the_rest_are_numbers():
    share = measure(6 / 7, 0.42, 0.996, 7)
    assert patients_table.cell(share, "sensitivity") == "6 of 7, 86 % [42, 100]"
    # a share of several trainings need not be of whole patients
    assert patients_table.cell(measure(0.5, 0.1, 0.9, 3), "specificity").startswith("1.5 of 3, ")
    assert patients_table.cell(measure(0.875, 0.5, 0.96, 16), "auc") == "0.88 [0.50, 0.96], n = 16"
    alarms = measure(2.0, 2.0, None, 4)
    assert patients_table.cell(alarms, "false_alarms") == "2.00 [2.00, –], n = 4"
    assert patients_table.cell(None, "auc") == "–"


def test_the_table_has_a_row_per_model_and_a_dash_for_what_is_missing():
    lines = patients_table.markdown(
        {"FL_global": {"sensitivity": measure(1.0, 0.5, 1.0, 4), "auc": None}, "C1_baseline": {}}
    ).splitlines()
    headings = lines[2].split(" | ")
    assert headings[1:] == [*list(patients_table.HEADINGS.values())[:-1], headings[-1]]
    assert lines[4] == "| FL_global | 4 of 4, 100 % [50, 100] | – | – | – | – |"
    assert lines[5] == "| C1_baseline |" + " – |" * len(patients_table.HEADINGS)
