"""Cases drawn from masks on disk, with their Dice by hand."""

import types

import numpy as np
import pytest

from experiments.reports import case_browser


def a_case(number, label):
    return types.SimpleNamespace(
        number=number,
        image=np.zeros(label.shape, np.float16),
        label=label,
        target_mm=(3.0, 3.0, 3.0),
    )


def test_a_site_draws_the_cases_it_has_masks_of_with_their_dice(tmp_path):
    label = np.zeros((20, 20, 6), np.uint8)
    label[5:9, 5:9, 2:4] = 1
    half = label.copy()
    half[5:7] = 0
    for number, model, mask in (
        (4, "FL_global", half),
        (4, "C1_baseline", label),
        (9, "FL_global", label),
        (11, "FL_global", half),
        (12, "FL_global", label),
    ):
        np.save(tmp_path / f"case{number:03d}.{model}.npy", mask)
    cases = [a_case(n, label) for n in (2, 4, 9, 11, 12)]
    figure = case_browser.first_cases(cases, tmp_path, "C1")
    words = [text.get_text() for text in figure.texts]
    # half of 32 voxels found: 2*16/(16+32); no tumour anywhere: nothing to score
    assert [word for word in words if word.startswith("P ")] == [
        "P 1.00   T –",
        "P 0.67   T –",
        "P 1.00   T –",
        "P 0.67   T –",
    ]
    assert [word for word in words if "case" in word and "," in word and "P" not in word] == [
        "C1, case 4",
        "C1, case 9",
        "C1, case 11",
    ]
    with pytest.raises(ValueError, match="site C1 has no predicted mask of its test cases yet"):
        case_browser.first_cases([a_case(2, label)], tmp_path, "C1")
