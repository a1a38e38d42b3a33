"""A stolen key of the server is of no use once it is revoked, and sites carry on."""

import dataclasses
import json
import shutil
import subprocess

import grpc
import pytest
from cryptography import x509

from federated import errors
from federated.admin import client as admin_client
from federated.doctor import diagnosis as doctor
from federated.doctor import examination
from federated.security import (
    certificate_request,
    certificates,
    credentials,
    provisioning,
    revocation,
    tls,
)
from federated.tensors import tensor_files
from federated.wire import weight_exchange_pb2 as pb
from tests.federated import toy
from tests.federated.doctor.planted import listening, only_fault, tls_treatment


@pytest.fixture
def federation(tmp_path):
    return provisioning.provision(tmp_path / "federation", "localhost", ("C1", "C2"), port=0)


@pytest.fixture
def stolen(federation, tmp_path):
    """A copy of the server's kit, stolen before it is revoked."""
    shutil.copytree(federation / "server", tmp_path / "stolen")
    return tmp_path / "stolen"


def log_in(running, federation, site="C1", **named):
    transport = running.connect(site, folder=federation, **named)
    try:
        return transport.login(toy.PLAN, toy.EXAMPLES[site])
    finally:
        transport.close()


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_without_a_revocation_certificates_and_kits_are_those_of_the_release_before(federation):
    assert sorted(path.name for path in (federation / "C1").iterdir()) == [
        "ca.pem",
        "credential",
        "site.json",
        "site.key",
        "site.pem",
    ]
    assert certificates.hosts_of(certificate(federation / "server" / "server.pem")) == [
        "localhost",
        "127.0.0.1",
        "::1",
    ]
    assert certificates._alternatives(certificate(federation / "server" / "server.pem")) == [
        "localhost",
        "127.0.0.1",
        "::1",
    ]
    identity = tls.Identity.of(federation / "C1", "site")
    assert identity.channel_options == () and identity.expected_name("localhost") == "localhost"


def test_a_site_learns_of_a_revocation_at_login_and_then_refuses_the_stolen_key(
    serving, federation, stolen
):
    provisioning.revoke(federation, ["server"])
    genuine = serving(server_kit=federation / "server")
    log_in(genuine, federation)
    genuine.stop()
    pretender = serving(server_kit=stolen, folder="pretender")
    with pytest.raises(
        errors.CertificateRefused,
        match="its certificate was revoked, and whoever has its key may pose as the server",
    ):
        log_in(pretender, federation)
    assert (
        log_in(pretender, federation, "C2").revocation == b""
    )  # C2 does not know of the revocation, so it is fooled
    assert not [
        line
        for line in (pretender.folder / "events.jsonl").read_text().splitlines()
        if '"login"' in line and '"C1"' in line
    ]


def test_a_revocation_reaches_a_site_in_the_middle_of_a_run_at_its_next_call(
    serving, federation, stolen
):
    running = serving(server_kit=federation / "server")
    transport = running.connect("C1", folder=federation)
    transport.login(toy.PLAN, 30)
    assert transport.next_task().kind == "train"
    provisioning.revoke(federation, ["server"])
    with pytest.raises(errors.SessionExpired):
        transport.next_task()  # the site loop then logs in again
    session = transport.login(toy.PLAN, 30)
    assert (
        certificates.read_revocation(
            session.revocation, certificate(federation / "authority" / "ca.pem")
        )
        == 1
    )
    assert transport.next_task().kind == "train"
    transport.heart_beat()
    transport.close()
    assert tls.Identity.of(federation / "C1", "site").generation == 1


def test_a_run_continues_after_a_revocation_and_ends_with_the_exact_weights(
    serving, federation, take_part
):
    running = serving(server_kit=federation / "server", num_rounds=3)

    def revoke(round_number):
        if round_number == 2:
            provisioning.revoke(federation, ["server"])

    sites = {"C1": toy.ToyTrainer("C1", on_train=revoke), "C2": toy.ToyTrainer("C2")}
    take_part({site: running.connect(site, folder=federation) for site in sites}, sites)
    assert running.join().finished
    arrays, _ = tensor_files.load(running.folder / "global" / "round_003.safetensors")
    for name, expected in toy.expected_globals(("C1", "C2"), 3)[-1].items():
        assert arrays[name].astype("float64") == pytest.approx(expected, abs=0)


