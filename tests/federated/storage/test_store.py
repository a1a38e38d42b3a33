import dataclasses
import json

import numpy as np
import pytest

from federated import errors
from federated.rounds.rounds import Round, Update
from federated.security.credentials import TokenRecord
from federated.server.config import ServerConfig
from federated.storage import store as storage
from federated.tensors import tensor_files
from tests.federated import manifests, toy

POLICY = ServerConfig(num_rounds=2, min_num_clients=2, max_num_clients=3).policy


@pytest.fixture
def reopen(tmp_path, initial):
    """Opens the same store again, as after a restart."""
    held = []

    def open_():
        while held:
            held.pop().close()
        store = storage.Store(tmp_path / "store")
        held.append(store)
        store.open_run(initial, policy=POLICY, local_epochs=10)
        return store

    yield open_
    for store in held:
        store.close()


def arrive(store, site, number=1, value=1.0, now=100.0):
    arrays = {name: np.full_like(array, value) for name, array in toy.INITIAL.items()}
    path = store.incoming_path(site, manifests.digest(arrays))
    update = Update(site, number, toy.EXAMPLES[site], tensor_files.save(path, arrays))
    store.keep_update(path, update, {"loss": 0.5}, now=now)
    return update


def test_a_run_is_opened_once_and_keeps_its_name(reopen):
    store = reopen()
    run = store.run_id
    assert store.plan == toy.PLAN and list(store.globals()) == [0]
    assert reopen().run_id == run


def test_global_model_0_is_the_initial_model(reopen, initial):
    assert reopen().global_path(0).read_bytes() == initial.read_bytes()


def test_differing_values_are_printed_as_they_are(reopen, tmp_path):
    odd = "x: server 1, site 2"
    other = toy.write_initial(tmp_path / "other.safetensors", plan={**toy.PLAN, "note": odd})
    with pytest.raises(errors.DifferentRun) as caught:
        reopen().open_run(other, policy=POLICY, local_epochs=10)
    assert f'note: the store has nothing, asked for is "{odd}"' in str(caught.value)


@pytest.mark.parametrize(
    ("plan", "arrays", "policy", "epochs", "message"),
    [
        (
            {**toy.PLAN, "classes": 3},
            None,
            POLICY,
            10,
            "classes: the store has nothing, asked for is 3",
        ),
        (
            None,
            {name: array + 1 for name, array in toy.INITIAL.items()},
            POLICY,
            10,
            "initial model: the store has",
        ),
        (
            None,
            None,
            dataclasses.replace(POLICY, num_rounds=9),
            10,
            "num_rounds: the store has 2, asked for is 9",
        ),
        (None, None, POLICY, 5, "local_epochs: the store has 10, asked for is 5"),
    ],
)
def test_another_run_in_the_same_store_is_refused_with_what_differs(
    reopen, tmp_path, plan, arrays, policy, epochs, message
):
    other = toy.write_initial(tmp_path / "other.safetensors", plan=plan, arrays=arrays)
    with pytest.raises(errors.DifferentRun, match=f"{message}.*new folder"):
        reopen().open_run(other, policy=policy, local_epochs=epochs)


def test_an_initial_model_without_plan_is_refused_and_opens_nothing(tmp_path):
    tensor_files.save(tmp_path / "bare.safetensors", toy.INITIAL)
    store = storage.Store(tmp_path / "store")
    with pytest.raises(ValueError, match=r"bare\.safetensors: its metadata has no plan"):
        store.open_run(tmp_path / "bare.safetensors", policy=POLICY, local_epochs=10)
    assert list((tmp_path / "store" / "global").iterdir()) == []
    store.close()


def test_an_open_round_is_as_it_was_after_a_restart(reopen):
    store = reopen()
    first, second = arrive(store, "C2", now=100.0), arrive(store, "C1", now=160.0)
    assert reopen().open_round(POLICY, now=190.0) == Round(
        1, {"C2": first, "C1": second}, min_reached_at=160.0, opened_at=190.0
    )


def test_a_replaced_update_leaves_one_file_and_one_record(reopen):
    store = reopen()
    arrive(store, "C1", value=1.0)
    second = arrive(store, "C1", value=2.0)
    assert store.update("C1", 1) == second
    assert [path.name for path in (store.folder / "spool").iterdir()] == [
        store.update_path(second).name
    ]


def test_closing_a_round_opens_the_next_and_remembers_the_receipts(reopen):
    store = reopen()
    for site in ("C1", "C2", "C3"):  # a site logs in before it sends anything; C3 sends nothing
        store.enrol(site, 9, {})
    updates = [arrive(store, "C1"), arrive(store, "C2")]
    closed = store.open_round(POLICY, now=90.0)
    manifest = tensor_files.save_as(store.global_path(1), toy.INITIAL)
    store.close_round(closed, manifest)
    assert store.manifest_addresses(manifest.sha256) == manifest.addresses
    store = reopen()
    assert store.open_round(POLICY, now=90.0) == Round(
        2, opened_at=90.0, counted_before=frozenset({"C1", "C2"})
    )
    assert [
        store.update(site, 1) for site in ("C1", "C2")
    ] == updates  # a push again gets its receipt still
    assert list((store.folder / "spool").iterdir()) == []
    assert store.participants() == {"C1", "C2"}
    store.close_round(Round(2), manifest)
    assert store.open_round(POLICY, now=90.0) is None


