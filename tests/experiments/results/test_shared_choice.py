"""The choice among a site's local models by every site's validation, by hand."""

import json

import pytest

from experiments.results import case_rows, table1_values
from experiments.results.shared_choice import candidate_rounds, choose, resolve


def row(model, site, case, grid, pancreas, tumour):
    keys = dict.fromkeys(case_rows.REQUIRED, 0.0)
    return {
        **keys,
        "model": model,
        "site": site,
        "case": case,
        "grid": grid,
        "dice_pancreas": pancreas,
        "dice_tumour": tumour,
    }


# Round 12 is the better one at C1, which has no tumours; round 24 at C2.
ROWS = [
    row("C1_FL_local_r012", "C1", 1, "validation", 0.9, None),
    row("C1_FL_local_r012", "C2", 2, "validation", 0.7, 0.0),
    row("C1_FL_local_r024", "C1", 1, "validation", 0.8, None),
    row("C1_FL_local_r024", "C2", 2, "validation", 0.7, 0.6),
    row("C1_FL_local_r012", "C2", 7, "training", 0.71, 0.01),
    row("C1_FL_local_r024", "C2", 7, "training", 0.72, 0.62),
    row("FL_global", "C2", 7, "training", 0.73, 0.63),
]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ((48, 4, 4), [12, 24, 36, 48]),
        ((48, 4, 6), [8, 16, 24, 32, 40, 48]),
        ((48, 4, 0), []),
        ((5, 2, 6), [2, 4, 5]),  # the last round has a validation always
        ((60, 1, 6), [10, 20, 30, 40, 50, 60]),
        ((7, 1, 3), [1, 4, 7]),
    ],
)
def test_candidates_are_evenly_apart_and_end_with_the_last_round(plan, expected):
    assert candidate_rounds(*plan) == expected


def test_the_mean_of_the_classes_over_all_sites_decides():
    # r012: ((0.9 + 0.7) / 2 + 0.0) / 2 = 0.4; r024: ((0.8 + 0.7) / 2 + 0.6) / 2 = 0.675
    assert choose(ROWS) == {"C1_FL_local": 24}
    alone = [line for line in ROWS if line["site"] == "C1"]
    assert choose(alone) == {"C1_FL_local": 12}  # what the site would choose by itself


def test_a_tumour_marked_in_a_healthy_patient_counts_against_a_candidate():
    rows = [
        *ROWS,
        row("C1_FL_local_r024", "C1", 3, "validation", 0.8, 0.0),
        row("C1_FL_local_r012", "C1", 3, "validation", 0.9, None),
    ]
    # r024's tumour is now (0.6 + 0) / 2 = 0.3 and its mean (0.7667 + 0.3) / 2 = 0.53
    assert choose(rows) == {"C1_FL_local": 24}
    assert choose([*rows, row("C1_FL_local_r012", "C2", 4, "validation", 0.9, 0.9)]) == {
        "C1_FL_local": 12
    }  # ((0.85) + 0.45) / 2 = 0.65


def test_a_candidate_that_a_site_has_not_scored_is_not_chosen():
    """Without C2's rows, r012 has a mean of 0.9, of the pancreas alone."""
    partial = [line for line in ROWS if (line["model"], line["case"]) != ("C1_FL_local_r012", 2)]
    assert choose(partial) == {"C1_FL_local": 24}
    other = [line for line in ROWS if (line["model"], line["case"]) != ("C1_FL_local_r024", 1)]
    assert choose(other) == {"C1_FL_local": 12}


def test_of_equals_the_later_round_is_taken_and_rows_sent_twice_count_once():
    same = [
        row("C1_FL_local_r012", "C1", 1, "validation", 0.5, None),
        row("C1_FL_local_r024", "C1", 1, "validation", 0.5, None),
    ]
    assert choose(same) == {"C1_FL_local": 24}
    again = [*ROWS, *[row("C1_FL_local_r012", "C2", 2, "validation", 0.7, 0.0)] * 9]
    assert choose(again) == {"C1_FL_local": 24}


def test_test_rows_of_the_chosen_one_stand_under_its_row_and_the_others_are_gone():
    found = resolve(ROWS)
    assert {line["model"] for line in found if line["grid"] == "validation"} == {
        "C1_FL_local_shared"
    }  # the healthy gate needs them
    test = [line for line in found if line["grid"] == "training"]
    assert [(line["model"], line["case"], line["dice_tumour"]) for line in test] == [
        ("C1_FL_local_shared", 7, 0.62),
        ("FL_global", 7, 0.63),
    ]
    assert test[0]["round"] == 24 and "round" not in test[1]
    assert resolve(found) == found


def test_rows_read_from_a_run_are_resolved_and_the_table_has_the_row_below_the_papers(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in ROWS))
    lines = table1_values.table(table1_values.read_rows(file))
    assert list(lines) == ["FL_global", "C1_FL_local_shared"]
    assert lines["C1_FL_local_shared"].percent["C2_tumour"] == 62.0
