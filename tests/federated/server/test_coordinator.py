import dataclasses

import numpy as np
import pytest

from federated import errors
from federated.aggregation import spooled_updates
from federated.rounds import tasks
from federated.security import credentials
from federated.server import config as server_config
from federated.tensors import codec, partial_file, tensor_files
from federated.tensors.tensor_files import TensorFile
from federated.wire.messages import Offer, Receipt
from tests.federated import manifests, toy
from tests.federated.conftest import Clock


class Site:
    """Makes a site's requests one by one."""

    def __init__(self, run, name):
        self.run, self.name = run, name
        run.lead.login(name, f"secret of {name}", toy.PLAN, toy.EXAMPLES[name])

    def task(self):
        return self.run.lead.next_task(self.name)

    def offer(self, value=1.0, **named):
        arrays = {name: np.full_like(array, value) for name, array in toy.INITIAL.items()}
        path = self.run.folder / f"{self.name}.safetensors"
        return path, Offer(tensor_files.save_as(path, arrays), **named)

    def push(self, number, value=1.0, **changes):
        path, offer = self.offer(value, round=number, num_examples=toy.EXAMPLES[self.name])
        with TensorFile(path) as file:
            return self.run.lead.send(
                self.name, dataclasses.replace(offer, **changes), codec.chunks(file)
            )

    def publish(self, model, value=1.0):
        path, offer = self.offer(value, model=model)
        with TensorFile(path) as file:
            return self.run.lead.send(self.name, offer, codec.chunks(file))

    def row(self, model="FL_global", case=1):
        return {
            "model": model,
            "site": self.name,
            "case": case,
            "grid": "native",
            "dice_pancreas": 0.5,
        }


def scale(run, number):
    return float(
        tensor_files.load(run.folder / "global" / f"round_{number:03d}.safetensors")[0]["scale"]
    )


def test_a_round_closes_after_the_wait_when_the_minimum_is_there(opened, clock):
    run = opened(
        min_num_clients=2,
        max_num_clients=3,
        wait_after_min_clients_s=10.0,
        heart_beat_timeout_s=1e9,
    )
    first, second, third = (Site(run, name) for name in ("C1", "C2", "C3"))
    first.push(1, 1.0)
    assert run.lead.advance() is None  # below the minimum nothing happens, however long
    clock.now += 3600
    assert run.lead.advance() is None
    second.push(1, 5.0)
    assert run.lead.advance() == 10.0
    clock.now += 4.0
    assert run.lead.advance() == 6.0 and first.task().kind == "wait"
    clock.now += 6.0
    run.lead.advance()
    assert scale(run, 1) == (30 * 1.0 + 10 * 5.0) / 40
    assert first.task() == tasks.Task("train", round=2, model="round_001")
    with pytest.raises(errors.StaleUpdate, match="'C3' sent round 1, round 2 is open"):
        third.push(1)
    assert third.task() == tasks.Task("train", round=2, model="round_001")


def test_the_maximum_closes_a_round_immediately(opened):
    run = opened(min_num_clients=1, max_num_clients=2, wait_after_min_clients_s=1e9)
    for name, value in (("C1", 1.0), ("C2", 5.0)):
        Site(run, name).push(1, value)
    run.lead.advance()
    assert scale(run, 1) == 2.0


def test_a_restart_in_the_middle_of_the_wait_keeps_the_deadline(opened, clock):
    settings = {"min_num_clients": 1, "max_num_clients": 2, "wait_after_min_clients_s": 10.0}
    Site(opened(**settings), "C1").push(1)
    clock.now += 4.0
    assert opened(**settings).lead.advance() == 6.0


def test_time_in_which_the_server_is_stopped_counts_towards_the_deadline_of_a_round(opened, clock):
    settings = {"min_num_clients": 2, "max_num_clients": 2, "round_deadline_s": 100.0}
    opened(**settings)
    clock.now += 60.0
    assert opened(**settings).lead.advance() == 40.0
    clock.now += 50.0
    opened(**settings).lead.advance()
    assert opened(**settings).store.attempt(1) == (2, clock.now)


def test_tokens_and_certificates_end_by_the_time_of_day(opened, clock):
    run = opened(monotonic=Clock(50.0), token_lifetime_s=100.0)
    token = run.lead.login("C1", "secret of C1", toy.PLAN, 30).token
    clock.now += 101.0
    with pytest.raises(errors.SessionExpired):
        run.lead.site_of(token)