def test_the_next_start_removes_what_a_kill_left(reopen):
    store = reopen()
    kept = arrive(store, "C1")
    for stray in (
        "discarded/round_001.safetensors",
        "spool/round_001.C2.aa.safetensors",
        "models/x.safetensors",
        "global/.partial-x",
        ".partial-y",
    ):
        (store.folder / stray).write_bytes(b"half")
    store = reopen()
    assert store.update_path(kept).exists()
    left = {
        str(path.relative_to(store.folder))
        for path in store.folder.rglob("*")
        if path.is_file() and path.read_bytes() == b"half"
    }
    assert left == set()


def test_sessions_survive_a_restart_and_expired_ones_go(reopen):
    store = reopen()
    store.add_session("old", TokenRecord("C1", "cert", 50.0), now=10.0)
    store.add_session("new", TokenRecord("C2", "cert", 200.0), now=60.0)
    store = reopen()
    assert store.session("old") is None and store.session("new") == TokenRecord("C2", "cert", 200.0)


def test_scores_models_and_rows_survive_a_restart(reopen):
    store = reopen()
    assert store.num_examples("C1") is None
    store.enrol("C1", 30, {})
    store.enrol("C1", 31, {})
    assert store.num_examples("C1") == 31
    store.record_scores(0, "C1", {"dice": 0.25})
    store.record_scores(0, "C1", {"dice": 0.5})
    path = store.incoming_path("C1", "ab" * 32)
    manifest = tensor_files.save_as(path, toy.INITIAL)
    store.keep_model(path, "C1_baseline", "C1", manifest)
    store.declare("C1", ["C1_baseline"])
    store.fix_models(["C1_baseline", "FL_global"], 1)
    rows = [
        {
            "model": "FL_global",
            "site": "C1",
            "case": 1,
            "grid": "native",
            "dice_pancreas": 0.1 + 0.2,
        }
    ]
    store.keep_rows("C1", list(map(json.dumps, rows)))
    store = reopen()
    assert {name: record.num_examples for name, record in store.sites().items()} == {"C1": 31}
    assert store.scores() == {0: {"C1": {"dice": 0.5}}}
    assert store.each_score("dice") == [(0, "C1", 0.5)] and store.each_score("other") == []
    assert (
        store.models() == {"C1_baseline": ("C1", manifest.sha256)}
        and store.model_path("C1_baseline").exists()
    )
    assert (
        store.declared() == {"C1"} == store.reported() == store.scored(0)
        and store.scored(1) == set()
    )
    assert store.fixed_models() == ("C1_baseline", "FL_global") and store.fixed_best() == 1
    assert store.rows() == {"C1": rows}
    assert [
        json.loads(line) for line in (store.folder / "rows.jsonl").read_text().splitlines()
    ] == rows


def test_rows_sent_twice_are_there_once(reopen):
    store = reopen()
    store.enrol("C1", 30, {})
    store.fix_models(["FL_global"], 0)
    row = {"model": "FL_global", "site": "C1", "case": 1, "grid": "native"}
    store.keep_rows("C1", [json.dumps(row), json.dumps({**row, "case": 2})])
    store.keep_rows("C1", [json.dumps(row)])
    assert (store.folder / "rows.jsonl").read_text().count("\n") == 1


def test_what_a_kill_kept_from_being_removed_is_removed_later(reopen, tmp_path):
    store = reopen()
    held = arrive(store, "C1")
    for number in (1, 2):
        old = store.kept_folder(number) / "round.C1.safetensors"
        old.parent.mkdir(parents=True)
        old.write_bytes(b"an update")
    stray = store.update_path(Update("C2", 1, 10, "0" * 64))
    stray.write_bytes(b"an update")
    store.prune(keep_updates=0)
    store.empty_discarded()
    assert store.update_path(held).exists() and not stray.exists()
    # Round 0 is the newest: nothing that is kept is of it or of a round before it.
    assert store.kept_folder(1).exists() and store.kept_folder(2).exists()
    store.finish()
    store.prune(keep_updates=0)
    assert not store.update_path(held).exists()


def test_the_cost_of_pruning_does_not_grow_with_the_rounds_before(tmp_path, monkeypatch):
    """Once a round it would make a run of thousands of rounds cost the square of their number."""
    store = storage.Store(tmp_path / "store")
    read, discarded = [], []
    monkeypatch.setattr(storage.BestModels, "rounds", lambda self: read.append(1) or {7})
    monkeypatch.setattr(storage.Store, "globals", lambda self: {0: "", 500: ""})
    monkeypatch.setattr(storage.Store, "_discard", lambda self, path: discarded.append(path))
    for number in (0, 7, 498, 499, 500):
        store.global_path(number).write_bytes(b"")
    try:
        store.prune(keep_globals=2)
        assert discarded == [store.rule_state_path(498), store.global_path(498)]
        assert len(read) == 1
    finally:
        store.close()
