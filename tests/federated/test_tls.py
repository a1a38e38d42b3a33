import shutil
import socket
import threading

import pytest

from federated import errors, tls
from federated.tls import Identity


@pytest.mark.parametrize("missing", ["ca.pem", "site.pem", "site.key"])
def test_a_kit_that_is_not_whole_names_what_is_missing(kits, tmp_path, missing):
    shutil.copytree(kits / "C1", tmp_path / "kit")
    (tmp_path / "kit" / missing).unlink()
    with pytest.raises(ValueError, match=rf"{missing}: no such file.*provision"):
        Identity.of(tmp_path / "kit", "site")


def test_a_key_of_another_kit_is_noticed_before_anything_is_sent(kits, tmp_path):
    shutil.copytree(kits / "C1", tmp_path / "kit")
    shutil.copy(kits / "C2" / "site.key", tmp_path / "kit" / "site.key")
    with pytest.raises(ValueError, match=r"ca\.pem, site\.pem and site\.key do not go together"):
        Identity.of(tmp_path / "kit", "site")


@pytest.fixture
def answering():
    """A listener that treats each connection as told; yields a function from that treatment to its port."""
    listeners = []

    def listen(treat):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def work():
            try:
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        treat(connection)
            except OSError:
                return  # the listener was closed

        threading.Thread(target=work, daemon=True).start()
        return listener.getsockname()[1]

    yield listen
    for listener in listeners:
        listener.close()


def test_whoever_speaks_no_tls_is_reported_as_such(answering, kits):
    def http(connection):
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with pytest.raises(errors.CertificateRefused, match="does not speak TLS; check host and port"):
        tls.explain_failure("127.0.0.1", answering(http), Identity.of(kits / "C1", "site"))


def test_a_server_that_dies_in_the_handshake_is_worth_another_try(answering, kits):
    with pytest.raises(errors.ServerUnreachable):
        tls.explain_failure("127.0.0.1", answering(lambda connection: None), Identity.of(kits / "C1", "site"))


def test_a_server_that_says_nothing_is_worth_another_try(answering, kits):
    held = threading.Event()
    with pytest.raises(errors.ServerUnreachable, match=r"no answer within 0\.1 s"):
        tls.explain_failure("127.0.0.1", answering(lambda connection: held.wait(5)), Identity.of(kits / "C1", "site"), timeout_s=0.1)
    held.set()


def test_an_unknown_name_is_unreachable(kits):
    with pytest.raises(errors.ServerUnreachable, match=r"no-such-host\.invalid:8443"):
        tls.explain_failure("no-such-host.invalid", 8443, Identity.of(kits / "C1", "site"))


def test_a_good_server_gives_nothing_to_explain(serving, kits):
    assert tls.explain_failure("localhost", serving().port, Identity.of(kits / "C1", "site")) is None
