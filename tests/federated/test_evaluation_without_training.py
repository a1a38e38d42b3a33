"""A run of 0 rounds: the sites receive given models and return rows."""

import json

import numpy as np
import pytest

from federated import errors, simulation
from federated.audit import backfill, verification
from federated.audit.chain import BrokenChain
from federated.audit.log import AuditLog
from federated.rounds.tasks import Task
from federated.server import config as server_config
from federated.server import overview, server_metrics
from federated.server.run_statistics import RunStatistics
from federated.tensors import tensor_files
from runkit import events
from tests.federated import programs, toy

# Rows of the toy trainer hold the scalar `scale` of the model that was scored.
SCALES = {"FL_global": 2.0, "C1_baseline": 0.5, "other": -3.0}


@pytest.fixture
def models(tmp_path):
    """Model name -> file, one of them with a name that a training run reserves for itself."""
    folder, found = tmp_path / "given", {}
    folder.mkdir()
    for name, scale in SCALES.items():
        found[name] = folder / f"{name}.safetensors"
        arrays = {**toy.INITIAL, "scale": np.array(scale, np.float32)}
        tensor_files.save(found[name], arrays, {"model": name})
    return found


def expected_rows(sites, names=tuple(SCALES)):
    return [
        {
            "model": name,
            "site": site,
            "case": case,
            "grid": "training",
            "volume_error_ml_pancreas": SCALES[name] / case,
            "dice_tumour": None,
        }
        for site in sites
        for name in names
        for case in (1, 2)
    ]


