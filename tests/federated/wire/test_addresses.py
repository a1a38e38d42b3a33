import socket

import pytest

from federated.admin import client as admin_client
from federated.doctor import diagnosis as doctor
from federated.doctor import examination
from federated.wire import addresses
from tests.federated import toy


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("fl.example.org:8443", "fl.example.org", 8443),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:8443", "::1", 8443),
        ("::1:8443", "::1", 8443),
        ("[2001:db8::7]:65535", "2001:db8::7", 65535),
    ],
)
def test_host_and_port_are_split_and_joined(text, host, port):
    assert addresses.split(text) == (host, port)
    assert addresses.split(addresses.joined(host, port)) == (host, port)
    assert addresses.joined(f"[{host}]" if ":" in host else host, port) == addresses.joined(
        host, port
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nowhere",
        ":8443",
        "host:",
        "host:0",
        "host:65536",
        "host:x",
        "[::1]",
        "[::1:8443",
        "a:b:1",
        "http://h:1",
    ],
)
def test_what_is_not_host_and_port_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"expected host:port, e\.g\."):
        addresses.split(text)


@pytest.mark.parametrize(
    "host",
    [
        *["localhost", "fl.example.org", "fl.example.org.", "*.example.org", "fl_1"],
        *["xn--kln-sna.de", "10.77.0.1", "::1", "[2001:db8::7]", "fe80::1%eth0"],
    ],
)
def test_a_name_or_an_address_alone_is_a_host(host):
    addresses.check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        *["", " ", "fl example", "fl.example.org:8443", "https://fl.example.org", "[::1]:8443"],
        *["user@fl.example.org", "fl.example.org/", "köln.example", "fl.example.org\n"],
        *["[fl]", "a,b", "a..b"],
    ],
)
def test_what_is_more_or_less_than_a_host_is_refused(host):
    with pytest.raises(ValueError, match="expected a name or an address alone") as caught:
        addresses.check_host(host)
    assert repr(host) in str(caught.value)


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *[(host, True) for host in ("localhost", "LOCALHOST.", "a.localhost")],
        *[(host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]")],
        *[(host, False) for host in ("fl.example.org", "localhost.org")],
        *[(host, False) for host in ("10.0.0.1", "0.0.0.0", "::2")],
    ],
)
def test_which_hosts_are_this_machine(host, own):
    assert addresses.is_loopback(host) == own


def test_server_site_operator_and_doctor_take_the_same_spelling_of_an_ipv6_address(serving, kits):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    for listen in ("::1", "[::1]"):
        running = serving(host=listen, folder=f"store_{len(listen)}")
        for host in ("::1", "[::1]"):
            transport = running.connect("C1", host=host)
            assert transport.login(toy.PLAN, 30).num_rounds == 3
            transport.close()
            with admin_client.AdminClient(
                admin_client.Kit.read(kits / "operator", host=host, port=running.port)
            ) as operator:
                assert operator.probe().standing == "operator"
            findings = examination.of_site(
                kits / "C1", host=host, port=running.port, environ={}, timeout_s=20.0
            )
            assert doctor.is_well(findings), doctor.table(findings)
            (port,) = (
                f
                for f in examination.of_server(kits / "server", listen=host, port=running.port)
                if f.check == "port"
            )
            assert port.state == "good" and "this server" in port.found
        running.stop()
