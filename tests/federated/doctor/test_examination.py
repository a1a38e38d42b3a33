"""Each test plants one fault; the doctor has to name it and its remedy."""

import contextlib
import datetime
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import threading
import time

import grpc
import pytest

from federated.doctor import diagnosis as doctor
from federated.doctor import examination
from federated.doctor import kit as doctor_kit
from federated.doctor import network as doctor_network
from federated.security import certificates, provisioning
from federated.wire import addresses, endpoint, messages
from federated.wire import operation_pb2 as pb
from federated.wire.messages import PROTOCOL
from runkit import atomic, release
from tests.federated import toy
from tests.federated.proxy import http_proxy


@pytest.fixture
def kit(kits, tmp_path):
    """A copy of C1's kit in which a test may plant a fault."""
    shutil.copytree(kits / "C1", tmp_path / "kit")
    return tmp_path / "kit"


def site(kit, port, **named):
    return examination.of_site(
        kit, **{"host": "localhost", "port": port, "environ": {}, "timeout_s": 20.0, **named}
    )


def only_fault(findings, check, found, remedy):
    """Asserts that this fault is the only one, and what its texts contain."""
    faults = [finding for finding in findings if finding.state == "fault"]
    assert [finding.check for finding in faults] == [check], doctor.table(findings)
    assert found in faults[0].found and remedy in faults[0].remedy, doctor.table(findings)


def one(findings, check):
    (finding,) = (finding for finding in findings if finding.check == check)
    return finding


@contextlib.contextmanager
def listening(treat=lambda connection: None):
    """Calls `treat` with every connection to a port of this machine; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def work():
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                connection.settimeout(5)
                treat(connection)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def tls_treatment(pem_folder, *, name="server", ask_for_certificate=False, ca=None):
    """Serves TLS with the certificate of a folder, then is silent until the other end hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem_folder / f"{name}.pem", pem_folder / f"{name}.key")
    if ask_for_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca or pem_folder / "ca.pem")

    def treat(connection):
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.sendall(b"h")
            secure.recv(1)

    return treat


def certificate_folder(
    kits, folder, *, days=30, now=None, hosts=("localhost",), name="authority of somebody else"
):
    """Makes a server's certificate, by the kits' authority or by another one if `kits` is None."""
    from cryptography import x509

    folder.mkdir()
    now = now or datetime.datetime.now(datetime.timezone.utc)
    key = certificates.new_key()
    if kits is None:
        authority_key = certificates.new_key()
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        authority = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(authority_key.public_key())
            .serial_number(1)
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=100))
            .sign(authority_key, certificates.hashes.SHA256())
        )
    else:
        authority = x509.load_pem_x509_certificate((kits / "authority" / "ca.pem").read_bytes())
        authority_key = certificates.load_key((kits / "authority" / "ca.key").read_bytes())
    issued = certificates.issue(
        "server", key.public_key(), authority, authority_key, days, now, hosts=hosts
    )
    (folder / "server.pem").write_bytes(certificates.to_pem(issued))
    (folder / "server.key").write_bytes(certificates.key_to_pem(key))
    return folder


# A site where nothing is wrong.


def test_a_healthy_site_passes_every_check(serving, kits, tmp_path):
    running = serving()
    findings = site(kits / "C1", running.port, folder=tmp_path / "site", plan=toy.PLAN, site="C1")
    assert all(finding.state == "good" for finding in findings), doctor.table(findings)
    assert [
        finding.check for finding in findings if finding.check in doctor_network._STEPS
    ] == list(doctor_network._STEPS)
    assert (
        len(running.folder.joinpath("events.jsonl").read_text().splitlines()) == 2
    )  # looked at, not logged in


def test_the_operators_machine_is_examined_in_the_same_way(serving, kits):
    findings = site(kits / "operator", serving().port)
    assert doctor.is_well(findings) and one(findings, "server").found == "knows the operator"


# Faults of the kit.


@pytest.mark.parametrize("name", ["ca.pem", "site.pem", "site.key", "credential", "site.json"])
def test_a_file_is_missing(kit, name):
    (kit / name).unlink()
    only_fault(site(kit, 1), "kit", f"{name} missing", "use the whole folder")


def test_the_answer_to_a_request_is_not_installed_yet(tmp_path):
    from federated.security import certificate_request

    certificate_request.request(tmp_path / "kit", "C1")
    only_fault(site(tmp_path / "kit", 1), "kit", "site.pem", "install the operator's answer")


def test_there_is_no_such_folder(tmp_path):
    only_fault(site(tmp_path / "nowhere", 1), "kit", "no such folder", "--kit")


