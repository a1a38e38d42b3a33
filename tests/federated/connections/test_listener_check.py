import contextlib
import socket
import threading

import pytest

from federated.connections import listener_check
from federated.connections.listener_check import ListenerCheck


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def check(server, **named):
    return ListenerCheck("0.0.0.0", server.getsockname()[1], lambda: None, **named)


def test_a_port_whose_connections_are_accepted_is_not_lost(listening):
    with contextlib.ExitStack() as ends:
        thread = threading.Thread(target=lambda: ends.enter_context(listening.accept()[0]))
        thread.start()
        assert not check(listening, patience_s=30.0).is_lost()
        thread.join()


def test_a_port_that_is_open_but_accepts_nothing_is_lost(listening):
    assert check(listening, patience_s=0.2).is_lost()


def test_a_connection_of_somebody_else_does_not_count_as_accepted(listening):
    with socket.create_connection(listening.getsockname()), listening.accept()[0]:
        assert check(listening, patience_s=0.2).is_lost()


def test_a_port_to_which_no_connection_can_be_made_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = check(server, patience_s=0.2)
    assert not closed.is_lost()


def test_the_loss_is_told_once_and_the_watch_ends(listening, monkeypatch):
    monkeypatch.setattr(listener_check, "EVERY_S", 0.01)
    told = threading.Event()
    port = listening.getsockname()[1]
    with ListenerCheck("127.0.0.1", port, told.set, patience_s=0.1).watched():
        assert told.wait(30)
