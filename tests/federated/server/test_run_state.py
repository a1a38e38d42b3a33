from federated.rounds import tasks
from tests.federated import toy
from tests.federated.conftest import Clock
from tests.federated.server.test_coordinator import Site, play_rounds


def test_setting_the_machines_clock_moves_no_deadline_and_makes_no_site_silent(opened, clock):
    """The clock is set back by an hour during the wait, and forward by a day during training."""
    steady = Clock(50.0)  # as after a start of the machine
    settings = {
        "min_num_clients": 1,
        "max_num_clients": 2,
        "wait_after_min_clients_s": 10.0,
        "round_deadline_s": 7200.0,
    }
    run = opened(monotonic=steady, **settings)
    first, second = Site(run, "C1"), Site(run, "C2")
    first.push(1)
    assert run.lead.advance() == 10.0
    clock.now -= 3600.0
    steady.now += 4.0
    assert run.lead.advance() == 6.0
    steady.now += 6.0
    run.lead.advance()
    assert set(run.store.globals()) == {0, 1}
    first.push(2)
    clock.now += 25 * 3600.0
    steady.now += 5.0
    assert run.lead.advance() == 5.0  # the second site is waited for
    assert run.lead.orders.status()["sites"]["C2"]["state"] == "training"
    assert run.lead.orders.status()["sites"]["C2"]["seconds_since_heard"] == 15.0
    second.push(2)
    run.lead.advance()
    assert set(run.store.globals()) == {0, 1, 2}


def test_a_clock_that_was_set_back_while_the_server_was_away_prolongs_no_wait(opened, clock):
    settings = {
        "min_num_clients": 1,
        "max_num_clients": 2,
        "wait_after_min_clients_s": 10.0,
        "round_deadline_s": 20.0,
    }
    Site(opened(**settings), "C1").push(1)
    clock.now -= 86400.0
    assert opened(**settings).lead.advance() == 10.0


def test_a_silent_site_is_left_behind_only_while_the_minimum_remains(opened, clock):
    run = opened(
        min_num_clients=1,
        max_num_clients=2,
        heart_beat_timeout_s=600.0,
        wait_after_min_clients_s=60.0,
    )
    first, second = Site(run, "C1"), Site(run, "C2")
    token = run.lead.login("C1", "secret of C1", toy.PLAN, 30).token
    play_rounds(run, (first, second))
    run.lead.declare_models("C1", [])
    assert run.lead.advance() == 600.0  # until C2 counts as silent
    clock.now += 599.0
    run.lead.site_of(token)  # any call is a sign of life
    assert run.lead.advance() == 1.0
    clock.now += 1.0
    run.lead.advance()
    assert (
        first.task()
        == second.task()
        == tasks.Task("evaluate", models=("FL_global", "FL_best_global"))
    )


def test_models_that_travel_are_counted_for_each_site_and_direction(opened):
    state = opened().lead._run
    state.note_traffic("C1", sent=10)
    state.note_traffic("C2", received=5)
    state.note_traffic("C1", sent=1, received=2)
    assert state.traffic == {"C1": (11, 2), "C2": (0, 5)}


def test_waiting_sites_cost_questions_to_the_store_once_per_change(opened):
    """And what they are told is what a server says that has just read everything."""
    run = opened(min_num_clients=3, max_num_clients=3)
    sites = [Site(run, name) for name in ("C1", "C2", "C3")]
    state, asked = run.lead._run, []
    ask = run.store._all
    run.store._all = lambda statement, *values: asked.append(statement) or ask(statement, *values)

    def told():
        fresh = state._progress_now()
        asked.clear()
        return [
            (run.lead.next_task(site.name).kind, tasks.next_task(fresh, site.name).kind)
            for site in sites
        ]

    assert told() == [("train", "train")] * 3
    for _ in range(2):
        told()
        assert not asked
    sites[0].push(1)
    assert told() == [("wait", "wait"), ("train", "train"), ("train", "train")]
    run.lead.orders.pause()
    assert told() == [("wait", "wait")] * 3
    run.lead.orders.resume()
    sites[1].push(1)
    sites[2].push(1)
    state.closing = True
    assert told() == [("wait", "wait")] * 3
    state.closing = False
    run.lead.advance()
    assert told() == [("train", "train")] * 3
    assert state.progress() is state.progress() == state._progress_now()
