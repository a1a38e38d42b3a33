"""Certificates in use: what gRPC needs from the files of a kit, who is at the other end, and why a connection fails."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import socket
import ssl

import grpc
from absl import logging
from cryptography import x509

from federated import revocation
from federated.certificates import fingerprint_of_pem, server_name
from federated.errors import CertificateRefused, ServerUnreachable
from runkit import printable, private

_NAME_DIFFERS = 62  # X509_V_ERR_HOSTNAME_MISMATCH of OpenSSL


@dataclasses.dataclass(frozen=True)
class Identity:
    """The authority both ends trust, and the own certificate with its key, in PEM files.

    Attributes:
      generation: from which on this end trusts server certificates; earlier ones were revoked (see `revocation`).
    """

    authority: pathlib.Path
    certificate: pathlib.Path
    key: pathlib.Path
    generation: int = 0

    @classmethod
    def of(cls, folder: str | os.PathLike, name: str, *, learned: str | os.PathLike | None = None) -> Identity:
        """Finds the files of a kit.

        Args:
          learned: folder in which this end keeps what servers said about revoked certificates, where that is not the kit.
        Raises:
          ValueError: naming the file that is missing, unreadable, a link, or belongs to another key.
        """
        folder = pathlib.Path(folder)
        identity = cls(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")
        identity.context(ssl.PROTOCOL_TLS_CLIENT)
        known = revocation.lowest_trusted(identity.authority, folder, *([learned] if learned else []))
        return dataclasses.replace(identity, generation=known)

    def expected_name(self, host: str) -> str:
        """Returns the name that the server's certificate must bear: the host's, or, once one was revoked, that of its generation.

        gRPC checks one name only. The second is as good: none but servers of this federation get it from the authority.
        """
        return server_name(self.generation) if self.generation else host

    @property
    def channel_options(self) -> tuple[tuple[str, str], ...]:
        """What gRPC must be told to ask for `expected_name`."""
        return (("grpc.ssl_target_name_override", server_name(self.generation)),) if self.generation else ()

    @property
    def authority_fingerprint(self) -> str:
        return fingerprint_of_pem(self.authority.read_bytes())

    def context(self, protocol: int) -> ssl.SSLContext:
        for path in (self.authority, self.certificate, self.key):
            private.refuse_link(path)
            if not path.is_file() or not os.access(path, os.R_OK):
                raise ValueError(f"{path}: no such file, or it may not be read; use a whole folder as `provision` made it")
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(self.authority)
            context.load_cert_chain(self.certificate, self.key)
        except ssl.SSLError as error:
            raise ValueError(
                f"{self.certificate.parent}: {self.authority.name}, {self.certificate.name} and {self.key.name} do not go together "
                f"({error.reason}); use a whole folder as `provision` made it"
            ) from error
        return context

    def for_server(self) -> grpc.ServerCredentials:
        """Mutual TLS: a caller without a certificate of our authority is turned away in the handshake.

        A renewed certificate is served from the next handshake on, without a restart.
        """
        seen = [self._version()]

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            version = self._version()
            if version == seen[0] or not version:
                return None
            try:
                self.context(ssl.PROTOCOL_TLS_CLIENT)  # certificate and key are two files: between their renewals they do not fit
                configuration = self._configuration()
            except (OSError, ValueError) as error:
                logging.warning("event=certificate_unusable note=the_last_good_one_is_served reason=%s", error)
                return None
            seen[0] = version
            logging.info("event=certificate_read")
            return configuration

        return grpc.dynamic_ssl_server_credentials(self._configuration(), renewed, require_client_authentication=True)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=self.authority.read_bytes())

    def _version(self) -> tuple[tuple[int, int], ...]:
        try:
            return tuple((path.stat().st_mtime_ns, path.stat().st_ino) for path in (self.authority, self.certificate, self.key))
        except OSError:  # the folder is being replaced
            return ()

    def for_client(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.authority.read_bytes(), self.key.read_bytes(), self.certificate.read_bytes())


def caller(context: grpc.ServicerContext) -> tuple[str, str]:
    """Returns (common name, fingerprint of the certificate) of who calls."""
    facts = context.auth_context()
    names, certificates = facts.get("x509_common_name") or [b""], facts.get("x509_pem_cert") or [b""]
    return printable.text(names[0].decode("utf-8", "replace"), limit=64), fingerprint_of_pem(certificates[0])


def certificate_ends(context: grpc.ServicerContext) -> float:
    """Returns when the caller's certificate ends, seconds since the epoch; 0 where there is none that can be read."""
    pem = (context.auth_context().get("x509_pem_cert") or [b""])[0]
    try:
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
    except ValueError:
        return 0.0


def explain_failure(host: str, port: int, identity: Identity, *, timeout_s: float = 5.0) -> None:
    """Says why a server cannot be reached: gRPC calls every cause UNAVAILABLE, a refused certificate and a server that restarts alike.

    Returns when nothing is wrong any more.

    Raises:
      ServerUnreachable: nobody listens, the name is unknown, or the network is down: worth another try.
      CertificateRefused: one end does not trust the other: trying again will not help.
    """
    # A server that refuses a client's certificate hangs up after a handshake that, to the client, went well. So does one that
    # is killed in that moment, but not three times running.
    if all(_hangs_up(host, port, identity, timeout_s) for _ in range(3)):
        raise CertificateRefused(
            f"{printable.text(f'{host}:{port}')}: the server refused this site's certificate; ask the server's operator for a kit of this federation, "
            "and see that the clocks agree"
        )


def _hangs_up(host: str, port: int, identity: Identity, timeout_s: float) -> bool:
    """Returns whether the other end closes the connection right after a successful handshake; raises as `explain_failure`."""
    where = printable.text(f"{host}:{port}")
    context = identity.context(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    shaken = False
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=identity.expected_name(host)) as secure,
        ):
            shaken = True
            return not secure.recv(1)  # an HTTP/2 server speaks first
    except ssl.SSLCertVerificationError as error:
        if identity.generation and error.verify_code == _NAME_DIFFERS:
            raise CertificateRefused(
                f"{where}: its certificate was revoked, and whoever has its key may pose as the server; "
                "ask the server's operator, and go on when the server shows its new one"
            ) from error
        raise CertificateRefused(
            f"{where}: its certificate is not trusted ({error.verify_message}); check that host, port and ca.pem belong to the same federation"
        ) from error
    except ssl.SSLError as error:
        reason = (error.reason or "TLS failed").replace("_", " ").lower()
        if "wrong version number" in reason:
            raise CertificateRefused(f"{where}: whoever listens there does not speak TLS; check host and port") from error
        if "alert" in reason:
            return True
        raise ServerUnreachable(f"{where}: {reason}") from error
    except TimeoutError as error:
        raise ServerUnreachable(f"{where}: no answer within {timeout_s:g} s") from error
    except ConnectionError as error:
        if shaken:
            return True
        raise ServerUnreachable(f"{where}: {error.strerror or error}") from error
    except OSError as error:
        raise ServerUnreachable(f"{where}: {error.strerror or error}") from error
