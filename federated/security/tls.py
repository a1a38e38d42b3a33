"""Certificates in use: what gRPC needs from the files of a kit, who is at the other end, and why a
connection fails.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
import re
import ssl

import grpc
from absl import logging
from cryptography import x509

from federated.errors import (
    CertificateOutOfDate,
    CertificateRefused,
    FederationError,
    ServerUnreachable,
)
from federated.security import revocation
from federated.security.certificates import fingerprint_of_pem, server_name
from federated.wire.endpoint import ServerEndpoint
from runkit import printable, private

# Pieces of the texts with which gRPC says why it could not connect.
_NAME_DIFFERS = ("Hostname Verification Check failed", "is not in peer certificate")
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
_HUNG_UP = ("Socket closed", "Connection reset by peer", "Broken pipe", "GOAWAY")
_WORDS = (
    (r"Connection refused", "nobody listens there (connection refused)"),
    (
        r"errors resolving|Domain name not found|DNS resolution failed",
        "its name, or its proxy's, is not known here",
    ),
    (r"No route to host|unreachable", "no route to it"),
    (r"imeout|imed out|FD Shutdown", "no answer in time"),
    (r"Socket closed|reset by peer|Broken pipe|GOAWAY", "the connection was closed"),
)
_CLOCKS_DIFFER = datetime.timedelta(hours=1)  # by which the server's clock may be ahead of this one


@dataclasses.dataclass(frozen=True)
class Identity:
    """The authority both ends trust, and the own certificate with its key, in PEM files.

    Attributes:
      generation: from which on this end trusts server certificates; earlier ones were revoked (see
          `revocation`).
    """

    authority: pathlib.Path
    certificate: pathlib.Path
    key: pathlib.Path
    generation: int = 0

    @classmethod
    def of(
        cls, folder: str | os.PathLike, name: str, *, learned: str | os.PathLike | None = None
    ) -> Identity:
        """Finds the files of a kit.

        Args:
          learned: folder in which this end keeps what servers said about revoked certificates,
              where that is not the kit.
        Raises:
          ValueError: naming the file that is missing, unreadable, a link, or belongs to another
              key.
        """
        folder = pathlib.Path(folder)
        identity = cls(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")
        identity.context(ssl.PROTOCOL_TLS_CLIENT)
        known = revocation.lowest_trusted(
            identity.authority, folder, *([learned] if learned else [])
        )
        return dataclasses.replace(identity, generation=known)

    def expected_name(self, host: str) -> str:
        """Returns the name that the server's certificate must bear: the host's, or, once one was
        revoked, that of its generation.

        gRPC checks one name only. The second is as good: none but servers of this federation get it
        from the authority.
        """
        return server_name(self.generation) if self.generation else host

    @property
    def channel_options(self) -> tuple[tuple[str, str], ...]:
        """What gRPC must be told to ask for `expected_name`."""
        return (
            (("grpc.ssl_target_name_override", server_name(self.generation)),)
            if self.generation
            else ()
        )

    @property
    def authority_fingerprint(self) -> str:
        return fingerprint_of_pem(self.authority.read_bytes())

    @property
    def ends(self) -> datetime.datetime:
        """When the own certificate ends."""
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()).not_valid_after_utc

    def context(self, protocol: int) -> ssl.SSLContext:
        for path in (self.authority, self.certificate, self.key):
            private.refuse_link(path)
            if not path.is_file() or not os.access(path, os.R_OK):
                raise ValueError(
                    f"{path}: no such file, or it may not be read; use a whole folder as `provision` made it"
                )
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
        """Mutual TLS: a caller without a certificate of our authority is turned away in the
        handshake.

        A renewed certificate is served from the next handshake on, without a restart.
        """
        seen = [self.version()]

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            version = self.version()
            if version == seen[0] or not version:
                return None
            try:
                self.context(
                    ssl.PROTOCOL_TLS_CLIENT
                )  # certificate and key are two files: between their renewals they do not fit
                configuration = self._configuration()
            except (OSError, ValueError) as error:
                logging.warning(
                    "event=certificate_unusable note=the_last_good_one_is_served reason=%s", error
                )
                return None
            seen[0] = version
            logging.info("event=certificate_read")
            return configuration

        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), renewed, require_client_authentication=True
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration(
            [pair], root_certificates=self.authority.read_bytes()
        )

    def version(self) -> tuple[tuple[int, int], ...]:
        """Returns what changes with the files; empty while they are being replaced."""
        try:
            return tuple(
                (path.stat().st_mtime_ns, path.stat().st_ino)
                for path in (self.authority, self.certificate, self.key)
            )
        except OSError:  # the folder is being replaced
            return ()

    def for_client(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            self.authority.read_bytes(), self.key.read_bytes(), self.certificate.read_bytes()
        )


def caller(context: grpc.ServicerContext) -> tuple[str, str]:
    """Returns (common name, fingerprint of the certificate) of who calls."""
    facts = context.auth_context()
    names, certificates = (
        facts.get("x509_common_name") or [b""],
        facts.get("x509_pem_cert") or [b""],
    )
    return printable.text(names[0].decode("utf-8", "replace"), limit=64), fingerprint_of_pem(
        certificates[0]
    )


def certificate_ends(context: grpc.ServicerContext) -> float:
    """Returns when the caller's certificate ends, seconds since the epoch; 0 where there is none
    that can be read.
    """
    pem = (context.auth_context().get("x509_pem_cert") or [b""])[0]
    try:
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
    except ValueError:
        return 0.0


def explain_failure(details: str, endpoint: ServerEndpoint, identity: Identity) -> FederationError:
    """Returns what a call that gRPC gave up as UNAVAILABLE is taken for: gRPC tells a refused
    certificate and a restart alike.

    Only what gRPC itself met can end a site for good: whoever else answers at that name, e.g. where
    gRPC goes through a proxy, proves nothing. In one case gRPC cannot tell the cause, a connection
    that the server closes; then the server is called again, on the same way.

    Args:
      details: gRPC's own text. It holds addresses and internals, and is not shown.
      way: to the server, with the proxy settings that gRPC has.
    Returns:
      CertificateRefused: one end does not trust the other; trying again does not help.
      CertificateOutOfDate: a certificate has ended, or not begun; trying again helps once it is
          renewed.
      ServerUnreachable: anything else; worth another try.
    """
    where = printable.text(endpoint.address)
    if "CERTIFICATE_VERIFY_FAILED" in details:
        if "has expired" in details or "not yet valid" in details:
            return CertificateOutOfDate(
                f"{where}: the server's certificate {'has ended' if 'has expired' in details else 'is not valid yet'} by this machine's clock; "
                "the server's operator must renew it (experiments.provision --renew=server). Nothing needs to be done here unless the clock is wrong"
            )
        why = details.rpartition("CERTIFICATE_VERIFY_FAILED")[2].strip(": ").removesuffix(": OK")
        return CertificateRefused(
            f"{where}: its certificate is not trusted ({printable.text(why, limit=100) or 'verification failed'}); "
            "check that host, port and ca.pem belong to the same federation"
        )
    if any(words in details for words in _NAME_DIFFERS):
        if identity.generation:
            return CertificateRefused(
                f"{where}: its certificate was revoked, and whoever has its key may pose as the server; "
                "ask the server's operator, and go on when the server shows its new one"
            )
        return CertificateRefused(
            f"{where}: its certificate is not trusted (it does not bear the name {printable.text(endpoint.host)}); "
            "check that host, port and ca.pem belong to the same federation"
        )
    if any(words in details for words in _NOT_TLS):
        return CertificateRefused(
            f"{where}: whoever listens there does not speak TLS; check host and port"
        )
    hung_up = any(words in details for words in _HUNG_UP) and "Handshake read failed" not in details
    # A server that refuses a client's certificate hangs up after a handshake that, to the client,
    # went well. So does one that is killed in that moment, but not three times running.
    if "_ALERT_" in details or (hung_up and all(_hangs_up(endpoint, identity) for _ in range(3))):
        ends = identity.ends
        if (
            "CERTIFICATE_EXPIRED" in details
            or ends <= datetime.datetime.now(datetime.timezone.utc) + _CLOCKS_DIFFER
        ):
            return CertificateOutOfDate(
                f"{where}: the server refused this site's certificate, which ends on {ends:%Y-%m-%d %H:%M} UTC; "
                "renew it with experiments.request, and this program goes on by itself"
            )
        return CertificateRefused(
            f"{where}: the server refused this site's certificate; ask the server's operator for a kit of this federation, "
            "and see that the clocks agree"
        )
    return ServerUnreachable(f"{where}: {_words(details)}")


def _words(details: str) -> str:
    refused = re.search(r"HTTP proxy returned response code (\d{3})", details)
    if refused:
        return f"the proxy does not connect (it answers {refused[1]})"
    return next(
        (words for pattern, words in _WORDS if re.search(pattern, details)),
        "no answer (unavailable)",
    )


def _hangs_up(endpoint: ServerEndpoint, identity: Identity) -> bool:
    """Returns whether this federation's server closes the connection right after a handshake in
    which it proved who it is.
    """
    context = identity.context(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    shaken = False
    try:
        with (
            endpoint.connected() as plain,
            context.wrap_socket(
                plain, server_hostname=identity.expected_name(endpoint.host)
            ) as secure,
        ):
            shaken = True
            return not secure.recv(1)  # an HTTP/2 server speaks first
    except ssl.SSLCertVerificationError:
        return False  # gRPC met somebody else
    except ssl.SSLError as error:
        return shaken or "alert" in (error.reason or "").lower()
    except (ConnectionError, ssl.SSLEOFError):
        return shaken
    except OSError:
        return False
