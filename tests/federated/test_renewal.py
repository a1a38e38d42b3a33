"""Certificates that change while the server runs."""

import datetime
import shutil
import socket
import ssl

import pytest

from federated import errors
from federated.security import certificates, provisioning, tls
from runkit import events
from tests.federated import toy
from tests.federated.doctor.planted import certificate_folder


@pytest.fixture
def federation(tmp_path):
    return provisioning.provision(tmp_path / "federation", "localhost", ("C1", "C2"), port=0)


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
    provisioning.renew(federation, ["server"])
    after = served_certificate(running.port, federation / "C1")
    assert after == certificates.fingerprint_of_pem(path.read_bytes()) != before


def test_a_half_copied_renewal_leaves_the_good_one_in_service(serving, federation, tmp_path):
    shutil.copytree(federation / "server", tmp_path / "kit")
    running = serving(server_kit=tmp_path / "kit")
    before = served_certificate(running.port, federation / "C1")
    provisioning.renew(federation, ["server"])
    shutil.copy(
        federation / "server" / "server.pem", tmp_path / "kit" / "server.pem"
    )  # its key is still under way
    assert served_certificate(running.port, federation / "C1") == before
    shutil.copy(federation / "server" / "server.key", tmp_path / "kit" / "server.key")
    assert served_certificate(running.port, federation / "C1") != before


def test_a_site_with_a_renewed_certificate_goes_on(serving, federation):
    running = serving(server_kit=federation / "server")
    provisioning.renew(federation, ["C1"])
    transport = running.connect("C1", folder=federation)
    transport.login(toy.PLAN, 30)
    assert transport.next_task().kind == "train"
    transport.close()


def test_a_revoked_site_is_refused_at_its_next_call_and_cannot_log_in_again(serving, federation):
    running = serving(server_kit=federation / "server")
    revoked, other = (
        running.connect("C1", folder=federation),
        running.connect("C2", folder=federation),
    )
    revoked.login(toy.PLAN, 30)
    other.login(toy.PLAN, 10)
    provisioning.revoke(federation, ["C1"])
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
    provisioning.revoke(federation, ["C1"])
    provisioning.add(federation, sites=["C1"])
    for path in ("site.pem", "site.key"):
        (federation / "C1" / path).write_bytes((tmp_path / "old" / path).read_bytes())
    transport = running.connect("C1", folder=federation)
    with pytest.raises(errors.CertificateRefused, match="was revoked"):
        transport.login(toy.PLAN, 30)
    transport.close()


def ended(federation, folder, kit, name):
    """Makes `kit`, a copy of a folder of the federation with a certificate that ended days ago."""
    past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=9)
    shutil.copytree(federation / folder, kit)
    if name == "server":
        old = certificate_folder(federation, kit.with_name("old"), days=1, now=past)
        for ending in ("pem", "key"):
            shutil.copy(old / f"server.{ending}", kit / f"server.{ending}")
    else:
        provision_ended(federation, kit, past)


def provision_ended(federation, kit, past):
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    authority = x509.load_pem_x509_certificate((federation / "authority" / "ca.pem").read_bytes())
    authority_key = serialization.load_pem_private_key(
        (federation / "authority" / "ca.key").read_bytes(), None
    )
    key = certificates.new_key()
    issued = certificates.issue("C1", key.public_key(), authority, authority_key, 1, past)
    (kit / "site.pem").write_bytes(certificates.to_pem(issued))
    (kit / "site.key").write_bytes(certificates.key_to_pem(key))


@pytest.mark.parametrize("name", ["server", "site"])
def test_a_site_waits_for_the_renewal_of_a_certificate_that_has_ended_and_goes_on_by_itself(
    serving, federation, take_part, tmp_path, name, caplog
):
    folder = "server" if name == "server" else "C1"
    kit = tmp_path / "kits" / folder
    kit.parent.mkdir()
    ended(federation, folder, kit, name)
    running = serving(
        server_kit=kit if name == "server" else federation / "server",
        num_rounds=1,
        min_num_clients=1,
        max_num_clients=1,
    )
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:  # the operator's answer comes
            for ending in ("pem", "key"):
                shutil.copy(federation / folder / f"{name}.{ending}", kit / f"{name}.{ending}")

    transport = running.connect("C1", folder=federation if name == "server" else kit.parent)
    with caplog.at_level("ERROR"):
        assert take_part({"C1": transport}, {"C1": toy.ToyTrainer("C1")}, pause=pause)[
            "C1"
        ].finished
    retries = [
        e["error"]
        for e in events.EventLog(tmp_path / "journal_C1" / "events.jsonl").read()
        if e["event"] == "retry"
    ]
    assert retries[:2] == ["CertificateOutOfDate"] * 2
    wanted = (
        "the server's operator must renew it"
        if name == "server"
        else "renew it with experiments.request"
    )
    assert "event=certificate_out_of_date" in caplog.text and wanted in caplog.text


def test_a_certificate_that_was_renewed_while_the_site_trained_is_used_without_a_restart(
    serving, federation, take_part
):
    settings = {
        "server_kit": federation / "server",
        "num_rounds": 2,
        "min_num_clients": 1,
        "max_num_clients": 1,
    }
    running = [serving(**settings)]

    def renewed(round_number):
        if round_number == 2:
            provisioning.renew(federation, ["C1"])
            running[0].stop()

    def pause(seconds):
        if len(running) == 1:
            running.append(serving(**settings))

    transport = running[0].connect("C1", folder=federation)
    assert take_part(
        {"C1": transport}, {"C1": toy.ToyTrainer("C1", on_train=renewed)}, pause=pause
    )["C1"].finished
    assert running[1].join().rounds == 2
    logged = [
        e
        for e in events.EventLog(running[1].folder / "events.jsonl").read()
        if e["event"] == "login"
    ]
    assert len(logged) == 2  # the second is due because a token belongs to one certificate
