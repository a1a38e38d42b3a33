import contextlib
import dataclasses
import errno
import json
import os
import shutil
import threading
import types

import numpy as np
import pytest

from federated import errors
from federated.security import tls
from federated.site import grpc_transport
from federated.tensors import tensor_files
from federated.wire import replies
from tests.federated import toy


@pytest.fixture
def kit(kits, tmp_path):
    return shutil.copytree(kits / "C1", tmp_path / "kit")


def test_host_and_port_come_from_the_kit_unless_given(kit):
    (kit / "site.json").write_text(
        json.dumps({"site": "C1", "host": "server.example", "port": 8500})
    )
    for given, expected in (
        ({}, ("server.example", 8500)),
        ({"host": "10.0.0.1", "port": 9000}, ("10.0.0.1", 9000)),
    ):
        transport = grpc_transport.connect(kit, **given)
        assert (transport.site, transport._host, transport._port) == ("C1", *expected)
        transport.close()


@pytest.mark.parametrize("missing", ["credential", "site.json"])
def test_a_file_missing_in_a_kit_is_named(kit, missing):
    (kit / missing).unlink()
    with pytest.raises(ValueError, match=f"{missing}: no such file"):
        grpc_transport.connect(kit, port=1)


@pytest.mark.parametrize("content", ["{}", '{"site": "C1", "host": "h", "port": "x"}', "[]"])
def test_a_malformed_site_file_is_named(kit, content):
    (kit / "site.json").write_text(content)
    with pytest.raises(ValueError, match=r"site\.json: expected"):
        grpc_transport.connect(kit)


def test_a_renewed_kit_that_cannot_be_read_at_this_moment_is_tried_again(kit, monkeypatch):
    with contextlib.closing(grpc_transport.connect(kit, port=1)) as transport:
        os.utime(kit / "site.pem", (1.0, 1.0))  # as if it was replaced

        def failing(identity):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeypatch.context() as system:
            system.setattr(tls.Identity, "for_client", failing)
            assert not transport._renewed()
        assert transport._renewed() and not transport._renewed()


def test_a_transfer_that_stands_still_is_given_up_and_worth_another_try(
    serving, tmp_path, monkeypatch
):
    transport = serving().connect("C1")
    transport.login(toy.PLAN, 30)
    sha256 = tensor_files.save(tmp_path / "update.safetensors", toy.INITIAL)
    monkeypatch.setattr(grpc_transport, "_SILENCE_S", 0.05)

    def stuck(file, wanted, *, transport, before):
        yield from ()
        watched.wait(10)  # no message comes out

    watched = threading.Event()
    monkeypatch.setattr(grpc_transport.codec, "chunks", stuck)
    with pytest.raises(errors.ServerUnreachable, match="the call was cut off"):
        transport.push(
            tmp_path / "update.safetensors", sha256, round_number=1, num_examples=30, metrics={}
        )
    watched.set()
    transport.close()


def test_a_damaged_message_is_refused_by_the_server_and_worth_another_try(
    serving, tmp_path, monkeypatch
):
    running = serving()
    transport = running.connect("C1")
    transport.login(toy.PLAN, 30)
    sha256 = tensor_files.save(tmp_path / "update.safetensors", toy.INITIAL)
    chunks = grpc_transport.codec.chunks

    def flipping(file, wanted, *, transport, before):
        for chunk in chunks(file, wanted, transport=transport):
            yield dataclasses.replace(chunk, data=chunk.data[:-1] + bytes([chunk.data[-1] ^ 1]))

    with monkeypatch.context() as patched:
        patched.setattr(grpc_transport.codec, "chunks", flipping)
        with pytest.raises(errors.DamagedTransfer, match="checksum of chunk 0 does not match"):
            transport.push(
                tmp_path / "update.safetensors", sha256, round_number=1, num_examples=30, metrics={}
            )
    assert list((running.folder / "spool").iterdir()) == []
    assert (
        transport.push(
            tmp_path / "update.safetensors", sha256, round_number=1, num_examples=30, metrics={}
        ).sha256
        == sha256
    )
    transport.close()