def test_a_server_says_nothing_before_it_has_its_new_certificate(
    serving, federation, stolen, tmp_path
):
    """If credentials.json were copied first, sites would otherwise refuse the genuine server."""
    shutil.copytree(federation / "server", tmp_path / "kit")
    running = serving(server_kit=tmp_path / "kit")
    provisioning.revoke(federation, ["server"])
    shutil.copy(federation / "server" / "credentials.json", tmp_path / "kit")
    assert log_in(running, federation).revocation == b""
    shutil.copy(federation / "server" / "server.pem", tmp_path / "kit")
    assert log_in(running, federation).revocation == b""
    shutil.copy(federation / "server" / "server.key", tmp_path / "kit")
    assert log_in(running, federation).revocation
    log_in(running, federation)


def test_a_second_revocation_reaches_sites_of_every_generation(serving, federation, tmp_path):
    provisioning.revoke(federation, ["server"])
    shutil.copytree(federation / "server", tmp_path / "stolen_again")
    certificate_request.take_revocation(federation / "C1", federation / "authority" / "revoked.crl")
    provisioning.revoke(federation, ["server"])
    running = serving(server_kit=federation / "server")
    for site in ("C1", "C2"):
        log_in(running, federation, site)
        assert tls.Identity.of(federation / site, "site").generation == 2
    running.stop()
    pretender = serving(server_kit=tmp_path / "stolen_again", folder="pretender")
    with pytest.raises(errors.CertificateRefused, match="was revoked"):
        log_in(pretender, federation)


def test_the_operator_may_send_the_statement_ahead_and_an_answer_contains_it(
    federation, stolen, tmp_path
):
    provisioning.revoke(federation, ["server"])
    assert (
        certificate_request.take_revocation(
            federation / "C1", federation / "authority" / "revoked.crl"
        )
        == 1
    )
    kit = tmp_path / "kit"
    certificate_request.request(kit, "C3")
    provisioning.add(federation, requests=[kit / "site.csr"])
    certificate_request.install(
        kit, federation / "C3", authority=provisioning.authority_fingerprint(federation)
    )
    for folder in (federation / "C1", kit):
        assert (
            tls.Identity.of(folder, "site").expected_name("localhost")
            == "server-1.federation.invalid"
        )
    assert admin_client.Kit.read(federation / "operator", port=1).identity.generation == 1


def test_only_the_authority_can_revoke_and_nobody_can_take_it_back(
    federation, other_kits, tmp_path
):
    provisioning.revoke(federation, ["server"])
    first = (federation / "authority" / "revoked.crl").read_bytes()
    certificate_request.take_revocation(federation / "C1", federation / "authority" / "revoked.crl")
    shutil.copytree(other_kits, tmp_path / "other")
    for _ in range(3):
        provisioning.revoke(tmp_path / "other", ["server"])
    with pytest.raises(ValueError, match=r"revoked\.crl: .*authority has not signed"):
        certificate_request.take_revocation(
            federation / "C1", tmp_path / "other" / "authority" / "revoked.crl"
        )
    provisioning.revoke(federation, ["server"])
    certificate_request.take_revocation(federation / "C1", federation / "authority" / "revoked.crl")
    (tmp_path / "first.crl").write_bytes(first)
    certificate_request.take_revocation(federation / "C1", tmp_path / "first.crl")
    assert tls.Identity.of(federation / "C1", "site").generation == 2
    with pytest.raises(ValueError, match="not a list of revoked certificates"):
        certificate_request.take_revocation(federation / "C1", federation / "C1" / "ca.pem")
    (tmp_path / "large.crl").write_bytes(first + b"\n" * revocation.MAX_BYTES)
    with pytest.raises(ValueError, match="expected at most 65536"):
        certificate_request.take_revocation(federation / "C1", tmp_path / "large.crl")


def test_a_forged_statement_from_a_server_changes_nothing(
    serving, federation, other_kits, tmp_path, monkeypatch
):
    shutil.copytree(other_kits, tmp_path / "other")
    provisioning.revoke(tmp_path / "other", ["server"])
    running = serving(server_kit=federation / "server")
    current = credentials.CredentialBook.current
    for forged in (b"hello", (tmp_path / "other" / "authority" / "revoked.crl").read_bytes()):
        monkeypatch.setattr(
            credentials.CredentialBook,
            "current",
            lambda self, forged=forged: dataclasses.replace(current(self), revocation=forged),
        )
        assert log_in(running, federation).revocation == forged
        assert tls.Identity.of(federation / "C1", "site").generation == 0
    assert not (federation / "C1" / "revoked.crl").exists()


