"""TLS between sites and server: gRPC credentials, the caller's name, causes of failed calls."""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import cast

import grpc
from absl import logging

from federated.errors import (
    CertificateOutOfDate,
    CertificateRefused,
    FederationError,
    ServerMisbehaves,
    ServerUnreachable,
    VersionDiffers,
)
from federated.security import certificates, kit_files, revocation
from federated.security.certificates import fingerprint_of_pem, server_name
from federated.wire import replies
from federated.wire.proxy import ServerEndpoint
from runkit import atomic, printable, private

# Parts of the texts in which gRPC states why it could not connect.
_NAME_DIFFERS = ("Hostname Verification Check failed", "is not in peer certificate")
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
_HUNG_UP = ("Socket closed", "Connection reset by peer", "Broken pipe", "GOAWAY")
# A name may have several addresses, such as ::1 and 127.0.0.1. gRPC tries all of them and tells
# only what it met last, so an address where nothing listens may hide a server that hung up.
_ONE_ADDRESS = ("Connection refused", "No route to host", "unreachable")
_WORDS = (
    (r"Connection refused", "nothing is listening there (connection refused)"),
    (
        r"errors resolving|Domain name not found|DNS resolution failed",
        "its name, or its proxy's, is not known here",
    ),
    (r"No route to host|unreachable", "no route to it"),
    (r"imeout|imed out|FD Shutdown", "no answer in time"),
    (r"Socket closed|reset by peer|Broken pipe|GOAWAY", "the connection was closed"),
)
# gRPC's words for a message or an error text beyond a limit, e.g. "CLIENT: Sent message larger than
# max (5000148 vs. 4194304)".
_TOO_LARGE = re.compile(r"message larger than max|metadata size exceeds \w+ limit")
_SIZES = re.compile(r"\((?:value length )?(\d{1,19}) vs\. (\d{1,19})\)")
_CLOCKS_DIFFER = datetime.timedelta(hours=1)  # how far the server's clock may be ahead of this one
_SAME_FEDERATION = "check that host, port and ca.pem belong to the same federation"


