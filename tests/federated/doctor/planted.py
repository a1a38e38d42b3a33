"""Faults for the doctor to find, and helpers that inspect its findings."""

import contextlib
import datetime
import socket
import ssl
import threading

from federated.doctor import diagnosis as doctor
from federated.doctor import examination
from federated.security import certificates


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
