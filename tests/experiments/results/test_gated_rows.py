"""The healthy gate in rows, against what a site would measure on the masks themselves."""

import json

import numpy as np
import pytest

from c2fnas.scores import case_scores, healthy_gate
from experiments.results import case_rows, gated_rows, table1_values

SCORES = {"C1": [0.0, 1.0, 2.0, 4.0], "C2": [3.0, 4.0, 4.5, 9.0]}


def row(model, site, case, grid, *, score=None, tumour=0.0, marked=True):
    keys = dict.fromkeys(case_rows.REQUIRED, 0.0)
    found = {
        **keys,
        "model": model,
        "site": site,
        "case": case,
        "grid": grid,
        "dice_pancreas": 0.8,
        "truth_ml_tumour": tumour,
    }
    found |= {
        "dice_tumour": 0.6 if tumour else 0.0,
        "volume_ml_tumour": 3.0 if marked else 0.0,
        "hd95_mm_tumour": 4.0,
    }
    found |= {
        "found_tumour": float(tumour > 0),
        "components_tumour": 1.0,
        "truth_components_tumour": float(tumour > 0),
    }
    return found if score is None else {**found, "score_tumour": score}


def rows(model="FL_global"):
    found = [
        row(model, "C1", 10 + i, "validation", score=score) for i, score in enumerate(SCORES["C1"])
    ]
    found += [
        row(model, "C2", 20 + i, "validation", tumour=5.0) for i in range(3)
    ]  # a site with tumours sends no scores of these
    found += [
        row(model, "C1", i, "training", score=score) for i, score in enumerate((3.9, 4.1), start=1)
    ]
    return found + [
        row(model, "C2", i, "training", score=score, tumour=5.0)
        for i, score in enumerate(SCORES["C2"], start=1)
    ]


def test_the_gate_is_the_healthy_validation_cases_order_statistic_and_counts_on_test_rows():
    assert {model: gate.threshold for model, gate in gated_rows.fit_gates(rows()).items()} == {
        "FL_global": 4.0
    }
    found = gated_rows.resolve(rows())
    assert not [line for line in found if line["grid"] == "validation"]
    gated = {
        (line["site"], line["case"]): line for line in found if line["model"] == "FL_global_gated"
    }
    assert [gated["C1", case]["volume_ml_tumour"] for case in (1, 2)] == [0.0, 3.0]
    assert [gated["C1", case]["dice_tumour"] for case in (1, 2)] == [
        None,
        0.0,
    ]  # nothing there and nothing marked does not count
    assert [gated["C2", case]["dice_tumour"] for case in (1, 2, 3, 4)] == [0.0, 0.0, 0.6, 0.6]
    assert [gated["C2", case]["score_tumour"] for case in (1, 2, 3, 4)] == [0.0, 0.0, 4.5, 9.0]
    assert all(
        line["dice_pancreas"] == 0.8 and line["gate_threshold"] == 4.0 for line in gated.values()
    )
    table = table1_values.table(found)
    assert table["FL_global"].percent["C2_tumour"] == pytest.approx(60.0)
    assert table["FL_global_gated"].percent["C2_tumour"] == pytest.approx(30.0)
    assert gated_rows.resolve(found) == found
    assert gated_rows.gates_of(found) == gated_rows.fit_gates(rows())


def test_a_stopped_row_is_what_the_mask_without_its_tumour_scores():
    rng = np.random.default_rng(4)
    for truth_has_one in (True, False):
        truth = np.zeros((12, 12, 12), np.uint8)
        truth[2:8, 2:8, 2:8] = 1
        if truth_has_one:
            truth[4:7, 4:7, 8:10] = 2
        mask = np.where(rng.random(truth.shape) < 0.05, 2, np.roll(truth, 1, axis=0)).astype(
            np.uint8
        )

        def measured(prediction, truth=truth):
            return case_rows.columns(case_scores.compare(prediction, truth, (3.0, 3.0, 3.0)))

        about = {"model": "m", "site": "C1", "case": 1, "grid": "training"}
        gate = healthy_gate.HealthyGate(threshold=1.0, patients=6)
        gated = gated_rows.gated({**about, **measured(mask), "score_tumour": 0.5}, gate)
        expected = measured(healthy_gate.without_tumour(mask))
        for column, value in expected.items():
            if column != "hd95_mm_tumour":
                assert gated[column] == (value if value is None else pytest.approx(value)), column
        assert "hd95_mm_tumour" not in gated


def test_too_few_healthy_patients_give_no_gate_and_rows_of_an_earlier_release_none_either():
    few = [line for line in rows() if not (line["grid"] == "validation" and line["case"] == 13)]
    assert gated_rows.fit_gates(few) == {} and {
        line["model"] for line in gated_rows.resolve(few)
    } == {"FL_global"}
    earlier = [
        {key: value for key, value in line.items() if key != "score_tumour"} for line in rows()
    ]
    assert {line["model"] for line in gated_rows.resolve(earlier)} == {"FL_global"}


def test_a_validation_case_with_a_tumour_does_not_fit_the_gate_whatever_its_site_says():
    odd = [*rows(), row("FL_global", "C1", 30, "validation", score=99.0, tumour=2.0)]
    assert gated_rows.fit_gates(odd)["FL_global"].threshold == 4.0


def test_the_chosen_candidate_has_a_gate_of_its_own_and_rows_stand_in_the_tables_order(tmp_path):
    found = [*rows("C1_FL_local_r012"), *rows("FL_global"), *rows("C1_baseline")]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in found))
    assert list(table1_values.table(table1_values.read_rows(file))) == [
        "C1_baseline", "FL_global", "C1_FL_local_shared", "C1_baseline_gated", "FL_global_gated", "C1_FL_local_shared_gated",
    ]  # fmt: skip
