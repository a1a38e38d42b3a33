import contextlib
import dataclasses
import itertools
import zlib

import numpy as np
import pytest

from federated import errors
from federated.rounds.rounds import Update
from federated.server import uploads
from federated.server.uploads import CheckedOffer
from federated.tensors import codec, tensor_files
from federated.tensors.tensor_files import TensorFile
from federated.wire.messages import Offer, Receipt
from tests.federated import run_steps, toy
from tests.federated.manifests import manifest_of
from tests.federated.server.test_coordinator import Site

MANIFEST = manifest_of(toy.INITIAL)
UPDATE = Offer(MANIFEST, round=2, num_examples=30, metrics={"loss": 0.5, "a": 1})


def checked(offer, site="C1"):
    return CheckedOffer(site, offer, lambda: ("C1", "C1_north", "C2"))


def test_an_offer_of_an_update_becomes_what_the_round_and_the_store_need():
    found = checked(UPDATE)
    assert found.update == Update("C1", 2, 30, MANIFEST.sha256)
    assert list(found.metrics.items()) == [("a", 1.0), ("loss", 0.5)]  # in order of their names
    assert found.receipt() == Receipt("C1", "round_002", MANIFEST.sha256)
    assert found.what == "update of site 'C1' for round 2"


def test_an_offer_of_a_model_is_no_update():
    found = checked(Offer(MANIFEST, model="C1_baseline"))
    assert found.update is None and found.metrics == {}
    assert found.receipt() == Receipt("C1", "C1_baseline", MANIFEST.sha256)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("round_001", "reserved or malformed"),
        ("FL_global", "reserved or malformed"),
        ("C1_../x", "reserved or malformed"),
        ("C1_" + "x" * 62, "reserved or malformed"),
        ("C2_baseline", "does not begin with its own name; call it C1_C2_baseline"),
        ("C1_north_baseline", "does not begin with its own name"),
    ],
)
def test_a_model_with_a_name_that_is_not_the_sites_cannot_become_a_checked_offer(name, message):
    with pytest.raises(errors.ModelRefused, match=message):
        checked(Offer(MANIFEST, model=name))


@pytest.mark.parametrize(
    "metrics",
    [
        {"loss": float("nan")},
        {"loss": 1e31},
        {"patient Jane": 1.0},
        {"loss_20240131": 1.0},
        {f"m{'x' * number}": 1.0 for number in range(65)},
    ],
    ids=["not finite", "too large", "not a name", "a date", "too many"],
)
def test_metrics_that_may_not_leave_a_site_cannot_become_a_checked_offer(metrics):
    with pytest.raises(errors.PrivacyRefused, match="metrics of site 'C1'"):
        checked(dataclasses.replace(UPDATE, metrics=metrics))


def test_a_checked_offer_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        checked(UPDATE).metrics = {"patient": 1.0}


def test_an_update_of_a_run_that_was_taken_back_is_stale(opened):
    run = opened(min_num_clients=1, max_num_clients=1)
    site = Site(run, "C1")
    site.push(1, discarded=0)
    run.lead.advance()
    run.lead.orders.discard_round(1)
    with pytest.raises(errors.StaleUpdate, match="before the operator took the run back"):
        site.push(1, 2.0, discarded=0)
    site.push(1, 2.0, discarded=1)


def test_an_update_that_arrives_while_the_run_is_taken_back_does_not_count(opened):
    """The operator goes back after the offer was accepted and before the last chunk is in."""
    run = opened(min_num_clients=1, max_num_clients=2, wait_after_min_clients_s=0.0)
    first, second = Site(run, "C1"), Site(run, "C2")
    first.push(1)
    run.lead.advance()
    path, offer = second.offer(3.0, round=2, num_examples=10)

    def chunks_and_the_order(file):
        yield from codec.chunks(file)
        run.lead.orders.discard_round(1)

    with TensorFile(path) as file, pytest.raises(errors.StaleUpdate, match="took the run back"):
        run.lead.send("C2", offer, chunks_and_the_order(file))
    assert run.store.counted(1) == run.store.counted(2) == frozenset()


def test_a_refused_update_leaves_no_file_behind(opened):
    run = opened()
    site = Site(run, "C1")
    with pytest.raises(errors.UpdateRefused, match="not finite"):
        site.push(1, np.nan)
    assert list((run.folder / "incoming").iterdir()) == []


