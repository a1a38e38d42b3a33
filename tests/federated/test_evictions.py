"""What an eviction takes away, also in the middle of a call, of an evaluation or of a kill."""

import contextlib
import json
import threading
import time

import grpc

from federated.audit import backfill, verification
from federated.audit import log as audit_log
from federated.storage import store
from federated.tensors import tensor_files
from federated.wire import conversion
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import Offer
from tests.federated import toy
from tests.federated.raw_calls import ended, hold
from tests.federated.run_steps import Killed, finished_rounds, fixed_models, raising
from tests.federated.server.test_coordinator import Site


def _soon(condition, seconds=10):
    """Returns whether a condition that depends on another thread becomes true in time."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        pause.wait(0.01)
    return condition()


def test_evicting_a_site_ends_its_calls_and_its_upload_does_not_count(
    serving, channel, operator, tmp_path
):
    running = serving(min_num_clients=1, max_num_clients=2)
    honest, hostile = running.connect("C1"), running.connect("C2")
    honest.login(toy.PLAN, 30)
    metadata = conversion.token_metadata(hostile.login(toy.PLAN, 10).token)
    path = tmp_path / "update.safetensors"
    offer = Offer(tensor_files.save_as(path, toy.INITIAL), round=1, num_examples=10)
    header = pb.ModelPart(header=conversion.header_to_message(offer)).SerializeToString()
    silent, call = hold(channel(running, "C2"), "Send", metadata, header)
    try:
        assert not ended(call, 0.2)
        operator(running).order("evict", "C2")
        assert ended(call) and call.code() == grpc.StatusCode.CANCELLED
    finally:
        silent.over.set()
    assert _soon(
        lambda: not list((running.folder / "incoming").iterdir())
    )  # the handler tidies up after the caller has heard
    assert operator(running).status()["updates"] == []
    honest.close()
    hostile.close()


def test_an_evicted_sites_models_scores_and_rows_go(opened):
    run, first, second = finished_rounds(opened, min_num_clients=1)
    for site in (first, second):
        run.lead.report_scores(site.name, 1, {"dice": 1.0 if site is second else 0.5})
    run.lead.report_scores("C2", 0, {"dice": 1.0})
    fixed_models(run, first, second)
    rows = [first.row(model) for model in run.store.fixed_models()]
    assert {row["model"] for row in rows} == {
        "C1_FL_local",
        "C2_FL_local",
        "FL_global",
        "FL_best_global",
    }
    run.lead.submit_rows("C1", rows)
    run.lead.orders.evict("C2")
    assert run.store.fixed_models() == ("C1_FL_local", "FL_global", "FL_best_global")
    assert list((run.folder / "models").iterdir()) == [run.store.model_path("C1_FL_local")]
    lines = (run.folder / "rows.jsonl").read_text().splitlines()
    assert {json.loads(line)["model"] for line in lines} == {
        "C1_FL_local",
        "FL_global",
        "FL_best_global",
    }
    assert run.lead.drive()


def test_a_site_that_evaluates_while_another_is_evicted_may_report_what_it_has(opened):
    run, first, second = finished_rounds(opened, min_num_clients=1)
    fixed_models(run, first, second)
    rows = [first.row(model) for model in run.store.fixed_models()]
    run.lead.orders.evict("C2")
    run.lead.submit_rows("C1", rows)
    assert {
        row["model"]
        for row in map(json.loads, (run.folder / "rows.jsonl").read_text().splitlines())
    } == {
        "C1_FL_local",
        "FL_global",
        "FL_best_global",
    }


def test_a_site_that_was_evicted_and_readmitted_lends_its_models_again(
    serving, operator, take_part
):
    running = serving(num_rounds=1, max_num_clients=2)
    let_in_again = threading.Event()

    class Trainer(toy.ToyTrainer):
        def local_models(self):
            if self.site == "C1":  # until then the models to evaluate cannot be fixed
                assert let_in_again.wait(60)
                return super().local_models()
            return {"C2_one": toy.INITIAL, "C2_two": toy.INITIAL}

    class Transport:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def declare_models(self, names):
            if not let_in_again.is_set():
                for order in ("evict", "admit"):
                    operator(running).order(order, "C2")
                let_in_again.set()
            return self._inner.declare_models(names)

    transports = {"C1": running.connect("C1"), "C2": Transport(running.connect("C2"))}
    take_part(transports, {site: Trainer(site) for site in transports})
    assert running.join().finished
    assert set(verification.verify(running.folder).models) == {"C1_baseline", "C2_one", "C2_two"}


def test_an_eviction_cut_short_by_a_kill_counts_and_is_in_the_log(opened, monkeypatch, tmp_path):
    settings = {"num_rounds": 2, "min_num_clients": 3, "max_num_clients": 3}
    run = opened(**settings)
    for name in ("C1", "C2"):
        Site(run, name).push(1)
    with monkeypatch.context() as killed, contextlib.suppress(Killed):
        killed.setattr(store.Store, "forget_update", lambda self, update: raising(Killed()))
        run.lead.orders.evict("C2")
    run = opened(**settings)
    assert run.lead.orders.status()["updates"] == ["C1"]
    log = audit_log.AuditLog(tmp_path / "events.jsonl")
    for evicted, told in ((True, "evicted"), (False, "readmitted")):
        run.store.evict("C2", evicted)
        backfill.complete(log, run.store)
        backfill.complete(log, run.store)
        told_of = [record["event"] for record in log.read() if record.get("site") == "C2"]
        assert told_of[-1] == told and told_of.count(told) == 1


def test_models_of_an_evicted_site_leave_the_store_and_the_evaluation_in_one_step(
    opened, monkeypatch
):
    run, first, second = finished_rounds(opened)
    fixed_models(run, first, second)
    assert "C2_FL_local" in run.store.fixed_models()
    with monkeypatch.context() as killed, contextlib.suppress(Killed):
        killed.setattr(store.Store, "fix_models", lambda *given: raising(Killed()))
        run.lead.orders.evict("C2")
    assert "C2_FL_local" not in run.store.models() and "C2_FL_local" not in run.store.fixed_models()
