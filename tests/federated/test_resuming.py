"""Interrupted transfers in either direction.

Bytes that have arrived are not sent again, even if one end was restarted in between.
"""

import json

import numpy as np
import pytest

from federated import errors
from federated.tensors import tensor_files
from federated.tensors.weights import CHUNK_BYTES
from tests.federated import toy
from tests.federated.proxy import link

CHUNKS = 12
ARRAYS = {"w": np.random.default_rng(7).normal(size=CHUNKS * CHUNK_BYTES // 4).astype(np.float32)}
# The chunk that was cut, and what TLS, HTTP/2 and the second attempt's handshake add.
SLACK = 1.1 * CHUNK_BYTES


@pytest.fixture
def linked(serving, tmp_path):
    """A server, and transports to it through a link that can be cut."""
    start = toy.write_initial(tmp_path / "large.safetensors", arrays=ARRAYS)
    running = serving(start=start, min_num_clients=1, max_num_clients=1)
    with link(running.port) as wire:

        def connect():
            transport = running.connect("C1", port=wire.port)
            transport.login(toy.PLAN, 30)
            return transport

        transport = connect()
        yield running, wire, transport, connect
        transport.close()


def update(tmp_path):
    path = tmp_path / "update.safetensors"
    return path, tensor_files.save(path, {"w": ARRAYS["w"] + np.float32(0.5)})


def push(transport, path, sha256):
    return transport.push(path, sha256, round_number=1, num_examples=30, metrics={})


def until_done(call, *, tries=20):
    for _ in range(tries):
        try:
            return call()
        except errors.RETRYABLE:
            continue
    raise AssertionError(f"not done after {tries} tries")


@pytest.mark.parametrize(
    "share", [0.1, 0.3, 0.5, 0.505, 0.7, 0.9]
)  # within a chunk, at the end of one, just after it
def test_after_a_cut_at_x_percent_an_upload_sends_only_the_rest(linked, tmp_path, share):
    _, wire, transport, _ = linked
    path, sha256 = update(tmp_path)
    size = CHUNKS * CHUNK_BYTES
    before = wire.up
    wire.cut_up = [before + int(share * size)]
    receipt = until_done(lambda: push(transport, path, sha256))
    assert receipt.sha256 == sha256 and wire.cuts == 1
    assert wire.up - before <= size + SLACK
    assert (
        push(transport, path, sha256) == receipt and wire.up - before <= size + SLACK
    )  # nothing is sent for a receipt


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.505, 0.7, 0.9])
def test_after_a_cut_at_x_percent_a_download_brings_only_the_rest(linked, tmp_path, share):
    _, wire, transport, _ = linked
    size, before, path = CHUNKS * CHUNK_BYTES, wire.down, tmp_path / "incoming.safetensors"
    wire.cut_down = [before + int(share * size)]
    until_done(lambda: transport.pull("round_000", path))
    np.testing.assert_array_equal(tensor_files.load(path)[0]["w"], ARRAYS["w"])
    assert wire.cuts == 1 and wire.down - before <= size + SLACK
    held = wire.down
    transport.pull("round_000", path)
    assert wire.down - held < CHUNK_BYTES / 4  # all of it was there


def test_many_cuts_and_a_restart_of_the_server_in_between(linked, serving, tmp_path):
    running, wire, transport, _ = linked
    path, sha256 = update(tmp_path)
    size, before = CHUNKS * CHUNK_BYTES, wire.up
    wire.cut_up = [before + size // 2]
    with pytest.raises(errors.ServerUnreachable):
        push(transport, path, sha256)
    running.stop()
    again = serving(start=tmp_path / "large.safetensors", min_num_clients=1, max_num_clients=1)
    assert again.port == running.port
    wire.cut_up = [before + int(size * share) for share in (0.7, 0.8, 0.9)]
    until_done(lambda: push(transport, path, sha256))
    assert wire.cuts == 4 and wire.up - before <= size + 4 * SLACK
    pushed = [json.loads(line) for line in (again.folder / "events.jsonl").read_text().splitlines()]
    assert [(line["round"], line["sha256"]) for line in pushed if line["event"] == "pushed"] == [
        (1, sha256)
    ]  # counted once


def test_a_handshake_over_a_slow_line_is_waited_for(serving):
    running = serving()
    with link(running.port) as wire:
        wire.rate = 5_000  # a second for the certificates
        transport = running.connect("C1", port=wire.port)
        assert transport.login(toy.PLAN, 30).num_rounds == 3
        transport.close()


def test_another_update_of_the_site_replaces_one_that_was_cut(linked, tmp_path):
    running, wire, transport, _ = linked
    path, sha256 = update(tmp_path)
    wire.cut_up = [wire.up + 6 * CHUNK_BYTES]
    with pytest.raises(errors.ServerUnreachable):
        push(transport, path, sha256)
    other = tensor_files.save(path, {"w": ARRAYS["w"] * np.float32(0.5)})
    until_done(lambda: push(transport, path, other))
    assert list((running.folder / "incoming").iterdir()) == []
