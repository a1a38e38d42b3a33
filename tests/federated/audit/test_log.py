import errno
import json
import os
import pathlib
import random
import shutil
import threading

import numpy as np
import pytest
from cryptography import x509

from federated.audit import log as audit_log
from federated.audit import verification
from federated.security import provisioning
from federated.storage import store as storage
from federated.tensors import tensor_files
from tests.federated import toy


def keep_round(store, log, number, *, keep_updates=True):
    """Writes what a server keeps of a round: two updates, their mean, and the log."""
    arrays = {
        site: {
            name: array * np.float32(number) + np.float32(toy.STEP[site])
            for name, array in toy.INITIAL.items()
        }
        for site in ("C1", "C2")
    }
    digests, folder = {}, store / "kept" / f"round_{number:03d}"
    for site, values in arrays.items():
        path = folder / "update.safetensors"
        digests[site] = tensor_files.save(path, values)
        path.rename(folder / f"round_{number:03d}.{site}.{digests[site][:16]}.safetensors")
        log.append(
            "pushed",
            site=site,
            round=number,
            counts_in=number,
            num_examples=toy.EXAMPLES[site],
            sha256=digests[site],
        )
    total = sum(toy.EXAMPLES[site] for site in arrays)
    mean = {
        name: (sum(toy.EXAMPLES[s] * arrays[s][name].astype("f8") for s in arrays) / total).astype(
            "f4"
        )
        for name in toy.INITIAL
    }
    sha256 = tensor_files.save(store / "global" / f"round_{number:03d}.safetensors", mean)
    if not keep_updates:
        shutil.rmtree(folder)
    log.append(
        "aggregated",
        round=number,
        sites={site: toy.EXAMPLES[site] for site in arrays},
        updates=digests,
        sha256=sha256,
    )


@pytest.fixture
def authority(kits):
    return x509.load_pem_x509_certificate((kits / "server" / "ca.pem").read_bytes())


@pytest.fixture
def store(tmp_path, kits, clock):
    """Three rounds, of which the updates of the last two are kept."""
    folder = tmp_path / "store"
    for name in ("kept", "global"):
        (folder / name).mkdir(parents=True)
    log = audit_log.AuditLog(
        folder / "events.jsonl", clock=clock, key=kits / "server" / "server.key"
    )
    log.append("started", certificate=(kits / "server" / "server.pem").read_text())
    for number in (1, 2, 3):
        keep_round(folder, log, number, keep_updates=number > 1)
    return folder


def test_an_honest_store_verifies_and_is_recomputed(store, authority):
    found = verification.verify(store, authority)
    assert (found.lines, found.rounds, found.recomputed, found.pruned) == (
        10,
        (1, 2, 3),
        (2, 3),
        (),
    )
    assert found.head == json.loads((store / "events.jsonl").read_text().splitlines()[-1])["hash"]


def test_a_hash_is_the_sha256_of_its_line_so_far(store):
    import hashlib

    previous = "0" * 64
    for line in (store / "events.jsonl").read_text().splitlines():
        text = line[: line.index(', "hash"')]
        assert json.loads(line)["previous"] == previous
        previous = hashlib.sha256(text.encode()).hexdigest()
        assert json.loads(line)["hash"] == previous


def test_any_flipped_bit_is_found_at_its_line(store, authority):
    path = store / "events.jsonl"
    content = path.read_bytes()
    draw = random.Random(5)
    positions = draw.sample(range(len(content) - 1), 300)
    for position in positions:
        changed = bytearray(content)
        changed[position] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        line = content[:position].count(b"\n") + 1
        with pytest.raises(audit_log.BrokenChain) as caught:
            list(audit_log.read_chain(path, authority))
        # A flipped line end joins two lines, or splits one: the first of them is named, or the
        # next.
        assert caught.value.line in (line, line + 1)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: lines[:3] + lines[4:], 4),
        (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], 4),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], 4),
        (lambda lines: lines[1:], 1),
    ],
    ids=["removed", "swapped", "repeated", "first removed"],
)
def test_lines_removed_moved_or_repeated_are_found(store, change, line):
    path = store / "events.jsonl"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    with pytest.raises(audit_log.BrokenChain) as caught:
        verification.verify(store)
    assert caught.value.line == line


