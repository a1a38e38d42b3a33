import json

import pytest

from federated import errors
from federated.rounds import tasks
from tests.federated import masked_site, toy
from tests.federated.masked_site import MaskedSite, in_phase
from tests.federated.server.test_coordinator import Site, scale


@pytest.fixture
def pair(opened):
    run = opened()
    return run, Site(run, "C1"), Site(run, "C2")


def test_a_paused_run_hands_out_no_task_and_closes_no_round_but_accepts_updates(opened, pair):
    run, first, second = pair
    first.push(1, 1.0)
    run.lead.orders.pause()
    run.lead.orders.pause()
    assert first.task().kind == second.task().kind == "wait"
    second.push(1, 5.0)
    assert run.lead.advance() is None and list(run.store.globals()) == [0]
    run = opened()  # a pause outlives the server
    assert run.store.paused and run.lead.advance() is None
    run.lead.orders.resume()
    run.lead.advance()
    assert scale(run, 1) == 2.0


def test_a_pause_counts_for_no_deadline(opened, clock):
    run = opened(min_num_clients=1, max_num_clients=2, wait_after_min_clients_s=10.0)
    Site(run, "C1").push(1)
    run.lead.orders.pause()
    clock.now += 1000.0
    run.lead.orders.resume()
    assert run.lead.advance() == 10.0


def test_an_evicted_site_is_out_at_once_and_its_update_does_not_count(opened):
    run = opened(min_num_clients=1, max_num_clients=2, wait_after_min_clients_s=5.0)
    first, second = Site(run, "C1"), Site(run, "C2")
    token = run.lead.login("C2", "secret of C2", toy.PLAN, 10).token
    first.push(1, 1.0)
    second.push(1, 5.0)
    run.lead.orders.evict("C2")
    with pytest.raises(errors.SessionExpired):
        run.lead.site_of(token)
    with pytest.raises(errors.UnknownSite, match="'C2' was evicted"):
        run.lead.login("C2", "secret of C2", toy.PLAN, 10)
    run.lead.advance()
    assert scale(run, 1) == 1.0  # at once: nobody else is expected
    run.lead.orders.readmit("C2")
    second = Site(run, "C2")
    assert second.task() == tasks.Task("train", round=2, model="round_001")
    with pytest.raises(errors.UnknownSite, match="'C9' never logged in; there are C1, C2"):
        run.lead.orders.evict("C9")


def test_another_site_may_take_the_place_of_an_evicted_one(pair):
    run, _, _ = pair
    with pytest.raises(errors.FederationFull):
        Site(run, "C3")
    run.lead.orders.evict("C2")
    Site(run, "C3")


def test_a_round_waits_for_the_site_that_took_the_place_of_an_evicted_one(opened, clock):
    run = opened(
        min_num_clients=1,
        max_num_clients=2,
        wait_after_min_clients_s=10.0,
        heart_beat_timeout_s=1e9,
    )
    first, _ = Site(run, "C1"), Site(run, "C2")
    run.lead.orders.evict("C2")
    third = Site(run, "C3")
    first.push(1, 1.0)
    assert run.lead.advance() == 10.0
    third.push(1, 5.0)
    run.lead.advance()
    assert run.store.counted(1) == {"C1", "C3"}
    run.lead.orders.evict("C3")  # and for nobody, once that one has left too
    first.push(2, 1.0)
    run.lead.advance()
    assert run.store.counted(2) == {"C1"}


def test_finish_makes_the_open_round_the_last(opened, pair):
    run, first, second = pair
    assert run.lead.orders.finish() == 1
    for site in (first, second):
        site.push(1, 3.0)
    run.lead.advance()
    assert first.task() == tasks.Task("score", round=1, model="round_001")
    run = opened()  # for good
    assert run.lead.next_task("C1") == tasks.Task("score", round=1, model="round_001")


def test_finish_immediately_leaves_the_open_round(pair):
    run, first, second = pair
    for site in (first, second):
        site.push(1, 3.0)
    run.lead.advance()
    first.push(2, 9.0)
    assert run.lead.orders.finish(immediately=True) == 1
    assert second.task() == tasks.Task("score", round=1, model="round_001")
    with pytest.raises(errors.StaleUpdate, match="the last round is over"):
        second.push(2, 9.0)


def test_the_status_is_plain_json_and_says_where_each_site_is(pair, clock):
    run, first, _ = pair
    first.push(1)
    run.lead.report_scores("C1", 0, {"dice": 0.25})
    clock.now += 5.0
    status = json.loads(json.dumps(run.lead.orders.status()))
    assert (status["phase"], status["open_round"], status["updates"], status["num_rounds"]) == (
        "rounds",
        1,
        ["C1"],
        3,
    )
    assert (
        status["sites"]["C1"]["state"] == "pushed" and status["sites"]["C2"]["state"] == "training"
    )
    assert (
        status["sites"]["C1"]["scores"] == {"0": {"dice": 0.25}}
        and status["sites"]["C2"]["seconds_since_heard"] == 5.0
    )
    clock.now += 1e6
    assert run.lead.orders.status()["sites"]["C2"]["state"] == "silent"


NAMES = ["C1", "C2", "C3"]


@pytest.fixture
def summed(opened, clock):
    """A run with secure aggregation."""
    clock.now = masked_site.now()
    return opened(**masked_site.SETTINGS)


@pytest.fixture
def sites(summed, tmp_path):
    return [MaskedSite(name, summed.transport(name), tmp_path / "sites") for name in NAMES]


def sum_of(run):
    return run.lead.orders.status()["sum"]


@pytest.mark.parametrize(
    ("kind", "phase", "needed"),
    [
        ("train", "keys", 3),
        ("share", "share", 2),
        ("mask", "mask", 2),
        ("consent", "consent", 2),
        ("reveal", "reveal", 2),
    ],
)
def test_each_phase_names_who_has_done_it_and_who_is_awaited(summed, sites, kind, phase, needed):
    in_phase(summed, sites, kind)
    about = {"exchange": 1, "phase": phase, "needed": needed}
    assert sum_of(summed) == {**about, "done": [], "awaited": NAMES}
    sites[1].do(only=kind)
    assert sum_of(summed) == {**about, "done": ["C2"], "awaited": ["C1", "C3"]}


def test_a_site_that_dropped_out_or_was_evicted_is_not_awaited(summed, sites, clock):
    in_phase(summed, sites, "mask")
    for site in sites[:2]:
        site.do(only="mask")
    clock.now += summed.config.secure_aggregation_deadline_s
    summed.lead.advance()
    assert sum_of(summed)["phase"] == "consent" and sum_of(summed)["awaited"] == ["C1", "C2"]
    summed.lead.orders.evict("C3")
    assert sum_of(summed)["awaited"] == ["C1", "C2"]


def test_the_number_of_the_exchange_tells_that_a_sum_began_again(summed, sites, clock):
    in_phase(summed, sites, "consent")
    clock.now += summed.config.secure_aggregation_deadline_s
    summed.lead.advance()
    assert (sum_of(summed)["exchange"], sum_of(summed)["phase"]) == (2, "keys")


def test_without_secure_aggregation_there_is_no_sum(opened):
    assert sum_of(opened()) is None
