"""Credentials and tokens, by which a server knows which site is calling.

Secrets have 256 bits. Only their SHA-256 is stored, so that a stolen store is useless.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import os
import pathlib
import secrets
from collections.abc import Iterable, Mapping

from absl import logging

from federated.errors import CertificateRefused, SessionExpired, WrongCredential
from federated.security import certificates
from federated.security.kit_files import read_kit_file
from runkit import private


def new_secret() -> str:
    """Returns 256 random bits as 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def hashed(secret: str) -> str:
    """Returns the hash of a secret, which is stored in its place.

    Plain SHA-256 is enough, because 256 random bits cannot be guessed.
    """
    return hashlib.sha256(secret.encode("utf-8")).hexdigest()


@dataclasses.dataclass(frozen=True)
class TokenRecord:
    """The site, certificate and lifetime that belong to a token."""

    site: str
    certificate: str  # fingerprint of the certificate it was issued to
    expires_at: float  # seconds since the epoch


@dataclasses.dataclass(frozen=True)
class Credentials:
    """The callers allowed and the certificates revoked at one moment.

    Attributes:
      hashes: site -> hash of its credential.
      operator: hash of the operator's credential; "" if there is none.
      revoked: fingerprints of revoked certificates.
      revocation: the authority's statement of the revoked server certificates. b"" if none was
        revoked, and also while this server still has the revoked certificate: a site that knew of
        the revocation would refuse it.
      generation: generation of the server's certificate; 0 if `revocation` is b"".
    """

    hashes: Mapping[str, str]
    operator: str = ""
    revoked: frozenset[str] = frozenset()
    revocation: bytes = b""
    generation: int = 0

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(sorted(self.hashes))

    def check(self, site: str, credential: str) -> None:
        """Raises WrongCredential unless `credential` was issued to `site`.

        The message does not say which of the two is wrong.
        """
        expected = self.hashes.get(site, "0" * 64)
        if not hmac.compare_digest(expected, hashed(credential)) or site not in self.hashes:
            raise WrongCredential(
                f"site {site!r} and its credential do not go together here; use the kit that this "
                "federation's operator sent, unchanged"
            )

    def check_certificate(self, certificate: str) -> None:
        """Raises CertificateRefused if a certificate, given by its fingerprint, was revoked."""
        if certificate in self.revoked:
            raise _revoked(certificate)

    def check_standing(self, record: TokenRecord, certificate: str | None = None) -> None:
        """Checks that a token still counts.

        Args:
          certificate: fingerprint of the certificate of the connection that the token came over;
            None while the connection is not known.
        Raises:
          SessionExpired: if its site is no longer provisioned.
          CertificateRefused: if it came with another certificate than at login, or if that
            certificate has been revoked.
        """
        if certificate is not None and not hmac.compare_digest(record.certificate, certificate):
            raise CertificateRefused(
                f"the token of site {record.site!r} came with another certificate than at login; "
                "log in again from that site"
            )
        if record.site not in self.hashes:
            raise SessionExpired(
                f"site {record.site!r} no longer has a part in this federation; "
                "ask the server's operator for a kit"
            )
        if record.certificate in self.revoked:
            raise _revoked(record.certificate)

    def check_operator(self, credential: str) -> None:
        """Raises WrongCredential unless this is the operator's credential."""
        if (
            not hmac.compare_digest(self.operator or "0" * 64, hashed(credential))
            or not self.operator
        ):
            raise WrongCredential(
                "this is not the operator's credential here; "
                "use the operator's kit of this federation"
            )


def _revoked(certificate: str) -> CertificateRefused:
    return CertificateRefused(
        f"the certificate {certificate[:16]}… was revoked; have the federation's operator "
        "certify a new key of this site"
    )


