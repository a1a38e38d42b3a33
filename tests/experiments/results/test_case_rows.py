"""The type of a row and the columns that are written into one name the same numbers."""

import dataclasses
import typing

import numpy as np
import pytest

from c2fnas.scores import case_scores
from c2fnas.scores.case_scores import ClassScores
from c2fnas.scores.healthy_gate import HealthyGate
from experiments.results import (
    case_rows,
    evaluation_table,
    gated_rows,
    measures,
    patients,
    report_words,
    table1_values,
)
from experiments.results.case_rows import CaseRow
from federated.site import answers


def test_the_type_of_a_row_has_every_column_that_is_written():
    scores = ClassScores(**dict.fromkeys((f.name for f in dataclasses.fields(ClassScores)), 0.5))
    written = set(case_rows.columns({1: scores, 2: scores}))
    typed = set(typing.get_type_hints(CaseRow))
    assert written | set(case_rows.REQUIRED) | {case_rows.SCORE} <= typed
    assert set(case_rows.REQUIRED) == CaseRow.__required_keys__


def test_the_filter_requires_the_numbers_that_every_row_has_as_their_types_say():
    hints = typing.get_type_hints(CaseRow)
    numbers = [name for name in case_rows.REQUIRED if name not in ("model", "site", "case", "grid")]
    assert set(report_words.REPORTS.required) == set(numbers)
    optional = {name for name in numbers if type(None) in typing.get_args(hints[name])}
    assert set(case_rows.NEVER_EMPTY) == set(numbers) - optional


def test_the_last_of_several_rows_of_a_case_on_a_grid_counts():
    one = {"model": "A", "site": "C1", "case": 1, "grid": "training", "dice_tumour": 0.1}
    again, native = {**one, "dice_tumour": 0.2}, {**one, "grid": "native"}
    assert case_rows.latest([one, again, native], "training") == {("A", "C1", 1): again}


def test_a_value_is_a_number_or_none():
    assert case_rows.value({"dice_tumour": 1}, "dice_tumour") == 1.0
    assert case_rows.value({"dice_tumour": None}, "dice_tumour") is None
    assert case_rows.value({}, "dice_tumour") is None


def test_a_patient_of_whom_nobody_has_drawn_tumours_is_neither_ill_nor_healthy():
    """At an unlabelled site, every mark may be a tumour, and every patient may have one."""
    mask, label = np.zeros((2, 4, 4, 4), np.uint8)
    mask[0, 0] = 2
    label[0, 1] = 1

    def row(case, undrawn, grid="training"):
        about = {"model": "A", "site": "C1", "case": case, "grid": grid, "score_tumour": 3.0}
        scores = case_scores.compare(mask, label, (1.0, 1.0, 1.0))
        return {**about, **case_rows.columns(scores, undrawn=undrawn)}

    unknown, healthy = row(1, ("tumour",)), row(2, ())
    assert [case_rows.has_tumour(one) for one in (unknown, healthy)] == [None, False]
    assert case_rows.marks_tumour(unknown) and unknown["truth_ml_tumour"] is None
    for one, counts in (([unknown, healthy], (1, 1)), ([unknown], None)):
        found = patients.of_rows(one)["A"]
        assert found["sensitivity"] is found["auc"] is None and found["froc"] == []
        for measure in ("specificity", "false_alarms"):
            assert (found[measure] and found[measure]["count"]) == (counts and counts[1])
        assert table1_values.false_tumours(one).get("A") == counts
        scores = measures.Scores([measures.Run(1, "c", one)])
        for measure in ("false_tumour", "false_alarms"):
            assert list(scores.of(["A"], measure)) == ([("c", "C1", 2)] if counts else [])
        assert table1_values.table(one)["A"].cases["C1_pancreas"] == len(one)
    validation = [row(case, ("tumour",), "validation") for case in range(9)]
    assert gated_rows.fit_gates(validation) == {}
    stopped = gated_rows.gated(unknown, HealthyGate(threshold=9.0, patients=4))
    assert stopped["volume_ml_tumour"] == stopped["components_tumour"] == 0.0
    assert [
        stopped[column]
        for column in ("dice_tumour", "found_tumour", "false_components_tumour", "nsd_tumour")
    ] == [None] * 4
    lines = evaluation_table.lines([unknown, healthy])
    dice = next(one for one in lines if (one["measure"], one["class"]) == ("dice", "tumour"))
    assert dice["cases"] == 1  # the healthy patient's false tumour, not the unknown one


@pytest.mark.parametrize("digits", [0, 1, 2, 3])
def test_whether_there_is_a_tumour_survives_the_rounding_of_a_site(digits):
    """Four voxels of 1 mm3 are 0.004 ml, which two digits make 0."""

    def row(model, grid, truth, marked, case=1):
        about = {"model": model, "site": "C1", "case": case, "grid": grid}
        masks = [np.zeros((4, 4, 4), np.uint8) for _ in range(2)]
        for mask, voxels in zip(masks, (marked, truth), strict=True):
            mask[0, 0, :voxels] = 2
        columns = case_rows.columns(case_scores.compare(*masks, (1.0, 1.0, 1.0)))
        return answers.rounded({**about, **columns, "score_tumour": 0.004 * marked}, digits)

    rows = [
        row("A", "training", 0, 4),
        row("A", "training", 0, 0, 2),
        row("A", "training", 4, 0, 3),
    ]
    assert [case_rows.has_tumour(one) for one in rows] == [False, False, True]
    assert [case_rows.marks_tumour(one) for one in rows] == [True, False, False]
    found = patients.of_rows(rows)["A"]
    assert found["specificity"]["estimate"] == 0.5 and found["specificity"]["count"] == 2
    assert found["sensitivity"]["estimate"] == 0.0 and found["sensitivity"]["count"] == 1
    assert table1_values.false_tumours(rows) == {"A": (1, 2)}
    marked = measures.Scores([measures.Run(1, "c", rows)]).of(["A"], "false_tumour", marked=True)
    assert marked == {("c", "C1", 1): 1.0, ("c", "C1", 2): 0.0}
    validation = [row("A", "validation", truth, 0, case) for case, truth in enumerate([0, 0, 0, 4])]
    assert gated_rows.fit_gates(validation) == {}  # three healthy patients; a gate needs four
    gate = HealthyGate(threshold=1.0, patients=4)
    assert gated_rows.gated(rows[2], gate)["dice_tumour"] == 0.0