def sparse_offer(run, tmp_path):
    """Returns an offer of C1 for round 1, and its chunks as differences from the initial model.

    It differs from the initial model in one value.
    """
    after = {name: array.copy() for name, array in toy.INITIAL.items()}
    after["head/bias"][0] = 7.0
    tensor_files.save(tmp_path / "update.safetensors", after)
    site = run.transport("C1")
    site.login(toy.PLAN, 30)
    with (
        TensorFile(tmp_path / "update.safetensors") as file,
        TensorFile(run.store.global_path(0)) as before,
    ):
        sent = list(codec.chunks(file, before=before))
    return Offer(manifest_of(after), 1, 30, discarded=0), sent


def test_an_offer_of_an_update_is_told_which_model_it_may_be_differences_from(opened, tmp_path):
    run = opened()
    offer, sent = sparse_offer(run, tmp_path)
    answer = run.lead.offer("C1", offer)
    assert answer.trained_from == run.store.globals()[0] and answer.missing == (0,)
    packed = zlib.compress(bytes(2))  # far smaller than the model of nine values
    sent = [dataclasses.replace(chunk, encoding=codec.SPARSE, data=packed) for chunk in sent]
    with pytest.raises(errors.DamagedTransfer, match="checksum of chunk 0"):
        run.lead.send("C1", offer, sent)  # the model itself, not the update


def test_differences_are_refused_where_the_model_is_no_longer_there(opened, tmp_path):
    run = opened()
    offer, _ = sparse_offer(run, tmp_path)
    run.store.global_path(0).unlink()
    assert run.lead.offer("C1", offer).trained_from == ""
    with pytest.raises(errors.SessionExpired, match="encoding 3"):
        run.lead.send("C1", offer, [codec.Chunk(0, zlib.compress(bytes(2)), codec.SPARSE)])


def test_a_site_replaces_what_it_lends_a_limited_number_of_times(opened, monkeypatch):
    """Each time takes a line of the log and a row of the database."""
    monkeypatch.setattr(uploads, "_REPLACED", 2)
    _, first, second = run_steps.finished_rounds(opened)
    for value in range(2 * uploads.MAX_LENT):
        first.publish(f"C1_{value % 2}", float(value))
    with pytest.raises(errors.ModelRefused, match="16 different models came before it"):
        first.publish("C1_0", -1.0)
    first.publish("C1_1", 15.0)  # the same again
    second.publish("C2_0", 1.0)


def test_a_stream_of_chunks_that_never_ends_is_cut(opened):
    run = opened()
    site = Site(run, "C1")
    path, offer = site.offer(1.0, round=1, num_examples=30)
    with TensorFile(path) as file:
        chunks = list(codec.chunks(file))
    with pytest.raises(errors.DamagedTransfer, match=f"more than its {len(chunks)} chunks came"):
        run.lead.send("C1", offer, itertools.cycle(chunks))
    assert run.lead.send("C1", offer, iter(chunks)).sha256 == offer.sha256


@pytest.mark.parametrize("between", [("other",), ("other", "same"), ("same", "other", "same")])
def test_a_transfer_that_another_one_of_the_site_replaced_does_not_count(opened, between):
    """The other one begins after the last check of the file, and before the file is taken."""
    run = opened()
    site = Site(run, "C1")
    offers = {"other": site.offer(2.0, round=1, num_examples=30)[1]}
    path, offers["same"] = site.offer(1.0, round=1, num_examples=30)
    left = list(between)

    def meanwhile():
        while left:
            run.lead.offer("C1", offers[left.pop(0)])

    with TensorFile(path) as file, pytest.raises(errors.DamagedTransfer, match="came between"):
        run.lead.send("C1", offers["same"], codec.chunks(file), verify=meanwhile)
    assert run.store.update("C1", 1) is None and list((run.folder / "spool").iterdir()) == []
    with TensorFile(path) as file, contextlib.suppress(errors.DamagedTransfer):
        run.lead.send("C1", offers["same"], codec.chunks(file))  # perhaps the other one, also gone
    with TensorFile(path) as file:
        receipt = run.lead.send("C1", offers["same"], codec.chunks(file))
    with TensorFile(run.store.update_path(run.store.update("C1", 1))) as kept:
        assert tensor_files.file_digest(kept) == receipt.sha256 == offers["same"].sha256
    assert not run.lead._run.stale  # nobody else has to wait for the store


def test_what_a_kill_left_of_a_taken_transfer_is_removed(opened):
    run = opened()
    left = run.folder / "incoming" / ".partial-0123.safetensors"
    left.write_bytes(b"x")
    opened()
    assert not left.exists()