class CredentialBook:
    """The credentials of a federation, and their changes while a server runs.

    Args:
      hashes, operator, revoked: as in `Credentials`.
    """

    def __init__(
        self, hashes: Mapping[str, str], *, operator: str = "", revoked: Iterable[str] = ()
    ):
        self._read = Credentials(dict(hashes), operator, frozenset(revoked))
        self._path: pathlib.Path | None = None
        self._seen: tuple[int, ...] = ()
        self._served: tuple[tuple[tuple[int, ...], ...], tuple[bytes, int]] = ((), (b"", 0))

    @classmethod
    def read(cls, path: str | os.PathLike) -> CredentialBook:
        """Reads `credentials.json`, and reads it again whenever it changes.

        A revocation thus takes effect at the next call. If the file becomes unreadable later, this
        is logged, and the last content read remains in force.

        Raises:
          ValueError: naming a file that is missing, malformed or written by a newer release.
        """
        path = pathlib.Path(path)
        private.refuse_link(path)
        if not path.is_file():
            raise ValueError(
                f"{path}: no such file; run `provision` and give its folder for the server"
            )
        book = cls({})
        book._path = path
        book._seen, book._read = _version(path), _read(path)
        return book

    def current(self) -> Credentials:
        """Returns the credentials that are in force now.

        The file is examined each time, so use one value for all checks of one call.
        """
        if self._path is None:
            return self._read
        try:
            version = _version(self._path)
            if version != self._seen:
                self._read, self._seen = _read(self._path), version
                logging.info(
                    "event=credentials_read sites=%s revoked=%d",
                    ",".join(self._read.hashes),
                    len(self._read.revoked),
                )
        except (OSError, ValueError) as error:
            logging.error(
                "event=credentials_unreadable note=the_last_good_ones_hold reason=%s", error
            )
        read = self._read
        if not read.revocation:
            return read
        revocation, generation = self._served_revocation(self._path, read.revocation)
        return dataclasses.replace(read, revocation=revocation, generation=generation)

    def _served_revocation(self, path: pathlib.Path, revocation: bytes) -> tuple[bytes, int]:
        """Returns `revocation` and its generation.

        Both are empty, (b"", 0), while this server still has the revoked certificate.
        """
        try:
            files = [path.with_name(name) for name in ("server.pem", "server.key")]
            version = tuple(map(_version, (path, *files)))
            if version != self._served[0]:
                # Without the authority: sites check the signature and do not trust this server's.
                generation = certificates.read_revocation(revocation, None)
                own = certificates.load(files[0].read_bytes())
                key = certificates.load_key(files[1].read_bytes())
                new = certificates.generation_of(own) >= generation
                renewed = new and certificates.same_key(own, key)
                if not renewed:
                    logging.error(
                        "event=server_certificate_revoked "
                        "note=carry_the_new_folder_of_the_server_here generation=%d",
                        generation,
                    )
                self._served = version, (revocation, generation) if renewed else (b"", 0)
        except (OSError, ValueError) as error:
            logging.error("event=revocation_unreadable reason=%s", error)
        return self._served[1]


def _read(path: pathlib.Path) -> Credentials:
    private.refuse_link(path)
    book = read_kit_file(path)
    sites = book.get("sites") if isinstance(book, dict) else None
    if not isinstance(sites, dict) or not all(
        isinstance(h, str) and len(h) == 64 for h in sites.values()
    ):
        raise ValueError(
            f'{path}: expected {{"sites": {{name: SHA-256 of the credential}}}}; '
            "provision the federation again"
        )
    revoked = book.get("revoked", [])
    if not isinstance(revoked, list) or not all(isinstance(one, str) for one in revoked):
        raise ValueError(
            f'{path}: expected {{"revoked": [fingerprint of a certificate]}}; '
            "copy the file again from the federation's folder"
        )
    return Credentials(
        dict(sites),
        str(book.get("operator", "")),
        frozenset(revoked),
        str(book.get("server_revocation", "")).encode("ascii", "replace"),
    )


def _version(file: pathlib.Path) -> tuple[int, ...]:
    """Returns a value that changes whenever the file changes."""
    found = os.stat(file)
    return found.st_mtime_ns, found.st_size, found.st_ino
