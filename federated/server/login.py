"""The login of sites: a site logs in with its credential and the server's plan.

From then on a token identifies it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from federated import errors
from federated.rounds import plan as plans
from federated.rounds.declarations import check_labels
from federated.secure_aggregation import ring
from federated.security.credentials import CredentialBook, TokenRecord, hashed, new_secret
from federated.server.run_state import RunState
from federated.wire.messages import MASKING, PROTOCOL, Session
from runkit import release

MAX_EXAMPLES = 2**28  # times a float32, still exact in float64


class Login:
    """Logins and tokens of one run."""

    def __init__(self, run: RunState, credentials: CredentialBook):
        self._run, self._credentials = run, credentials
        self._plan, self._run_id = run.store.plan, run.store.run_id
        self._refusals: dict[tuple[str, str], int] = {}

    def check_credential(self, site: str, credential: str) -> None:
        """Raises WrongCredential; called before any byte of a login is read."""
        with self._counting_refusals(site):
            self._credentials.current().check(site, credential)

    def login(
        self,
        site: str,
        credential: str,
        plan: dict[str, Any],
        num_examples: int,
        *,
        certificate: str = "",
        certificate_ends: float = math.inf,
        protocol: int = PROTOCOL,
        labels: Mapping[str, str] | None = None,
        masking: int = 0,
    ) -> Session:
        """Admits a site whose plan equals the server's.

        Args:
          certificate: fingerprint of the site's certificate, to which the token is bound.
          certificate_ends: expiry time of the certificate in seconds since the epoch; the token
              expires no later.
          labels: what the site's labels show of each class, see `declarations`.
          masking: version of secure aggregation that the site supports; 0 for none.
        Raises:
          WrongCredential, CertificateRefused, CertificateOutOfDate, UnknownSite, VersionDiffers,
          PlanDiffers, FederationFull, UpdateRefused.
        """
        with self._counting_refusals(site):
            credentials = self._credentials.current()
            credentials.check(site, credential)
            credentials.check_certificate(certificate)
            # TLS checks the dates only once, when the connection is made.
            if certificate_ends <= self._run.wall_clock():
                raise errors.CertificateOutOfDate(
                    f"the certificate of site {site!r} has ended; "
                    "renew it with experiments.request; the site then continues by itself"
                )
            if protocol != PROTOCOL:
                raise errors.VersionDiffers(
                    f"site {site!r} speaks version {protocol} of the weight exchange, the server "
                    f"(release {release.version()}) {PROTOCOL}; "
                    "install the same release at both ends"
                )
            self._check_masking(site, masking, num_examples)
            self._check_plan(site, plan)
            if not 1 <= num_examples <= MAX_EXAMPLES:
                raise errors.UpdateRefused(
                    f"site {site!r} has {num_examples} training examples; "
                    f"expected 1 to {MAX_EXAMPLES}"
                )
            shown = check_labels(site, labels or {})
            run, config = self._run, self._run.config
            with run.changing():
                self._check_may_join(site, num_examples)
                known = run.store.num_examples(site) == num_examples
                run.store.enrol(site, num_examples, shown)
                token, now = new_secret(), run.wall_clock()
                expires_at = min(now + config.token_lifetime_s, certificate_ends)
                run.store.add_session(
                    self._key(token, credentials.generation),
                    TokenRecord(site, certificate, expires_at),
                    now=now,
                )
                run.last_seen[site] = run.clock()
                run.note_change()
                about = {"labels": shown} if shown else {}
                # With the lock held: the log must have the number before it is a weight.
                log = run.log_repeatable if known else run.log
                log("login", site=site, num_examples=num_examples, **about)
            return Session(
                token=token,
                expires_at=expires_at,
                run=self._run_id,
                plan_fingerprint=plans.fingerprint(self._plan),
                num_rounds=config.num_rounds,
                local_epochs=config.local_epochs,
                poll_s=config.poll_s,
                heart_beat_s=config.heart_beat_s,
                transport=config.transport,
                ends_with_scores=not config.cross_site_evaluation,
                revocation=credentials.revocation,
                sums=config.sums,
            )

    def _check_masking(self, site: str, masking: int, num_examples: int) -> None:
        """Raises VersionDiffers or UpdateRefused if a site cannot take part in sums."""
        sums = self._run.config.sums
        if masking < 0:
            raise errors.VersionDiffers(
                f"site {site!r} speaks version {masking} of secure aggregation; "
                "install the same release at both ends"
            )
        if sums is None:
            return
        if masking != MASKING:
            knows = f"version {masking} of it" if masking else "an earlier release, without it"
            raise errors.VersionDiffers(
                f"this server (release {release.version()}) adds masked updates only (secure "
                f"aggregation, version {MASKING}); site {site!r} has {knows}; "
                "install the server's release there"
            )
        ring.Ring.of(sums).check_examples(site, num_examples)

    def _check_plan(self, site: str, plan: dict[str, Any]) -> None:
        try:
            differing = plans.differences(self._plan, plan)
        except (ValueError, RecursionError) as error:
            raise errors.PlanDiffers(
                f"the plan of site {site!r} cannot be read; install the same release at both ends"
            ) from error
        if differing:
            raise errors.PlanDiffers(
                f"site {site!r} has another plan: {'; '.join(differing)}; "
                "start it with the settings of the server"
            )

    def _check_may_join(self, site: str, num_examples: int) -> None:
        """Raises FederationFull, UnknownSite or UpdateRefused; called with the lock held."""
        run = self._run
        sites = run.store.sites()
        taking_part = [name for name, record in sites.items() if not record.evicted]
        if site not in sites and len(taking_part) >= run.policy.max_num_clients:
            raise errors.FederationFull(
                f"site {site!r} is one too many: {', '.join(taking_part)} take part "
                f"and max_num_clients is {run.policy.max_num_clients}"
            )
        if site in sites and sites[site].evicted:
            raise errors.UnknownSite(
                f"site {site!r} was evicted from this run; ask the server's operator"
            )
        before = num_examples if site not in sites else sites[site].num_examples
        if before != num_examples and not sites[site].another_number:
            raise errors.UpdateRefused(
                f"site {site!r} logs in with {num_examples} training cases, and with {before} "
                "before; the number weights its updates. Prepare the cases it had, or have the "
                "server's operator allow the change with --order=admit"
            )

    @contextlib.contextmanager
    def _counting_refusals(self, site: str) -> Iterator[None]:
        """Logs the 1st, 10th, 100th, ... refusal of each kind in the block.

        A caller that keeps trying must not fill the disk.
        """
        try:
            yield
        except errors.FederationError as error:
            self._count_refusal(site, error)
            raise

    def _count_refusal(self, site: str, error: errors.FederationError) -> None:
        known = site if site in self._credentials.current().hashes else ""
        kind = type(error).__name__
        with self._run.changed:
            self._refusals[known, kind] = times = self._refusals.get((known, kind), 0) + 1
        if str(times).strip("0") == "1":
            about = {"site": known} if known else {}
            self._run.log("login_refused", error=kind, times=times, **about)

    # A token is checked twice: when a call's headers arrive, and when its connection is known.
    # Long calls check the token again: every second, and before an upload counts.
    # Each check examines the file of credentials once.

    def record_of(self, token: str, certificate: str | None = None) -> TokenRecord:
        """Returns the record of a token.

        Args:
          certificate: fingerprint of the certificate of the connection; None while only the
            headers of the call are known.
        Raises:
          SessionExpired, CertificateRefused.
        """
        with self._run.changed:
            credentials = self._credentials.current()
            record = self._run.store.session(self._key(token, credentials.generation))
            if record is None:
                raise errors.SessionExpired("the token is not known here; log in again")
            if self._run.wall_clock() >= record.expires_at:
                raise errors.SessionExpired(
                    f"the token of site {record.site!r} has expired; log in again"
                )
            credentials.check_standing(record, certificate)
            return record

    def identify(self, record: TokenRecord, certificate: str) -> str:
        """Returns the site of a token that came with the site's own certificate.

        Also records that the site was heard.

        Raises:
          CertificateRefused, SessionExpired.
        """
        with self._run.changed:
            self._credentials.current().check_standing(record, certificate)
            self._run.last_seen[record.site] = self._run.clock()
            return record.site

    def site_of(self, token: str, certificate: str = "") -> str:
        """Makes both checks at once, for a call without headers. Raises as both of them do."""
        return self.identify(self.record_of(token), certificate)

    def _key(self, token: str, generation: int) -> str:
        """Returns the hash under which the store has a token.

        A token is valid in this run only, even if another has a copy of the hashes, and only while
        the server's certificate is of that generation: a thief of an earlier certificate's key may
        have seen the tokens issued under it. Besides, logging in again informs the sites of the
        revocation.
        """
        return hashed(f"{self._run_id}{f'/{generation}' if generation else ''} {token}")
