from federated.admin.tensorboard import RunScalars


class Kept(list):
    def write(self, step, values):
        self.append((step, dict(values)))


def test_each_event_becomes_the_scalars_of_its_round():
    kept = Kept()
    scalars = RunScalars(kept)
    for record in (
        {"event": "round_opened", "time": 10.0, "round": 3, "received": []},
        {"event": "scored", "time": 11.0, "site": "C1", "model": 2, "scores": {"dice": 0.5}},
        {
            "event": "pushed",
            "time": 12.0,
            "site": "C1",
            "round": 3,
            "metrics": {"loss": 0.25},
            "seconds": 1.5,
        },
        {"event": "aggregated", "time": 14.5, "round": 3, "sites": {"C1": 30, "C2": 10}},
        {"event": "selected", "time": 14.6, "best_round": 2, "mean": 0.5, "worst": 0.25},
        {"event": "login", "time": 15.0, "site": "C1"},
    ):
        scalars.note(record)
    assert kept == [
        (2, {"score/C1/dice": 0.5}),
        (3, {"update/C1/loss": 0.25, "transfer/C1/seconds": 1.5}),
        (3, {"round/sites": 2, "round/seconds": 4.5}),
        (2, {"selected/mean": 0.5, "selected/worst": 0.25}),
    ]


def test_an_event_backfilled_after_a_kill_has_no_duration():
    kept = Kept()
    scalars = RunScalars(kept)
    scalars.note({"event": "pushed", "time": 1.0, "site": "C1", "round": 1, "made_good": True})
    scalars.note({"event": "aggregated", "time": 1.0, "round": 1, "sites": {"C1": 30}})
    assert kept == [(1, {}), (1, {"round/sites": 1})]


def test_a_new_segment_of_the_log_is_no_scalar_and_ends_no_round():
    kept = Kept()
    scalars = RunScalars(kept)
    scalars.note({"event": "round_opened", "time": 10.0, "round": 3, "received": []})
    scalars.note({"event": "log_continued", "time": 11.0, "segment": 2, "carried": {"round": 2}})
    scalars.note({"event": "aggregated", "time": 12.5, "round": 3, "sites": {"C1": 30}})
    assert kept == [(3, {"round/sites": 1, "round/seconds": 2.5})]