def test_a_revocation_is_learned_even_if_the_kit_is_read_only(
    serving, federation, tmp_path, monkeypatch
):
    """The kit is read-only in the example unit, so the statement is kept in the site's folder.

    The process remembers it in any case.
    """
    provisioning.revoke(federation, ["server"])
    running = serving(server_kit=federation / "server")
    (tmp_path / "site").mkdir()
    log_in(running, federation, learned=tmp_path / "site")
    assert not (federation / "C1" / "revoked.crl").exists()
    assert tls.Identity.of(federation / "C1", "site", learned=tmp_path / "site").generation == 1

    def refused(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(revocation.atomic, "write_bytes", refused)
    transport = running.connect("C2", folder=federation)
    transport.login(toy.PLAN, 10)
    assert transport._identity.generation == 1
    assert transport.next_task().kind == "train"
    transport.close()


def test_a_site_of_the_release_before_goes_on_with_a_server_whose_key_was_revoked(
    serving, federation
):
    """It asks for the host's name, which new certificates bear too, and ignores the new field."""
    provisioning.revoke(federation, ["server"])
    running = serving(server_kit=federation / "server")
    kit = federation / "C1"
    trusted = grpc.ssl_channel_credentials(
        *((kit / name).read_bytes() for name in ("ca.pem", "site.key", "site.pem"))
    )
    with grpc.secure_channel(f"localhost:{running.port}", trusted) as channel:
        call = channel.unary_unary(
            "/weight_exchange.WeightExchange/Login", pb.LoginRequest.SerializeToString, bytes
        )
        request = pb.LoginRequest(
            site="C1", plan_json=json.dumps(toy.PLAN), num_examples=30, protocol=2
        )
        secret = (kit / "credential").read_text().strip()
        reply = call(request, metadata=(("authorization", f"Credential C1:{secret}"),), timeout=30)
    old = pb.LoginReply.FromString(reply)
    old.ClearField("revocation")
    assert old.token and old.num_rounds == 3


def test_a_federation_of_the_release_before_is_revoked_like_any_other(
    serving, federation, tmp_path
):
    book = json.loads((federation / "authority" / "federation.json").read_text())
    for entry in book["issued"]:
        del entry["serial"]
    (federation / "authority" / "federation.json").write_text(json.dumps(book))
    provisioning.revoke(federation, ["server"])
    assert {entry.state for entry in provisioning.issued(federation) if entry.name == "server"} == {
        "revoked",
        "valid",
    }
    running = serving(server_kit=federation / "server")
    log_in(running, federation)
    assert tls.Identity.of(federation / "C1", "site").generation == 1


def test_openssl_reads_the_statement(federation):
    serial = f"{certificate(federation / 'server' / 'server.pem').serial_number:X}"
    provisioning.revoke(federation, ["server"])
    command = [
        "openssl",
        "crl",
        "-in",
        federation / "authority" / "revoked.crl",
        "-noout",
        "-text",
        "-CAfile",
        federation / "C1" / "ca.pem",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "verify OK" in shown.stdout + shown.stderr
    listed = shown.stdout.upper()
    assert f"SERIAL NUMBER: {serial}" in listed or f"SERIAL NUMBER: 0{serial}" in listed


# The doctor.


def test_the_doctor_of_a_site_tells_a_revoked_server_from_others(federation, stolen):
    provisioning.revoke(federation, ["server"])
    certificate_request.take_revocation(federation / "C1", federation / "authority" / "revoked.crl")
    with listening(tls_treatment(stolen)) as port:
        findings = examination.of_site(federation / "C1", host="localhost", port=port, environ={})
    only_fault(findings, "server's certificate", "revoked by the operator", "tell the operator")


def test_the_doctor_accepts_the_new_server(serving, federation, tmp_path):
    provisioning.revoke(federation, ["server"])
    certificate_request.take_revocation(federation / "C1", federation / "authority" / "revoked.crl")
    running = serving(server_kit=federation / "server")
    findings = examination.of_site(
        federation / "C1", host="localhost", port=running.port, environ={}, timeout_s=20.0
    )
    assert doctor.is_well(findings), doctor.table(findings)
    findings = examination.of_site(
        federation / "operator", host="localhost", port=running.port, environ={}, timeout_s=20.0
    )
    assert doctor.is_well(findings), doctor.table(findings)


def test_the_doctor_of_the_server_says_that_its_certificate_is_the_old_one(federation, stolen):
    provisioning.revoke(federation, ["server"])
    shutil.copy(federation / "server" / "credentials.json", stolen)
    only_fault(
        examination.of_server(stolen, port=0),
        "revocation",
        "server.pem was revoked",
        "whole folder",
    )
    assert doctor.is_well(examination.of_server(federation / "server", port=0))
