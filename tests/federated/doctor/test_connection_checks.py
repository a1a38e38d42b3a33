"""Faults between a site and its server, or in what the server says about itself.

Each test plants one fault; the doctor has to name it and its remedy.
"""

import datetime
import json
import re
import socket
import time

import grpc
import pytest

from federated.doctor import connection_checks
from federated.doctor import diagnosis as doctor
from federated.security import provisioning
from federated.wire import operation_pb2 as pb
from federated.wire import proxy as wire_proxy
from federated.wire.messages import PROTOCOL
from runkit import release
from tests.federated import toy
from tests.federated.doctor.planted import (
    certificate_folder,
    listening,
    one,
    only_fault,
    site,
    tls_treatment,
)
from tests.federated.proxy import http_proxy

HOST = "fl.study.invalid"  # known to a proxy alone


def test_the_name_is_unknown(kits):
    findings = site(kits / "C1", 1, host="no-such-host.invalid")
    only_fault(findings, "name", "no-such-host.invalid is not known here", "DNS entry")
    assert {finding.check for finding in findings if finding.state == "skipped"} >= {
        "port",
        "TLS",
        "server",
        "clock",
    }


def test_nothing_is_listening(kits):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    only_fault(
        site(kits / "C1", port),
        "port",
        f"nothing is listening on localhost:{port}",
        "check that the server is running",
    )


def test_a_firewall_drops_the_connection(kits, monkeypatch):
    def dropped(*_, **__):
        raise TimeoutError("timed out")

    monkeypatch.setattr(wire_proxy.socket, "create_connection", dropped)
    only_fault(
        site(kits / "C1", 1),
        "port",
        "a firewall drops the connection",
        "outgoing TCP to localhost:1; no incoming connection is needed",
    )


def test_the_program_on_the_port_does_not_speak_tls(kits):
    with listening(
        lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    ) as port:
        only_fault(
            site(kits / "C1", port),
            "TLS",
            "does not speak TLS",
            "load balancer in front must pass TCP on",
        )


def test_a_device_on_the_way_swallows_the_handshake(kits):
    with listening(lambda connection: connection.recv(2**16) and time.sleep(1.0)) as port:
        only_fault(
            site(kits / "C1", port, timeout_s=0.3), "TLS", "says nothing", "without inspection"
        )


def test_a_firewall_cuts_the_handshake(kits):
    with listening(lambda connection: None) as port:
        only_fault(site(kits / "C1", port), "TLS", "hangs up in the handshake", "firewall cuts TLS")


def test_tls_is_inspected_on_the_way(kits, tmp_path):
    folder = certificate_folder(None, tmp_path / "box", name="Corporate Inspection CA")
    with listening(tls_treatment(folder)) as port:
        only_fault(
            site(kits / "C1", port), "server's certificate", "Corporate Inspection CA", "exempt"
        )


def test_the_server_is_of_another_federation(kits, other_kits):
    with listening(tls_treatment(other_kits / "server")) as port:
        only_fault(
            site(kits / "C1", port),
            "server's certificate",
            "another federation's authority",
            "the new kit",
        )


def test_the_servers_certificate_has_expired(kits, tmp_path):
    long_ago = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=40)
    folder = certificate_folder(kits, tmp_path / "old", now=long_ago)
    with listening(tls_treatment(folder)) as port:
        only_fault(
            site(kits / "C1", port), "server's certificate", "it expired on", "--renew=server"
        )


def test_the_servers_certificate_is_not_valid_yet_because_the_clock_is_behind(kits, tmp_path):
    tomorrow = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    folder = certificate_folder(kits, tmp_path / "new", now=tomorrow)
    with listening(tls_treatment(folder)) as port:
        only_fault(
            site(kits / "C1", port), "server's certificate", "not valid before", "set the clock"
        )


def test_the_servers_certificate_bears_another_name(kits, tmp_path):
    folder = certificate_folder(kits, tmp_path / "elsewhere", hosts=("fl.example.org", "10.0.0.7"))
    with listening(tls_treatment(folder)) as port:
        only_fault(
            site(kits / "C1", port),
            "server's certificate",
            "localhost, but fl.example.org, 10.0.0.7",
            "use one of these",
        )


def test_the_server_refuses_our_certificate(kits, other_kits):
    treat = tls_treatment(
        kits / "server", ask_for_certificate=True, ca=other_kits / "server" / "ca.pem"
    )
    with listening(treat) as port:
        only_fault(
            site(kits / "C1", port),
            "own certificate",
            "refuses it in the handshake",
            "ask the operator for a new kit",
        )


@pytest.mark.parametrize("status", ["403 Forbidden", "407 Proxy Authentication Required"])
def test_a_proxy_refuses(kits, status):
    with http_proxy(8443) as proxy:
        proxy.answer = status
        findings = site(
            kits / "C1",
            8443,
            host=HOST,
            environ={"https_proxy": f"http://user:hidden@127.0.0.1:{proxy.port}"},
        )
    only_fault(findings, "proxy", status, f"no_proxy={HOST}")
    assert (
        "https_proxy=http://user:password@host:port" in one(findings, "proxy").remedy
    ) == status.startswith("407")
    assert "hidden" not in doctor.table(findings)


def test_a_proxy_is_down(kits):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    findings = site(
        kits / "C1", 8443, host=HOST, environ={"https_proxy": f"http://127.0.0.1:{port}"}
    )
    only_fault(findings, "proxy", "cannot be reached", "correct https_proxy")


