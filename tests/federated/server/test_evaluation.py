import json

import pytest

from federated import errors
from federated.server import evaluation
from federated.tensors import tensor_files
from tests.federated.server.test_coordinator import Site, play_rounds


def test_scores_are_for_models_that_exist(opened):
    run = opened()
    Site(run, "C1")
    with pytest.raises(errors.UnknownModel, match="no global model 1 to score; the last one is 0"):
        run.lead.report_scores("C1", 1, {"dice": 0.5})
    with pytest.raises(errors.PrivacyRefused):
        run.lead.report_scores("C1", 0, {"dice": float("nan")})


def test_models_and_rows_are_accepted_only_when_they_are_due(opened):
    run = opened(num_rounds=1)
    first, second = Site(run, "C1"), Site(run, "C2")
    for name in ("FL_global", "FL_best_global", "round_001", "nothing"):
        with pytest.raises(
            errors.UnknownModel, match=f"unknown model '{name}'; known are round_000"
        ):
            run.lead.open_model(name)
    with pytest.raises(errors.UnknownModel, match="before the models to evaluate were fixed"):
        run.lead.submit_rows("C1", [first.row()])
    play_rounds(run, (first, second), number=1)
    for site in (first, second):
        run.lead.declare_models(site.name, [])
    run.lead.advance()
    with pytest.raises(errors.StaleUpdate, match="after the models to evaluate were fixed"):
        first.publish("C1_late")
    with pytest.raises(
        errors.PrivacyRefused, match="column 'model' is not one of FL_best_global, FL_global"
    ):
        run.lead.submit_rows("C1", [first.row("C1_late")])
    with pytest.raises(errors.PrivacyRefused, match="column 'site' is not one of C1"):
        run.lead.submit_rows("C1", [second.row()])


def test_without_cross_site_evaluation_the_last_scores_end_the_run(opened):
    run = opened(num_rounds=1, cross_site_evaluation=False)
    sites = [Site(run, name) for name in ("C1", "C2")]
    play_rounds(run, sites, number=1)
    run.lead.advance()
    assert run.store.finished and [site.task().kind for site in sites] == ["finished"] * 2


def test_a_long_run_lists_its_newest_models_and_chooses_among_all(opened, monkeypatch):
    monkeypatch.setattr(evaluation, "_LISTED_MODELS", 2)
    run = opened(num_rounds=4, min_num_clients=1, max_num_clients=1)
    site = Site(run, "C1")
    for number, dice in enumerate((0.2, 0.9, 0.3, 0.4)):
        run.lead.report_scores("C1", number, {"dice": dice, "cases": 2.0})
        site.push(number + 1, value=float(number))
        run.lead.advance()
    run.lead.report_scores("C1", 4, {"dice": 0.5})
    run.lead.declare_models("C1", [])
    run.lead.advance()
    record = json.loads((run.folder / "selection.json").read_text())
    assert (record["best_round"], record["mean"]) == (1, 0.9)
    assert [row["round"] for row in record["models"]] == [2, 3, 4]


def test_without_scores_the_last_model_stands_in_for_the_best(opened):
    run = opened(num_rounds=1, min_num_clients=1, max_num_clients=1)
    site = Site(run, "C1")
    site.push(1)
    run.lead.advance()
    run.lead.report_scores("C1", 1, {})
    run.lead.declare_models("C1", [])
    run.lead.advance()
    assert run.lead.summary().best_round == 1


def test_both_best_models_are_kept_by_mean_and_by_worst_site(opened):
    run = opened(num_rounds=2)
    sites = [Site(run, name) for name in ("C1", "C2")]
    for number, scores in enumerate(({"C1": 0.9, "C2": 0.1}, {"C1": 0.5, "C2": 0.5}), start=1):
        for site in sites:
            site.push(number, float(number))
        run.lead.advance()
        for site in sites:
            run.lead.report_scores(site.name, number, {"dice": scores[site.name]})
    for site in sites:
        run.lead.report_scores(site.name, 0, {"dice": 0.0})
        run.lead.declare_models(site.name, [])
    run.lead.advance()
    record = json.loads((run.folder / "selection.json").read_text())
    assert (record["best_round"], record["best_worst_site_round"]) == (1, 2)
    for name, number in (("best", 1), ("best_worst_site", 2)):
        assert tensor_files.load(run.folder / f"{name}.safetensors")[1]["round"] == str(number)
