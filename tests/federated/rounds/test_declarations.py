"""What a site declares about its labels at login: checked, stored and shown in the status."""

import json
import sqlite3

import pytest

from experiments.reports import status_table
from federated import errors
from federated.rounds.declarations import check_labels
from federated.wire import operation_pb2 as operation_pb
from federated.wire import replies
from tests.federated import toy

HEALTHY = {"tumour": "absent", "pancreas": "complete"}


def test_words_of_the_list_are_accepted_and_sorted():
    assert list(check_labels("C1", HEALTHY).items()) == [
        ("pancreas", "complete"),
        ("tumour", "absent"),
    ]
    assert check_labels("C1", {}) == {}


@pytest.mark.parametrize(
    "labels",
    [
        {"tumour": "patient 0815 has one"},
        {"tumour": ""},
        {"/data/ct/0815": "absent"},
        {"": "absent"},
        {"x" * 33: "absent"},
        {"tumour\n": "absent"},
        {f"class{number}": "absent" for number in range(17)},
    ],
)
def test_anything_else_is_refused_and_not_quoted_in_the_answer(opened, labels):
    run = opened()
    with pytest.raises(
        errors.UpdateRefused, match="site 'C1' declares labels that this server does not accept"
    ) as caught:
        run.lead.login("C1", "secret of C1", toy.PLAN, 30, labels=labels)
    assert "0815" not in str(caught.value) and "C1" not in run.store.sites()


def test_the_store_keeps_the_declaration_of_the_last_login(opened):
    run = opened()
    run.lead.login("C1", "secret of C1", toy.PLAN, 30, labels=HEALTHY)
    run.lead.login("C2", "secret of C2", toy.PLAN, 10)
    run = opened()
    assert {site: dict(record.labels) for site, record in run.store.sites().items()} == {
        "C1": HEALTHY,
        "C2": {},
    }
    status = run.lead.orders.status()
    assert status["sites"]["C1"]["labels"] == HEALTHY
    run.lead.login("C1", "secret of C1", toy.PLAN, 30, labels={**HEALTHY, "tumour": "unlabelled"})
    assert run.store.sites()["C1"].labels["tumour"] == "unlabelled"


def test_a_store_of_an_earlier_release_declares_nothing(opened):
    run = opened()
    run.lead.login("C1", "secret of C1", toy.PLAN, 30, labels=HEALTHY)
    with sqlite3.connect(run.folder / "state.sqlite") as database:
        database.execute("DROP TABLE labels")
    run = opened()
    assert run.store.sites()["C1"].labels == {} and run.store.sites()["C1"].num_examples == 30


SITE = {
    "state": "training", "num_examples": 30, "seconds_since_heard": 1.0, "bytes_received": 0,
    "bytes_sent": 0, "scores": {}, "updates": 1, "refused": 0, "doing": None,
}  # fmt: skip
STATUS = {
    "run": "r", "phase": "rounds", "release": "1", "rounds_done": 0, "num_rounds": 3,
    "min_num_clients": 1, "open_round": 1, "attempt": 1, "best_round": None, "model_bytes": 1,
    "disk_free_bytes": 1, "audit": {"lines": 1, "head": "0" * 64}, "rounds": [], "warnings": [],
    "updates": [], "finished": False,
}  # fmt: skip


def test_the_status_shows_the_declaration_and_a_hostile_one_is_refused():
    site = SITE
    status = {**STATUS, "sites": {"C1": {**site, "labels": HEALTHY}, "C2": site}}

    def read(value):
        return replies.status(operation_pb.StatusReply(status_json=json.dumps(value)))

    shown = status_table.render(read(status))
    assert "labels of C1: tumour absent, pancreas complete" in shown and "labels of C2" not in shown
    for odd in ({"tumour": 1}, ["absent"], {"tumour": None}):
        with pytest.raises(errors.ServerMisbehaves):
            read({**status, "sites": {"C1": {**site, "labels": odd}}})
