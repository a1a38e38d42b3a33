"""Updates of a hostile site: none excludes another site or holds a round open."""

import contextlib
import errno

import pytest

from federated import errors
from federated.storage import store
from federated.tensors import codec, tensor_files
from federated.tensors.tensor_files import TensorFile
from federated.wire.messages import Offer
from tests.federated import toy
from tests.federated.run_steps import raising
from tests.federated.server.test_coordinator import Site, scale


def test_a_caller_is_verified_again_when_its_upload_ends(opened):
    run = opened(min_num_clients=1, max_num_clients=2)
    site = Site(run, "C2")
    token = run.lead.login("C2", "secret of C2", toy.PLAN, 10).token
    path, offer = site.offer(5.0, round=1, num_examples=10)

    def chunks_and_then_an_eviction(file):
        yield from codec.chunks(file)
        run.lead.orders.evict("C2")

    with TensorFile(path) as file, pytest.raises(errors.SessionExpired):
        run.lead.send(
            "C2",
            offer,
            chunks_and_then_an_eviction(file),
            verify=lambda: run.lead.record_of(token),
        )
    assert run.store.counted(1) == frozenset() and list((run.folder / "spool").iterdir()) == []


def test_two_sites_bound_each_other_from_the_first_round(opened):
    run = opened(num_rounds=5, min_num_clients=2, max_num_clients=2)
    hostile, honest = Site(run, "C1"), Site(run, "C2")
    with pytest.raises(errors.UpdateRefused, match="changes the model by"):
        hostile.push(1, 3e38)
    for number in (1, 2, 3, 4, 5):
        hostile.push(number, 3.0)
        for value in (10.0, 15.0 * 5**number):  # as far as it goes
            with contextlib.suppress(errors.UpdateRefused):
                hostile.push(number, value)
        honest.push(number, 2.0)
        run.lead.advance()
        assert abs(scale(run, number)) < 20


def test_a_hostile_site_that_sends_tiny_changes_excludes_no_other_site(opened):
    run = opened(num_rounds=3, min_num_clients=2, max_num_clients=2)
    _, honest = Site(run, "C1"), Site(run, "C2")
    for number in (1, 2, 3):
        before = tensor_files.load(run.store.global_path(number - 1))[0]
        path = run.folder / "same.safetensors"
        offer = Offer(tensor_files.save_as(path, before), round=number, num_examples=30)
        with TensorFile(path) as file:
            run.lead.send("C1", offer, codec.chunks(file))
        honest.push(number, 2.0 + number)
        run.lead.advance()
    assert max(run.store.globals()) == 3


def test_the_number_of_cases_is_that_of_the_login_unless_the_operator_allows_another(opened):
    run = opened(min_num_clients=1, max_num_clients=2)
    site = Site(run, "C1")
    with pytest.raises(
        errors.UpdateRefused,
        match="num_examples 3000 for round 1; expected 30, the number it logged in with",
    ):
        site.push(1, num_examples=3000)
    with pytest.raises(
        errors.UpdateRefused, match="logs in with 3000 training cases, and with 30 before"
    ):
        run.lead.login("C1", "secret of C1", toy.PLAN, 3000)
    run.lead.orders.readmit("C1")
    assert run.lead.orders.status()["sites"]["C1"]["num_examples"] == 30
    run.lead.login("C1", "secret of C1", toy.PLAN, 3000)
    site.push(1, num_examples=3000)
    with pytest.raises(errors.UpdateRefused, match="with 30 training cases, and with 3000 before"):
        run.lead.login("C1", "secret of C1", toy.PLAN, 30)  # allowed once


def test_no_update_is_confirmed_for_a_round_that_the_store_has_closed(opened, monkeypatch):
    run = opened(num_rounds=3, min_num_clients=2, max_num_clients=3, wait_after_min_clients_s=0.0)
    first, second, late = (Site(run, name) for name in ("C1", "C2", "C3"))
    for site in (first, second):
        site.push(1)
    with monkeypatch.context() as full:
        full.setattr(
            store.Store,
            "keep_selection",
            lambda *given: raising(OSError(errno.ENOSPC, "No space left on device")),
        )
        with pytest.raises(OSError, match="No space left"):
            run.lead.advance()
        with pytest.raises(errors.StorageTrouble, match="the site tries again by itself"):
            late.push(1)
    run.lead.advance()
    with pytest.raises(errors.StaleUpdate, match="'C3' sent round 1, round 2 is open"):
        late.push(1)
    assert run.store.counted(1) == {"C1", "C2"} and run.lead.orders.status()["best_round"] == 1


def test_updates_that_are_refused_again_and_again_do_not_hold_a_round_open(opened, clock):
    run = opened(min_num_clients=2, max_num_clients=3, wait_after_min_clients_s=10.0)
    first, second, hostile = (Site(run, name) for name in ("C1", "C2", "C3"))

    def refused():
        run.lead.offer("C3", hostile.offer(1e9, round=1, num_examples=5)[1])
        with pytest.raises(errors.UpdateRefused, match="it changes the model by"):
            hostile.push(1, 1e9)

    refused()
    first.push(1)
    second.push(1)
    for _ in range(3):
        clock.now += 4.0
        refused()
    run.lead.advance()
    assert first.task().round == 2
