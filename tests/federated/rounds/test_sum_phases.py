import dataclasses

import pytest

from federated import errors
from federated.rounds import rounds, sum_phases
from federated.rounds.rounds import Policy, Round
from federated.rounds.sum_phases import Exchange, SumPolicy

SUMS = SumPolicy(threshold=2, phase_deadline_s=600.0)
ROUND = Policy(
    min_num_clients=3,
    max_num_clients=4,
    num_rounds=2,
    wait_after_min_clients_s=10.0,
    round_deadline_s=1000.0,
    progress_grace_s=60.0,
    max_extension_s=600.0,
    late_updates="discard",
)


def after(state, *sites, now=0.0):
    for site in sites:
        state = sum_phases.acted(state, site, now=now)
    return state


def outcome(state, *absent, now=0.0, since=0.0):
    return sum_phases.outcome(state, absent, SUMS, since=since, now=now)


@pytest.fixture
def sharing():
    return sum_phases.advanced(after(Exchange(1, 0.0), "C1", "C2", "C3"), now=5.0)


def test_the_phases_follow_each_other_with_those_that_did_their_part():
    state = after(Exchange(1, 0.0), "C1", "C2", "C3", "C4")
    assert state.members is None
    for phase, left in (
        ("share", ("C1", "C2", "C3")),
        ("mask", ("C1", "C3")),
        ("consent", ("C1", "C3")),
        ("reveal", ("C1", "C3")),
    ):
        before = frozenset(state.done)
        state = sum_phases.advanced(state, now=1.0)
        assert (state.phase, state.members, state.done) == (phase, before, {})
        state = after(state, *left)
    assert state.survivors == {"C1", "C3"} and state.dropped == {"C2"}


def test_a_site_acts_once_in_the_phase_that_is_open(sharing):
    assert sum_phases.task_of(sharing, "C1") == "share"
    assert sum_phases.task_of(sharing, "C4") is None
    once = after(sharing, "C1", now=7.0)
    assert sum_phases.task_of(once, "C1") is None
    assert after(once, "C1", now=9.0).done == {"C1": 7.0}
    for site, phase, number, message in (
        ("C4", "share", 1, "'C4' takes no part in 'share'"),
        ("C1", "keys", 1, "'C1' is at 'keys' of exchange 1, the round at 'share'"),
        ("C1", "share", 2, "at 'share' of exchange 2, the round at 'share' of exchange 1"),
    ):
        with pytest.raises(errors.StaleUpdate, match=message):
            sum_phases.check(sharing, site, phase, number)


def test_a_phase_waits_for_its_sites_until_its_deadline(sharing):
    assert outcome(sharing) == "wait"
    two = after(sharing, "C1", "C2")
    assert outcome(two) == "wait"
    assert outcome(two, "C3") == "next"  # it has left, and two are enough
    assert outcome(two, now=604.9) == "wait"
    assert outcome(two, now=605.0) == "next"
    assert outcome(two, now=605.0, since=100.0) == "wait"  # after a pause
    assert outcome(two, now=700.0, since=100.0) == "next"
    assert outcome(after(two, "C3")) == "next"


def test_a_phase_that_too_few_finish_fails_at_its_deadline(sharing):
    one = after(sharing, "C1")
    assert outcome(one, "C2", "C3") == "wait"  # they may come back
    assert outcome(one, "C2", "C3", now=605.0) == "failed"
    assert outcome(sharing, now=605.0) == "failed"
    pair = dataclasses.replace(sharing, closed={"keys": frozenset({"C1"})})
    assert outcome(after(pair, "C1")) == "failed"


def test_the_sum_is_opened_as_soon_as_a_threshold_has_revealed(sharing):
    state = dataclasses.replace(
        sharing, phase="reveal", closed={"consent": frozenset({"C1", "C2", "C3"})}
    )
    assert outcome(after(state, "C1")) == "wait"
    assert outcome(after(state, "C1", "C2")) == "next"


def test_the_rounds_own_policy_ends_the_phase_of_the_keys():
    state = Exchange(1, 0.0)
    for number, site in enumerate(("C2", "C1", "C3")):
        state = sum_phases.acted(state, site, now=20.0 + number)
    gathered = sum_phases.gathering(state, Round(1, opened_at=3.0), ROUND)
    assert gathered.min_reached_at == 22.0 and gathered.opened_at == 3.0

    assert not rounds.is_over(gathered, ROUND, now=31.9)
    assert rounds.is_over(gathered, ROUND, now=32.0)
    four = sum_phases.gathering(after(state, "C4", now=23.0), Round(1), ROUND)
    assert rounds.is_over(four, ROUND, now=23.0)
    late = sum_phases.gathering(Exchange(1, 0.0), Round(1), ROUND)
    assert rounds.is_expired(late, ROUND, now=1000.0)


def test_another_exchange_begins_from_nothing(sharing):
    again = sum_phases.restarted(after(sharing, "C1"), now=9.0)
    assert again == Exchange(2, 9.0)


def test_the_keys_of_more_sites_than_a_round_takes_count_by_when_they_came():
    state = after(Exchange(1, 0.0), "C5", now=2.0)
    state = after(state, "C1", "C2", "C3", "C4", now=1.0)
    gathered = sum_phases.gathering(state, Round(1), ROUND)
    assert gathered.received.keys() == {"C1", "C2", "C3", "C4"}
    assert rounds.is_over(gathered, ROUND, now=1.0)


def test_the_exchange_after_a_sum_that_may_be_open_is_for_the_same_sites():
    state = after(Exchange(1, 0.0), "C1", "C2", "C3")
    for left in (("C1", "C2", "C3"), ("C1", "C2"), ("C1", "C2")):
        state = after(sum_phases.advanced(state, now=1.0), *left)
    assert sum_phases.restarted(state, now=2.0).again == frozenset()  # nothing was revealed
    state = sum_phases.restarted(sum_phases.advanced(state, now=2.0), now=3.0)
    assert (state.number, state.phase, state.again) == (2, "keys", {"C1", "C2"})
    sharing = sum_phases.advanced(after(state, "C1", "C2", "C3"), now=4.0)
    assert sharing.members == {"C1", "C2", "C3"}
    masking = sum_phases.advanced(after(sharing, "C1", "C2", "C3"), now=5.0)
    assert masking.members == {"C1", "C2"}
    assert sum_phases.task_of(masking, "C3") is None
    # Without one of them it cannot be the same sum, so it is for all that are there.
    assert sum_phases.advanced(after(sharing, "C1", "C3"), now=5.0).members == {"C1", "C3"}
    assert sum_phases.restarted(masking, now=6.0).again == {"C1", "C2"}
