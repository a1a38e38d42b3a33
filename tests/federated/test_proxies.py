"""Sites and operators in a network with a proxy: which calls use it, and a server's restart."""

import socket

import pytest

from federated.admin import client as admin_client
from federated.security import provisioning
from federated.wire import proxy as wire_proxy
from runkit import events
from tests.federated import toy
from tests.federated.doctor.planted import listening, tls_treatment
from tests.federated.proxy import http_proxy

HOST = "fl.study.invalid"  # known to the proxy alone


@pytest.fixture
def through(monkeypatch):
    """Makes this process use a proxy, through the variables that gRPC reads."""

    def use(proxy):
        for name in ("grpc_proxy", "http_proxy", "no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")

    return use


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_server_on_this_machine_is_never_reached_through_a_proxy(serving, kits, through, host):
    running = serving()
    with http_proxy(running.port) as proxy:
        through(proxy)
        transport = running.connect("C1", host=host)
        assert transport.login(toy.PLAN, 30).num_rounds == 3
        transport.close()
        with admin_client.AdminClient(
            admin_client.Kit.read(kits / "operator", host=host, port=running.port)
        ) as operator:
            assert operator.probe().standing == "operator"
        assert proxy.requests == []
        assert (
            wire_proxy.ServerEndpoint(
                host, running.port, {"https_proxy": f"http://127.0.0.1:{proxy.port}"}
            ).proxy
            is None
        )


def test_behind_a_proxy_a_restart_of_the_server_ends_no_site(
    serving, tmp_path, kits, take_part, through, monkeypatch
):
    """Without the proxy, the server's name resolves to a different machine.

    The certificate of that machine is not trusted.
    """
    own = provisioning.provision(tmp_path / "own", HOST, ("C1",), port=8443)
    settings = {"server_kit": own / "server", "min_num_clients": 1, "max_num_clients": 1}
    looked_up = socket.getaddrinfo
    with listening(tls_treatment(kits / "server")) as elsewhere:
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, port, *how, **named: looked_up(
                *_instead(host, port, elsewhere), *how, **named
            ),
        )
        first = serving(**settings)
        with http_proxy(first.port) as proxy:
            through(proxy)
            stopped, restarted = [], []

            def stop(round_number):
                if round_number == 2:
                    stopped.append(first.stop())

            def pause(seconds):
                if stopped and not restarted:
                    restarted.append(serving(**settings))

            summary = take_part(
                {"C1": first.connect("C1", folder=own, host=None, port=None)},
                {"C1": toy.ToyTrainer("C1", on_train=stop)},
                pause=pause,
            )["C1"]
            assert summary.finished and restarted[0].join().rounds == 3
            assert (
                all(head.startswith(f"CONNECT {HOST}:8443 ") for head in proxy.requests)
                and len(proxy.requests) > 1
            )
    retries = [
        e["error"]
        for e in events.EventLog(tmp_path / "journal_C1" / "events.jsonl").read()
        if e["event"] == "retry"
    ]
    assert "ServerUnreachable" in retries


def _instead(host, port, elsewhere):
    return ("127.0.0.1", elsewhere) if host == HOST else (host, port)
