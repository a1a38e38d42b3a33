"""Whole federations of separate programs over TLS, killed in the middle of a run.

They end with the same bits as an undisturbed one.
"""

import json

import pytest
from cryptography import x509

from federated.aggregation import rules
from federated.audit import verification
from federated.tensors import tensor_files
from tests.federated import toy
from tests.federated.programs import Program, federate, results, until

SERVER_KILLS = [
    "Store.keep_update:before:1",  # an update is received and synced, but not recorded
    "event:pushed:1",  # recorded, its receipt not sent
    "Store.close_round:before:1",  # the aggregate is in place, the round not closed
    "Store.close_round:after:1",  # closed, nothing selected
    # the next round is open, the spool of the closed one not yet removed
    "Store.empty_discarded:before:2",
    "PartialModel.put:after:2",  # in the middle of a transfer
    "Store.keep_model:before:1",
    "Store.fix_models:after:1",
    "Store.keep_rows:after:1",  # the rows of a site are in, the reply is lost
    "Store.finish:before:1",
]
WITH_A_STATE = [name for name, rule in rules.RULES.items() if rule().init(())]
SITE_KILLS = {
    "C1": [
        "ToyTrainer.train:before:1",
        "Journal.keep_update:after:1",
        "GrpcTransport.push:after:2",
        "Journal.keep_rows:after:1",
    ],
    "C2": [
        "Journal.keep_scores:after:1",
        "ToyTrainer.train:after:1",
        "codec.chunks:after:1",
        "event:published:1",
        "event:rows_submitted:1",
    ],
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, kits):
    return federate(tmp_path_factory.mktemp("undisturbed") / "run", kits)[0]


def test_separate_programs_give_the_weights_worked_out_by_hand(undisturbed):
    for number, model in enumerate(toy.expected_globals(("C1", "C2"), 3)):
        arrays, _ = tensor_files.load(undisturbed / "global" / f"round_{number:03d}.safetensors")
        assert {name: array.tolist() for name, array in arrays.items()} == {
            name: array.astype("f4").tolist() for name, array in model.items()
        }
    assert (
        len((undisturbed / "rows.jsonl").read_text().splitlines()) == 2 * 4 * 2
    )  # sites, models, cases


def test_a_server_killed_at_every_step_of_a_run_ends_with_the_same_bits(
    tmp_path, kits, undisturbed
):
    store, deaths = federate(tmp_path / "run", kits, server_kills=SERVER_KILLS)
    assert deaths == len(SERVER_KILLS)
    assert results(store) == results(undisturbed)
    assert list((store / "spool").iterdir()) == list((store / "incoming").iterdir()) == []
    assert [path.name for path in (store / "kept").iterdir()] == ["round_003"]
    authority = x509.load_pem_x509_certificate((kits / "server" / "ca.pem").read_bytes())
    verified = verification.verify(store, authority)
    assert (verified.rounds, verified.recomputed) == ((1, 2, 3), (3,))


@pytest.mark.parametrize("rule", WITH_A_STATE)
def test_a_server_killed_around_an_aggregation_with_a_state_ends_with_the_same_bits(
    tmp_path, kits, rule
):
    kills = [
        "spooled_updates.aggregate_spooled:after:1",
        "Store.close_round:after:1",
        "event:aggregated:1",
    ]
    states = [f"rule_state/round_{number:03d}.safetensors" for number in (1, 2, 3)]
    left = []
    for name, some in (("undisturbed", []), ("killed", kills)):
        store, deaths = federate(tmp_path / name, kits, server_kills=some, aggregation=rule)
        assert deaths == len(some)
        left.append({**results(store), **{name: (store / name).read_bytes() for name in states}})
    assert left[0] == left[1]
    assert left[0]["global/round_003.safetensors"] != left[0]["global/round_002.safetensors"]


def test_sites_killed_at_every_step_of_a_run_end_with_the_same_bits(tmp_path, kits, undisturbed):
    store, deaths = federate(tmp_path / "run", kits, site_kills=SITE_KILLS)
    assert deaths == sum(map(len, SITE_KILLS.values()))
    assert results(store) == results(undisturbed)


def test_both_ends_stop_cleanly_on_a_signal_and_resume_later(tmp_path, kits, undisturbed):
    folder = tmp_path / "run"
    folder.mkdir()
    initial = toy.write_initial(folder / "initial.safetensors")
    server = Program(folder / "server.log", "server", folder / "store", kits / "server", initial)
    until((folder / "store" / "address.json").exists, server)
    port = json.loads((folder / "store" / "address.json").read_text())["port"]
    site = Program(folder / "C1.log", "site", folder / "C1", kits / "C1", port)
    log = folder / "C1" / "events.jsonl"
    until(
        lambda: log.exists() and '"pushed"' in log.read_text(), site, server
    )  # now it waits for the other site
    assert (site.terminate(), server.terminate()) == (3, 3)
    assert '"stopped"' in log.read_text() and "finished=False" in server.log_text()
    assert federate(folder, kits) == (folder / "store", 0)
    assert results(folder / "store") == results(undisturbed)
