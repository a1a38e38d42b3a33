import pytest

from federated.audit.carried import Carried
from federated.server.run_statistics import RunStatistics

RECORDS = [
    {"time": 10.0, "event": "round_opened", "round": 1, "received": []},
    {"time": 11.0, "event": "login", "site": "C1", "num_examples": 30},
    {
        "time": 12.0,
        "event": "pulled",
        "site": "C1",
        "model": "round_000",
        "bytes": 100,
        "seconds": 0.1,
    },
    {"time": 13.0, "event": "scored", "site": "C1", "model": 0, "scores": {"dice": 0.5}},
    {
        "time": 14.0,
        "event": "pushed",
        "site": "C1",
        "round": 1,
        "num_examples": 30,
        "bytes": 60,
        "sha256": "a",
    },
    {
        "time": 15.0,
        "event": "pushed",
        "site": "C2",
        "round": 1,
        "num_examples": 10,
        "bytes": 60,
        "sha256": "b",
    },
    {"time": 16.5, "event": "aggregated", "round": 1, "sites": {"C1": 30, "C2": 10}, "sha256": "c"},
    {"time": 17.0, "event": "login_refused", "site": "C2", "error": "PlanDiffers", "times": 1},
    {"time": 18.0, "event": "something of a later release", "site": "C1", "round": "?"},
]


def test_bytes_updates_and_rounds_add_up():
    tally = RunStatistics(RECORDS)
    first, second = tally.sites["C1"], tally.sites["C2"]
    assert (
        first.received_bytes,
        first.sent_bytes,
        first.updates,
        first.last_round,
        first.scores,
    ) == (100, 60, 1, 1, {"dice": 0.5})
    assert (first.doing, first.at) == ("sent round 1", 18.0)
    assert (second.sent_bytes, second.refused) == (60, 1)
    assert (tally.rounds[1].sites, tally.rounds[1].wall_s, tally.rounds[1].bytes) == (
        {"C1": 30, "C2": 10},
        6.5,
        120,
    )


def test_refusals_and_seconds_add_up_by_kind_and_phase():
    tally = RunStatistics(
        [
            {"time": 1.0, "event": "round_opened", "round": 1, "received": []},
            {"event": "pulled", "site": "C1", "model": "round_000", "bytes": 1, "seconds": 0.5},
            {"event": "pulled", "site": "C2", "model": "round_000", "bytes": 1, "seconds": 0.25},
            {"event": "pushed", "site": "C1", "round": 1, "bytes": 1, "seconds": 2.0},
            {"event": "refused", "site": "C2", "reasons": [{"kind": "norm"}], "omitted": 2},
            {"event": "refused", "site": "C2", "reasons": []},
            # The log names the 1st and the 10th; a server that was started again counts anew.
            {"event": "login_refused", "site": "C2", "error": "PlanDiffers", "times": 1},
            {"event": "login_refused", "site": "C2", "error": "PlanDiffers", "times": 10},
            {"event": "login_refused", "error": "PlanDiffers", "times": 1},
            {"event": "login_refused", "site": "C2", "error": "PlanDiffers", "times": 1},
            {"time": 9.0, "event": "aggregated", "round": 1, "sites": {"C1": 3}, "seconds": 1.5},
            {"time": 10.0, "event": "models_fixed", "models": [], "best_round": 1},
            {"time": 14.0, "event": "finished", "rounds": 1},
        ]
    )
    assert tally.refusals == {"norm": 3, "other": 1, "PlanDiffers": 12}
    assert tally.seconds == {
        "download": 0.75,
        "upload": 2.0,
        "aggregation": 1.5,
        "collection": 6.5,
        "evaluation": 4.0,
    }


def test_record_by_record_is_the_same_as_all_at_once():
    tally = RunStatistics()
    for record in RECORDS:
        tally.note(record)
    assert (
        tally.sites == RunStatistics(RECORDS).sites
        and tally.rounds == RunStatistics(RECORDS).rounds
    )


def test_memory_does_not_grow_with_the_rounds():
    tally = RunStatistics()
    for number in range(1, 3001):
        tally.note({"time": 1.0, "event": "round_opened", "round": number, "received": []})
        tally.note({"time": 2.0, "event": "aggregated", "round": number, "sites": {"C1": 1}})
    assert len(tally.rounds) == 1000 and max(tally.rounds) == 3000
    assert not tally._opened and not tally._bytes


@pytest.mark.parametrize(
    ("event", "seconds"),
    [
        ({"event": "models_fixed", "models": [], "best_round": 1}, 3.0),
        ({"event": "given", "model": "other", "sha256": "d"}, 3.0),
        ({"event": "round_opened", "round": 1}, None),
    ],
)
def test_an_evaluation_that_began_in_a_removed_segment_counts_from_the_first_kept_line(
    event, seconds
):
    before = [{"time": 10.0, **event}]
    run = Carried()
    run.take(before[0])
    continued = {"time": 12.0, "event": "log_continued", "segment": 2, "carried": run.to_json()}
    after = [
        continued,
        {"time": 13.0, "event": "rows", "site": "C1", "rows": 4},
        {"time": 15.0, "event": "finished", "rounds": 1},
    ]
    assert RunStatistics(after).seconds.get("evaluation") == seconds
    whole = RunStatistics([*before, *after])  # a new segment alone changes nothing
    assert whole.seconds.get("evaluation") == (None if seconds is None else 5.0)
    assert whole.sites.keys() == {"C1"}
    run.take(after[-1])
    ended = {**continued, "time": 20.0, "carried": run.to_json()}
    tally = RunStatistics([ended, {"time": 30.0, "event": "site_finished", "site": "C1"}])
    assert "evaluation" not in tally.seconds and tally.sites["C1"].doing == "finished"


def test_a_round_whose_opening_was_removed_has_no_duration():
    run = Carried()
    for record in RECORDS[:5]:
        run.take(record)
    continued = {"time": 14.5, "event": "log_continued", "segment": 2, "carried": run.to_json()}
    tally = RunStatistics([continued, *RECORDS[5:]])
    assert (tally.rounds[1].wall_s, tally.rounds[1].bytes) == (None, 60)
    assert "C1" in tally.sites and tally.seconds["collection"] == 0.0


def test_rounds_that_were_discarded_are_no_longer_shown_and_count_from_their_next_opening():
    opened = {"time": 20.0, "event": "round_opened", "round": 2, "received": []}
    pushed = {**RECORDS[4], "round": 2, "time": 21.0}
    tally = RunStatistics(
        [
            *RECORDS,
            opened,
            pushed,
            {"time": 22.0, "event": "round_discarded", "round": 1, "back_to": 0},
        ]
    )
    assert tally.rounds == {}
    tally.note({**RECORDS[0], "time": 30.0})
    tally.note({**RECORDS[4], "time": 31.0})
    tally.note({**RECORDS[6], "time": 32.0})
    tally.note({**opened, "time": 40.0})
    tally.note({**pushed, "time": 41.0})
    tally.note({**RECORDS[6], "round": 2, "time": 42.0})
    assert {number: (found.wall_s, found.bytes) for number, found in tally.rounds.items()} == {
        1: (2.0, 60),
        2: (2.0, 60),
    }
