"""Private files of a run. Every test runs under a umask that would let everybody read and write."""

import os
import pathlib
import shutil
import sqlite3
import stat

import numpy as np
import pytest

from federated.admin import client as admin_client
from federated.audit import log as audit_log
from federated.security import certificate_request, provisioning
from federated.site import journal
from federated.storage import database as records
from federated.storage import store as storage
from federated.tensors import partial_file, tensor_files
from runkit import atomic, events, private, scalar_events
from tests.federated import toy
from tests.preprocessing import test_case_store


@pytest.fixture(params=[0o000, 0o022, 0o077], autouse=True)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def modes(folder):
    """Returns a folder and every path below it with their permissions."""
    found = {pathlib.Path(folder): mode(folder)}
    for where, folders, files in os.walk(folder):
        found |= {
            pathlib.Path(where, name): mode(pathlib.Path(where, name))
            for name in (*folders, *files)
        }
    return found


def assert_private(folder):
    for path, permissions in modes(folder).items():
        assert permissions == (0o700 if path.is_dir() else 0o600), f"{path}: {permissions:o}"


def opened_up(folder):
    """Gives a folder the permissions that an earlier release left under the usual umask."""
    for path in modes(folder):
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_everything_written_in_a_private_folder_is_private(tmp_path):
    root = private.folder(tmp_path / "a" / "root")
    with atomic.replacing(root / "deep" / "er" / "file.npy") as path, open(path, "wb") as stream:
        np.save(stream, np.zeros(3))
    with atomic.replacing_folder(root / "model") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "weights").write_text("1")
    events.EventLog(root / "log" / "events.jsonl").append("began")
    scalar_events.ScalarEvents(root / "scalars").write(1, {"dice": 0.5})
    tensor_files.save(root / "weights.safetensors", {"a": np.zeros(3, np.float32)})
    assert_private(root)


def test_elsewhere_the_umask_decides(tmp_path, umask):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    atomic.write_text(folder / "deep" / "table.md", "| a |")
    with atomic.replacing_folder(folder / "model") as made:
        (made / "weights").write_text("1")
    events.EventLog(folder / "events.jsonl").append("began")
    assert mode(folder / "deep") == mode(folder / "model") == 0o777 & ~umask
    assert mode(folder / "deep" / "table.md") == mode(folder / "events.jsonl") == 0o666 & ~umask
    (folder / "group").mkdir()
    (folder / "group").chmod(0o750)
    atomic.write_text(folder / "group" / "table.md", "| a |")
    assert mode(folder / "group" / "table.md") == 0o640 & ~umask  # never more open than its folder


def test_an_open_folder_is_closed_and_its_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o755)
    (outside / "file").write_text("somebody else's")
    (outside / "file").chmod(0o644)
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "run.sh").write_text("#!/bin/sh")
    opened_up(root)
    (root / "deep" / "run.sh").chmod(0o755)
    (root / "link").symlink_to(outside)
    (root / "deep" / "file").symlink_to(outside / "file")
    assert sorted(path.name for path in private.open_to_others(root)) == ["deep", "root", "run.sh"]
    private.tree(root)
    assert list(private.open_to_others(root)) == []
    assert mode(root) == mode(root / "deep") == mode(root / "deep" / "run.sh") == 0o700
    assert (mode(outside), mode(outside / "file")) == (0o755, 0o644)


def test_a_folder_that_cannot_be_closed_is_named_in_one_warning(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "anothers"
    folder.mkdir()
    folder.chmod(0o755)

    def refused(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(private.os, "chmod", refused)
    with caplog.at_level("WARNING", logger="absl"):
        private.tree(folder)
        private.tree(folder)
    (line,) = (
        record.getMessage() for record in caplog.records if "not_private" in record.getMessage()
    )
    assert str(folder) in line and "Operation not permitted" in line


def test_a_folder_shared_by_accounts_is_left_unchanged(tmp_path):
    folder = tmp_path / "like_tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    private.tree(folder)
    assert mode(folder) == 0o1777


# The users of `private`.


def test_the_store_and_its_database_are_private_even_from_an_earlier_release(tmp_path):
    store = storage.Store(tmp_path / "store")
    try:
        with store._transaction() as database:
            database.execute("INSERT INTO run VALUES ('a', '1')")
        assert {"state.sqlite", "state.sqlite-wal", "state.sqlite-shm", "lock"} <= {
            path.name for path in (tmp_path / "store").iterdir()
        }
        log = audit_log.AuditLog(tmp_path / "store" / "events.jsonl")
        log.append("started")
        arrays = {"a": np.zeros(3, np.float32)}
        tensor_files.save(tmp_path / "model.safetensors", arrays)
        with tensor_files.TensorFile(tmp_path / "model.safetensors") as file:
            manifest = tensor_files.file_manifest(file)
        with partial_file.PartialModel(store.incoming_path("C1", manifest.sha256), manifest, {}):
            assert_private(tmp_path / "store")
    finally:
        store.close()
    opened_up(tmp_path / "store")
    store = storage.Store(tmp_path / "store")
    try:
        assert_private(tmp_path / "store")
    finally:
        store.close()


def test_a_database_alone_is_private_in_a_private_folder(tmp_path):
    kept = records.Records(private.folder(tmp_path / "store") / "state.sqlite")
    kept.close()
    sqlite3.connect(tmp_path / "store" / "state.sqlite").close()
    assert_private(tmp_path / "store")


def test_the_journal_is_private_even_from_an_earlier_release(tmp_path):
    for _ in range(2):
        opened = journal.Journal(tmp_path / "federated" / "journal")
        opened.enter("run")
        opened.keep_rows("FL_global", [{"case": 1}])
        opened.keep_update(1, toy.INITIAL, 30, {})
        opened.wait_until_durable()
        assert_private(tmp_path / "federated" / "journal")
        opened_up(tmp_path / "federated" / "journal")


def test_prepared_cases_are_private_even_from_an_earlier_release(tmp_path):
    root = tmp_path / "site" / "cases"
    store = test_case_store.store_of(root)
    assert_private(root)
    opened_up(root)
    assert test_case_store.CaseStore(root).site == store.site
    assert_private(root)


def test_kits_are_private_even_from_an_earlier_release(tmp_path):
    federation = provisioning.provision(tmp_path / "federation", "localhost", ("C1",), port=0)
    certificate_request.request(tmp_path / "kit", "C2")
    provisioning.add(federation, requests=[tmp_path / "kit" / "site.csr"])
    assert_private(federation)
    shutil.copytree(federation / "C2", tmp_path / "answer")
    opened_up(tmp_path / "answer")
    certificate_request.install(
        tmp_path / "kit",
        tmp_path / "answer",
        authority=provisioning.authority_fingerprint(federation),
    )
    assert_private(tmp_path / "kit")
    opened_up(federation / "server")
    opened_up(federation / "authority")
    opened_up(tmp_path / "kit")
    provisioning.issued(federation)
    certificate_request.request(tmp_path / "kit", "C2")
    for folder in (federation / "server", federation / "authority", tmp_path / "kit"):
        assert_private(folder)
    opened_up(federation / "operator")
    # as the doctor does, which changes nothing
    admin_client.Kit.read(federation / "operator", port=8443)
    assert mode(federation / "operator") == 0o755