def test_the_key_can_be_read_by_others(kit):
    (kit / "site.key").chmod(0o644)
    finding = one(site(kit, 1), "private files")
    assert finding.state == "warning" and "chmod 600 site.key" in finding.remedy


def test_the_folders_can_be_read_by_others(kits, kit, tmp_path):
    for folder in (kit, tmp_path / "site" / "cases", tmp_path / "store"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
    (tmp_path / "site").chmod(0o700)
    (tmp_path / "store" / "state.sqlite").touch(0o644)
    findings = site(kit, 1, folder=tmp_path / "site")
    assert (
        one(findings, "private files").state == one(findings, "private folder").state == "warning"
    )
    assert f"cases in {tmp_path / 'site'}" in one(findings, "private folder").found
    assert f"chmod -R go= {tmp_path / 'site'}" in one(findings, "private folder").remedy
    finding = one(
        examination.of_server(kits / "server", store=tmp_path / "store", port=0), "private folder"
    )
    assert finding.state == "warning" and "the folder, state.sqlite in" in finding.found
    (tmp_path / "site" / "cases").chmod(0o700)
    assert one(site(kit, 1, folder=tmp_path / "site"), "private folder").state == "good"
    assert kit.stat().st_mode & 0o777 == 0o755, "the doctor has changed something"


def test_the_doctor_shows_the_authority_that_the_operator_reads_out(kits, kit):
    said = provisioning.authority_fingerprint(kits)
    assert one(site(kit, 1), "authority").found == said
    assert one(examination.of_server(kits / "server", port=0), "authority").found == said


def test_the_key_is_of_another_kit(kit, kits):
    shutil.copy(kits / "C2" / "site.key", kit / "site.key")
    only_fault(site(kit, 1), "certificate", "not a pair", "use the whole folder")


def test_the_authority_is_of_another_federation(kit, other_kits):
    shutil.copy(other_kits / "C1" / "ca.pem", kit / "ca.pem")
    only_fault(
        site(kit, 1), "certificate", "not issued by the authority in ca.pem", "use the whole folder"
    )


def test_a_file_of_the_kit_is_damaged(kit):
    (kit / "site.pem").write_text("-----BEGIN CERTIFICATE-----\nhello\n")
    only_fault(site(kit, 1), "certificate", "damaged", "use the whole folder")


def test_it_is_the_kit_of_another_site(kit):
    only_fault(
        site(kit, 1, site="C2"),
        "site",
        "kit of C1, the prepared cases are those of C2",
        "use the kit of C2",
    )


def test_somebody_has_renamed_the_site_in_the_kit(kit):
    atomic.write_json(kit / "site.json", {"site": "C2", "host": "localhost", "port": 1})
    only_fault(
        site(kit, 1),
        "site",
        "certificate is that of C1, site.json says C2",
        "use the whole folder",
    )


def test_the_host_and_port_of_a_kit_may_be_edited(serving, kit):
    """The address is not part of anything that is signed."""
    atomic.write_json(
        kit / "site.json", {"site": "C1", "host": "127.0.0.1", "port": serving().port}
    )
    assert doctor.is_well(examination.of_site(kit, environ={}))


def test_the_address_in_the_kit_is_not_readable(kit):
    (kit / "site.json").write_text('{"site": "C1"}')
    only_fault(site(kit, 1), "site", "site.json cannot be read", '"host"')


@pytest.mark.parametrize(
    ("days_from_now", "state", "found"),
    [
        (-1, "fault", "not valid before"),
        (366, "fault", "expired on"),
        (345, "warning", "expires in"),
        (10, "good", "valid until"),
    ],
)
def test_the_certificate_has_expired_or_is_not_valid_yet(kits, days_from_now, state, found):
    findings = doctor_kit.check_kit(
        kits / "C1",
        now=datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days_from_now),
        site="C1",
    )
    finding = next(finding for finding in findings if finding.check == "validity")
    assert finding.state == state and found in finding.found
    assert state == "good" or ("clock" in finding.remedy) == (days_from_now < 0)


# Faults of the machine.


def test_the_messages_do_not_fit_the_installed_protobuf():
    def importing(name):
        raise TypeError("Descriptors cannot be created directly")

    only_fault(
        doctor_kit.check_packages(importing),
        "packages",
        "do not load with protobuf",
        "force-reinstall",
    )


def test_the_folder_cannot_be_written(kits, tmp_path):
    (tmp_path / "file").write_text("")
    findings = site(kits / "C1", 1, folder=tmp_path / "file" / "below")
    finding = one(findings, "site's folder")
    assert finding.state == "fault" and "make it writable" in finding.remedy


