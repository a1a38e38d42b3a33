import dataclasses
import json

import numpy as np
import pytest

from federated import errors
from federated.site.answers import AnswerLimits
from federated.site.evaluation import SiteReports
from tests.federated import toy
from tests.federated.run_steps import start_driving


def test_received_models_are_scored_as_often_as_the_trainer_says_and_the_last_one_always(
    opened, take_part
):
    run = opened()
    driver = start_driving(run.lead)
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    for trainer in trainers.values():
        trainer.score_every = 2
    take_part({site: run.transport(site) for site in trainers}, trainers)
    driver.join(30)
    assert trainers["C1"].calls[:6] == [
        "score",
        "train 1",
        "train 2",
        "score",
        "train 3",
        "score",
    ]  # models 0, 2 and the last, 3
    record = json.loads((run.folder / "selection.json").read_text())
    assert [model["round"] for model in record["models"]] == [0, 2, 3] and record["best_round"] in (
        0,
        2,
        3,
    )


def test_what_may_not_leave_a_site_stops_it_before_anything_is_sent(opened, take_part):
    class Leaky(toy.ToyTrainer):
        def evaluate(self, model_name, weights):
            return [
                {**row, "volume_pancreas_ml": "Doe, Jane"}
                for row in super().evaluate(model_name, weights)
            ]

    run = opened(min_num_clients=1, max_num_clients=1, num_rounds=1)
    driver = start_driving(run.lead)
    with pytest.raises(
        errors.PrivacyRefused, match=r"row 1: column 'volume_pancreas_ml' is not a number"
    ) as caught:
        take_part({"C1": run.transport("C1")}, {"C1": Leaky("C1")})
    assert "Doe" not in str(caught.value)
    assert run.store.rows() == {}
    run.lead.stop()
    driver.join(30)


@pytest.mark.parametrize("narrow", ["site", "server"])
def test_a_report_may_hold_only_what_both_ends_have_words_for(opened, take_part, narrow):
    words = {"dice": (0.0, 1.0), "age": (0.0, 1e3)}
    wide = dataclasses.replace(toy.VOCABULARY, words={**toy.VOCABULARY.words, **words})

    class Talkative(toy.ToyTrainer):
        vocabulary = toy.VOCABULARY if narrow == "site" else wide

        def evaluate(self, model_name, weights):
            return [{**row, "age": 61} for row in super().evaluate(model_name, weights)]

    run = opened(
        min_num_clients=1,
        max_num_clients=1,
        num_rounds=1,
        vocabulary=wide if narrow == "site" else toy.VOCABULARY,
    )
    driver = start_driving(run.lead)
    with pytest.raises(errors.PrivacyRefused, match="row 1: column 7 has an unknown name"):
        take_part({"C1": run.transport("C1")}, {"C1": Talkative("C1")})
    assert run.store.rows() == {}
    run.lead.stop()
    driver.join(30)


def test_a_site_that_lends_no_model_takes_part_all_the_same(opened, take_part):
    class Declines(toy.ToyTrainer):
        def local_models(self):
            return {}

    run = opened()
    driver = start_driving(run.lead)
    trainers = {"C1": toy.ToyTrainer("C1"), "C2": Declines("C2")}
    take_part({site: run.transport(site) for site in trainers}, trainers)
    driver.join(30)
    assert set(run.store.models()) == {"C1_baseline"}
    rows = [json.loads(line) for line in (run.folder / "rows.jsonl").read_text().splitlines()]
    models = ("C1_baseline", "FL_global", "FL_best_global")
    assert {(row["site"], row["model"]) for row in rows} == {
        (site, model) for site in ("C1", "C2") for model in models
    }


@pytest.mark.parametrize("name", ["../x", "", "a b", "x" * 65])
def test_a_model_name_that_cannot_be_used_stops_the_site_at_once(opened, take_part, name):
    class Misnamed(toy.ToyTrainer):
        def local_models(self):
            return {name: toy.INITIAL}

    run = opened(min_num_clients=1, max_num_clients=1, num_rounds=1)
    driver = start_driving(run.lead)
    with pytest.raises(errors.ModelRefused, match="this site's model is named"):
        take_part({"C1": run.transport("C1")}, {"C1": Misnamed("C1")})
    assert run.store.models() == {}
    run.lead.stop()
    driver.join(30)


def test_a_site_counts_what_it_answers_and_rounds_what_it_reports(opened, take_part, tmp_path):
    run = opened()
    driver = start_driving(run.lead)
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    limits = AnswerLimits(report_digits=2)
    transports = {site: run.transport(site) for site in trainers}
    summaries = take_part(transports, trainers, limits=limits)
    driver.join(30)
    # Three rounds: updates from models 0 to 2 and scores of 0 to 3, of at most twice as many; two lent models and two global ones.
    assert summaries["C1"].answers == (
        "3 of at most 6 updates from different global models; "
        "4 of at most 8 global models scored on validation cases; "
        "4 of at most 64 models evaluated on test cases"
    )
    (fixed,) = [
        record
        for record in map(json.loads, (run.folder / "events.jsonl").read_text().splitlines())
        if record["event"] == "models_fixed"
    ]
    assert fixed["asked"] == len(fixed["models"]) == 4
    # By hand: 1 / (1 + |2 - 0.75|) = 0.444..., and 1 / 3 of the third round's loss.
    assert run.store.scores()[0]["C1"] == {"dice": 0.44, "dice_pancreas": 0.5}
    events = map(json.loads, (tmp_path / "journal_C1" / "events.jsonl").read_text().splitlines())
    trained = [e["metrics"]["loss"] for e in events if e["event"] == "trained"]
    assert trained == [1.0, 0.5, 0.33]
    rows = [json.loads(line) for line in (run.folder / "rows.jsonl").read_text().splitlines()]
    exact = float(np.float32(toy.expected_globals(("C1", "C2"), 3)[3]["scale"]))
    sent = {row["volume_error_ml_pancreas"] for row in rows if row["model"] == "FL_global"}
    assert sent == {round(exact, 2), round(exact / 2, 2)} and abs(exact) < 1


def test_the_numbers_of_a_report_are_checked_and_rounded_but_for_an_epsilon():
    reports = SiteReports("C1", toy.ToyTrainer("C1"), 2)
    assert reports.scores({"dice": 0.8471}, "scores") == {"dice": 0.85}
    told = reports.metrics({"loss": 0.8471, "privacy_epsilon": 70333.21}, 1)
    assert told == {"loss": 0.85, "privacy_epsilon": 70333.21}
    (row,) = reports.rows(
        toy.ToyTrainer("C1").evaluate("FL_global", {"scale": 0.8471})[:1], "FL_global"
    )
    assert row["volume_error_ml_pancreas"] == 0.85 and row["case"] == 1
    with pytest.raises(errors.PrivacyRefused):
        reports.scores({"dice": "Doe, Jane"}, "scores")
