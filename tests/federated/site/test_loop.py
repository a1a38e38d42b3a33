import json

import numpy as np
import pytest

from federated import errors
from federated.site import loop as site_loop
from federated.site import retries
from federated.tensors import tensor_files
from tests.federated import toy
from tests.federated.run_steps import interrupt, start_driving


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
        killed.setattr(site_loop.Journal, "finish", interrupt)
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
            toy.ToyTrainer("C1", on_train=interrupt),
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


class _Silent:
    def append(self, event, **fields):
        pass


def _timing():
    return (lambda: 0.0), (lambda seconds: None), (lambda: iter(lambda: 0.0, None))


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
