"""Files of release 0.1.0 still open and can be continued; see fixtures/release_0_1_0/README.md."""

import contextlib
import functools
import json
import pathlib
import shutil
import sqlite3
import tarfile
import types

import numpy as np
import pytest
import safetensors.numpy
from cryptography import x509

from federated import errors
from federated.audit import chain, verification
from federated.audit import log as audit_log
from federated.security import certificate_request, provisioning
from federated.security.credentials import CredentialBook
from federated.security.kit import Kit
from federated.site.journal import Journal
from federated.storage.store import Store
from federated.tensors.tensor_files import TensorFile
from preprocessing import case_store
from preprocessing.case_list import Case, CaseManifest
from preprocessing.preparation import pipeline
from runkit import atomic
from tests.federated import programs, toy

RELEASE = pathlib.Path(__file__).parent / "fixtures" / "release_0_1_0"
REMEDY = r"Install the release that wrote it"


def unpack(name, folder):
    with tarfile.open(RELEASE / f"{name}.tar.gz") as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(folder, filter="data")
        else:
            archive.extractall(folder)
    return folder


@pytest.fixture
def federation(tmp_path):
    return unpack("federation", tmp_path / "federation")


@pytest.fixture
def cases(tmp_path):
    return unpack("cases", tmp_path / "cases")


def change_json(path, **changes):
    atomic.write_json(path, {**atomic.read_json(path), **changes})


def events_of(store):
    return list(chain.read_chain(store / "events.jsonl"))


def test_a_run_begun_by_the_release_ends_with_the_weights_worked_out_by_hand(federation):
    store, kits = federation / "store", federation / "kits"
    authority = x509.load_pem_x509_certificate((kits / "server" / "ca.pem").read_bytes())
    assert verification.verify(store, authority).rounds == (1,)
    before = events_of(store)
    unsent = json.loads((federation / "C2" / "journal.json").read_text())["update"]
    assert (unsent["round"], unsent["num_examples"]) == (2, 10)
    assert [(e["site"], e["round"]) for e in before if e["event"] == "pushed"][-1] == ("C1", 2)
    (store / "address.json").unlink()  # another program may have its port by now

    programs.federate(federation, kits)

    for number, expected in enumerate(toy.expected_globals(("C1", "C2"), 3)):
        with TensorFile(store / "global" / f"round_{number:03d}.safetensors") as file:
            found = file.read()
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    verified = verification.verify(store, authority, head=before[-1]["hash"])
    assert verified.rounds == (1, 2, 3) and verified.rows == ("C1", "C2")
    events = events_of(store)
    assert events[: len(before)] == before
    assert next(e["release"] for e in events if e["event"] == "started") == "0.1.0"
    pushed = {(e["site"], e["round"]): e["sha256"] for e in events if e["event"] == "pushed"}
    assert pushed["C2", 2] == unsent["sha256"]
    again = [json.loads(line) for line in (federation / "C2" / "events.jsonl").open()]
    trained = [e["round"] for e in again if e["event"] == "trained"]
    assert sorted(trained) == [1, 2, 3], "the unsent update is sent, not trained again"


def test_kits_of_the_release_go_on_for_every_party(federation):
    kits = federation / "kits"
    assert Kit.read(kits / "C1", port=1).name == "C1"
    assert Kit.read(kits / "operator", port=1).name == "operator"
    assert CredentialBook.read(kits / "server" / "credentials.json").current().sites == ("C1", "C2")
    provisioning.add(kits, sites=["C3"])
    provisioning.renew(kits, ["C1", "server"])
    assert CredentialBook.read(kits / "server" / "credentials.json").current().sites == (
        "C1",
        "C2",
        "C3",
    )


def test_a_newer_store_is_refused_and_nothing_in_it_is_changed(federation):
    """A newer release may have other tables, or another way to write."""
    folder = federation / "store"
    store = Store(folder)
    store._set_value("settings", {**store._value("settings"), "format": "5"})
    store.close()
    with contextlib.closing(sqlite3.connect(folder / "state.sqlite")) as database:
        database.executescript(
            "PRAGMA journal_mode=DELETE; DROP TABLE reports; DROP INDEX updates_by_site"
        )
    (folder / "spool" / "of_a_newer_release.safetensors").write_bytes(b"1")
    shutil.rmtree(folder / "incoming")
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    with pytest.raises(ValueError, match=rf"state\.sqlite: has format 5.* up to 4\. {REMEDY}"):
        Store(folder)
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before