def test_the_disk_is_full(kits, tmp_path):
    findings = site(
        kits / "C1",
        1,
        folder=tmp_path,
        disk_usage=lambda _: shutil._ntuple_diskusage(10**12, 10**12, 10**6),
    )
    finding = one(findings, "site's folder, room")
    assert (
        finding.state == "fault"
        and "1.0 MB free, 600.0 MB needed" in finding.found
        and "free space" in finding.remedy
    )


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="a file system of 64 KiB can be mounted by root only",
)
def test_a_disk_that_is_really_full_is_noticed_by_writing(tmp_path):
    import subprocess

    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        with contextlib.suppress(OSError):
            (folder / "filler").write_bytes(b"x" * 2**16)
        (finding,) = doctor_kit.check_folder("store", folder, 0)
        assert finding.state == "fault" and "free space" in finding.remedy
    finally:
        subprocess.run(["umount", folder], check=True)


# Faults on the way to the server.


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

    monkeypatch.setattr(endpoint.socket, "create_connection", dropped)
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


# Proxies.


HOST = "fl.study.invalid"  # known to a proxy alone


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


PROXY = "http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("host", "environ", "used"),
    [
        (HOST, {"https_proxy": PROXY}, "https_proxy"),
        (HOST, {"https_proxy": PROXY + "/"}, "https_proxy"),
        (HOST, {"http_proxy": PROXY}, "http_proxy"),
        (HOST, {"grpc_proxy": PROXY, "https_proxy": "http://127.0.0.1:1"}, "grpc_proxy"),
        (HOST, {"https_proxy": "http://us%40er:p%3Ass@127.0.0.1:{port}"}, "https_proxy"),
        (HOST, {"grpc_proxy": "", "https_proxy": PROXY}, None),
        (HOST, {"https_proxy": "https://127.0.0.1:{port}", "http_proxy": PROXY}, None),
        (HOST, {"https_proxy": "127.0.0.1:{port}"}, None),
        (HOST, {"https_proxy": "localhost:{port}"}, None),
        (HOST, {"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY}, None),
        (HOST, {"https_proxy": PROXY, "no_proxy": "study.invalid"}, None),
        (HOST, {"https_proxy": PROXY, "no_proxy": "localhost, .STUDY.invalid"}, None),
        (HOST, {"https_proxy": PROXY, "no_proxy": "udy.invalid"}, None),
        (HOST, {"https_proxy": PROXY, "no_proxy": "*"}, "https_proxy"),
        (HOST, {"https_proxy": PROXY, "no_proxy": "*.study.invalid"}, "https_proxy"),
        (HOST, {"https_proxy": PROXY, "no_proxy": "other.invalid,"}, "https_proxy"),
        (HOST, {"https_proxy": PROXY, "no_grpc_proxy": "", "no_proxy": HOST}, "https_proxy"),
        (HOST, {"https_proxy": PROXY, "no_grpc_proxy": HOST}, None),
        ("192.0.2.1", {"https_proxy": PROXY, "no_proxy": "192.0.2.0/24"}, None),
        ("192.0.2.1", {"https_proxy": PROXY, "no_proxy": "192.0.3.0/24"}, "https_proxy"),
        ("[2001:db8::1]", {"https_proxy": PROXY}, "https_proxy"),
        ("localhost", {"https_proxy": PROXY}, None),
        ("127.0.0.2", {"https_proxy": PROXY}, None),
        ("[::1]", {"grpc_proxy": PROXY}, None),
    ],
)
def test_the_doctor_uses_the_proxy_that_grpc_uses(host, environ, used, monkeypatch):
    """The reference is gRPC itself: whether the proxy sees its call, and with which credentials."""
    with http_proxy(1) as proxy:
        environ = {name: value.format(port=proxy.port) for name, value in environ.items()}
        for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_proxy", "no_grpc_proxy"):
            for spelling in (name, name.upper()):
                monkeypatch.delenv(spelling, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        target = addresses.joined(host, 8443)
        with (
            grpc.insecure_channel(target, options=endpoint.channel_options(host)) as channel,
            pytest.raises(grpc.RpcError),
        ):
            channel.unary_unary("/a/b")(b"", timeout=2.0)
        asked = list(proxy.requests)
        path = endpoint.ServerEndpoint(host, 8443, environ, timeout_s=2.0)
        assert (path.proxy.variable if path.proxy else None) == used == (used if asked else None)
        assert bool(path.passed_over) == (not used and bool(environ.get("grpc_proxy", "set")))
        if used:
            with pytest.raises(endpoint.ProxyRefused), path.connected():
                pass
            lines = [
                {line for line in head.splitlines() if not line.startswith("User-Agent")}
                for head in (asked[0], proxy.requests[-1])
            ]
            assert {
                line.replace("Proxy-Authorization:Basic", "Proxy-Authorization: Basic")
                for line in lines[0]
            } == lines[1]


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


# What the server says.


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
    path = endpoint.ServerEndpoint("localhost", serving(folder=folder).port)
    return doctor_network.examine(
        path, doctor_network.Identity.of(kits / "C1", "site"), probe, plan=plan
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


def test_a_kit_without_a_port_is_a_fault(kit):
    (kit / "site.json").write_text(json.dumps({"site": "C1", "host": "localhost", "port": 0}))
    finding = one(examination.of_site(kit, environ={}), "port")
    assert finding.state == "fault" and "the port that the server printed" in finding.found


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

    import grpc

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


# The server's own machine.


def machine(kits, **named):
    return examination.of_server(
        kits / "server", **{"port": free_port(), "listen": "127.0.0.1", "open_files": 4096, **named}
    )


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_a_healthy_server_passes_whether_or_not_it_is_running(serving, kits, initial, tmp_path):
    findings = machine(kits, store=tmp_path / "new", initial_model=initial)
    assert all(finding.state == "good" for finding in findings), doctor.table(findings)
    running = serving()
    findings = machine(kits, port=running.port, store=running.folder, initial_model=initial)
    assert all(finding.state == "good" for finding in findings), doctor.table(findings)
    assert "is running" in one(findings, "port").found


def test_another_program_has_the_port(kits, other_kits):
    with listening(tls_treatment(other_kits / "server")) as port:
        only_fault(
            machine(kits, port=port), "port", f"another program is listening on {port}", "ss -ltnp"
        )


def test_the_initial_model_has_no_plan(kits, tmp_path):
    from federated.tensors import tensor_files

    tensor_files.save(tmp_path / "initial.safetensors", toy.INITIAL)
    only_fault(
        machine(kits, initial_model=tmp_path / "initial.safetensors"),
        "initial model",
        "no plan",
        "experiments.init_model",
    )
    (tmp_path / "initial.safetensors").write_bytes(b"nothing")
    only_fault(
        machine(kits, initial_model=tmp_path / "initial.safetensors"),
        "initial model",
        "not a whole",
        "experiments.init_model",
    )


def test_a_name_in_the_certificate_cannot_be_looked_up(tmp_path):
    federation = provisioning.provision(tmp_path / "federation", "no-such-host.invalid", ("C1",))
    finding = one(
        examination.of_server(federation / "server", port=free_port(), listen="127.0.0.1"), "names"
    )
    assert finding.state == "warning" and "no-such-host.invalid" in finding.found


def test_no_site_may_log_in(tmp_path):
    federation = provisioning.provision(tmp_path / "federation", "localhost", ("C1",))
    provisioning.revoke(federation, ["C1"])
    findings = examination.of_server(federation / "server", port=free_port(), listen="127.0.0.1")
    only_fault(findings, "sites", "no site may log in", "--add=")


def test_too_few_files_may_be_open(kits):
    assert one(machine(kits, open_files=64), "open files").state == "warning"


def test_the_store_has_no_room_for_a_run(kits, initial, tmp_path):
    findings = machine(
        kits,
        store=tmp_path,
        initial_model=initial,
        disk_usage=lambda _: shutil._ntuple_diskusage(1, 1, 10),
    )
    only_fault(findings, "store, room", "10 B free", "free space")


# The table.


def test_the_table_shows_mark_finding_and_remedy():
    findings = [
        doctor.good("kit", "whole"),
        doctor.fault("port", "nothing is there", "start the server"),
        doctor.skipped("TLS", "after port"),
    ]
    assert doctor.table(findings).splitlines() == [
        "✓ kit   whole",
        "✗ port  nothing is there",
        "        → start the server",
        "- TLS   after port",
        "",
        "3 checks: 1 fault, no warnings, 1 not reached",
    ]
    assert [finding.to_json()["state"] for finding in findings] == ["good", "fault", "skipped"]
    long = doctor.table([doctor.warning("kit", "word " * 60, "way out " * 30)], width=80)
    assert max(map(len, long.splitlines())) <= 81


def test_the_probe_is_no_login(serving, kits):
    assert messages.OPERATION_PREFIX and pathlib.Path(kits).is_dir()
    running = serving()
    site(kits / "C1", running.port)
    log = (running.folder / "events.jsonl").read_text()
    assert '"login"' not in log