def test_a_proxy_that_connects_is_used_and_its_variable_is_named(serving, tmp_path, monkeypatch):
    own = provisioning.provision(tmp_path / "own", HOST, ("C1",), port=8443)
    with http_proxy(serving(server_kit=own / "server", min_num_clients=1).port) as proxy:
        environ = {"http_proxy": f"http://user:p%40ss@127.0.0.1:{proxy.port}/"}
        for name in ("grpc_proxy", "https_proxy", "no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", environ["http_proxy"])  # gRPC reads the process's own
        findings = site(own / "C1", None, host=None, environ=environ)
    assert doctor.is_well(findings), doctor.table(findings)
    assert (
        f"http_proxy names 127.0.0.1:{proxy.port}, which lets this connection through"
        == one(findings, "proxy").found
    )
    assert "by the proxy that http_proxy names" in one(findings, "name").found
    assert (
        len(
            {
                re.search("Proxy-Authorization: Basic (.*)", head)[1].strip()
                for head in proxy.requests
            }
        )
        == 1
    )  # gRPC's and the doctor's
    assert "p@ss" not in doctor.table(findings) and "p%40ss" not in doctor.table(findings)


def test_a_variable_that_grpc_ignores_is_named_without_its_password(kits):
    findings = site(
        kits / "C1",
        1,
        host=HOST,
        environ={
            "https_proxy": "https://user:hidden@proxy:3128",
            "HTTP_PROXY": "http://x:hidden@y:1",
        },
    )
    proxy = one(findings, "proxy")
    assert (
        proxy.state == "warning"
        and "https_proxy is not used: gRPC accepts only http://host:port" in proxy.found
    )
    assert (
        "HTTP_PROXY is not used: gRPC reads http_proxy" in proxy.found
        and "write https_proxy=http://host:port" in proxy.remedy
    )
    assert "hidden" not in doctor.table(findings)


def test_the_credential_is_wrong(serving, kit):
    (kit / "credential").write_text("not-the-one\n")
    only_fault(
        site(kit, serving().port),
        "server",
        "do not go together",
        "has another credential for this name",
    )


def test_the_site_was_revoked(serving, tmp_path):
    federation = provisioning.provision(tmp_path / "federation", "localhost", ("C1", "C2"), port=0)
    running = serving(server_kit=federation / "server")
    provisioning.revoke(federation, ["C2"])
    only_fault(
        site(federation / "C2", running.port),
        "server",
        "do not go together",
        "or the site was revoked",
    )


def answering(**reply):
    full = {
        "time": time.time(),
        "protocol": PROTOCOL,
        "release": release.version(),
        "standing": "welcome",
        "plan_json": json.dumps(toy.PLAN),
    }
    return lambda: pb.ProbeReply(**{**full, **reply})


def last_steps(serving, kits, probe, plan=None, folder="store"):
    path = wire_proxy.ServerEndpoint("localhost", serving(folder=folder).port)
    return connection_checks.examine(
        path, connection_checks.Identity.of(kits / "C1", "site"), probe, plan=plan
    )


@pytest.mark.parametrize(
    ("skew", "state"), [(3600, "fault"), (-3600, "fault"), (60, "warning"), (1, "good")]
)
def test_the_clock_is_off(serving, kits, skew, state):
    finding = one(last_steps(serving, kits, answering(time=time.time() - skew)), "clock")
    assert finding.state == state and ("ahead of" in finding.found) == (skew > 0)
    assert state == "good" or "timedatectl set-ntp true" in finding.remedy


def test_unknown_releases_do_not_count_as_equal(serving, kits, monkeypatch):
    monkeypatch.setattr(release, "version", lambda: release.UNKNOWN)
    finding = one(last_steps(serving, kits, answering(release=release.UNKNOWN)), "release")
    assert (
        finding.state == "warning"
        and "the server's and this site's release is unknown" in finding.found
    )


def test_the_release_is_another(serving, kits):
    finding = one(
        last_steps(serving, kits, answering(protocol=PROTOCOL + 1, release="9.9")), "release"
    )
    assert finding.state == "fault" and "install release 9.9 here" in finding.remedy
    finding = one(last_steps(serving, kits, answering(release="9.9"), folder="second"), "release")
    assert finding.state == "warning" and "understand each other" in finding.found


def test_the_plan_is_another(serving, kits):
    finding = one(
        last_steps(serving, kits, answering(), plan={**toy.PLAN, "patch": {"size": [8, 8, 8]}}),
        "plan",
    )
    assert (
        finding.state == "fault" and "patch.size: server [4, 4, 4], site [8, 8, 8]" in finding.found
    )


@pytest.mark.parametrize(
    ("standing", "remedy"), [("evicted", "admit it again"), ("full", "raise --max_num_clients")]
)
def test_the_server_does_not_admit_the_site(serving, kits, standing, remedy):
    finding = one(last_steps(serving, kits, answering(standing=standing)), "server")
    assert finding.state == "fault" and remedy in finding.remedy


def test_the_server_is_another_grpc_program(kits):
    from concurrent import futures

    from federated.security.tls import Identity

    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_secure_port(
        "localhost:0", Identity.of(kits / "server", "server").for_server()
    )
    server.start()
    try:
        only_fault(
            site(kits / "C1", port), "server", "knows no such call", "install the same release"
        )
    finally:
        server.stop(0)
