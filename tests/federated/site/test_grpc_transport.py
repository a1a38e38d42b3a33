import dataclasses
import errno
import json
import os
import shutil
import threading

import pytest

from federated import errors
from federated.site import grpc_transport
from federated.tensors import tensor_files
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


def test_a_transfer_that_stands_still_is_given_up_and_worth_another_try(
    serving, tmp_path, monkeypatch
):
    transport = serving().connect("C1")
    transport.login(toy.PLAN, 30)
    sha256 = tensor_files.save(tmp_path / "update.safetensors", toy.INITIAL)
    monkeypatch.setattr(grpc_transport, "_SILENCE_S", 0.05)

    def stuck(file, wanted, *, transport):
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

    def flipping(file, wanted, *, transport):
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

    def failing(file, wanted, *, transport):
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
