"""From credential to token to site. Secrets are 256 bits; what is stored of them is a SHA-256, so a
stolen store opens nothing.
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
from cryptography.hazmat.primitives import serialization

from federated.errors import CertificateRefused, SessionExpired, WrongCredential
from federated.security import certificates
from runkit import atomic, private


def new_secret() -> str:
    """Returns 256 random bits as 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def hashed(secret: str) -> str:
    """Returns what is kept of a secret. Plain SHA-256 will do: 256 random bits cannot be guessed,
    slow or fast.
    """
    return hashlib.sha256(secret.encode("utf-8")).hexdigest()


class CredentialBook:
    """Which sites there are, the hashes of their credentials and the operator's, and which
    certificates are refused.
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
        """Reads `credentials.json`, and again whenever it changes, so that a revocation holds at
        the next call.

        Raises:
          ValueError: naming a file that is missing or malformed. Once it was read, a bad file is
              logged and the last good one holds.
        """
        path = pathlib.Path(path)
        private.refuse_link(path)
        if not path.is_file():
            raise ValueError(
                f"{path}: no such file; run `provision` and give its folder for the server"
            )
        book = cls({})
        book._path = path
        book._seen = book._version()
        book._load()
        return book

    def _version(self, *files: str) -> tuple[int, ...]:
        found = [
            os.stat(path) for path in (self._path, *(self._path.with_name(name) for name in files))
        ]
        return tuple(
            number for about in found for number in (about.st_mtime_ns, about.st_size, about.st_ino)
        )

    def _load(self) -> None:
        private.refuse_link(self._path)
        book = atomic.read_json(self._path)
        sites = book.get("sites") if isinstance(book, dict) else None
        if not isinstance(sites, dict) or not all(
            isinstance(h, str) and len(h) == 64 for h in sites.values()
        ):
            raise ValueError(
                f'{self._path}: expected {{"sites": {{name: SHA-256 of the credential}}}}; provision the federation again'
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
            version = self._version()
            if version != self._seen:
                self._load()
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
        """Raises WrongCredential unless `credential` was issued to `site`; the message tells not
        which of the two is wrong.
        """
        self._refresh()
        expected = self._hashes.get(site, "0" * 64)
        if not hmac.compare_digest(expected, hashed(credential)) or site not in self._hashes:
            raise WrongCredential(
                f"site {site!r} and its credential do not go together here; use the kit that this federation's operator sent, unchanged"
            )

    def check_certificate(self, certificate: str) -> None:
        """Raises CertificateRefused for a certificate (SHA-256 of its DER form) that was revoked."""
        self._refresh()
        if certificate in self._revoked:
            raise CertificateRefused(
                f"the certificate {certificate[:16]}… was revoked; have the federation's operator certify a new key of this site"
            )

    def server_revocation(self) -> tuple[int, bytes]:
        """Returns (generation, the authority's statement) of the revoked server certificates; (0,
        b"") where none was revoked.

        Nor is there anything to say before this server has its own new certificate: sites that knew
        would refuse it.
        """
        self._refresh()
        if self._path is None or not self._revocation:
            return 0, b""
        try:
            version = self._version("server.pem", "server.key")
            if version != self._served[0]:
                generation = certificates.read_revocation(
                    self._revocation, None
                )  # the sites do not take this server's word for it
                own = x509.load_pem_x509_certificate(
                    self._path.with_name("server.pem").read_bytes()
                )
                key = serialization.load_pem_private_key(
                    self._path.with_name("server.key").read_bytes(), None
                )
                there = certificates.generation_of(own) >= generation and certificates.same_key(
                    own, key
                )
                if not there:
                    logging.error(
                        "event=server_certificate_revoked note=carry_the_new_folder_of_the_server_here generation=%d",
                        generation,
                    )
                self._served = version, (generation, self._revocation) if there else (0, b"")
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
                "this is not the operator's credential here; use the operator's kit of this federation"
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
    """Issues tokens and says whose they are.

    Args:
      store: keeps hashes of tokens across restarts.
      lifetime_s: seconds until a token expires.
      clock: seconds since the epoch.
      run: the tokens hold in this run only, even where the table of hashes was copied from another.
      generation: of the server's certificate. Tokens of an earlier one are unknown: with its key
        somebody may have seen them, and at the new login sites hear of the revocation.
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
        self._store, self._lifetime_s, self._clock, self._run, self._generation = (
            store,
            lifetime_s,
            clock,
            run,
            generation,
        )

    def open(self, site: str, certificate: str, *, until: float = math.inf) -> tuple[str, float]:
        """Returns (token, when it expires); the token is bound to the site and to the certificate
        it logged in with.

        Args:
          until: when the certificate ends, seconds since the epoch.
        """
        token, now = new_secret(), self._clock()
        expires_at = min(now + self._lifetime_s, until)
        self._store.add_session(
            self._key(token), TokenRecord(site, certificate, expires_at), now=now
        )
        return token, expires_at

    def site_of(self, token: str, certificate: str | None = None) -> str:
        """Returns the site a token was issued to.

        Args:
          certificate: digest of the caller's certificate; None where the connection is not known
              yet.
        Raises:
          SessionExpired: for an unknown token or one past its lifetime.
          CertificateRefused: where another certificate presents it.
        """
        session = self._store.session(self._key(token))
        if session is None:
            raise SessionExpired("the token is not known here; log in again")
        if self._clock() >= session.expires_at:
            raise SessionExpired(f"the token of site {session.site!r} has expired; log in again")
        if certificate is not None and not hmac.compare_digest(session.certificate, certificate):
            raise CertificateRefused(
                f"the token of site {session.site!r} came with another certificate than at login; log in again from that site"
            )
        return session.site

    def _key(self, token: str) -> str:
        generation = self._generation()
        return hashed(f"{self._run}{f'/{generation}' if generation else ''} {token}")
