import csv
import dataclasses
import io
import json

import pytest

from experiments.configuration import ExperimentConfig
from experiments.reports import table1_report
from experiments.results import table1_values
from tests.experiments import run_folder

METADATA = {
    "profile": "demo",
    "seed": 2,
    "stack": "tensorflow 9.9",
    "configuration": run_folder.CONFIGURATION,
    "wall_seconds": {"cohort": 61.0, "baselines": 59.0},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run_folder.leave_traces(folder)
    table1_report.write(
        folder, run_folder.rows(), config=run_folder.CONFIGURATION, wall_seconds={"cohort": 61.0}, peak_memory_bytes=3 * 2**30,
        notes=["Data: a synthetic cohort."],
    )  # fmt: skip
    return folder


def table_cells(markdown, heading):
    """The cells of the first row that begins with `heading`."""
    (row, *_) = [line for line in markdown.splitlines() if line.startswith(f"| {heading} |")]
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def test_the_json_holds_what_decided_the_numbers_and_the_numbers(finished):
    content = json.loads((finished / "table1.json").read_text())
    keys = {
        "profile",
        "seed",
        "stack",
        "configuration",
        "rows",
        "contributing_cases",
        "cases",
        "findings",
        "patients",
        "wall_seconds",
        "peak_memory_bytes",
        "notes",
        "fingerprints",
        "devices",
    }
    assert set(content) == keys
    assert content["devices"] == {"C1": "Card A (15.8 GiB)", "C2": "Card A (15.8 GiB)"}
    assert set(content["rows"]) == {*table1_values.MODELS, "Average"}
    # C1_baseline: 85; 50; 0; (0.8+0.9+0.4+0.5+0.6)/5 = 64; 32
    assert content["rows"]["C1_baseline"] == {
        "C1_pancreas": pytest.approx(85), "C2_pancreas": pytest.approx(50), "C2_tumour": 0.0,
        "pancreas_average": pytest.approx(64), "average": pytest.approx(32),
    }  # fmt: skip
    assert content["contributing_cases"]["C1_baseline"]["pancreas_average"] == 5
    assert len(content["cases"]) == 5 * 5 * 2
    assert [finding["holds"] for finding in content["findings"].values()] == [
        True,
        True,
        True,
        True,
    ]
    assert content["stack"].startswith("tensorflow ") and "numpy" in content["stack"]
    assert (
        content["configuration"] == run_folder.CONFIGURATION
        and content["peak_memory_bytes"] == 3 * 2**30
    )


def test_the_markdown_puts_ours_beside_the_papers(finished):
    text = (finished / "table1.md").read_text()
    assert table_cells(text, "C1_baseline") == [
        "85.0 (81.5)",
        "50.0 (42.4)",
        "0.0 (0.0)",
        "64.0 (60.3)",
        "32.0 (30.1)",
    ]
    assert table_cells(text, "test cases") == ["2 (84)", "3 (100)", "3 (100)", "5 (184)", ""]
    # the mean of the five: C1 85, 55, 80, 75, 80; C2 50, 70, 70, 70, 70; tumour 0, 50, 40, 50, 40
    assert table_cells(text, "**Average**")[:3] == ["75.0 (78.3)", "66.0 (60.7)", "36.0 (38.3)"]
    assert "78.3, 60.9, 40.7, 68.9, 54.8" in text and "send gradients" in text and "Fig. 4" in text
    assert (
        "C2_baseline 2 of 2" in text and "C1_baseline 0 of 2" in text
    )  # false tumours in C1's healthy cases
    assert "42.5 | 25.0 | 0.0 |" in text  # the native grid's table
    assert "- Trained by C1 on Card A (15.8 GiB); C2 on Card A (15.8 GiB)." in text
    assert "Seed 2" in text and "3.0 GiB" in text and "Data: a synthetic cohort." in text
    for picture in (
        "figures/table1.png",
        "figures/training_curves.png",
        "figures/federation_timeline.png",
        "sites/C1/figures/comparison.png",
    ):
        assert f"({picture})" in text and (finished / picture).stat().st_size > 1000


def test_departures_are_what_differs_from_the_papers_flag_file_by_value(finished):
    found = table1_report.departures(run_folder.CONFIGURATION)
    assert {name: values for name, *values in found} == {
        "filters": ["8", "32"], "spacing_mm": ["3.0,3.0,3.0", "1.0,1.0,1.0"], "patch_size": ["48,48,48", "96,96,96"], "num_rounds": ["2", "60"]
    }  # fmt: skip
    text = (finished / "table1.md").read_text()
    assert table_cells(text, "`filters`") == ["8", "32"]
    assert table_cells(text, "`num_rounds`") == ["2", "60 †"]  # the paper gives no number of rounds
    paper = {
        "profile": "paper",
        "seed": 3,
        "filters": 32,
        "learning_rate": 1e-4,
        "patch_size": (96, 96, 96),
    }
    assert table1_report.departures(paper) == []


def test_every_setting_is_held_against_the_paper_unless_it_changes_no_model():
    fields = {field.name for field in dataclasses.fields(ExperimentConfig)}
    unlike = {
        "vae_rate": 0.5,
        "vae_weight": 0.5,
        "missing_labels": "restricted",
        "absence_evidence": True,
        "precision": "mixed_float16",
        "clip_norm": 1.0,
        "aggregation": "fedavgm:momentum=0.9,learning_rate=1.0",
    }
    assert {name for name, *_ in table1_report.departures(unlike)} == set(unlike)
    # what decides which run it is, how it is computed, what is done about accidents, and rows that
    # Table 1 has besides
    no_departure = {
        "seed",
        "class_prior",
        "instance_norm",
        "keep_checkpoints",
        "non_finite",
        "shared_candidates",
        "tf32",
        "deterministic",
        "gpu_memory_mib",
        "supernet",  # trains no model of Table 1
    }
    assert fields - table1_report._paper_settings().keys() == no_departure


def test_the_csv_reads_back_with_counts_and_the_papers_numbers(finished):
    lines = {
        row["model"]: row
        for row in csv.DictReader(io.StringIO((finished / "table1.csv").read_text()))
    }
    assert list(lines) == [*table1_values.MODELS, "Average"]
    row = lines["C2_baseline"]
    assert (float(row["C2_tumour"]), row["C2_tumour_cases"], row["C2_tumour_paper"]) == (
        50.0,
        "3",
        "54.5",
    )


def test_order_and_repetition_of_the_rows_change_nothing(finished):
    rows = run_folder.rows()
    again = table1_report.document([*rows[::-1], rows[3]], METADATA)
    first = json.loads((finished / "table1.json").read_text())
    assert again["rows"] == first["rows"] and again["cases"] == first["cases"]


def test_rows_may_come_from_an_iterator(finished, tmp_path):
    config = json.loads((finished / "table1.json").read_text())["configuration"]
    content = table1_report.write(
        tmp_path,
        iter(run_folder.rows()),
        config={"profile": "demo", "seed": 1, **config},
        wall_seconds={},
    )
    assert content["rows"] == json.loads((finished / "table1.json").read_text())["rows"] != {}


def test_a_partial_table_is_written_and_says_what_is_missing(tmp_path):
    rows = [
        row
        for row in run_folder.rows(("C1_baseline", "FL_global"))
        if (row["model"], row["site"]) != ("FL_global", "C1")
    ]
    rows = [
        row for row in rows if (row["model"], row["site"], row["case"]) != ("FL_global", "C2", 3)
    ]
    content = table1_report.document(rows, METADATA)
    table1_report.write_table(tmp_path, content)
    text = (tmp_path / "table1.md").read_text()
    assert set(content["rows"]) == {"C1_baseline", "FL_global"}
    assert "Not evaluated: C2_baseline, C1_FL_local, C2_FL_local." in text
    assert table_cells(text, "FL_global") == [
        "– (82.3)",
        "70.0, n = 2 (65.4)",
        "35.0, n = 2 (46.4)",
        "– (73.1)",
        "– (59.8)",
    ]
    assert "numbers are missing" in text
    table1_report.write_table(tmp_path, table1_report.document([], METADATA))
    assert json.loads((tmp_path / "table1.json").read_text())["rows"] == {}


def test_a_run_is_read_back(finished, tmp_path):
    run = table1_report.read(finished)
    assert run.document == json.loads((finished / "table1.json").read_text())
    assert list(run.histories) == ["C1_baseline", "C2_baseline", "C1_FL_local"]
    kinds = [event["event"] for event in run.histories["C1_FL_local"]]
    assert kinds == ["devices", *["epoch", "validation"] * 2]
    assert run.events[-1]["event"] == "aggregated" and [path.name for path in run.pictures] == [
        "comparison.png"
    ]
    with pytest.raises(FileNotFoundError, match=r"table1\.json does not exist; make it with"):
        table1_report.read(tmp_path)
