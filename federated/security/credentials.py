"""Credentials and tokens: how a server knows which site is calling.

Secrets have 256 bits. Only their SHA-256 is stored, so that a stolen store is of no use.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import math
import os
import pathlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from absl import logging
from cryptography import x509

from federated.errors import CertificateRefused, SessionExpired, WrongCredential
from federated.security import certificates
from federated.security.kit_files import read_kit_file
from runkit import private


def new_secret() -> str:
    """Returns 256 random bits as 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def hashed(secret: str) -> str:
    """Returns what is stored of a secret.

    Plain SHA-256 is enough, because 256 random bits cannot be guessed.
    """
    return hashlib.sha256(secret.encode("utf-8")).hexdigest()


class CredentialBook:
    """Who may log in, and which certificates are revoked.

    Args:
      hashes: site -> hash of its credential.
      operator: hash of the operator's credential, "" for none.
      revoked: fingerprints of revoked certificates.
    """

    def __init__(
        self, hashes: Mapping[str, str], *, operator: str = "", revoked: Iterable[str] = ()
    ):
        self._hashes, self._operator, self._revoked = dict(hashes), operator, frozenset(revoked)
        self._revocation = b""
        self._path: pathlib.Path | None = None
        self._seen: tuple[int, ...] = ()
        self._served: tuple[tuple[int, ...], tuple[int, bytes]] = ((), (0, b""))

    @classmethod
    def read(cls, path: str | os.PathLike) -> CredentialBook:
        """Reads `credentials.json`, and reads it again whenever it changes.

        A revocation thus takes effect at the next call. If the file becomes unreadable later, that
        is logged, and what was read last stays in force.

        Raises:
          ValueError: naming a file that is missing, malformed or of a newer release.
        """
        path = pathlib.Path(path)
        private.refuse_link(path)
        if not path.is_file():
            raise ValueError(
                f"{path}: no such file; run `provision` and give its folder for the server"
            )
        book = cls({})
        book._path = path
        book._seen = _version(path)
        book._load(path)
        return book

    def _load(self, path: pathlib.Path) -> None:
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
        self._hashes, self._operator, self._revoked = (
            dict(sites),
            str(book.get("operator", "")),
            frozenset(book.get("revoked", ())),
        )
        self._revocation = str(book.get("server_revocation", "")).encode("ascii", "replace")

    def _refresh(self) -> None:
        if self._path is None:
            return
        try:
            version = _version(self._path)
            if version != self._seen:
                self._load(self._path)
                self._seen = version
                logging.info(
                    "event=credentials_read sites=%s revoked=%d",
                    ",".join(self._hashes),
                    len(self._revoked),
                )
        except (OSError, ValueError) as error:
            logging.error(
                "event=credentials_unreadable note=the_last_good_ones_hold reason=%s", error
            )

    @property
    def sites(self) -> tuple[str, ...]:
        self._refresh()
        return tuple(sorted(self._hashes))

    def check(self, site: str, credential: str) -> None:
        """Raises WrongCredential unless `credential` was issued to `site`.

        The message does not say which of the two is wrong.
        """
        self._refresh()
        expected = self._hashes.get(site, "0" * 64)
        if not hmac.compare_digest(expected, hashed(credential)) or site not in self._hashes:
            raise WrongCredential(
                f"site {site!r} and its credential do not go together here; use the kit that this "
                "federation's operator sent, unchanged"
            )

    def check_certificate(self, certificate: str) -> None:
        """Raises CertificateRefused if a certificate, given by its fingerprint, was revoked."""
        self._refresh()
        if certificate in self._revoked:
            raise CertificateRefused(
                f"the certificate {certificate[:16]}… was revoked; have the federation's operator "
                "certify a new key of this site"
            )

    def check_standing(self, site: str, certificate: str = "") -> None:
        """Raises CertificateRefused as `check_certificate`, SessionExpired for a site that is no
        longer provisioned.

        Args:
          certificate: "" while the connection is not known yet.
        """
        self.check_certificate(certificate)  # reads the file again if it has changed
        if site not in self._hashes:
            raise SessionExpired(
                f"site {site!r} no longer has a part in this federation; "
                "ask the server's operator for a kit"
            )

    def server_generation(self) -> int:
        """Returns the generation of the server's certificate, 0 where none was revoked."""
        return self.server_revocation()[0]

    def server_revocation(self) -> tuple[int, bytes]:
        """Returns (generation, the authority's statement) of the revoked server certificates.

        Returns (0, b"") if none was revoked, and also while this server still has the revoked
        certificate: a site that knew of the revocation would refuse it.
        """
        self._refresh()
        if self._path is None or not self._revocation:
            return 0, b""
        try:
            files = [self._path.with_name(name) for name in ("server.pem", "server.key")]
            version = _version(self._path, *files)
            if version != self._served[0]:
                # Without the authority: sites check the signature and do not trust this server's.
                generation = certificates.read_revocation(self._revocation, None)
                own = x509.load_pem_x509_certificate(files[0].read_bytes())
                key = certificates.load_key(files[1].read_bytes())
                new = certificates.generation_of(own) >= generation
                renewed = new and certificates.same_key(own, key)
                if not renewed:
                    logging.error(
                        "event=server_certificate_revoked "
                        "note=carry_the_new_folder_of_the_server_here generation=%d",
                        generation,
                    )
                self._served = version, (generation, self._revocation) if renewed else (0, b"")
        except (OSError, ValueError) as error:
            logging.error("event=revocation_unreadable reason=%s", error)
        return self._served[1]

    def check_operator(self, credential: str) -> None:
        """Raises WrongCredential unless this is the operator's credential."""
        self._refresh()
        if (
            not hmac.compare_digest(self._operator or "0" * 64, hashed(credential))
            or not self._operator
        ):
            raise WrongCredential(
                "this is not the operator's credential here; "
                "use the operator's kit of this federation"
            )


