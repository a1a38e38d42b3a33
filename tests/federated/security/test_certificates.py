import base64
import datetime
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from federated.security import certificates, tls

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


@pytest.fixture(scope="module")
def authority():
    key = certificates.new_key()
    return certificates.new_authority(key, 100, NOW), key


def issued(authority, days, now=NOW, **named):
    return certificates.issue(
        "C1", certificates.new_key().public_key(), *authority, days, now, **named
    )


def test_a_certificate_expires_no_later_than_its_authority(authority):
    assert issued(authority, 10).not_valid_after_utc == NOW + datetime.timedelta(days=10)
    assert issued(authority, 1000).not_valid_after_utc == authority[0].not_valid_after_utc
    with pytest.raises(
        ValueError, match=r"the authority expired on 2026-04-11; provision the federation again"
    ):
        issued(authority, 10, NOW + datetime.timedelta(days=101))


def test_who_issued_what(authority):
    other = certificates.new_authority(certificates.new_key(), 100, NOW)
    certificate = issued(authority, 10)
    assert certificates.is_issued_by(certificate, authority[0]) and not certificates.is_issued_by(
        certificate, other
    )
    assert (
        certificates.common_name(certificate) == "C1" and certificates.hosts_of(certificate) == []
    )
    assert certificates.hosts_of(
        issued(authority, 10, hosts=["fl.example.org", "10.0.0.1", "fl.example.org"])
    ) == [
        "fl.example.org",
        "10.0.0.1",
    ]
    assert certificates.days_left(certificate, NOW) == 10.0


def test_a_request_says_what_it_asks_for_and_its_signature_covers_all_of_it():
    key, digest = certificates.new_key(), "ab" * 32
    pem = certificates.new_request("C1", key, digest)
    request = certificates.read_request(pem)
    assert (request.name, request.credential_sha256) == ("C1", digest)
    der = x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER)
    for what in (b"C1", digest.encode()):
        at = der.index(what)
        changed = der[:at] + bytes([der[at] ^ 1]) + der[at + 1 :]
        forged = (
            ssl.DER_cert_to_PEM_cert(changed).replace("CERTIFICATE", "CERTIFICATE REQUEST").encode()
        )
        with pytest.raises(ValueError, match="certificate request"):
            certificates.read_request(forged)


def test_a_request_of_another_program_is_refused():
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "C1")])
    plain = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    with pytest.raises(ValueError, match="not a certificate request of this release"):
        certificates.read_request(plain)


def test_a_sites_certificate_does_not_pass_as_the_servers(kits):
    """A stolen kit must not be able to impersonate the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kits / "C1" / "site.pem", kits / "C1" / "site.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection, pytest.raises((ssl.SSLError, OSError)):
                context.wrap_socket(connection, server_side=True).recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        client = tls.Identity.of(kits / "C2", "site").context(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False  # even if the name fits
        with (
            socket.create_connection(listener.getsockname(), timeout=10) as plain,
            pytest.raises(
                ssl.SSLCertVerificationError, match=r"(unsuitable|unsupported) certificate purpose"
            ),
        ):
            client.wrap_socket(plain)
        thread.join(10)


def test_a_fingerprint_is_spoken_in_groups_of_four():
    assert certificates.spoken("0123456789abcdef" * 4) == "0123 4567 89ab cdef 0123 4567 89ab cdef"


def damaged(pem):
    """Variants of a PEM object, each with one byte of its DER form replaced."""
    head, *body, foot = pem.decode("ascii").splitlines()
    der = base64.b64decode("".join(body))
    for at in range(len(der)):
        for value in {1, 3, der[at] ^ 1} - {der[at]}:
            content = der[:at] + bytes([value]) + der[at + 1 :]
            text = base64.b64encode(content).decode("ascii")
            lines = [text[i : i + 64] for i in range(0, len(text), 64)]
            yield "\n".join([head, *lines, foot, ""]).encode("ascii")


@pytest.mark.filterwarnings("ignore")  # about fields that the damage makes unusual
@pytest.mark.parametrize("kind", ["certificate", "request", "revocation"])
def test_what_cannot_be_read_is_refused_as_such_wherever_it_is_damaged(authority, kind):
    """Each may come from a stranger, who can damage the parts that are only read later, too."""
    own, key = authority[0], certificates.new_key()
    pem = {
        "certificate": certificates.to_pem(
            issued(authority, 10, hosts=["fl.example.org", "10.0.0.1"], generation=2)
        ),
        "request": certificates.new_request("C1", key, "ab" * 32),
        "revocation": certificates.new_revocation(3, [1, 2], *authority, NOW),
    }[kind]

    def examine(changed):
        if kind == "request":
            certificates.read_request(changed)
        elif kind == "revocation":
            certificates.read_revocation(changed, own)
        else:
            certificate = certificates.load(changed)
            certificates.is_issued_by(certificate, own)
            certificates.common_name(certificate)
            certificates.generation_of(certificate)
            certificates.hosts_of(certificate)
            certificates.days_left(certificate, NOW)
            certificate.public_key()

    refused = 0
    for changed in damaged(pem):
        try:
            examine(changed)
        except ValueError:
            refused += 1
    assert refused > 100
