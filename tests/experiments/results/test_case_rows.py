"""The type of a row and the columns that are written into one name the same numbers."""

import dataclasses
import typing

from c2fnas.scores.case_scores import ClassScores
from experiments.results import case_rows
from experiments.results.case_rows import CaseRow


def test_the_type_of_a_row_has_every_column_that_is_written():
    scores = ClassScores(**dict.fromkeys((f.name for f in dataclasses.fields(ClassScores)), 0.5))
    written = {*case_rows.columns(scores, "pancreas"), *case_rows.columns(scores, "tumour")}
    typed = set(typing.get_type_hints(CaseRow))
    assert written | set(case_rows.REQUIRED) | {case_rows.SCORE} <= typed
    assert set(case_rows.REQUIRED) == CaseRow.__required_keys__


def test_a_value_is_a_number_or_none():
    assert case_rows.value({"dice_tumour": 1}, "dice_tumour") == 1.0
    assert case_rows.value({"dice_tumour": None}, "dice_tumour") is None
    assert case_rows.value({}, "dice_tumour") is None
