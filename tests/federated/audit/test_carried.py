import json

from federated.audit.carried import Carried

RUN = [
    {"event": "started", "certificate": "PEM"},
    {"event": "login", "site": "C1", "num_examples": 30},
    {"event": "login", "site": "C2", "num_examples": 10},
    {"event": "pushed", "site": "C1", "round": 1, "sha256": "a", "num_examples": 30},
    {"event": "aggregated", "round": 1, "sha256": "g1"},
    {"event": "pushed", "site": "C1", "round": 2, "sha256": "b", "num_examples": 30},
    {
        "event": "pushed",
        "site": "C2",
        "round": 1,
        "counts_in": 2,
        "sha256": "late",
        "num_examples": 10,
    },
    {"event": "pulled", "site": "C1"},
    {"event": "published", "site": "C2", "model": "C2_FL", "sha256": "m"},
    {"event": "given", "model": "pancreas", "sha256": "p"},
    {"event": "rows", "site": "C1", "sha256": "r"},
    {"event": "models_fixed", "best_round": 1},
]


def carried(events):
    found = Carried()
    for event in events:
        found.take(event)
    return found


def test_a_run_is_carried_without_what_closed_rounds_need():
    assert carried(RUN).to_json() == {
        "round": 1,
        "sha256": "g1",
        "pushed": [[2, "C1", 2, "b", 30], [2, "C2", 1, "late", 10]],
        "num_examples": {"C1": 30, "C2": 10},
        "evicted": [],
        "published": {"C2_FL": ["C2", "m"]},
        "given": {"pancreas": "p"},
        "rows": {"C1": "r"},
        "fixed": True,
        "best_round": 1,
        "finished": False,
        "certificate": "PEM",
    }


def test_orders_of_the_operator_take_back_what_they_void():
    found = carried(
        [
            *RUN,
            {"event": "evicted", "site": "C2", "models": ["C2_FL"]},
            {"event": "round_discarded", "round": 1, "sha256": "g0"},
        ]
    )
    assert (found.round, found.sha256, found.pushed, found.rows) == (0, "g0", {}, {})
    assert (found.evicted, found.published) == ({"C2"}, {})
    assert (found.fixed, found.best_round) == (False, None)
    found.take({"event": "readmitted", "site": "C2"})
    assert found.evicted == set()


def test_what_json_holds_is_the_run_again():
    found = carried([*RUN, {"event": "finished", "rounds": 1}])
    assert Carried.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_it_does_not_grow_with_the_rounds():
    found, sizes = carried(RUN[:3]), []
    for number in range(1, 300):
        for site in ("C1", "C2"):
            found.take(
                {
                    "event": "pushed",
                    "site": site,
                    "round": number,
                    "sha256": "0" * 64,
                    "num_examples": 1,
                }
            )
        found.take({"event": "aggregated", "round": number, "sha256": "0" * 64})
        sizes.append(len(json.dumps(found.to_json())))
    assert sizes[-1] - sizes[0] == len("299") - len("1")
