import dataclasses
import json
import threading

import numpy as np
import pytest

from federated import errors
from federated.site import loop as site_loop
from federated.site import retries
from federated.site.answers import AnswerLimits
from federated.tensors import tensor_files
from tests.federated import toy


def start_driving(lead):
    thread = threading.Thread(target=lead.drive, daemon=True)
    thread.start()
    return thread


def test_a_federation_in_one_process_gives_the_weights_worked_out_by_hand(opened, take_part):
    run = opened()
    driver = start_driving(run.lead)
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    summaries = take_part({site: run.transport(site) for site in trainers}, trainers)
    driver.join(30)
    assert run.store.finished
    assert {site: (s.finished, s.rounds, s.models_evaluated) for site, s in summaries.items()} == {
        "C1": (True, 3, 4),
        "C2": (True, 3, 4),
    }
    expected = toy.expected_globals(("C1", "C2"), 3)
    # By hand for the scalar: 2 -> (30*1.25 + 10*0.5)/40 = 1.0625.
    assert expected[1]["scale"] == 1.0625
    for number, model in enumerate(expected):
        arrays, metadata = tensor_files.load(
            run.folder / "global" / f"round_{number:03d}.safetensors"
        )
        assert json.loads(metadata["plan"]) == toy.PLAN
        for name, array in model.items():
            np.testing.assert_array_equal(arrays[name], array.astype(np.float32))
    assert trainers["C1"].calls[:7] == [
        "score",
        "train 1",
        "score",
        "train 2",
        "score",
        "train 3",
        "score",
    ]  # the last one is scored too
    rows = [json.loads(line) for line in (run.folder / "rows.jsonl").read_text().splitlines()]
    assert {(row["site"], row["model"], row["case"]) for row in rows} == {
        (site, model, case)
        for site in ("C1", "C2")
        for model in ("C1_baseline", "C2_baseline", "FL_global", "FL_best_global")
        for case in (1, 2)
    }
    by_model = {
        row["model"]: row["volume_error_ml_pancreas"]
        for row in rows
        if row["case"] == 1 and row["site"] == "C2"
    }
    assert (
        by_model["C1_baseline"] == 32.0 and by_model["C2_baseline"] == 12.0
    )  # 2 + the site's examples
    assert by_model["FL_global"] == np.float32(expected[3]["scale"])


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


def test_the_best_global_model_is_the_one_the_sites_scored_best(opened, take_part):
    run = opened()
    driver = start_driving(run.lead)
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    take_part({site: run.transport(site) for site in trainers}, trainers)
    driver.join(30)
    scales = [float(model["scale"]) for model in toy.expected_globals(("C1", "C2"), 3)]
    best = min(
        range(4), key=lambda number: abs(scales[number] - 0.75)
    )  # the toy's score falls with the distance from 0.75
    record = json.loads((run.folder / "selection.json").read_text())
    assert record["best_round"] == best != 3
    assert [model["round"] for model in record["models"]] == [0, 1, 2, 3]
    assert set(record["models"][3]["sites"]) == {"C1", "C2"}
    arrays, _ = tensor_files.load(run.folder / "best.safetensors")
    assert float(arrays["scale"]) == np.float32(scales[best])


def test_one_site_federated_is_that_site_trained_alone(opened, take_part):
    run = opened(min_num_clients=1, max_num_clients=1)
    driver = start_driving(run.lead)
    take_part({"C1": run.transport("C1")}, {"C1": toy.ToyTrainer("C1")})
    driver.join(30)
    alone, weights = toy.ToyTrainer("C1"), toy.INITIAL
    for number in (1, 2, 3):
        weights, _ = alone.train(weights, number)
    arrays, _ = tensor_files.load(run.folder / "global" / "round_003.safetensors")
    for name, array in weights.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_a_loop_started_after_the_end_needs_no_server(opened, take_part, tmp_path):
    run = opened(min_num_clients=1, max_num_clients=1, num_rounds=1)
    driver = start_driving(run.lead)
    take_part({"C1": run.transport("C1")}, {"C1": toy.ToyTrainer("C1")})
    driver.join(30)

    again = toy.ToyTrainer("C1")
    summary = site_loop.run(again, Away(), tmp_path / "journal_C1")
    assert summary.finished and again.calls == []
    assert (
        summary.remark
        == f"this site has done its part in run {run.store.run_id}; the server does not answer"
    )