def test_a_newer_log_is_refused_by_server_and_audit(federation, tmp_path):
    log = audit_log.AuditLog(tmp_path / "events.jsonl")
    log.append("started", format=audit_log.FORMAT + 1)
    with pytest.raises(ValueError, match=rf"events\.jsonl: has format 3.* up to 2\. {REMEDY}"):
        audit_log.AuditLog(tmp_path / "events.jsonl")
    with pytest.raises(ValueError, match=rf"events\.jsonl: has format 3.* up to 2\. {REMEDY}"):
        verification.verify(tmp_path)


def test_a_newer_journal_is_refused(federation):
    change_json(federation / "C2" / "journal.json", format=3)
    before = (federation / "C2" / "update.safetensors").read_bytes()
    with pytest.raises(ValueError, match=rf"journal\.json: has format 3.* up to 2\. {REMEDY}"):
        Journal(federation / "C2")
    assert (federation / "C2" / "update.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("C1/site.json", lambda kits: Kit.read(kits / "C1", port=1)),
        ("operator/operator.json", lambda kits: Kit.read(kits / "operator", port=1)),
        (
            "server/credentials.json",
            lambda kits: CredentialBook.read(kits / "server" / "credentials.json"),
        ),
        ("authority/federation.json", lambda kits: provisioning.add(kits, sites=["C3"])),
        ("C1/site.json", lambda kits: certificate_request._address(kits / "C1" / "site.json")),
    ],
)
def test_a_newer_kit_is_refused(federation, file, read):
    change_json(federation / "kits" / file, format=2)
    with pytest.raises(
        ValueError, match=rf"{file.split('/')[1]}: has format 2.* up to 1\. {REMEDY}"
    ):
        read(federation / "kits")


@pytest.mark.parametrize(("protocol", "end"), [(1, "an older"), (3, "a newer")])
def test_a_site_of_another_protocol_is_refused_with_both_releases(
    federation, monkeypatch, protocol, end
):
    """The server's code runs in this process with one number, the site's with the other."""
    import threading

    from federated.server import login
    from federated.server.config import ServerConfig
    from federated.server.serve import serve
    from federated.site import grpc_transport

    releases = {"server": "9.0.0", "site": "0.1.0"}
    monkeypatch.setattr(grpc_transport, "PROTOCOL", protocol)
    for module, party in ((login, "server"), (grpc_transport, "site")):
        told = types.SimpleNamespace(version=lambda party=party: releases[party])
        monkeypatch.setattr(module, "release", told)
    (federation / "store" / "address.json").unlink()
    ready, stop, ports = threading.Event(), threading.Event(), []
    thread = threading.Thread(
        target=serve,
        args=(
            ServerConfig(num_rounds=3, port=0, host="127.0.0.1"),
            federation / "store",
            federation / "kits" / "server",
            federation / "initial.safetensors",
        ),
        kwargs={
            "vocabulary": toy.VOCABULARY,
            "stop": stop,
            "on_ready": lambda port: (ports.append(port), ready.set()),
        },
    )
    thread.start()
    try:
        assert ready.wait(30)
        site = grpc_transport.connect(federation / "kits" / "C1", port=ports[0])
        with pytest.raises(errors.VersionDiffers) as refused:
            site.login(toy.PLAN, 30)
    finally:
        stop.set()
        thread.join(30)
    message = str(refused.value)
    for words in (
        f"speaks version {protocol} of the weight exchange",
        "the server (release 9.0.0) 2",
        "install the same release at both ends",
        "(release 0.1.0 is installed here)",
    ):
        assert words in message, end


