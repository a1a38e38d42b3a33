import dataclasses
import random

import pytest

from federated.errors import StaleUpdate, UnknownSite
from federated.rounds.rounds import (
    Policy,
    Round,
    Update,
    accept,
    closes_at,
    expires_at,
    is_expired,
    is_over,
    progressed,
)
from tests.federated.rounds.schedule import Schedule

POLICY = Policy(
    min_num_clients=2,
    max_num_clients=3,
    num_rounds=5,
    wait_after_min_clients_s=10.0,
    round_deadline_s=None,
    progress_grace_s=60.0,
    max_extension_s=6 * 3600.0,
    late_updates="discard",
)


def update(site, number=3, examples=10, sha256="aa"):
    return Update(site, number, examples, sha256)


def test_a_round_by_hand():
    state = accept(Round(3), update("C1"), policy=POLICY, now=100.0)
    assert closes_at(state, POLICY) is None and not is_over(
        state, POLICY, now=1e9
    )  # one is below the minimum, however late
    state = accept(state, update("C2"), policy=POLICY, now=150.0)
    assert closes_at(state, POLICY) == 160.0
    assert not is_over(state, POLICY, now=159.9) and is_over(state, POLICY, now=160.0)
    state = accept(state, update("C3"), policy=POLICY, now=155.0)
    assert is_over(state, POLICY, now=155.0)  # the maximum: nobody is left to wait for
    assert sorted(state.received) == ["C1", "C2", "C3"]


def test_with_minimum_equal_to_maximum_no_clock_decides():
    policy = dataclasses.replace(POLICY, max_num_clients=2)
    state = accept(
        accept(Round(3), update("C1"), policy=policy, now=1.0), update("C2"), policy=policy, now=2.0
    )
    assert is_over(state, policy, now=2.0)


def test_a_retry_replaces_itself_and_does_not_restart_the_wait():
    state = accept(
        accept(Round(3), update("C1"), policy=POLICY, now=1.0), update("C2"), policy=POLICY, now=2.0
    )
    again = accept(state, update("C2", sha256="bb"), policy=POLICY, now=9.0)
    assert len(again.received) == 2 and again.received["C2"].sha256 == "bb"
    assert closes_at(again, POLICY) == 12.0
    assert state.received["C2"].sha256 == "aa"  # the value it came from is as it was


@pytest.mark.parametrize("number", [2, 4])
def test_an_update_for_a_closed_round_names_site_and_round(number):
    with pytest.raises(StaleUpdate, match=rf"'C1'.*round {number}.*round 3"):
        accept(Round(3), update("C1", number), policy=POLICY, now=0.0)


def test_a_site_beyond_the_maximum_is_refused():
    state = Round(3)
    for site in ("C1", "C2", "C3"):
        state = accept(state, update(site), policy=POLICY, now=0.0)
    with pytest.raises(UnknownSite, match=r"round 3 has its 3 updates.*'C4'"):
        accept(state, update("C4"), policy=POLICY, now=0.0)


def test_random_schedules_keep_the_bounds():
    rng = random.Random(4)
    for _ in range(500):
        policy = dataclasses.replace(
            POLICY,
            min_num_clients=rng.randint(1, 3),
            max_num_clients=rng.randint(3, 5),
            num_rounds=1,
            wait_after_min_clients_s=rng.choice([0, 7]),
        )
        state, now, reached = Round(1), 0.0, None
        while not is_over(state, policy, now=now) and now < 200:
            now += rng.random() * 5
            if is_over(state, policy, now=now):
                break
            state = accept(
                state,
                update(f"C{rng.randint(1, policy.max_num_clients)}", 1),
                policy=policy,
                now=now,
            )
            if reached is None and len(state.received) >= policy.min_num_clients:
                reached = now
        if is_over(state, policy, now=now):
            assert policy.min_num_clients <= len(state.received) <= policy.max_num_clients
            assert closes_at(state, policy) <= reached + policy.wait_after_min_clients_s


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_num_clients": 3, "max_num_clients": 2}, "min_num_clients is 3, max_num_clients 2"),
        ({"min_num_clients": 0}, "min_num_clients is 0"),
        ({"num_rounds": -1}, "num_rounds is -1; expected at least 1, or 0 for"),
        ({"wait_after_min_clients_s": -1.0}, "wait_after_min_clients_s is -1"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(POLICY, **settings)


SLOW = dataclasses.replace(
    POLICY, round_deadline_s=100.0, progress_grace_s=20.0, max_extension_s=1000.0
)


def arriving(state, moments, policy=SLOW):
    for now in moments:
        assert not is_expired(state, policy, now=now)
        state = progressed(state, "C1", policy=policy, now=now)
    return state


def test_a_transfer_far_longer_than_the_deadline_keeps_the_round_open():
    state = arriving(Round(3), range(95, 500, 10))
    assert expires_at(state, SLOW) == 495 + 20
    once_there = accept(
        accept(state, update("C2"), policy=SLOW, now=496.0), update("C3"), policy=SLOW, now=497.0
    )
    assert (
        closes_at(once_there, SLOW) == 495 + 20
    )  # below the maximum: two are there, the third still sends
    short = dataclasses.replace(SLOW, max_extension_s=50.0)
    assert expires_at(arriving(Round(3), range(95, 150, 10), short), short) == 150.0


def test_bytes_after_a_pause_longer_than_the_grace_begin_a_new_transfer():
    state = arriving(Round(3), [50, 60, 90])  # 30 s apart, so from 90 on
    assert expires_at(state, SLOW) == 110.0
    late = progressed(state, "C1", policy=SLOW, now=111.0)  # after the deadline, as it then was
    assert late.arriving["C1"].since == 111.0 and expires_at(late, SLOW) == 100.0


def test_a_late_update_does_not_replace_the_newer_one_of_its_site():
    policy = dataclasses.replace(POLICY, late_updates="keep")
    state = accept(Round(3), update("C1", number=3), policy=policy, now=0.0)
    with pytest.raises(StaleUpdate, match="'C1' sent round 2 after round 3"):
        accept(state, update("C1", number=2, sha256="bb"), policy=policy, now=1.0)
    assert accept(state, update("C2", number=2), policy=policy, now=1.0).received["C2"].round == 2


def test_a_deadline_of_no_time_is_refused():
    with pytest.raises(
        ValueError, match=r"round_deadline_s is 0\.0; expected seconds, more than 0"
    ):
        dataclasses.replace(POLICY, round_deadline_s=0.0)


def test_ten_thousand_random_schedules_keep_the_rules():
    over, schedules = 0, 10_000
    for seed in range(schedules):
        schedule = Schedule(random.Random(seed))
        schedule.play()
        over += is_over(schedule.state, schedule.policy, now=schedule.now)
    assert over > schedules / 2
