"""The rows of a site's cases, by hand: the image itself determines the network's answer."""

import dataclasses

import numpy as np
import pytest

from c2fnas.sliding_window import WindowConfig
from experiments.models.case_evaluation import CaseEvaluation
from preprocessing.volume import Grid

SHAPE = (6, 6, 6)
OF_THE_MASK = ("volume_ml", "components", "surface_volume_ratio", "score")
HEALTHY = {"pancreas": "complete", "tumour": "absent"}
MARGIN = 5.0  # of the winning class over the others


def logits(image):
    """In each voxel, the class written there wins; air around the volume is background."""
    classes = np.maximum(image[..., 0], 0).astype(int)
    return (MARGIN * np.eye(3, dtype=np.float32))[classes]


def volume(shape, blocks):
    """Returns uint8 voxels: 0, and each (class, block of slices) in turn."""
    array = np.zeros(shape, np.uint8)
    for class_, block in blocks:
        array[block] = class_
    return array


@dataclasses.dataclass
class Case:
    """Voxels of 2 mm on the training grid; the scan's own are half as long along x."""

    number: int
    answer: np.ndarray
    label: np.ndarray
    own_label: np.ndarray
    target_mm = (2.0, 2.0, 2.0)
    native = Grid((11, 6, 6), np.diag([1.0, 2.0, 2.0, 1.0]))

    @property
    def image(self):
        return self.answer.astype(np.float16)

    def native_label(self):
        return self.own_label


TWO = slice(1, 3)
# 8 voxels of pancreas and 2 of tumour are found, 12 and 0 are there.
MARKED = Case(
    3,
    answer=volume(SHAPE, [(1, (TWO, TWO, TWO)), (2, (4, 1, TWO))]),
    label=volume(SHAPE, [(1, (TWO, TWO, slice(1, 4)))]),
    own_label=volume((11, 6, 6), [(1, (slice(2, 5), TWO, TWO))]),
)
EMPTY = Case(7, *(np.zeros(shape, np.uint8) for shape in (SHAPE, SHAPE, (11, 6, 6))))
VALIDATION = dataclasses.replace(MARKED, number=5, label=MARKED.answer)


class Store:
    site = "C2"

    def __init__(self, declared):
        self.declared = declared


@pytest.fixture
def evaluation(tmp_path):
    def make(declared=None, **changes):
        return CaseEvaluation(
            Store(declared),
            {"test": [MARKED, EMPTY], "validation": [VALIDATION]},
            logits,
            WindowConfig(SHAPE),
            **{"examples": tmp_path / "examples", "example_cases": 1, "label": "C2", **changes},
        )

    return make


def named(rows):
    return [(row["model"], row["site"], row["case"], row["grid"]) for row in rows]


def test_test_cases_are_scored_on_both_grids(evaluation):
    rows = evaluation().rows("FL_global")
    assert named(rows) == [
        ("FL_global", "C2", case, grid) for case in (3, 7) for grid in ("training", "native")
    ]
    training, native, empty, _ = rows
    # a voxel has 8 mm3, and 125 voxels are the millilitre of the score
    expected = {
        "dice_pancreas": 2 * 8 / (8 + 12),
        "volume_ml_pancreas": 0.064,
        "truth_ml_pancreas": 0.096,
        "volume_error_ml_pancreas": -0.032,
        "dice_tumour": 0.0,
        "volume_ml_tumour": 0.016,
        "false_components_tumour": 1,
        "score_tumour": 2 * MARGIN / 125,
    }
    assert {column: training[column] for column in expected} == pytest.approx(expected)
    # A voxel half-way between two of one class has that class, else the background: 3 x 2 x 2
    # voxels of pancreas and 1 x 1 x 2 of tumour, of 4 mm3. The score is the patient's.
    expected = {
        "dice_pancreas": 1.0,
        "volume_ml_pancreas": 0.048,
        "volume_ml_tumour": 0.008,
        "score_tumour": 2 * MARGIN / 125,
    }
    assert {column: native[column] for column in expected} == pytest.approx(expected)
    assert (empty["dice_pancreas"], empty["dice_tumour"], empty["score_tumour"]) == (None, None, 0)


def test_masks_of_the_first_test_cases_are_kept_at_the_site(evaluation, tmp_path):
    evaluation().rows("FL_global")
    (kept,) = (tmp_path / "examples").iterdir()
    assert kept.name == "case003.FL_global.npy"
    np.testing.assert_array_equal(np.load(kept), MARKED.answer)
    evaluation(examples=tmp_path / "none", example_cases=0).rows("FL_global")
    assert not (tmp_path / "none").exists()


def test_a_site_without_tumours_adds_its_validation_cases_with_scores(evaluation):
    plain, healthy = (evaluation(declared).rows("m") for declared in (None, HEALTHY))
    assert healthy[:-1] == plain
    assert named(healthy[-1:]) == [("m", "C2", 5, "validation")]
    assert healthy[-1]["dice_tumour"] == 1.0
    assert healthy[-1]["score_tumour"] == pytest.approx(2 * MARGIN / 125)


@pytest.mark.parametrize(("declared", "scored"), [(None, False), (HEALTHY, True)])
def test_a_candidate_has_validation_rows_and_test_rows_on_the_training_grid(
    evaluation, tmp_path, declared, scored
):
    name = "C1_FL_local_r024"
    validation, *test = evaluation(declared, candidate_rounds=[12, 24]).rows(name)
    assert named([validation, *test]) == [
        (name, "C2", 5, "validation"),
        (name, "C2", 3, "training"),
        (name, "C2", 7, "training"),
    ]
    assert ("score_tumour" in validation) == scored
    assert [row["score_tumour"] for row in test] == pytest.approx([2 * MARGIN / 125, 0])
    assert not (tmp_path / "examples").exists()


@pytest.mark.parametrize("name", ["C1_FL_local_r023", "C9_FL_local_r001"])
def test_a_name_makes_no_candidate_of_a_model_that_is_none_by_the_plan(evaluation, name):
    """A server chooses the names of models, and must not get rows of validation cases by one."""
    as_others = evaluation().rows("FL_global")
    rows = evaluation(candidate_rounds=[12, 24]).rows(name)
    assert rows == [{**row, "model": name} for row in as_others]


@pytest.mark.parametrize("undrawn", ["pancreas", "tumour"])
def test_a_class_that_nobody_has_drawn_has_no_score_but_what_the_mask_holds(evaluation, undrawn):
    """Whether the mark is right is unknown: it must count neither as an error nor as correct."""
    declared = {**dict.fromkeys(("pancreas", "tumour"), "complete"), undrawn: "unlabelled"}
    for known, row in zip(evaluation().rows("m"), evaluation(declared).rows("m"), strict=True):
        of_mask = {f"{measure}_{undrawn}" for measure in OF_THE_MASK}
        for column, value in known.items():
            kept = not column.endswith(f"_{undrawn}") or column in of_mask
            assert row[column] == (value if kept else None), column
    lent = evaluation(declared, candidate_rounds=[24]).rows("C1_FL_local_r024")
    assert [row[f"dice_{undrawn}"] for row in lent] == [None] * 3
