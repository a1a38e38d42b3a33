import errno
import json
import os
import shutil
import threading

import pytest

from federated.audit import chain, verification
from federated.audit import log as audit_log
from federated.security import provisioning
from tests.federated.audit.kept_rounds import keep_round


def test_a_hash_is_the_sha256_of_its_line_so_far(store):
    import hashlib

    previous = "0" * 64
    for line in (store / "events.jsonl").read_text().splitlines():
        text = line[: line.index(', "hash"')]
        assert json.loads(line)["previous"] == previous
        previous = hashlib.sha256(text.encode()).hexdigest()
        assert json.loads(line)["hash"] == previous


def test_a_renewed_key_signs_from_the_next_start_on(store, authority, kits, tmp_path):
    shutil.copytree(kits, tmp_path / "federation")
    provisioning.renew(tmp_path / "federation", ["server"])
    kit = tmp_path / "federation" / "server"
    log = audit_log.AuditLog(store / "events.jsonl", key=kit / "server.key")
    log.append("started", certificate=(kit / "server.pem").read_text())
    keep_round(store, log, 4)
    assert verification.verify(store, authority).rounds == (1, 2, 3, 4)


@pytest.mark.parametrize("cut", [1, 40, 250])
def test_half_a_line_of_a_killed_server_is_cut_off_and_the_chain_continues(store, cut):
    path = store / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(list(chain.read_chain(path))) == 9  # beside a running server
    log = audit_log.AuditLog(path)
    assert log.head[0] == 9
    log.append("started")
    assert [record["event"] for record in chain.read_chain(path)][-2:] == ["pushed", "started"]


def test_a_full_disk_in_mid_line_does_not_break_the_chain(store, monkeypatch):
    path = store / "events.jsonl"
    log = audit_log.AuditLog(path)
    with open(path, "ab") as stream:
        stream.write(b'{"time": 1.0, "event": "hal')  # what a write that failed left
    log.append("scored", site="C1")
    assert [record["event"] for record in chain.read_chain(path)][-1] == "scored"


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
    assert len(list(chain.read_chain(tmp_path / "events.jsonl"))) == len(heard) == 200
    assert sorted(record["line"] for record in heard) == list(range(1, 201))


def test_a_listener_that_cannot_write_does_not_stop_the_log(tmp_path):
    def full(record):
        raise OSError(28, "No space left on device")

    log = audit_log.AuditLog(tmp_path / "events.jsonl", listeners=[full])
    log.append("scored", site="C1")
    assert log.head[0] == 1


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
    assert [record.get("round") for record in chain.read_chain(log.path)] == [None, 2]


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
    assert len(list(chain.read_chain(tmp_path / "events.jsonl"))) == 3