@dataclasses.dataclass(frozen=True)
class Identity:
    """The authority that both ends trust, and this end's certificate and key, as PEM files.

    Attributes:
      generation: first generation of server certificates that this end trusts; earlier ones were
        revoked (see `revocation`).
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
          learned: folder in which this end keeps what servers reported about revoked certificates,
            if that is not the kit.
        Raises:
          ValueError: naming a file that is missing, unreadable, a link, or for another key.
        """
        folder = pathlib.Path(folder)
        identity = cls(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")
        identity.context(ssl.PROTOCOL_TLS_CLIENT)
        known = revocation.lowest_trusted(
            identity.authority, folder, *([learned] if learned else [])
        )
        return dataclasses.replace(identity, generation=known)

    def expected_name(self, host: str) -> str:
        """Returns the name that the server's certificate must bear.

        That is the host's name or, after a revocation, the name of the oldest trusted generation.
        gRPC checks one name only. The latter is as good: the authority gives it only to servers of
        this federation.
        """
        return server_name(self.generation) if self.generation else host

    @property
    def channel_options(self) -> tuple[tuple[str, str], ...]:
        """Options that make gRPC check `expected_name`."""
        if not self.generation:
            return ()
        return (("grpc.ssl_target_name_override", server_name(self.generation)),)

    @property
    def authority_fingerprint(self) -> str:
        return fingerprint_of_pem(atomic.read_bytes(self.authority))

    @property
    def ends(self) -> datetime.datetime:
        """When this end's own certificate expires."""
        return certificates.load(atomic.read_bytes(self.certificate)).not_valid_after_utc

    def context(self, protocol: int) -> ssl.SSLContext:
        """Returns a context with these files.

        Raises:
          ValueError: naming a file that cannot be used.
          OSError: naming the folder, if the system cannot read one.
        """
        for path in (self.authority, self.certificate, self.key):
            private.refuse_link(path)
            if not path.is_file() or not os.access(path, os.R_OK):
                raise ValueError(
                    f"{path}: no such file, or it may not be read; "
                    f"{kit_files.remedy(path.parent, [self.key.stem])}"
                )
            if not path.stat().st_size:
                raise ValueError(f"{path}: is empty; {kit_files.WHOLE}")
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(self.authority)
            context.load_cert_chain(self.certificate, self.key)
        except ssl.SSLError as error:
            reason = f" ({error.reason})" if error.reason else ""
            raise ValueError(
                f"{self.certificate.parent}: {self.authority.name}, {self.certificate.name} and "
                f"{self.key.name} do not go together{reason}; one is damaged or of another kit; "
                f"{kit_files.WHOLE}"
            ) from error
        except OSError as error:  # of the system, which does not say which of the files
            error.filename = os.fspath(self.certificate.parent)
            raise
        return context

    def for_server(self) -> grpc.ServerCredentials:
        """Returns credentials for mutual TLS.

        The handshake rejects callers without a certificate of this authority. A renewed server
        certificate is used from the next handshake on, without a restart.
        """
        seen = [self.version()]

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            version = self.version()
            if version == seen[0] or not version:
                return None
            try:
                # Certificate and key are two files, which do not match while being replaced.
                self.context(ssl.PROTOCOL_TLS_CLIENT)
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
            self._configuration(),
            renewed,  # type: ignore[arg-type]  # the stubs omit None, which gRPC documents
            require_client_authentication=True,
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = (atomic.read_bytes(self.key), atomic.read_bytes(self.certificate))
        return grpc.ssl_server_certificate_configuration(
            [pair], root_certificates=atomic.read_bytes(self.authority)
        )

    def version(self) -> tuple[tuple[int, int], ...]:
        """Returns a value that changes with the files; empty while they are being replaced."""
        try:
            return tuple(
                (path.stat().st_mtime_ns, path.stat().st_ino)
                for path in (self.authority, self.certificate, self.key)
            )
        except OSError:  # the folder is being replaced
            return ()

    def for_client(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            atomic.read_bytes(self.authority),
            atomic.read_bytes(self.key),
            atomic.read_bytes(self.certificate),
        )


def caller(context: grpc.ServicerContext) -> tuple[str, str]:
    """Returns (common name, fingerprint) of the caller's certificate."""
    name = _fact(context, "x509_common_name").decode("utf-8", "replace")
    return printable.text(name, limit=64), fingerprint(context)


def fingerprint(context: grpc.ServicerContext) -> str:
    """Returns the fingerprint of the caller's certificate."""
    return fingerprint_of_pem(_fact(context, "x509_pem_cert"))


def certificate_ends(context: grpc.ServicerContext) -> float:
    """Returns when the caller's certificate expires, in seconds since the epoch.

    Returns 0 if there is no readable certificate.
    """
    pem = _fact(context, "x509_pem_cert")
    try:
        return certificates.load(pem).not_valid_after_utc.timestamp()
    except ValueError:
        return 0.0


def _fact(context: grpc.ServicerContext, key: str) -> bytes:
    """Returns a property of the caller that TLS determined, or b""."""
    # The stubs declare the type of one element of a value, not of the list that gRPC returns.
    facts = cast(Mapping[str, Sequence[bytes]], context.auth_context())
    return (facts.get(key) or [b""])[0]


def explain_call(error: grpc.Call, endpoint: ServerEndpoint, identity: Identity) -> FederationError:
    """Returns the error that a failed call represents.

    That is the error that the server raised or, if the server did not answer, the cause of that.
    """
    told = replies.error(error)
    if told is not None:
        return told
    details = error.details() or ""
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return explain_failure(details, endpoint, identity)
    if error.code() == grpc.StatusCode.UNIMPLEMENTED:
        return VersionDiffers(
            f"{printable.text(endpoint.address)}: the server knows no such call; it is of another "
            "release, or another program: install the same at both ends"
        )
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE.search(details):
        return _too_large(details, printable.text(endpoint.address))
    logging.debug("event=call_failed code=%s", error.code())
    reason = error.code().name.lower().replace("_", " ")
    return ServerUnreachable(f"{printable.text(endpoint.address)}: no answer ({reason})")


def _too_large(details: str, where: str) -> FederationError:
    """Returns the error for a message beyond a limit; sent again, it would be no smaller."""
    found = _SIZES.search(details)  # gRPC does not tell the size of a compressed message
    size, most = found.groups() if found else ("more", "4 MiB")
    if "SERVER: " not in details and "Sent message" in details:
        return VersionDiffers(
            f"{where}: a message of {size} bytes cannot be sent, because at most {most} are "
            "accepted; install the same release at both ends"
        )
    return ServerMisbehaves.because(
        f"at {where} answers with {size} bytes where at most {most} are accepted"
    )


def explain_failure(details: str, endpoint: ServerEndpoint, identity: Identity) -> FederationError:
    """Returns the cause of a call that gRPC ended as UNAVAILABLE.

    gRPC reports a refused certificate and a restarting server alike. Only what gRPC itself found
    can stop a site permanently: another program that answers at that name, for example if gRPC
    goes through a proxy, proves nothing. There is one case in which gRPC cannot determine the
    cause, a connection that the server closes; then, and if gRPC's text may be about another
    address of the same name, this function connects to the server again in the same way as gRPC.

    Args:
      details: gRPC's own text. It contains addresses and internals, so it is never shown.
      endpoint: the server, with the proxy settings of gRPC.
    Returns:
      CertificateRefused: one end does not trust the other; trying again does not help.
      CertificateOutOfDate: a certificate has expired or is not valid yet; trying again helps after
          its renewal.
      ServerUnreachable: anything else; worth another try.
    """
    where = printable.text(endpoint.address)
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return _untrusted_server(where, details)
    if any(words in details for words in _NAME_DIFFERS):
        if identity.generation:
            return CertificateRefused(
                f"{where}: its certificate was revoked, and whoever has its key may pose as the "
                "server; ask the server's operator, and continue when the server shows its new one"
            )
        return CertificateRefused(
            f"{where}: its certificate is not trusted (it does not bear the name "
            f"{printable.text(endpoint.host)}); {_SAME_FEDERATION}"
        )
    if any(words in details for words in _NOT_TLS):
        return CertificateRefused(
            f"{where}: the program listening there does not speak TLS; check host and port"
        )
    hung_up = "Handshake read failed" not in details and any(
        words in details for words in (*_HUNG_UP, *_ONE_ADDRESS)
    )
    # A server that refuses a client's certificate closes the connection after a handshake that the
    # client saw succeed. So does a server that is killed at that moment, but not three times in a
    # row.
    try:
        if "_ALERT_" in details or (
            hung_up and all(_hangs_up(endpoint, identity) for _ in range(3))
        ):
            return _refused_client(where, details, identity)
    except (OSError, ValueError) as error:  # e.g. because a renewed kit is being installed
        return ServerUnreachable(
            f"{where}: {_words(details)}; more cannot be found out, because this end's own "
            f"certificate cannot be read now ({printable.text(error)})"
        )
    return ServerUnreachable(f"{where}: {_words(details)}")


def _untrusted_server(where: str, details: str) -> FederationError:
    expired = "has expired" in details
    if expired or "not yet valid" in details:
        return CertificateOutOfDate(
            f"{where}: the server's certificate {'has expired' if expired else 'is not valid yet'} "
            "by this machine's clock; the server's operator must renew it (experiments.provision "
            "--renew=server). Nothing needs to be done here unless the clock is wrong"
        )
    why = details.rpartition("CERTIFICATE_VERIFY_FAILED")[2].strip(": ").removesuffix(": OK")
    return CertificateRefused(
        f"{where}: its certificate is not trusted "
        f"({printable.text(why, limit=100) or 'verification failed'}); {_SAME_FEDERATION}"
    )


def _refused_client(where: str, details: str, identity: Identity) -> FederationError:
    ends, now = identity.ends, datetime.datetime.now(datetime.timezone.utc)
    if "CERTIFICATE_EXPIRED" in details or ends <= now + _CLOCKS_DIFFER:
        return CertificateOutOfDate(
            f"{where}: the server refused this site's certificate, which expires on "
            f"{ends:%Y-%m-%d %H:%M} UTC; renew it with experiments.request, and this program "
            "continues by itself"
        )
    return CertificateRefused(
        f"{where}: the server refused this site's certificate; ask the server's operator for a kit "
        "of this federation, and check that the clocks agree"
    )


def _words(details: str) -> str:
    refused = re.search(r"HTTP proxy returned response code (\d{3})", details)
    if refused:
        return f"the proxy refused to connect (it answered {refused[1]})"
    return next(
        (words for pattern, words in _WORDS if re.search(pattern, details)),
        "no answer (unavailable)",
    )


def _hangs_up(endpoint: ServerEndpoint, identity: Identity) -> bool:
    """Returns whether this federation's server closes the connection after proving its identity."""
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
            return not secure.recv(1)  # an HTTP/2 server sends first
    except ssl.SSLCertVerificationError:
        return False  # gRPC was connected to another program
    except ssl.SSLError as error:
        return shaken or "alert" in (error.reason or "").lower()
    except (ConnectionError, ssl.SSLEOFError):
        return shaken
    except OSError:
        return False