def rows_of(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_models_travel_and_rows_come_back_without_any_training(tmp_path, initial, models):
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2", "C3")}
    summary = simulation.run(trainers, initial, tmp_path / "run", num_rounds=0, models=models)
    assert (summary.finished, summary.rounds, summary.sites, summary.rows) == (
        True,
        0,
        ("C1", "C2", "C3"),
        3 * 3 * 2,
    )
    for trainer in trainers.values():
        assert trainer.calls == [f"evaluate {name}" for name in models]  # in the order given
    store = tmp_path / "run" / "server"
    assert rows_of(store) == expected_rows(("C1", "C2", "C3"))
    found = verification.verify(store)
    assert (found.given, found.rows) == (tuple(sorted(models)), ("C1", "C2", "C3"))
    assert (found.rounds, found.models, found.best_round) == ((), (), None)
    # Started once more, it has nothing left to do.
    again = simulation.run(trainers, initial, tmp_path / "run", num_rounds=0, models=models)
    assert again == summary and len(trainers["C1"].calls) == 3


def test_the_audit_names_a_given_model_or_a_row_that_was_changed(tmp_path, initial, models):
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    simulation.run(trainers, initial, tmp_path / "run", num_rounds=0, models=models)
    store = tmp_path / "run" / "server"
    rows = (store / "rows.jsonl").read_text()
    (store / "rows.jsonl").write_text(
        rows.replace('"volume_error_ml_pancreas": 0.25', '"volume_error_ml_pancreas": 0.75')
    )
    with pytest.raises(BrokenChain, match="rows of site 'C1'"):
        verification.verify(store)
    (store / "rows.jsonl").write_text(rows)
    (store / "models" / "other.safetensors").write_bytes(models["FL_global"].read_bytes())
    with pytest.raises(
        BrokenChain, match=r"other\.safetensors is not the model that the operator gave"
    ):
        verification.verify(store)


def test_programs_over_tls_resume_after_kills_and_score_nothing_twice(tmp_path, kits, models):
    store, deaths = programs.federate(
        tmp_path / "run",
        kits,
        num_rounds=0,
        models=models.values(),
        server_kills=["event:rows:1"],
        site_kills={"C1": ["ToyTrainer.evaluate:after:2"]},
    )
    assert deaths == 2
    assert rows_of(store) == expected_rows(("C1", "C2"))
    assert verification.verify(store).given == tuple(sorted(models))
    for site in ("C1", "C2"):
        log = events.EventLog(tmp_path / "run" / site / "events.jsonl").read()
        evaluated = [record["model"] for record in log if record["event"] == "evaluated"]
        assert evaluated == list(models)
    # No weights came from a site, and no row was made of anything but what was given.
    assert not list((store / "spool").iterdir()) and not list((store / "incoming").iterdir())
    assert sorted(path.stem for path in (store / "models").iterdir()) == sorted(models)


def test_it_takes_sites_as_a_round_does_and_waits_for_those_at_work(opened, clock, models):
    run = opened(
        models=models,
        num_rounds=0,
        min_num_clients=1,
        max_num_clients=3,
        wait_after_min_clients_s=60.0,
    )
    assert run.lead.advance() is None  # nobody came, so no clock decides
    transports = {site: run.transport(site) for site in ("C1", "C2")}
    for site, transport in transports.items():
        transport.login(toy.PLAN, toy.EXAMPLES[site])
        assert transport.next_task() == Task("evaluate", models=tuple(models))
    transports["C1"].submit_rows(expected_rows(["C1"]))
    run.lead.advance()
    clock.now += 61.0
    run.lead.advance()
    assert not run.store.finished  # C2 is at work
    transports["C2"].submit_rows(expected_rows(["C2"]))
    run.lead.advance()
    assert run.store.finished  # C3 had its 60 s
    assert run.lead.summary().sites == ("C1", "C2")


def test_the_wait_for_further_sites_ends_by_the_clock(opened, clock, models):
    run = opened(
        models=models,
        num_rounds=0,
        min_num_clients=1,
        max_num_clients=2,
        wait_after_min_clients_s=60.0,
    )
    transport = run.transport("C1")
    transport.login(toy.PLAN, 30)
    transport.submit_rows(expected_rows(["C1"]))
    assert run.lead.advance() == pytest.approx(60.0)
    clock.now += 60.0
    run.lead.advance()
    assert run.store.finished and transport.next_task() == Task("finished")


def test_with_minimum_equal_to_maximum_an_order_ends_it_with_those_that_came(opened, clock, models):
    run = opened(models=models, num_rounds=0)
    orders = run.lead.orders
    with pytest.raises(errors.OrderRefused, match="no site takes part yet"):
        orders.finish()
    transport = run.transport("C1")
    transport.login(toy.PLAN, 30)
    transport.submit_rows(expected_rows(["C1"]))
    clock.now += 10_000.0
    transport.heart_beat()
    run.lead.advance()
    assert not run.store.finished
    orders.finish()
    run = opened(models=models, num_rounds=0)  # the order survives a restart
    run.lead.advance()
    assert run.store.finished and rows_of(run.folder) == expected_rows(["C1"])


def test_the_operator_hears_what_an_order_does_to_an_evaluation(opened, models, tmp_path):
    run = opened(models=models, num_rounds=0)
    log = AuditLog(tmp_path / "log.jsonl")
    watched = overview.Overview(run.lead.orders, log, RunStatistics(), run.folder)
    transport = run.transport("C1")
    transport.login(toy.PLAN, 30)
    for order in ("finish", "finish_now"):
        assert watched.order(order, "").startswith(
            "the evaluation ends once the sites that take part"
        )
    with pytest.raises(errors.OrderRefused, match="no round is done yet"):
        watched.order("discard_round", "", 1)
    transport.submit_rows(expected_rows(["C1"]))
    run.lead.advance()
    assert watched.order("finish", "") == "the run has finished already"
    found = {metric.name: dict(metric.samples) for metric in metrics_of(watched)}
    assert found["federation_evaluated_models"] == {(): 3.0}
    assert found["federation_reported_sites"] == {(): 1.0}
    assert found["federation_phase"]["finished",] == 1.0


def metrics_of(watched):
    return server_metrics.ServerMetrics(watched.status, RunStatistics(), lambda: (0, 0)).collect()


def test_an_evicted_site_does_not_count_and_the_status_says_what_helps(opened, models):
    run = opened(models=models, num_rounds=0)
    for site in ("C1", "C2"):
        transport = run.transport(site)
        transport.login(toy.PLAN, toy.EXAMPLES[site])
        transport.submit_rows(expected_rows([site]))
    run.lead.orders.evict("C2")
    run.lead.advance()
    status = run.lead.orders.status()
    assert (status["phase"], status["models"], status["reported"]) == (
        "evaluation",
        list(models),
        ["C1"],
    )
    assert status["sites"]["C1"]["state"] == "reported"
    assert "needs the rows of 2 sites, and 1 take part" in run.lead.orders.hindrance()
    third = run.transport("C3")
    third.login(toy.PLAN, 5)
    third.submit_rows(expected_rows(["C3"]))
    run.lead.advance()
    assert run.store.finished and rows_of(run.folder) == expected_rows(["C1", "C3"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"patient": 3}, "column 7 has an unknown name"),
        ({"model": "round_000"}, "column 'model' is not one of C1_baseline"),
        ({"site": "C2"}, "column 'site' is not one of C1"),
        ({"dice_tumour": 1.5}, "dice_tumour"),
    ],
)
def test_rows_are_checked_as_in_every_run(opened, models, row, message):
    run = opened(models=models, num_rounds=0)
    transport = run.transport("C1")
    transport.login(toy.PLAN, 30)
    with pytest.raises(errors.PrivacyRefused, match=message):
        transport.submit_rows([{**expected_rows(["C1"])[0], **row}])


