"""What the scripts of a study's page draw."""

import pytest

from experiments.studies import page_data


def test_a_time_line_has_the_spans_rounds_and_bytes_of_each_site():
    events = [
        {"time": 100.0, "event": "round_opened", "round": 1},
        {"time": 101.0, "event": "pulled", "site": "C1", "model": "round_000", "bytes": 7, "seconds": 0.5},
        {"time": 111.0, "event": "pushed", "site": "C1", "round": 1, "bytes": 9, "received": 5, "seconds": 2.0},
        {"time": 112.0, "event": "aggregated", "round": 1},
        {"time": 113.0, "event": "round_opened", "round": 1},  # a restart repeats the event
        {"event": "a line of an earlier release, without a time"},
    ]  # fmt: skip
    found = page_data.timeline("seed 1", events)
    assert (found["label"], found["end"]) == ("seed 1", 13.0)
    assert found["rounds"] == [[1, 0.0, 12.0]] and found["aggregated"] == [12.0]
    (site,) = found["sites"]
    assert site["name"] == "C1"
    assert site["totals"] == {"trains": 8.0, "sends or receives": 2.0}
    assert sum(end - begin for _, begin, end in site["spans"]) == 10.0


def test_a_run_without_events_has_an_empty_time_line():
    assert page_data.timeline("x", []) == {
        "label": "x",
        "end": 0.0,
        "rounds": [],
        "aggregated": [],
        "sites": [],
    }


@pytest.mark.parametrize(
    ("titles", "shown"),
    [
        (["best", "median", "worst"], "median"),
        (["best"], "best"),
    ],
)
def test_the_median_case_of_each_finished_run_of_the_first_seed_is_shown(
    tmp_path, monkeypatch, titles, shown
):
    def cases(folder, sites):
        assert sites == ("C2",) and folder == tmp_path / "fedavg" / "seed1"
        return [{"title": f"C2, case 1 ({word} for FL_global)"} for word in titles]

    monkeypatch.setattr(page_data, "browser_cases", cases)
    runs = [
        {"label": "fedavg", "seed": 1, "state": "finished", "folder": "fedavg/seed1"},
        {"label": "fedavg", "seed": 2, "state": "finished", "folder": "fedavg/seed2"},
        {"label": "median", "seed": 1, "state": "failed", "folder": "median/seed1"},
    ]
    found = page_data.one_case_of_each_point({"runs": runs, "seeds": [1, 2]}, tmp_path)
    assert [case["title"] for case in found] == [f"fedavg: C2, case 1 ({shown} for FL_global)"]


def test_a_tumour_of_c1_is_false_only_if_the_patient_is_known_to_be_healthy():
    about = {"model": "m", "site": "C1", "seed": 1, "grid": "training", "volume_ml_tumour": 2.0}
    rows = [{**about, "case": n, "truth_ml_tumour": t} for n, t in enumerate((0.0, 3.0, None), 1)]
    cases, measures = page_data._case_columns(rows)
    assert [measure["key"] for measure in measures] == ["C1_false_tumour"]
    assert [row[-1] for row in cases["rows"]] == [2.0, None, None]
    assert page_data._case_columns(rows[1:])[1] == []  # the page then has no such picture