@pytest.fixture
def eager():
    """Without graphs, which take much longer to trace than a few steps of a small network."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("eager")
def test_a_checkpoint_resumes_with_equal_state_and_goes_on(tmp_path):
    from c2fnas import checkpoints

    folder = unpack("training", tmp_path)
    trainer = _trainer()
    assert checkpoints.load(folder / "checkpoint", trainer) == {"round": 1}
    written = safetensors.numpy.load_file(folder / "checkpoint" / "checkpoint.safetensors")
    state = trainer.state()
    assert state.keys() == written.keys() and trainer.step == 2
    for name, array in written.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)
    from tests.c2fnas import tiny

    losses = trainer.train(tiny.datasets, 4)
    recorded = json.loads((folder / "losses.json").read_text())
    for name in ("total", "dice", "cross_entropy", "kl", "reconstruction", "gradient_norm"):
        assert losses[name] == pytest.approx(recorded[name], rel=1e-3), name


def test_a_newer_checkpoint_is_refused(tmp_path):
    from c2fnas import checkpoints, named_weights

    path = unpack("training", tmp_path) / "checkpoint" / "checkpoint.safetensors"
    arrays, metadata = named_weights.load(path)
    named_weights.save(path, arrays, {**metadata, "format": "2"})
    with pytest.raises(
        ValueError, match=rf"checkpoint\.safetensors: has format 2.* up to 1\. {REMEDY}"
    ):
        checkpoints.load(path.parent, _trainer())


@functools.cache
def _trainer():
    import dataclasses

    import tensorflow as tf

    from c2fnas import training
    from tests.c2fnas import tiny

    genotype = dataclasses.replace(tiny.GENOTYPE, filters=2)
    network = tiny.build(genotype, latent_size=4)
    return training.Trainer(network, tiny.config(), tf.distribute.get_strategy())


@pytest.mark.usefixtures("eager")
def test_a_model_folder_predicts_what_it_did(tmp_path):
    from c2fnas import inference, model_folder, sliding_window
    from tests.c2fnas import tiny

    folder = unpack("training", tmp_path)
    network = model_folder.build_segmenter(model_folder.load(folder / "model"))
    logits = sliding_window.predict_logits(
        tiny.case(0).image,
        inference.logits_fn(network),
        sliding_window.WindowConfig((16, 16, 8), 0.5),
    )
    np.testing.assert_allclose(logits[::4, ::4, ::4], np.load(folder / "logits.npy"), atol=1e-4)
    change_json(folder / "model" / "model.json", format=2)
    with pytest.raises(
        ValueError, match=r"model\.json: format is 2, this version reads 1; use the"
    ):
        model_folder.load(folder / "model")


def test_prepared_cases_open_and_are_not_prepared_again(cases):
    store = case_store.CaseStore(cases / "store")
    assert store.site == "C2" and len(store.case_ids()) == 3
    arrays = [np.array(store.open(case_id).image) for case_id in store.case_ids()]
    files = [p for p in sorted((cases / "store" / "cases").rglob("*")) if p.is_file()]
    stamps = [p.stat().st_mtime_ns for p in files]
    again = _prepare(cases)
    assert [p.stat().st_mtime_ns for p in files] == stamps
    for case_id, array in zip(again.case_ids(), arrays, strict=True):
        np.testing.assert_array_equal(again.open(case_id).image, array)


def test_cases_of_another_format_are_prepared_again_and_it_is_said(cases, monkeypatch):
    from preprocessing.preparation import case_preparation

    monkeypatch.setattr(case_store, "FORMAT", 3)
    told = []
    case = _manifest(cases).cases[0]
    settings = atomic.read_json(cases / "store" / "index.json")["settings"]
    found = case_preparation.prepare_case(
        case, cases / "store", settings=settings, report=told.append
    )
    assert isinstance(found, case_preparation.Prepared)
    assert "preparing again: format 2, this release writes 3" in told
    folder = case_store.case_folder(cases / "store", case.case_id)
    assert case_store.read_case_record(folder)["format"] == 3


def test_prepared_cases_of_a_newer_release_are_refused_and_kept(cases):
    index = cases / "store" / "index.json"
    change_json(index, format=3)
    for open_ in (lambda: case_store.CaseStore(cases / "store"), lambda: _prepare(cases)):
        with pytest.raises(ValueError, match=rf"index\.json: has format 3.* up to 2\. {REMEDY}"):
            open_()
    assert index.exists()


def _manifest(folder):
    return CaseManifest(
        "C2",
        tuple(
            Case(f"case_{i}", folder / f"images/{i}.nii.gz", folder / f"labels/{i}.nii.gz")
            for i in range(3)
        ),
    )


def _prepare(folder):
    return pipeline.prepare(
        _manifest(folder),
        folder / "store",
        target_mm=(2.0, 2.0, 2.0),
        split_seed=1,
        split_counts=(1, 1, 1),
    )


def test_rows_and_table_are_read_and_agree(tmp_path):
    from experiments.reports import result_verification, table1_report
    from experiments.results import table1_values

    folder = unpack("run", tmp_path)
    content = table1_report.read(folder).document
    lines = table1_values.table(table1_values.read_rows(folder / "server" / "rows.jsonl"))
    for name, percent in content["rows"].items():
        assert dict(lines[name].percent) == pytest.approx(percent), name
    assert content["rows"]["FL_global"]["C1_pancreas"] == pytest.approx(80.0)
    failed = [check for check in result_verification.verify(folder) if check.holds is False]
    assert not failed
    assert "FL_global" in table1_report.markdown(content)
    shutil.rmtree(folder / "server")
    assert table1_report.read(folder).document == content
