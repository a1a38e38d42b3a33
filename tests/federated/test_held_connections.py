"""Calls and connections that are held open: they lock nobody out and stop no server."""

import socket

import grpc
import numpy as np
import pytest

from federated import errors
from federated.rounds import tasks
from federated.tensors import tensor_files
from federated.wire import conversion
from tests.federated import toy
from tests.federated.raw_calls import ended, hold


def fails(call):
    """Returns the status with which a call ends."""
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    return caught.value.code()


@pytest.mark.parametrize("method", ["Login", "NextTask", "ReportScores", "Send", "SubmitRows"])
def test_half_open_calls_of_one_site_lock_nobody_out(serving, channel, operator, kits, method):
    running = serving(max_num_clients=3)
    hostile = running.connect("C3")
    token = hostile.login(toy.PLAN, 5).token
    secret = (kits / "C3" / "credential").read_text().strip()
    metadata = (
        conversion.credential_metadata("C3", secret)
        if method == "Login"
        else conversion.token_metadata(token)
    )
    raw = channel(running, "C3")
    held = [hold(raw, method, metadata) for _ in range(16)]
    try:
        honest = running.connect("C1")
        honest.login(toy.PLAN, 30)
        assert honest.next_task() == tasks.Task("train", round=1, model="round_000")
        assert set(operator(running).status()["sites"]) == {"C1", "C3"}
        assert operator(running).order("evict", "C3").startswith("C3 is evicted")
        honest.close()
    finally:
        for silent, _ in held:
            silent.over.set()
    hostile.close()


def test_a_site_with_too_many_calls_is_told_so_and_tries_again(serving, channel):
    running = serving()
    transport = running.connect("C1")
    metadata = conversion.token_metadata(transport.login(toy.PLAN, 30).token)
    raw = channel(running, "C1")
    held = [hold(raw, "Send", metadata) for _ in range(12)]
    try:
        refused = next(call for _, call in held[6:] if ended(call))
        assert fails(refused) == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(errors.TooManyCalls, match="'C1' has 6 calls in progress"):
            transport.heart_beat()
        assert errors.TooManyCalls in errors.RETRYABLE
    finally:
        for silent, _ in held:
            silent.over.set()
    transport.close()


def test_idle_connections_neither_stop_the_server_nor_hold_it(serving, operator, tmp_path):
    running = serving(num_rounds=1, cross_site_evaluation=False)
    idle = []
    try:
        for _ in range(600):
            idle.append(socket.create_connection(("127.0.0.1", running.port), timeout=10))
        assert operator(running).status()["phase"] == "rounds"  # places are made
        for site, value in (("C1", 1.0), ("C2", 5.0)):
            transport = running.connect(site)
            transport.login(toy.PLAN, toy.EXAMPLES[site])
            path = tmp_path / f"{site}.safetensors"
            sha256 = tensor_files.save(
                path, {name: np.full_like(array, value) for name, array in toy.INITIAL.items()}
            )
            transport.push(
                path, sha256, round_number=1, num_examples=toy.EXAMPLES[site], metrics={}
            )
            transport.close()
        assert operator(running).status()["rounds_done"] >= 0
    finally:
        for held in idle:
            held.close()
