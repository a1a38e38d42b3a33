"""A run that is taken back to an earlier round, whatever a hostile site or the disk does."""

import contextlib
import errno
import threading

import numpy as np
import pytest

from federated import errors
from federated.audit import verification
from federated.rounds import tasks
from federated.server.uploads import CheckedOffer
from federated.storage import store
from federated.tensors import codec, tensor_files
from federated.tensors.tensor_files import TensorFile
from tests.federated import toy
from tests.federated.run_steps import Killed, finished_rounds, fixed_models, raising
from tests.federated.server.test_coordinator import Site, scale


def test_a_round_can_be_discarded_and_is_made_again(opened):
    run = opened(num_rounds=3, min_num_clients=2)
    first, second = Site(run, "C1"), Site(run, "C2")
    for number in (1, 2):
        first.push(number, 1.0)
        second.push(number, 5.0 if number == 1 else 9.0)
        run.lead.advance()
    first.push(3, 1.0)
    run.lead.report_scores("C1", 2, {"dice": 0.9})
    with pytest.raises(
        errors.OrderRefused, match="round 3 cannot be discarded: rounds 1 to 2 are done"
    ):
        run.lead.orders.discard_round(3)
    run.lead.orders.discard_round(2)
    assert list(run.store.globals()) == [0, 1] and list((run.folder / "spool").iterdir()) == []
    assert (
        not (run.folder / "global" / "round_002.safetensors").exists()
        and 2 not in run.store.scores()
    )
    assert (
        first.task()
        == second.task()
        == tasks.Task("train", round=2, model="round_001", discarded=1)
    )
    for site in (first, second):
        site.push(2, 3.0)
    run = opened(num_rounds=3, min_num_clients=2)  # after a restart, too
    run.lead.advance()
    assert scale(run, 2) == 3.0


def test_sites_follow_a_run_that_goes_back_and_the_audit_knows_of_it(serving, operator, take_part):
    running = serving(num_rounds=4, cross_site_evaluation=True)
    answers = []

    def on_train(number):
        if number == 3 and not answers:
            answers.append(operator(running).order("discard_round", round_number=2))

    trainers = {"C1": toy.ToyTrainer("C1", on_train=on_train), "C2": toy.ToyTrainer("C2")}
    take_part({site: running.connect(site) for site in trainers}, trainers)
    assert running.join().finished and answers == [
        "back to global model 1: round 2 is open again, and every site trains it again"
    ]
    assert trainers["C1"].calls.count("train 2") == 2
    for number, model in enumerate(toy.expected_globals(("C1", "C2"), 4)):
        arrays, _ = tensor_files.load(running.folder / "global" / f"round_{number:03d}.safetensors")
        for name, array in model.items():
            np.testing.assert_array_equal(arrays[name], array.astype(np.float32))
    found = verification.verify(running.folder)
    assert (found.rounds, found.discarded, found.rows, found.models) == (
        (1, 2, 3, 4),
        (2,),
        ("C1", "C2"),
        ("C1_baseline", "C2_baseline"),
    )
    assert found.best_round == running.join().best_round


def test_a_run_whose_sites_have_finished_cannot_go_back(opened):
    run, first, second = finished_rounds(opened)
    fixed_models(run, first, second)
    run.lead.submit_rows("C1", [first.row()])
    with pytest.raises(
        errors.OrderRefused, match="round 1 cannot be discarded: C1 has finished its part"
    ):
        run.lead.orders.discard_round(1)


def test_a_hostile_site_that_hurries_to_finish_does_not_keep_the_run_from_going_back(opened):
    run, first, second = finished_rounds(
        opened, min_num_clients=2, max_num_clients=3, wait_after_min_clients_s=0.0
    )
    assert Site(run, "C3").task().kind == "finished"  # it never trained
    fixed_models(run, first, second)
    run.lead.submit_rows("C2", [second.row()])
    for name in ("C2", "C3"):
        with pytest.raises(
            errors.OrderRefused, match=f"round 1 cannot be discarded: .*{name}.* finished its part"
        ):
            run.lead.orders.discard_round(1)
        run.lead.orders.evict(name)
    run.lead.orders.discard_round(1)
    run.lead.orders.readmit("C2")
    assert (
        first.task()
        == Site(run, "C2").task()
        == tasks.Task("train", round=1, model="round_000", discarded=1)
    )