def test_a_rewritten_log_lacks_the_servers_signature_and_the_noted_head(store, authority, tmp_path):
    noted = verification.verify(store).head
    path = store / "events.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    forged = audit_log.AuditLog(path)
    for record in records:
        fields = {
            key: value
            for key, value in record.items()
            if key not in ("time", "line", "previous", "hash", "signature", "event")
        }
        forged.append(record["event"], **fields)
    verification.verify(store)  # consistent in itself
    with pytest.raises(audit_log.BrokenChain, match="not signed by the server's key"):
        verification.verify(store, authority)
    with pytest.raises(audit_log.BrokenChain, match="no line with the noted hash"):
        verification.verify(store, head=noted)


def test_a_site_cannot_sign_for_the_server(store, authority, kits):
    """A site's certificate is from the same authority, but not for a server."""
    (store / "events.jsonl").unlink()
    log = audit_log.AuditLog(store / "events.jsonl", key=kits / "C1" / "site.key")
    log.append("started", certificate=(kits / "C1" / "site.pem").read_text())
    keep_round(store, log, 1)
    with pytest.raises(
        audit_log.BrokenChain,
        match="line 1: the authority did not issue the certificate of this server",
    ):
        verification.verify(store, authority)


def test_a_renewed_key_signs_from_the_next_start_on(store, authority, kits, tmp_path):
    shutil.copytree(kits, tmp_path / "federation")
    provisioning.renew(tmp_path / "federation", ["server"])
    kit = tmp_path / "federation" / "server"
    log = audit_log.AuditLog(store / "events.jsonl", key=kit / "server.key")
    log.append("started", certificate=(kit / "server.pem").read_text())
    keep_round(store, log, 4)
    assert verification.verify(store, authority).rounds == (1, 2, 3, 4)


