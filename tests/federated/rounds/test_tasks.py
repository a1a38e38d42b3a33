import dataclasses

from federated.rounds.rounds import Round, Update
from federated.rounds.tasks import Progress, Task, next_task

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


def test_a_site_without_an_update_has_nothing_to_do_at_the_end():
    assert next_task(
        Progress(open_round=None, num_rounds=2, participants=frozenset({"C1"})), "C3"
    ) == Task("finished")


def test_a_site_left_behind_learns_that_the_run_is_over():
    assert next_task(
        Progress(open_round=None, num_rounds=2, participants=BOTH, finished=True), "C2"
    ) == Task("finished")
