import contextlib
import os
import socket
import urllib.request

import pytest

from federated import errors
from federated.connections import http_server


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"all is well"]


def answering(host="127.0.0.1", port=0, **named):
    return http_server.answering(app, host, port, what="the page", remedy="choose another", **named)


def page(port, host="127.0.0.1"):
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=30) as reply:
        return reply.read()


@pytest.fixture
def connect():
    """Opens connections and closes them at the end."""
    with contextlib.ExitStack() as stack:

        def one(port):
            made = socket.create_connection(("127.0.0.1", port), timeout=30)
            return stack.enter_context(made)

        yield one


def is_closed(connection):
    """Waits until the other end has closed a connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def descriptors():
    return len(os.listdir("/dev/fd"))


def comes_to_answer(port):
    """Returns whether a request is answered, after earlier ones that may have come too soon."""
    for _ in range(1000):
        with contextlib.suppress(OSError):
            return page(port) == b"all is well"
    return False


def test_a_flood_of_idle_connections_takes_only_its_places(connect):
    with answering(places=3) as port:
        before = descriptors()
        flood = [connect(port) for _ in range(60)]
        # Those beyond the places are closed at once; connections come in the order they were made.
        assert all(is_closed(connection) for connection in flood[3:])
        # Our own ends, the places, and a few: one that is being closed, what Python opens itself.
        assert descriptors() - before <= len(flood) + 3 + 10
        for connection in flood:
            connection.close()
        assert comes_to_answer(port)


@pytest.mark.parametrize("begun", [b"", b"GET /metrics HTTP/1.0\r\nX-Slow: "])
def test_whoever_says_nothing_or_never_ends_makes_way(connect, begun):
    with answering(places=1, longest_s=0.05) as port:
        slow = connect(port)
        slow.sendall(begun)
        assert is_closed(slow)
        assert comes_to_answer(port)


def test_a_broken_request_is_not_logged_and_harms_nobody(connect, capfd):
    with answering() as port:
        for said in (b"\0\xff\r\n\r\n", b"GET " + b"a" * 70_000 + b"\r\n", b"GET / HTTP/9\r\n\r\n"):
            connection = connect(port)
            with contextlib.suppress(OSError):
                connection.sendall(said)
                while connection.recv(4096):
                    pass
        assert page(port) == b"all is well"
    assert "Traceback" not in capfd.readouterr().err


def test_a_port_that_is_taken_and_a_foreign_address_are_named():
    taken = r"port \d+ of 127\.0\.0\.1 .*choose another"
    with answering() as port, pytest.raises(errors.PortInUse, match=taken):
        answering(port=port).__enter__()
    for host in ("192.0.2.1", "256.0.0.1"):
        with pytest.raises(
            errors.PortInUse, match=f"the page cannot be served on port 0 of {host}"
        ):
            answering(host).__enter__()


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_may_have_brackets(host):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with answering(host) as port:
        assert page(port, "[::1]") == b"all is well"