def test_a_retry_counts_once_and_another_update_of_the_site_replaces_the_first(opened):
    run = opened()
    first, second = Site(run, "C1"), Site(run, "C2")
    receipt = first.push(1, 1.0)
    assert (
        first.push(1, 1.0)
        == receipt
        == Receipt(
            "C1",
            "round_001",
            manifests.digest({n: np.ones_like(a) for n, a in toy.INITIAL.items()}),
        )
    )
    assert first.push(1, 3.0) != receipt
    second.push(1, 5.0)
    run.lead.advance()
    assert scale(run, 1) == (30 * 3.0 + 10 * 5.0) / 40


def test_while_a_round_is_aggregated_updates_come_too_late_and_sites_wait(opened, monkeypatch):
    run = opened(min_num_clients=1, max_num_clients=2, wait_after_min_clients_s=0.0)
    first, second = Site(run, "C1"), Site(run, "C2")
    first.push(1)
    seen = []
    aggregate = spooled_updates.aggregate

    def meanwhile(*given, **named):
        seen.append(second.task().kind)
        with pytest.raises(errors.StaleUpdate, match="round 1, which has just closed"):
            second.push(1)
        aggregate(*given, **named)

    monkeypatch.setattr(spooled_updates, "aggregate", meanwhile)
    run.lead.advance()
    assert seen == ["wait"] and second.task().round == 2


@pytest.mark.parametrize("restarted", [True, False])
@pytest.mark.parametrize("harm", ["flipped", "not a number", "truncated", "gone"])
def test_an_update_that_the_disk_corrupted_is_trained_again_and_does_no_harm(
    opened, harm, restarted
):
    run = opened()
    first, second = Site(run, "C1"), Site(run, "C2")
    first.push(1, 1.0)
    second.push(1, 5.0)
    path = run.store.update_path(run.store.update("C1", 1))
    content = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    else:
        content[-1] ^= 64
        if harm == "not a number":
            content[-4:] = np.float32("nan").tobytes()
        path.write_bytes(content[:-5] if harm == "truncated" else content)
    run = opened() if restarted else run
    run.lead.advance()
    first.run = second.run = run
    assert list(run.store.globals()) == [0] and not run.store.global_path(1).exists()
    assert (
        first.task() == tasks.Task("train", round=1, model="round_000")
        and second.task().kind == "wait"
    )
    first.push(1, 1.0)
    run.lead.advance()
    assert scale(run, 1) == 2.0


def play_rounds(run, sites, number=3):
    for n in range(1, number + 1):
        for site in sites:
            run.lead.report_scores(site.name, n - 1, {"dice": 0.1 * n})
            site.push(n, float(n))
        run.lead.advance()
    for site in sites:
        run.lead.report_scores(site.name, number, {"dice": 0.1})


def test_closing_phases_wait_for_every_site_when_minimum_is_maximum(opened, clock):
    run = opened(heart_beat_timeout_s=600.0)
    first, second = Site(run, "C1"), Site(run, "C2")
    play_rounds(run, (first, second))
    first.publish("C1_baseline", 7.0)
    run.lead.declare_models("C1", ["C1_baseline"])
    clock.now += 1e6  # C2 has been silent for days
    assert run.lead.advance() is None and first.task().kind == "wait"
    run.lead.declare_models("C2", [])
    run.lead.advance()
    models = ("C1_baseline", "FL_global", "FL_best_global")
    assert first.task() == second.task() == tasks.Task("evaluate", models=models)
    file, _ = run.lead.open_model("FL_best_global")
    with file:
        assert file.metadata["round"] == "2"  # scored 0.3, the others less
    for site in (first, second):
        run.lead.submit_rows(site.name, [site.row()])
        assert site.task().kind == "finished"
    run.lead.advance()
    assert run.store.finished and run.lead.summary() == server_config.ServerSummary(
        True, 3, ("C1", "C2"), 2, 2
    )


def test_published_models_belong_to_their_site(opened):
    run = opened(num_rounds=1)
    first, second = Site(run, "C1"), Site(run, "C2")
    with pytest.raises(
        errors.StaleUpdate, match="'C1_baseline' of site 'C1' came before the last round was over"
    ):
        first.publish("C1_baseline", 1.0)
    for site in (first, second):
        site.push(1)
    run.lead.advance()
    receipt = first.publish("C1_baseline", 1.0)
    assert first.publish("C1_baseline", 1.0) == receipt and receipt.what == "C1_baseline"
    for taken in ("C1_baseline", "C1_FL_local", "baseline"):  # whether or not C1 has come with it
        with pytest.raises(
            errors.ModelRefused,
            match=f"'{taken}' of site 'C2' does not begin with its own name; call it C2_",
        ):
            second.publish(taken, 2.0)
    with pytest.raises(
        errors.UnknownModel, match="'C2' declares C1_baseline, which it has not published"
    ):
        run.lead.declare_models("C2", ["C1_baseline"])
    assert tensor_files.load(run.store.model_path("C1_baseline"))[0]["scale"] == 1.0


