import dataclasses
import itertools

import pytest

from federated import errors
from federated.rounds.rounds import Round, Update
from federated.rounds.sum_phases import MAX_EXCHANGES, PHASES, Exchange
from federated.rounds.tasks import Progress, Task, check_task, next_task

BOTH = frozenset({"C1", "C2"})


def test_a_run_from_beginning_to_end_by_hand():
    progress = Progress(open_round=Round(1), num_rounds=2)
    assert next_task(progress, "C1") == Task("train", round=1, model="round_000")
    progress = dataclasses.replace(
        progress,
        open_round=Round(1, {"C1": Update("C1", 1, 5, "aa")}),
        participants=frozenset({"C1"}),
    )
    assert next_task(progress, "C1") == Task("wait")
    assert next_task(progress, "C2") == Task("train", round=1, model="round_000")
    progress = dataclasses.replace(progress, open_round=Round(2), participants=BOTH)
    assert next_task(progress, "C1") == Task("train", round=2, model="round_001")
    progress = dataclasses.replace(progress, open_round=None)
    assert next_task(progress, "C1") == Task(
        "score", round=2, model="round_002"
    )  # the last model is scored like all others
    progress = dataclasses.replace(progress, scored=frozenset({"C1"}))
    assert next_task(progress, "C1") == Task("publish")
    progress = dataclasses.replace(progress, declared=frozenset({"C1"}))
    assert next_task(progress, "C1") == Task("wait")  # C2's models may be among those to evaluate
    progress = dataclasses.replace(
        progress, scored=BOTH, declared=BOTH, models=("FL_global", "FL_best_global")
    )
    assert next_task(progress, "C1") == Task("evaluate", models=("FL_global", "FL_best_global"))
    progress = dataclasses.replace(progress, reported=frozenset({"C1"}))
    assert next_task(progress, "C1") == Task("finished")
    assert next_task(progress, "C2").kind == "evaluate"


def test_the_phases_of_an_exchange_are_tasks():
    received = {"C1": Update("C1", 2, 5, "aa")}
    progress = Progress(open_round=Round(2, received), num_rounds=3, discarded=1)
    keys = dataclasses.replace(progress, exchange=Exchange(4, 0.0, done={"C1": 1.0}))
    assert next_task(keys, "C1") == Task("wait")
    assert next_task(keys, "C2") == Task("train", 2, "round_001", discarded=1, exchange=4)
    for before, phase in itertools.pairwise(PHASES):
        closed = {before: BOTH}
        later = dataclasses.replace(progress, exchange=Exchange(4, 0.0, phase, {}, closed))
        expected = Task(phase, 2, discarded=1, exchange=4)
        # Also for a site whose masked update has arrived.
        assert next_task(later, "C1") == next_task(later, "C2") == expected
        assert next_task(later, "C3") == Task("wait")
        for stopped in ({"paused": True}, {"closing": True}):
            assert next_task(dataclasses.replace(later, **stopped), "C1") == Task("wait")


@pytest.mark.parametrize("kind", ["train", "share", "mask", "consent", "reveal"])
def test_exchanges_beyond_their_bounds_are_refused(kind):
    task = Task(kind, 2, "round_001" if kind == "train" else "", exchange=MAX_EXCHANGES)
    check_task(task, trained=2, num_rounds=3)
    for change in ({"exchange": MAX_EXCHANGES + 1}, {"exchange": -1}, {"round": 4}):
        with pytest.raises(errors.ServerMisbehaves, match=f"{kind}|training in round 4"):
            check_task(dataclasses.replace(task, **change), trained=2, num_rounds=3)


def test_a_site_without_an_update_has_nothing_to_do_at_the_end():
    assert next_task(
        Progress(open_round=None, num_rounds=2, participants=frozenset({"C1"})), "C3"
    ) == Task("finished")


def test_a_site_left_behind_learns_that_the_run_is_over():
    assert next_task(
        Progress(open_round=None, num_rounds=2, participants=BOTH, finished=True), "C2"
    ) == Task("finished")