@pytest.mark.parametrize("evaluation", [True, False])
def test_a_loop_killed_before_it_noted_the_end_needs_no_server_either(
    opened, take_part, tmp_path, monkeypatch, evaluation
):
    run = opened(
        min_num_clients=1, max_num_clients=1, num_rounds=1, cross_site_evaluation=evaluation
    )
    driver = start_driving(run.lead)
    with monkeypatch.context() as killed:
        killed.setattr(site_loop.Journal, "finish", _interrupt)
        summaries = take_part({"C1": run.transport("C1")}, {"C1": toy.ToyTrainer("C1")})
    driver.join(30)
    assert run.store.finished and not summaries["C1"].finished

    assert site_loop.run(toy.ToyTrainer("C1"), Away(), tmp_path / "journal_C1").finished


class Away:
    """A transport to a server that does not answer."""

    site = "C1"

    def login(self, plan, num_examples, labels=None):
        raise errors.ServerUnreachable("the server has left")

    def close(self):
        pass


ONE_SITE = {"min_num_clients": 1, "max_num_clients": 1, "num_rounds": 1}


def test_a_site_whose_run_is_finished_asks_the_server_and_refuses_another_run(
    opened, take_part, tmp_path
):
    first = opened(**ONE_SITE)
    driver = start_driving(first.lead)
    take_part({"C1": first.transport("C1")}, {"C1": toy.ToyTrainer("C1")})
    driver.join(30)
    finished = first.store.run_id
    second = opened(folder="other_store", **ONE_SITE)
    with pytest.raises(
        errors.DifferentRun,
        match=rf"belongs to run {finished}, which is finished; .* move {tmp_path} away .* start "
        "again",
    ):
        take_part({"C1": second.transport("C1")}, {"C1": toy.ToyTrainer("C1")})
    assert second.store.globals().keys() == {0}


def test_a_site_started_after_the_end_hears_from_its_server_that_it_is_done(opened, take_part):
    run = opened(**ONE_SITE)
    driver = start_driving(run.lead)
    take_part({"C1": run.transport("C1")}, {"C1": toy.ToyTrainer("C1")})
    driver.join(30)
    again = toy.ToyTrainer("C1")
    assert (
        take_part({"C1": run.transport("C1")}, {"C1": again})["C1"].finished and again.calls == []
    )


def test_a_journal_of_another_federation_is_refused_before_the_server_is_asked(
    opened, take_part, tmp_path
):
    run = opened(**ONE_SITE)
    driver = start_driving(run.lead)
    take_part({"C1": run.transport("C1")}, {"C1": toy.ToyTrainer("C1")}, authority="ab" * 32)
    driver.join(30)
    with pytest.raises(
        errors.DifferentRun,
        match=r"authority is abab abab .* authority of this kit is cdcd cdcd .* start again",
    ):
        site_loop.run(toy.ToyTrainer("C1"), Away(), tmp_path / "journal_C1", authority="cd" * 32)


def test_a_site_that_missed_the_evaluation_says_so(opened, take_part, tmp_path):
    run = opened(**ONE_SITE)
    away, path = run.transport("C2"), tmp_path / "update.safetensors"
    away.login(toy.PLAN, toy.EXAMPLES["C2"])
    sha256 = tensor_files.save(path, toy.ToyTrainer("C2").train(toy.INITIAL, 1)[0], {})
    away.push(path, sha256, round_number=1, num_examples=toy.EXAMPLES["C2"], metrics={})
    run.lead.advance()
    run.store.finish()
    late = toy.ToyTrainer("C2")
    summary = take_part({"C2": run.transport("C2")}, {"C2": late})["C2"]
    assert summary.finished and late.calls == []
    assert summary.remark.endswith(
        "needs nothing more from this site, and ends without its evaluation, "
        "so its test cases are in no table"
    )


def test_a_journal_of_another_run_is_refused(opened, take_part, tmp_path):
    first = opened(min_num_clients=1, max_num_clients=1)
    with pytest.raises(KeyboardInterrupt):
        # Stopped in its first training: a journal is left that belongs to this run.
        site_loop._Loop(
            toy.ToyTrainer("C1", on_train=_interrupt),
            first.transport("C1"),
            site_loop.Journal(tmp_path / "journal_C1"),
            _Silent(),
            *_timing(),
            authority="",
        ).run()
    second = opened(folder="other_store", min_num_clients=1, max_num_clients=1)
    with pytest.raises(
        errors.DifferentRun, match=r"belongs to run .* leads run .* move .* away .* start again"
    ):
        take_part({"C1": second.transport("C1")}, {"C1": toy.ToyTrainer("C1")})