@pytest.mark.parametrize(
    "name", ["FL_global", "FL_best_global", "round_003", "../C1", "a" * 65, "C1 baseline"]
)
def test_reserved_and_malformed_names_are_refused(opened, name):
    run = opened()
    with pytest.raises(errors.ModelRefused, match="reserved or malformed"):
        Site(run, "C1").publish(name)
    assert list((run.folder / "models").iterdir()) == []


def test_a_site_that_no_round_counted_also_hears_of_the_end(opened, clock):
    """Otherwise it would wait for days for a server that has left."""
    run = opened(
        num_rounds=1,
        min_num_clients=1,
        cross_site_evaluation=False,
        wait_after_min_clients_s=0.0,
        heart_beat_timeout_s=60.0,
        linger_s=0.0,
    )
    last, first = Site(run, "C2"), Site(run, "C1")
    clock.now += 61.0
    first.task()
    first.push(1)
    run.lead.advance()
    run.lead.report_scores("C1", 1, {"dice": 0.5})
    run.lead.advance()
    assert run.store.finished and first.task().kind == "finished"
    told = []
    run.store.confirm, confirm = lambda site: (told.append(site), confirm(site)), run.store.confirm
    assert not run.lead._all_confirmed()
    assert last.task().kind == "finished" and told == ["C2"] and run.lead._all_confirmed()


def test_a_plan_that_differs_is_refused_and_nobody_is_enrolled(opened):
    run = opened()
    with pytest.raises(
        errors.PlanDiffers,
        match=r"patch\.size: server \[4, 4, 4\], site \[8, 8, 8\]; start it with",
    ):
        run.lead.login("C1", "secret of C1", {**toy.PLAN, "patch": {"size": (8, 8, 8)}}, 30)
    with pytest.raises(errors.VersionDiffers, match="version 99"):
        run.lead.login("C1", "secret of C1", toy.PLAN, 30, protocol=99)
    with pytest.raises(errors.UpdateRefused, match="has 0 training examples"):
        run.lead.login("C1", "secret of C1", toy.PLAN, 0)
    assert run.store.sites() == {}


def test_a_site_that_is_no_longer_provisioned_is_out_at_once(opened):
    run = opened()
    token = run.lead.login("C1", "secret of C1", toy.PLAN, 30).token
    run.lead._login._credentials = credentials.CredentialBook({"C2": "0" * 64})
    with pytest.raises(errors.SessionExpired, match="'C1' no longer has a part"):
        run.lead.site_of(token)


def test_a_full_disk_refuses_and_changes_nothing(opened, monkeypatch):
    run = opened()
    site = Site(run, "C1")

    def full(*given, **named):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(partial_file.os, "pwrite", full)
        with pytest.raises(errors.StorageTrouble, match="No space left on device"):
            site.push(1)
        broken.undo()
        broken.setattr(run.store, "keep_update", full)
        with pytest.raises(errors.StorageTrouble, match="No space left on device"):
            site.push(1)
    assert site.task() == tasks.Task("train", round=1, model="round_000")
    run.lead.advance()  # the driving thread reads from the store how far the change went
    site.push(1)
    assert list((run.folder / "incoming").iterdir()) == []
    assert site.task().kind == "wait"


def test_the_order_of_arrival_and_restarts_leave_the_bits_as_they_are(opened):
    digests = set()
    for number, order in enumerate((("C1", "C2", "C3"), ("C3", "C1", "C2"))):
        settings = {"folder": f"store_{number}", "min_num_clients": 3, "max_num_clients": 3}
        run = opened(**settings)
        for name in order:
            Site(run, name).push(1, {"C1": 0.1, "C2": 0.7, "C3": -0.3}[name])
            run = opened(**settings)
        run.lead.advance()
        digests.add(run.store.globals()[1])
    assert len(digests) == 1
    expected = np.float32(
        (
            30 * np.float64(np.float32(0.1))
            + 10 * np.float64(np.float32(0.7))
            + 5 * np.float64(np.float32(-0.3))
        )
        / 45
    )
    assert scale(run, 1) == expected