def test_a_site_can_send_no_weights(opened, models, tmp_path):
    run = opened(models=models, num_rounds=0)
    transport = run.transport("C1")
    transport.login(toy.PLAN, 30)
    path = tmp_path / "own.safetensors"
    sha256 = tensor_files.save(path, toy.INITIAL)
    with pytest.raises(errors.StaleUpdate, match="the last round is over"):
        transport.push(path, sha256, round_number=1, num_examples=30, metrics={})
    with pytest.raises(errors.StaleUpdate, match="after the models to evaluate were fixed"):
        transport.publish(path, sha256, model="C1_own")
    with pytest.raises(errors.ModelRefused):
        transport.publish(path, sha256, model="C1_baseline")


def test_another_set_of_models_is_another_run(opened, models):
    opened(models=models, num_rounds=0)
    swapped = {**models, "other": models["FL_global"]}
    del swapped["C1_baseline"]
    with pytest.raises(errors.DifferentRun) as caught:
        opened(models=swapped, num_rounds=0)
    digest = tensor_files.file_digest(tensor_files.TensorFile(models["other"]))
    assert f"model other: the store has the one with digest {digest[:16]}…" in str(caught.value)
    assert "model C1_baseline: the store has the one with digest" in str(caught.value)
    assert "asked for is no such model" in str(caught.value)
    assert "model FL_global" not in str(caught.value)
    assert "initial model" not in str(caught.value)


@pytest.mark.parametrize("order", [1, -1])
def test_the_same_models_in_another_order_are_the_same_run(opened, initial, models, order):
    """The operator's programs make the initial model of the first of them, so it changes, too."""
    opened(models=models, num_rounds=0)
    tensor_files.save(
        initial, {**toy.INITIAL, "scale": np.float32(order)}, {"plan": json.dumps(toy.PLAN)}
    )
    run = opened(models=dict(list(models.items())[::order]), num_rounds=0)
    transport = run.transport("C1")
    transport.login(toy.PLAN, 30)
    assert transport.next_task() == Task("evaluate", models=tuple(models))  # as at the first start


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"num_rounds": 3}, "3 models are given to a run of 3 rounds"),
        (None, {"num_rounds": 0}, "0 models are given to a run of 0 rounds"),
        ({"../up": "FL_global"}, {"num_rounds": 0}, r"a given model is named '../up'"),
        ({"odd": "odd"}, {"num_rounds": 0}, r"given model 'odd' .*scale"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_at_the_start(
    opened, models, tmp_path, change, settings, message
):
    tensor_files.save(
        tmp_path / "given" / "odd.safetensors", {**toy.INITIAL, "scale": np.ones(2, np.float32)}
    )
    given = (
        None
        if change is None
        else {
            **models,
            **{name: tmp_path / "given" / f"{file}.safetensors" for name, file in change.items()},
        }
    )
    with pytest.raises(ValueError, match=message):
        opened(models=given, **settings)


@pytest.mark.parametrize(
    "rules",
    [{"keep": ["head/*"]}, {"receive": ["stem/*"]}, {"keep": ["head/*"], "receive": ["stem/*"]}],
)
def test_rules_of_sharing_are_refused_at_the_start(tmp_path, models, rules):
    """Models travel whole, so every site would refuse the first one."""
    plan = {**toy.PLAN, "sharing": rules}
    initial = toy.write_initial(tmp_path / "private.safetensors", plan=plan)
    trainers = {"C1": toy.ToyTrainer("C1", plan=plan)}
    with pytest.raises(ValueError, match=r"rules of sharing.*and num_rounds is 0"):
        simulation.run(trainers, initial, tmp_path / "run", num_rounds=0, models=models)
    assert trainers["C1"].calls == []


def test_a_rule_for_many_sites_and_no_evaluation_at_all():
    assert server_config.ServerConfig(num_rounds=0, aggregation="median").min_num_clients == 2
    with pytest.raises(ValueError, match="the run would do nothing"):
        server_config.ServerConfig(num_rounds=0, cross_site_evaluation=False)


def test_a_log_that_lost_its_lines_is_completed_from_the_store(opened, models):
    run = opened(models=models, num_rounds=0)
    transport = run.transport("C1")
    transport.login(toy.PLAN, 30)
    transport.submit_rows(expected_rows(["C1"]))
    (run.folder / "events.jsonl").unlink()
    log = AuditLog(run.folder / "events.jsonl")
    backfill.complete(log, run.store)
    kinds = [record["event"] for record in log.read()]
    assert kinds == ["login", "given", "given", "given", "rows"]
