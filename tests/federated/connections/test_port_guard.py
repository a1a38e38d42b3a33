import contextlib
import os
import socket

import pytest

from federated.connections.port_guard import CONNECTIONS_PER_CALLER, PortGuard

PLACES = 16


class Listening:
    """A listening socket, its connections, and the clients at their other ends."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.clients, self.accepted = [], []

    def connect(self, count):
        """Returns the new connections as gRPC names them."""
        peers = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", self.port))
            client.settimeout(10)
            accepted, (host, port) = self.socket.accept()
            self.clients.append(client)
            self.accepted.append(accepted)
            peers.append(f"ipv4:{host}:{port}")
        return peers

    def open(self):
        """Returns which clients still have their connection, by number."""
        still = []
        for number, client in enumerate(self.clients):
            client.setblocking(False)
            try:
                ended = client.recv(1) == b""
            except BlockingIOError:
                ended = False
            if not ended:
                still.append(number)
        return still

    def close(self):
        for held in (*self.clients, *self.accepted, self.socket):
            held.close()


@pytest.fixture
def listening():
    with contextlib.closing(Listening()) as server:
        yield server


@pytest.fixture
def door(clock):
    return PortGuard(PLACES, clock=clock)


def test_no_connection_is_closed_while_there_is_room(listening, door, clock):
    listening.connect(3 * PLACES // 4 - 1)
    door.look(listening.port)
    clock.now += 1000
    assert door.look(listening.port) == 0 and len(listening.open()) == 3 * PLACES // 4 - 1


def test_connections_that_say_nothing_make_way_and_those_of_callers_stay(listening, door, clock):
    known = listening.connect(2)
    door.note(known[0], "C1")
    door.note(known[1], "operator")
    listening.connect(PLACES - 2)
    assert door.look(listening.port) == 0  # a handshake takes its time
    clock.now += 1
    assert door.look(listening.port) == PLACES - 2 - PLACES // 4
    still = listening.open()
    assert {0, 1} <= set(still) and len(still) == 2 + PLACES // 4


def test_a_caller_keeps_its_newest_connections(listening, door, clock):
    for peer in listening.connect(CONNECTIONS_PER_CALLER + 3):
        door.note(peer, "C3")
        door.look(listening.port)
        clock.now += 1
    door.look(listening.port)
    assert listening.open() == list(range(3, CONNECTIONS_PER_CALLER + 3))


def test_looking_leaves_no_descriptor_behind(listening, door, clock):
    listening.connect(5)
    door.look(listening.port)
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        door.look(listening.port)
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize(
    ("peer", "family", "host"), [("ipv6:%5B::1%5D:{}", socket.AF_INET6, "::1")]
)
def test_a_caller_over_ipv6_is_known(door, clock, peer, family, host):
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("no IPv6 here")
    with server, contextlib.ExitStack() as stack:
        port = server.getsockname()[1]
        for number in range(PLACES):
            client = stack.enter_context(socket.create_connection((host, port)))
            stack.enter_context(server.accept()[0])
            if number < PLACES - 4:
                door.note(peer.format(client.getsockname()[1]), f"C{number}")
        door.look(port)
        clock.now += 1
        assert door.look(port) == 0  # four unknown ones hold a quarter of the places
