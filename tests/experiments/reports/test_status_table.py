import pytest

from experiments.reports import status_table

STATUS = {
    "run": "4599119728aaf15b",
    "release": "0.1.0",
    "phase": "rounds",
    "paused": False,
    "finished": False,
    "rounds_done": 2,
    "num_rounds": 60,
    "open_round": 3,
    "attempt": 2,
    "updates": ["C1"],
    "min_num_clients": 2,
    "best_round": 1,
    "sites": {
        "C1": {
            "state": "pushed",
            "num_examples": 252,
            "seconds_since_heard": 3.2,
            "bytes_received": 240_000_000,
            "bytes_sent": 160_000_000,
            "updates": 3,
            "doing": "sent round 3",
            "refused": 0,
            "scores": {"9": {"dice": 0.5}, "10": {"dice": 0.6154}},
        },
        "Hospital_2": {
            "state": "silent",
            "num_examples": 286,
            "seconds_since_heard": 8000.0,
            "bytes_received": 0,
            "bytes_sent": 999,
            "updates": 0,
            "doing": "",
            "refused": 2,
            "scores": {},
        },
    },
    "rounds": [
        {
            "round": 1,
            "sites": {"C1": 252, "Hospital_2": 286},
            "seconds": 9.04,
            "bytes": 160_000_000,
            "mean": 0.61,
            "worst": 0.5,
        },
        {
            "round": 2,
            "sites": {"C1": 252},
            "seconds": None,
            "bytes": 80_000_000,
            "mean": None,
            "worst": None,
        },
    ],
    "model_bytes": 78_240_000,
    "disk_free_bytes": 12_300_000_000,
    "audit": {"lines": 30, "head": "7ac7f97312d451e6" + "0" * 48},
    "warnings": ["server.pem: the certificate expires in 7 days; have it renewed"],
}


def test_the_table_of_a_run_under_way():
    assert status_table.render(STATUS).splitlines() == [
        "run 4599119728aaf15b   round 3 open: 1 of 2 required updates received, attempt 2; 2 of 60 rounds done   release 0.1.0",
        "",
        "site        state   cases    heard  updates   from it     to it   score  last done",
        "C1          pushed    252  3 s ago        3  240.0 MB  160.0 MB  0.6154  sent round 3",
        "Hospital_2  silent    286  2 h ago        0       0 B     999 B       -  2 refusals",
        "",
        "round  cases of each site      seconds  received  mean score  worst site",
        "    1  C1 252, Hospital_2 286      9.0  160.0 MB      0.6100      0.5000",
        "    2  C1 252                        -   80.0 MB           -           -",
        "",
        "best so far: round 1, mean score 0.6100, worst site 0.5000",
        "",
        "model 78.2 MB, 12.3 GB free at the server, audit line 30 7ac7f97312d451e6",
        "! server.pem: the certificate expires in 7 days; have it renewed",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"phase": "mask", "done": ["C1", "C3"], "awaited": ["C2"]},
            "secure sum, exchange 1, phase 'mask': masked updates of C1, C3 (2 needed), waiting for C2",
        ),
        (
            {"phase": "share", "done": [], "awaited": ["C1", "C2"], "exchange": 4},
            "secure sum, exchange 4, phase 'share': no sealed shares yet (2 needed), "
            "waiting for C1, C2",
        ),
        (
            {"phase": "reveal", "done": ["C1", "C2"], "awaited": []},
            "secure sum, exchange 1, phase 'reveal': shares that open the sum of C1, C2 (2 needed)",
        ),
    ],
)
def test_a_secure_sum_shows_its_phase_and_whom_it_waits_for(changes, line):
    status = {**STATUS, "sum": {"exchange": 1, "needed": 2, **changes}}
    assert status_table.render(status).splitlines()[1] == line


def test_a_server_that_nobody_has_come_to_yet():
    empty = {
        **STATUS,
        "phase": "paused",
        "sites": {},
        "rounds": [],
        "best_round": None,
        "warnings": [],
    }
    text = status_table.render(empty)
    assert (
        "paused; 2 of 60 rounds done" in text
        and "no site has logged in yet" in text
        and "best" not in text
    )


def test_only_the_newest_rounds_are_shown():
    many = {
        **STATUS,
        "rounds": [{**STATUS["rounds"][0], "round": number} for number in range(1, 41)],
    }
    shown = [
        line.split()[0]
        for line in status_table.render(many, rounds=3).splitlines()
        if line.strip()[:2].isdigit()
    ]
    assert shown == ["38", "39", "40"]


def test_an_evaluation_without_training_shows_its_models_and_rows():
    status = {
        **STATUS,
        "phase": "evaluation",
        "num_rounds": 0,
        "rounds_done": 0,
        "open_round": None,
        "rounds": [],
        "models": ["FL_global", "other"],
        "reported": ["C1"],
    }
    first = status_table.render(status).splitlines()[0]
    assert "evaluation; 2 given models; rows of 1 sites received, 2 required" in first
