import contextlib
import datetime
import os
import resource
import shutil
import socket
import ssl

import pytest

from federated import errors
from federated.security import tls
from federated.security.tls import Identity
from federated.site import grpc_transport
from federated.wire.proxy import ServerEndpoint
from tests.federated.doctor.planted import certificate_folder, listening, tls_treatment


@pytest.mark.parametrize("missing", ["ca.pem", "site.pem", "site.key"])
def test_a_file_missing_in_a_kit_is_named(kits, tmp_path, missing):
    shutil.copytree(kits / "C1", tmp_path / "kit")
    (tmp_path / "kit" / missing).unlink()
    with pytest.raises(ValueError, match=rf"{missing}: no such file.*provision"):
        Identity.of(tmp_path / "kit", "site")


def test_a_key_of_another_kit_is_noticed_before_anything_is_sent(kits, tmp_path):
    shutil.copytree(kits / "C1", tmp_path / "kit")
    shutil.copy(kits / "C2" / "site.key", tmp_path / "kit" / "site.key")
    with pytest.raises(ValueError, match=r"ca\.pem, site\.pem and site\.key do not go together"):
        Identity.of(tmp_path / "kit", "site")


def test_a_file_that_the_system_cannot_open_is_named(kits):
    """OpenSSL's own error names none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            Identity.of(kits / "C1", "site")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.filename == str(kits / "C1")


def explained(details, kit, host="localhost", port=1):
    return tls.explain_failure(details, ServerEndpoint(host, port), Identity.of(kit, "site"))


def met(kit, port, host="localhost"):
    """Returns gRPC's error of a call to a port, over the channel that a site uses."""
    with (
        contextlib.closing(grpc_transport.connect(kit, host=host, port=port)) as transport,
        pytest.raises(errors.FederationError) as caught,
    ):
        transport.login({}, 1)
    return caught.value


def treated(*steps):
    """A listener that does `steps` with each connection."""

    def treat(connection):
        for step in steps:
            step(connection)

    return listening(treat)


def test_a_program_without_tls_is_reported_as_such(kits):
    with treated(
        lambda c: c.recv(100), lambda c: c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    ) as port:
        error = met(kits / "C1", port)
    assert type(
        error
    ) is errors.CertificateRefused and "does not speak TLS; check host and port" in str(error)


def test_a_server_that_dies_in_the_handshake_is_worth_another_try(kits):
    with treated() as port:
        assert type(met(kits / "C1", port)) is errors.ServerUnreachable


def test_a_closed_port_and_an_unknown_name_are_worth_another_try(kits):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = met(kits / "C1", port)
    assert type(
        error
    ) is errors.ServerUnreachable and f"localhost:{port}: nothing is listening there" in str(error)
    error = met(kits / "C1", 8443, "no-such-host.invalid")
    assert (
        type(error) is errors.ServerUnreachable
        and "no-such-host.invalid:8443: its name, or its proxy's, is not known here" in str(error)
    )


@pytest.mark.parametrize(("days", "text"), [(-10, "has expired"), (10, "is not valid yet")])
def test_a_server_certificate_that_is_out_of_date_is_worth_another_try(kits, tmp_path, days, text):
    now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    with listening(
        tls_treatment(certificate_folder(kits, tmp_path / "old", days=1, now=now))
    ) as port:
        error = met(kits / "C1", port)
    assert type(error) is errors.CertificateOutOfDate and isinstance(error, errors.RETRYABLE)
    assert f"the server's certificate {text}" in str(error) and "--renew=server" in str(error)


def test_only_an_error_that_grpc_itself_met_can_end_a_site(kits, other_kits):
    """gRPC found nothing there. Another server that answers afterwards proves nothing."""
    with listening(tls_treatment(other_kits / "server")) as port:
        for details in (
            "Connection refused",
            "HTTP proxy returned response code 502",
            "ipv4:1.2.3.4:1: Socket closed",
            "",
            "what is this",
        ):
            error = explained(details, kits / "C1", port=port)
            assert type(error) is errors.ServerUnreachable, details
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert type(explained("Socket closed", kits / "C1", port=port)) is errors.ServerUnreachable


def test_a_good_server_that_closed_a_connection_is_worth_another_try(serving, kits):
    assert (
        type(explained("Socket closed", kits / "C1", port=serving().port))
        is errors.ServerUnreachable
    )


@pytest.mark.parametrize(
    "details",
    [
        "ipv4:127.0.0.1:1: Socket closed",
        "ipv6:%5B::1%5D:1: Connection refused",
        "ipv6:%5B2001:db8::1%5D:1: connect: Network is unreachable (101)",
        "ipv6:%5B2001:db8::1%5D:1: connect: No route to host (113)",
    ],
)
def test_a_refused_certificate_is_reported_whichever_address_grpc_met_last(kits, details):
    """A name with two addresses: the server refuses this site at one, nothing is at the other."""

    def refuses(connection):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(kits / "server" / "server.pem", kits / "server" / "server.key")
        context.wrap_socket(connection, server_side=True).close()

    with listening(refuses) as port:
        error = explained(f"last error: UNKNOWN: {details}", kits / "C1", port=port)
    assert type(error) is errors.CertificateRefused
    assert "the server refused this site's certificate" in str(error)


@pytest.mark.parametrize("details", ["Socket closed", "SSL_ERROR_SSL: TLSV1_ALERT_UNKNOWN_CA"])
def test_a_kit_that_cannot_be_read_at_this_moment_ends_no_site(kits, tmp_path, details):
    """Such as one that is being replaced by its renewal."""
    shutil.copytree(kits / "C1", tmp_path / "kit")
    identity = Identity.of(tmp_path / "kit", "site")
    (tmp_path / "kit").rename(tmp_path / "before")
    error = tls.explain_failure(details, ServerEndpoint("localhost", 1), identity)
    assert type(error) is errors.ServerUnreachable
    assert str(tmp_path / "kit") in str(error)
