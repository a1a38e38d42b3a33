"""From credential to token to site. Secrets are 256 bits; what is stored of them is a SHA-256, so a stolen store opens nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import os
import pathlib
import secrets
from collections.abc import Callable, Mapping
from typing import Protocol

from federated.errors import CertificateRefused, SessionExpired, WrongCredential
from runkit import atomic


def new_secret() -> str:
    """Returns 256 random bits as 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def hashed(secret: str) -> str:
    """Returns what is kept of a secret. Plain SHA-256 will do: 256 random bits cannot be guessed, slow or fast."""
    return hashlib.sha256(secret.encode("utf-8")).hexdigest()


class CredentialBook:
    """Which sites there are and the hashes of their credentials, as `provision` wrote them."""

    def __init__(self, hashes: Mapping[str, str]):
        self._hashes = dict(hashes)

    @classmethod
    def read(cls, path: str | os.PathLike) -> CredentialBook:
        """Reads `credentials.json`. Raises ValueError naming a file that is missing or malformed."""
        if not pathlib.Path(path).is_file():
            raise ValueError(f"{path}: no such file; run `provision` and give its folder for the server")
        book = atomic.read_json(path)
        sites = book.get("sites") if isinstance(book, dict) else None
        if not isinstance(sites, dict) or not sites or not all(isinstance(h, str) and len(h) == 64 for h in sites.values()):
            raise ValueError(f'{path}: expected {{"sites": {{name: SHA-256 of the credential}}}}; provision the federation again')
        return cls(sites)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(sorted(self._hashes))

    def check(self, site: str, credential: str) -> None:
        """Raises WrongCredential unless `credential` was issued to `site`; the message tells not which of the two is wrong."""
        expected = self._hashes.get(site, "0" * 64)
        if not hmac.compare_digest(expected, hashed(credential)) or site not in self._hashes:
            raise WrongCredential(
                f"site {site!r} and its credential do not go together here; use the kit that this federation's operator sent, unchanged"
            )


@dataclasses.dataclass(frozen=True)
class Session:
    """What a token stands for."""

    site: str
    certificate: str  # SHA-256 of the certificate it was issued to
    expires_at: float  # seconds since the epoch


class SessionStore(Protocol):
    """Where sessions survive a restart, e.g. `storage.Store`."""

    def add_session(self, token_sha256: str, session: Session, *, now: float) -> None: ...

    def session(self, token_sha256: str) -> Session | None: ...


class Sessions:
    """Issues tokens and says whose they are.

    Args:
      store: keeps hashes of tokens across restarts.
      lifetime_s: seconds until a token expires.
      clock: seconds since the epoch.
    """

    def __init__(self, store: SessionStore, *, lifetime_s: float, clock: Callable[[], float]):
        self._store, self._lifetime_s, self._clock = store, lifetime_s, clock

    def open(self, site: str, certificate: str) -> tuple[str, float]:
        """Returns (token, when it expires); the token is bound to the site and to the certificate it logged in with."""
        token, now = new_secret(), self._clock()
        self._store.add_session(hashed(token), Session(site, certificate, now + self._lifetime_s), now=now)
        return token, now + self._lifetime_s

    def site_of(self, token: str, certificate: str | None = None) -> str:
        """Returns the site a token was issued to.

        Args:
          certificate: digest of the caller's certificate; None where the connection is not known yet.
        Raises:
          SessionExpired: for an unknown token or one past its lifetime.
          CertificateRefused: where another certificate presents it.
        """
        session = self._store.session(hashed(token))
        if session is None:
            raise SessionExpired("the token is not known here; log in again")
        if self._clock() >= session.expires_at:
            raise SessionExpired(f"the token of site {session.site!r} has expired; log in again")
        if certificate is not None and not hmac.compare_digest(session.certificate, certificate):
            raise CertificateRefused(
                f"the token of site {session.site!r} came with another certificate than at login; log in again from that site"
            )
        return session.site
