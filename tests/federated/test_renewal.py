"""Certificates that change under a running server."""

import shutil
import socket
import ssl

import pytest

from federated import certificates, errors, provision, tls
from tests.federated import toy


@pytest.fixture
def federation(tmp_path):
    return provision.provision(tmp_path / "federation", "localhost", ("C1", "C2"), port=0)


def served_certificate(port, kit):
    context = tls.Identity.of(kit, "site").context(ssl.PROTOCOL_TLS_CLIENT)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return certificates.fingerprint_of_bytes(secure.getpeercert(binary_form=True))


def test_a_renewed_certificate_is_served_without_a_restart(serving, federation):
    running = serving(server_kit=federation / "server")
    path = federation / "server" / "server.pem"
    before = served_certificate(running.port, federation / "C1")
    assert before == certificates.fingerprint_of_pem(path.read_bytes())
    provision.renew(federation, ["server"])
    after = served_certificate(running.port, federation / "C1")
    assert after == certificates.fingerprint_of_pem(path.read_bytes()) != before


def test_a_half_copied_renewal_leaves_the_good_one_in_service(serving, federation, tmp_path):
    shutil.copytree(federation / "server", tmp_path / "kit")
    running = serving(server_kit=tmp_path / "kit")
    before = served_certificate(running.port, federation / "C1")
    provision.renew(federation, ["server"])
    shutil.copy(federation / "server" / "server.pem", tmp_path / "kit" / "server.pem")  # its key is still under way
    assert served_certificate(running.port, federation / "C1") == before
    shutil.copy(federation / "server" / "server.key", tmp_path / "kit" / "server.key")
    assert served_certificate(running.port, federation / "C1") != before


def test_a_site_with_a_renewed_certificate_goes_on(serving, federation):
    running = serving(server_kit=federation / "server")
    provision.renew(federation, ["C1"])
    transport = running.connect("C1", folder=federation)
    transport.login(toy.PLAN, 30)
    assert transport.next_task().kind == "train"
    transport.close()


def test_a_revoked_site_is_refused_at_its_next_call_and_cannot_log_in_again(serving, federation):
    running = serving(server_kit=federation / "server")
    revoked, other = running.connect("C1", folder=federation), running.connect("C2", folder=federation)
    revoked.login(toy.PLAN, 30)
    other.login(toy.PLAN, 10)
    provision.revoke(federation, ["C1"])
    with pytest.raises(errors.SessionExpired, match="'C1' no longer has a part in this federation"):
        revoked.next_task()
    with pytest.raises(errors.WrongCredential):
        revoked.login(toy.PLAN, 30)
    assert other.next_task().kind == "train"
    revoked.close()
    other.close()


def test_a_revoked_certificate_stays_out_under_a_new_credential(serving, federation, tmp_path):
    running = serving(server_kit=federation / "server")
    shutil.copytree(federation / "C1", tmp_path / "old")
    provision.revoke(federation, ["C1"])
    provision.add(federation, sites=["C1"])
    for path in ("site.pem", "site.key"):
        (federation / "C1" / path).write_bytes((tmp_path / "old" / path).read_bytes())
    transport = running.connect("C1", folder=federation)
    with pytest.raises(errors.CertificateRefused, match="was revoked"):
        transport.login(toy.PLAN, 30)
    transport.close()