def _version(*files: pathlib.Path) -> tuple[int, ...]:
    """Returns a value that changes when one of the files does."""
    return tuple(
        number
        for found in map(os.stat, files)
        for number in (found.st_mtime_ns, found.st_size, found.st_ino)
    )


@dataclasses.dataclass(frozen=True)
class TokenRecord:
    """What a token stands for."""

    site: str
    certificate: str  # fingerprint of the certificate it was issued to
    expires_at: float  # seconds since the epoch


class SessionStore(Protocol):
    """Where sessions survive a restart, e.g. `storage.Store`."""

    def add_session(self, token_sha256: str, session: TokenRecord, *, now: float) -> None: ...

    def session(self, token_sha256: str) -> TokenRecord | None: ...


class Sessions:
    """Issues tokens, and finds the site that a token was issued to.

    Args:
      store: keeps hashes of tokens across restarts.
      lifetime_s: seconds until a token expires.
      clock: seconds since the epoch.
      run: the run in which the tokens are valid, even if another run has a copy of the hashes.
      generation: generation of the server's certificate. Tokens issued under an earlier one are
        void, because whoever stole its key may have seen them; and logging in again tells the sites
        about the revocation.
    """

    def __init__(
        self,
        store: SessionStore,
        *,
        lifetime_s: float,
        clock: Callable[[], float],
        run: str = "",
        generation: Callable[[], int] = lambda: 0,
    ):
        self._store, self._lifetime_s, self._clock = store, lifetime_s, clock
        self._run, self._generation = run, generation

    def open(self, site: str, certificate: str, *, until: float = math.inf) -> tuple[str, float]:
        """Returns a new token and when it expires, in seconds since the epoch.

        The token is bound to the site and to the certificate with which it logged in.

        Args:
          until: when the certificate expires, in seconds since the epoch.
        """
        token, now = new_secret(), self._clock()
        expires_at = min(now + self._lifetime_s, until)
        self._store.add_session(
            self._key(token), TokenRecord(site, certificate, expires_at), now=now
        )
        return token, expires_at

    def site_of(self, token: str, certificate: str) -> str:
        """Returns the site a token was issued to. Raises as `record_of` and `check_bound`."""
        record = self.record_of(token)
        self.check_bound(record, certificate)
        return record.site

    def record_of(self, token: str) -> TokenRecord:
        """Returns what a token stands for, while the connection it came over is not known yet.

        Raises:
          SessionExpired: for an unknown token or one past its lifetime.
        """
        record = self._store.session(self._key(token))
        if record is None:
            raise SessionExpired("the token is not known here; log in again")
        if self._clock() >= record.expires_at:
            raise SessionExpired(f"the token of site {record.site!r} has expired; log in again")
        return record

    def check_bound(self, record: TokenRecord, certificate: str) -> None:
        """Raises CertificateRefused unless the caller's certificate, given by its digest, is the
        one that the token was issued to.
        """
        if not hmac.compare_digest(record.certificate, certificate):
            raise CertificateRefused(
                f"the token of site {record.site!r} came with another certificate than at login; "
                "log in again from that site"
            )

    def _key(self, token: str) -> str:
        generation = self._generation()
        return hashed(f"{self._run}{f'/{generation}' if generation else ''} {token}")