def _interrupt(round_number):
    raise KeyboardInterrupt


class _Silent:
    def append(self, event, **fields):
        pass


def _timing():
    return (lambda: 0.0), (lambda seconds: None), (lambda: iter(lambda: 0.0, None))


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


def test_an_interrupted_site_says_so_and_resumes_at_the_next_start(opened, take_part, tmp_path):
    run = opened(min_num_clients=1, max_num_clients=1)
    driver = start_driving(run.lead)
    stopped = site_loop.run(
        toy.ToyTrainer("C1", on_train=lambda number: _interrupt(number) if number == 2 else None),
        run.transport("C1"),
        tmp_path / "journal_C1",
    )
    assert (stopped.finished, stopped.rounds) == (False, 1)
    again = toy.ToyTrainer("C1")
    assert take_part({"C1": run.transport("C1")}, {"C1": again})["C1"].finished
    driver.join(30)
    assert again.calls[0] == "train 2"  # model 1 had been scored before the interruption


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


def test_a_site_with_another_network_downloads_no_model(opened, take_part, tmp_path):
    class Other(toy.ToyTrainer):
        _bulk = 5

    run = opened(min_num_clients=1, max_num_clients=1)
    driver = start_driving(run.lead)
    with pytest.raises(errors.ServerMisbehaves, match="bulk: missing, expected F32"):
        take_part({"C1": run.transport("C1")}, {"C1": Other("C1", bulk=5)})
    assert not (tmp_path / "journal_C1" / "incoming.safetensors").exists()
    run.lead.stop()
    driver.join(30)


def test_a_site_adapts_to_a_server_restarted_with_another_transport(serving, tmp_path):
    arrays = toy.initial(bulk=100_000)
    start = toy.write_initial(tmp_path / "bulky.safetensors", arrays=arrays)
    before = serving(start=start, min_num_clients=1, max_num_clients=1, num_rounds=2)
    trainer = toy.ToyTrainer("C1", bulk=100_000)
    transport = before.connect("C1")
    session = transport.login(toy.PLAN, 30)
    before.stop()
    serving(
        start=start,
        min_num_clients=1,
        max_num_clients=1,
        num_rounds=2,
        transport="deflate",
        port=before.port,
    )
    server = retries.Persistent(transport, toy.PLAN, 30, pause=lambda seconds: None)
    logins, login = [], transport.login
    transport.login = lambda *given: (logins.append(given), login(*given))[1]
    server.pull("round_000", tmp_path / "incoming.safetensors", specs=trainer.specs)
    np.testing.assert_array_equal(
        tensor_files.load(tmp_path / "incoming.safetensors")[0]["bulk"], arrays["bulk"]
    )
    assert session.transport == "raw" and len(logins) == 1
    transport.close()


def test_a_server_accepts_only_the_encodings_of_its_transport(serving, tmp_path):
    arrays = {
        **toy.INITIAL,
        "bulk": np.zeros(100_000, np.float32),
    }  # every encoding has something to save
    start = toy.write_initial(tmp_path / "bulky.safetensors", arrays=arrays)
    transport = serving(start=start).connect("C1")
    sha256 = tensor_files.save(tmp_path / "update.safetensors", arrays)
    transport.login(toy.PLAN, 30)
    for encoding in ("deflate", "half"):
        transport._encoding = encoding
        with pytest.raises(errors.SessionExpired, match="models travel 'raw' here"):
            transport.push(
                tmp_path / "update.safetensors", sha256, round_number=1, num_examples=30, metrics={}
            )
    transport.login(toy.PLAN, 30)  # and so learns how
    receipt = transport.push(
        tmp_path / "update.safetensors", sha256, round_number=1, num_examples=30, metrics={}
    )
    assert receipt.sha256 == sha256
    transport.close()


def test_a_site_counts_what_it_answers_and_rounds_what_it_reports(opened, take_part, tmp_path):
    run = opened()
    driver = start_driving(run.lead)
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    limits = AnswerLimits(report_digits=2)
    transports = {site: run.transport(site) for site in trainers}
    summaries = take_part(transports, trainers, limits=limits)
    driver.join(30)
    # Three rounds: models 0 to 3, of at most twice as many; two lent models and two global ones.
    assert summaries["C1"].answers == (
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