def spoil(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_changed_model_or_update_is_found(store):
    spoil(store / "global" / "round_002.safetensors")
    with pytest.raises(
        audit_log.BrokenChain, match=r"line 7: round_002\.safetensors is not the model"
    ):
        verification.verify(store)
    spoil(store / "global" / "round_002.safetensors")
    spoil(next((store / "kept" / "round_003").glob("round_003.C2.*")))
    with pytest.raises(
        audit_log.BrokenChain, match=r"line 10: round_003\.C2\..* is not the update of site 'C2'"
    ):
        verification.verify(store)


def test_an_aggregate_that_is_not_the_mean_is_found_although_every_digest_fits(store, tmp_path):
    log = audit_log.AuditLog(store / "events.jsonl")
    keep_round(store, log, 4)
    other = audit_log.AuditLog(tmp_path / "other.jsonl")
    lines = [json.loads(line) for line in (store / "events.jsonl").read_text().splitlines()]
    lines[-1]["sha256"] = tensor_files.save(store / "global" / "round_004.safetensors", toy.INITIAL)
    for record in lines:
        other.append(
            record["event"],
            **{
                k: v
                for k, v in record.items()
                if k not in ("time", "event", "line", "previous", "hash", "signature")
            },
        )
    (tmp_path / "other.jsonl").rename(store / "events.jsonl")
    with pytest.raises(
        audit_log.BrokenChain,
        match="line 13: the updates of round 4 do not give the logged model by fedavg",
    ):
        verification.verify(store)


def test_an_aggregation_of_an_update_that_was_never_received_is_found(store):
    log = audit_log.AuditLog(store / "events.jsonl")
    log.append("aggregated", round=4, sites={"C1": 30}, updates={"C1": "0" * 64}, sha256="0" * 64)
    with pytest.raises(
        audit_log.BrokenChain,
        match="line 11: round 4 counts an update of site 'C1' that was not logged before",
    ):
        verification.verify(store)


def test_a_round_that_was_skipped_is_found(store):
    log = audit_log.AuditLog(store / "events.jsonl")
    log.append("aggregated", round=5, sites={}, updates={}, sha256="0" * 64)
    with pytest.raises(audit_log.BrokenChain, match="aggregates round 5 where round 4 is due"):
        verification.verify(store)


def test_models_that_the_server_did_not_keep_are_reported(store):
    (store / "global" / "round_001.safetensors").unlink()
    assert verification.verify(store).pruned == (1,)


@pytest.mark.parametrize("cut", [1, 40, 250])
def test_half_a_line_of_a_killed_server_is_cut_off_and_the_chain_continues(store, cut):
    path = store / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(list(audit_log.read_chain(path))) == 9  # beside a running server
    log = audit_log.AuditLog(path)
    assert log.head[0] == 9
    log.append("started")
    assert [record["event"] for record in audit_log.read_chain(path)][-2:] == ["pushed", "started"]


def test_a_full_disk_in_mid_line_does_not_break_the_chain(store, monkeypatch):
    path = store / "events.jsonl"
    log = audit_log.AuditLog(path)
    with open(path, "ab") as stream:
        stream.write(b'{"time": 1.0, "event": "hal')  # what a write that failed left
    log.append("scored", site="C1")
    assert [record["event"] for record in audit_log.read_chain(path)][-1] == "scored"


def test_a_log_of_another_kind_is_not_continued(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"time": 1, "event": "login"}\n')
    with pytest.raises(ValueError, match="line 1 is not chained"):
        audit_log.AuditLog(tmp_path / "events.jsonl")


def test_threads_share_one_chain_and_listeners_get_every_record(tmp_path):
    heard = []
    log = audit_log.AuditLog(tmp_path / "events.jsonl", listeners=[heard.append])
    threads = [
        threading.Thread(target=lambda i=i: [log.append("scored", site=f"C{i}") for _ in range(50)])
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(audit_log.read_chain(tmp_path / "events.jsonl"))) == len(heard) == 200
    assert sorted(record["line"] for record in heard) == list(range(1, 201))


def test_a_listener_that_cannot_write_does_not_stop_the_log(tmp_path):
    def full(record):
        raise OSError(28, "No space left on device")

    log = audit_log.AuditLog(tmp_path / "events.jsonl", listeners=[full])
    log.append("scored", site="C1")
    assert log.head[0] == 1


def test_a_folder_that_is_not_a_store_is_named(tmp_path):
    with pytest.raises(ValueError, match="give the server's folder, its --store"):
        verification.verify(pathlib.Path(tmp_path))


@pytest.fixture
def whole(serving, take_part):
    """The store of a finished run."""
    running = serving()
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    take_part({site: running.connect(site) for site in trainers}, trainers)
    running.join()
    return running.folder


def test_rows_lent_models_and_the_choice_of_the_best_are_covered(whole, authority):
    found = verification.verify(whole, authority)
    assert found.rows == ("C1", "C2") and found.models == ("C1_baseline", "C2_baseline")
    assert found.best_round == json.loads((whole / "selection.json").read_text())["best_round"]


def test_a_changed_row_is_found(whole):
    path = whole / "rows.jsonl"
    path.write_text(path.read_text().replace('"case": 2', '"case": 3', 1))
    with pytest.raises(
        audit_log.BrokenChain,
        match=r"the rows of site 'C1' in rows\.jsonl are not those that were logged",
    ):
        verification.verify(whole)


def test_rows_of_a_site_that_sent_no_rows_are_found(whole):
    path = whole / "rows.jsonl"
    path.write_text(
        path.read_text() + path.read_text().splitlines()[0].replace('"C1"', '"C9"') + "\n"
    )
    with pytest.raises(audit_log.BrokenChain, match="has rows of 'C9' that were not logged"):
        verification.verify(whole)


def test_a_lent_model_that_was_changed_is_found(whole):
    tensor_files.save(whole / "models" / "C2_baseline.safetensors", toy.INITIAL)
    with pytest.raises(
        audit_log.BrokenChain,
        match=r"C2_baseline\.safetensors is not the model that site 'C2' lent",
    ):
        verification.verify(whole)


def test_another_best_model_than_the_scores_choose_is_found(whole, tmp_path):
    best = json.loads((whole / "selection.json").read_text())["best_round"]
    other = next(number for number in (1, 2, 3) if number != best)
    (whole / "best.safetensors").unlink()  # another name of the global model
    shutil.copy(whole / "global" / f"round_{other:03d}.safetensors", whole / "best.safetensors")
    with pytest.raises(
        audit_log.BrokenChain, match=rf"best\.safetensors is not the model of round {best}"
    ):
        verification.verify(whole)
    lines = [json.loads(line) for line in (whole / "events.jsonl").read_text().splitlines()]
    forged = audit_log.AuditLog(tmp_path / "forged.jsonl")
    for record in lines:
        kept = {
            k: v
            for k, v in record.items()
            if k not in ("time", "event", "line", "previous", "hash", "signature")
        }
        forged.append(
            record["event"],
            **{**kept, **({"best_round": other} if record["event"] == "models_fixed" else {})},
        )
    (tmp_path / "forged.jsonl").rename(whole / "events.jsonl")
    with pytest.raises(
        audit_log.BrokenChain,
        match=f"round {other} is named the best; by the logged scores it is round {best}",
    ):
        verification.verify(whole)


def test_what_the_log_has_lost_is_backfilled_from_the_store(whole, kits, clock):
    path = whole / "events.jsonl"
    lost = ("pushed", "aggregated", "published", "rows")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    log = audit_log.AuditLog(path)
    for record in records:
        if record["event"] not in lost:
            kept = {
                k: v
                for k, v in record.items()
                if k not in ("time", "event", "line", "previous", "hash", "signature")
            }
            log.append(record["event"], **kept)
    store = storage.Store(whole)
    try:
        audit_log.backfill(log, store)
    finally:
        store.close()
    found = verification.verify(whole)
    assert (found.rounds, found.rows, found.models) == (
        (1, 2, 3),
        ("C1", "C2"),
        ("C1_baseline", "C2_baseline"),
    )
    before = path.read_bytes()
    store = storage.Store(whole)
    try:
        audit_log.backfill(audit_log.AuditLog(path), store)
    finally:
        store.close()
    assert path.read_bytes() == before


def test_a_line_that_cannot_be_synced_is_not_in_the_log(tmp_path, monkeypatch):
    log = audit_log.AuditLog(tmp_path / "events.jsonl")
    log.append("started")

    def fail(self):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(audit_log.AuditLog, "_sync", fail)
        with pytest.raises(OSError, match="Input/output"):
            log.append("aggregated", round=1)
    assert [record["event"] for record in log.read()] == ["started"]
    log.append("aggregated", round=2)
    assert [record.get("round") for record in audit_log.read_chain(log.path)] == [None, 2]


def test_an_event_whose_sync_failed_is_neither_read_nor_left_in_the_log(tmp_path, monkeypatch):
    log = audit_log.AuditLog(tmp_path / "events.jsonl")
    log.append("round_opened", round=1)

    def failing(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(audit_log.os, "fsync", failing)
        with pytest.raises(OSError, match=r"events\.jsonl"):
            log.append("aggregated", round=1, sha256="lost")
    assert [event["event"] for event in log.read()] == ["round_opened"]
    log.append("pulled", site="C1")
    log.append("aggregated", round=1, sha256="kept")
    found = [(event["event"], event.get("sha256")) for event in log.read()]
    assert found == [("round_opened", None), ("pulled", None), ("aggregated", "kept")]
    assert len(list(audit_log.read_chain(tmp_path / "events.jsonl"))) == 3