def test_an_update_that_cannot_be_read_is_one_error_with_its_file(
    serving, tmp_path, monkeypatch, caplog
):
    transport = serving().connect("C1")
    transport.login(toy.PLAN, 30)
    update = tmp_path / "update.safetensors"
    sha256 = tensor_files.save(update, toy.INITIAL)

    def failing(file, wanted, *, transport, before):
        yield from ()
        raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(update))

    with monkeypatch.context() as patched:
        patched.setattr(grpc_transport.codec, "chunks", failing)
        with pytest.raises(OSError, match=r"Input/output error: .*update\.safetensors"):
            transport.push(update, sha256, round_number=1, num_examples=30, metrics={})
    assert not [record for record in caplog.records if record.exc_info]
    receipt = transport.push(update, sha256, round_number=1, num_examples=30, metrics={})
    assert receipt.sha256 == sha256
    transport.close()


BULK = 2**18 + 1000  # values: two chunks


@pytest.fixture
def trained(serving, tmp_path):
    """A server of a model of two chunks, that model as a site pulled it, and an update.

    The update differs from the model in a quarter of its values.
    """
    arrays = {"w": np.random.default_rng(9).normal(size=BULK).astype(np.float32)}
    running = serving(
        start=toy.write_initial(tmp_path / "bulk.safetensors", arrays=arrays), max_change_ratio=0
    )
    transport = running.connect("C1")
    transport.login(toy.PLAN, 30)
    transport.pull("round_000", tmp_path / "incoming.safetensors")
    after = {"w": arrays["w"].copy()}
    some = np.random.default_rng(10).permutation(BULK)[: BULK // 4]
    after["w"][some] += np.random.default_rng(11).normal(size=some.size).astype(np.float32) / 1000
    update = tmp_path / "update.safetensors"
    sha256 = tensor_files.save(update, after)

    def push(**more):
        return transport.push(
            update, sha256, round_number=1, num_examples=30, metrics={}, discarded=0, **more
        )

    def pushed():
        lines = (running.folder / "events.jsonl").read_text().splitlines()
        return [e for e in map(json.loads, lines) if e["event"] == "pushed"]

    yield types.SimpleNamespace(
        push=push,
        pushed=pushed,
        update=update,
        sha256=sha256,
        nbytes=4 * BULK,
        incoming=tmp_path / "incoming.safetensors",
        folder=running.folder,
    )
    transport.close()


def test_a_server_that_has_the_model_gets_what_differs(trained):
    assert trained.push(trained_from=trained.incoming).sha256 == trained.sha256
    (event,) = trained.pushed()
    assert event["bytes"] == trained.nbytes and 0.1 < event["received"] / event["bytes"] < 0.35
    (spooled,) = (trained.folder / "spool").iterdir()
    with tensor_files.TensorFile(spooled) as file:
        assert tensor_files.file_digest(file) == trained.sha256


def test_a_server_of_an_earlier_release_gets_the_whole_update(trained, monkeypatch):
    """It does not say which model it has."""
    answer = replies.answer
    monkeypatch.setattr(
        replies,
        "answer",
        lambda *given, **named: dataclasses.replace(answer(*given, **named), trained_from=""),
    )
    trained.push(trained_from=trained.incoming)
    (event,) = trained.pushed()
    assert event["received"] == event["bytes"]


def test_a_site_of_an_earlier_release_sends_the_whole_update(trained):
    trained.push()
    (event,) = trained.pushed()
    assert event["received"] == event["bytes"]


@pytest.mark.parametrize("what", ["another", "missing", "not a model", "other tensors"])
def test_without_the_model_that_the_server_has_the_whole_update_travels(trained, what):
    if what == "another":
        other = {"w": np.zeros(BULK, np.float32)}
        tensor_files.save(trained.incoming, other, {"sha256": "0" * 64})
    elif what == "missing":
        trained.incoming.unlink()
    elif what == "not a model":
        trained.incoming.write_bytes(b"x")
    else:
        with tensor_files.TensorFile(trained.incoming) as file:
            metadata = file.metadata
        tensor_files.save(trained.incoming, {"w": np.zeros(3, np.float32)}, metadata)
    trained.push(trained_from=trained.incoming)
    (event,) = trained.pushed()
    assert event["received"] == event["bytes"]


def test_a_model_that_was_changed_on_disk_costs_one_attempt(trained):
    with tensor_files.TensorFile(trained.incoming) as file:
        arrays, metadata = file.read(), file.metadata
    arrays["w"][1] += 1  # its digest in the metadata stays
    tensor_files.save(trained.incoming, arrays, metadata)
    with pytest.raises(errors.DamagedTransfer, match="checksum of chunk 0"):
        trained.push(trained_from=trained.incoming)
    assert trained.push(trained_from=trained.incoming).sha256 == trained.sha256
    (event,) = trained.pushed()
    assert event["received"] >= 2**20  # the damaged chunk travelled whole