@pytest.mark.parametrize("moment", ["lending", "evaluation"])
def test_sites_that_lend_or_evaluate_follow_a_run_that_goes_back(
    serving, operator, take_part, moment
):
    running = serving(max_num_clients=2)
    answers, only = [], threading.Lock()

    def go_back():
        with only:
            if not answers:
                answers.append(operator(running).order("discard_round", round_number=3))

    class Trainer(toy.ToyTrainer):
        def local_models(self):
            if moment == "lending":
                go_back()
            return super().local_models()

        def evaluate(self, model_name, weights):
            if (
                moment == "evaluation" and model_name == "FL_best_global"
            ):  # the last one: rows are sent next
                go_back()
            return super().evaluate(model_name, weights)

    take_part(
        {site: running.connect(site) for site in ("C1", "C2")},
        {site: Trainer(site) for site in ("C1", "C2")},
    )
    assert running.join().finished and len(answers) == 1
    found = verification.verify(running.folder)
    assert (found.rounds, found.discarded, found.rows) == ((1, 2, 3), (3,), ("C1", "C2"))


def closed_rounds(run, sites, numbers, value=1.0):
    for number in numbers:
        for site in sites:
            site.push(number, value)
        run.lead.advance()


def test_an_update_of_a_discarded_model_does_not_count_when_its_round_is_open_again(opened):
    run = opened(num_rounds=4, min_num_clients=2, max_num_clients=3, wait_after_min_clients_s=0.0)
    first, second, slow = (Site(run, name) for name in ("C1", "C2", "C3"))
    closed_rounds(run, (first, second), (1, 2))
    assert slow.task() == tasks.Task("train", round=3, model="round_002")
    run.lead.orders.discard_round(2)
    closed_rounds(run, (first, second), (2,))
    with pytest.raises(
        errors.StaleUpdate, match="'C3' trained round 3 before the operator took the run back"
    ):
        slow.push(3, discarded=0)
    assert slow.task() == tasks.Task("train", round=3, model="round_002", discarded=1)
    assert slow.push(3, discarded=1).what == "round_003"


def test_an_upload_that_began_before_its_model_was_discarded_is_not_measured_against_that_model(
    opened,
):
    run = opened(num_rounds=4, min_num_clients=2, max_num_clients=3, wait_after_min_clients_s=0.0)
    first, second, hostile = (Site(run, name) for name in ("C1", "C2", "C3"))
    closed_rounds(run, (first, second), (1,))
    closed_rounds(run, (first, second), (2,), 6.0)
    path, offer = hostile.offer(20.0, round=3, num_examples=5)

    def chunks(file):
        run.lead.orders.discard_round(2)
        closed_rounds(run, (first, second), (2,))
        yield from codec.chunks(file)

    with TensorFile(path) as file:
        with pytest.raises(
            errors.StaleUpdate, match="'C3' for round 3 came while the operator took the run back"
        ):
            run.lead.send("C3", offer, chunks(file))
        with pytest.raises(errors.UpdateRefused, match="it changes the model by 57"):
            run.lead.send("C3", offer, codec.chunks(file))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), Killed()])
def test_a_discarded_model_is_gone_though_its_files_could_not_be_moved(opened, monkeypatch, error):
    settings = {"num_rounds": 4, "min_num_clients": 2, "max_num_clients": 2, "keep_updates": 9}
    run = opened(**settings)
    sites = [Site(run, name) for name in ("C1", "C2")]
    closed_rounds(run, sites, (1, 2, 3), 2.0)
    with monkeypatch.context() as broken, contextlib.suppress(Killed):
        broken.setattr(store.Store, "_discard", lambda self, path: raising(error))
        run.lead.orders.discard_round(3)
    if isinstance(error, Killed):
        run = opened(**settings)
        sites = [Site(run, name) for name in ("C1", "C2")]
    assert {site.task() for site in sites} == {
        tasks.Task("train", round=3, model="round_002", discarded=1)
    }
    assert run.lead.orders.status()["best_round"] == 2
    closed_rounds(run, sites, (3,), 1.0)
    assert scale(run, 3) == tensor_files.load(run.folder / "best.safetensors")[0]["scale"] == 1.0
    if isinstance(
        error, Killed
    ):  # else the updates that were left lie beside those of the new round: no harm is done
        assert len(list((run.folder / "kept" / "round_003").iterdir())) == 2


def test_a_round_that_is_repeated_often_is_a_new_one_each_time(opened, clock):
    """A site may send so many updates and scores of one round, and again after going back."""
    run = opened(
        num_rounds=2,
        min_num_clients=1,
        max_num_clients=2,
        wait_after_min_clients_s=1e6,
        round_deadline_s=1e9,
    )
    first, second = Site(run, "C1"), Site(run, "C2")
    for times in range(25):
        for site in (first, second):
            site.push(1, 1.0 + times / 100)
        run.lead.advance()
        run.lead.report_scores("C1", 1, {"dice": times / 100})
        assert run.store.score(1, "C1") == {"dice": times / 100}
        run.lead.orders.discard_round(1)
        _, offer = second.offer(9.0, round=1, num_examples=10)
        run.lead._uploads._note_progress(CheckedOffer("C2", offer, tuple), chunks=1)
        assert "C2" in run.lead._run.round.arriving
