"""Who takes part: a credential and the server's plan let a site in, a token says afterwards which
site calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from federated import errors
from federated.rounds import plan as plans
from federated.rounds.declarations import check_labels
from federated.security.credentials import CredentialBook, Sessions
from federated.server.run_state import RunState
from federated.wire.messages import PROTOCOL, Session

MAX_EXAMPLES = 2**28  # times a float32, still exact in float64


class Login:
    """Logins and tokens of one run."""

    def __init__(self, run: RunState, credentials: CredentialBook):
        self._run, self._credentials = run, credentials
        self._plan = run.store.plan
        self._refusals: dict[tuple[str, str], int] = {}
        self._sessions = Sessions(
            run.store,
            lifetime_s=run.config.token_lifetime_s,
            clock=run.wall_clock,
            run=run.store.run_id,
            generation=lambda: credentials.server_revocation()[0],
        )

    def check_credential(self, site: str, credential: str) -> None:
        """Raises WrongCredential; asked before a byte of a login is read."""
        with self._noting_refusal(site):
            self._credentials.check(site, credential)

    def login(
        self,
        site: str,
        credential: str,
        plan: dict,
        num_examples: int,
        *,
        certificate: str,
        certificate_ends: float,
        protocol: int,
        labels: Mapping[str, str],
    ) -> Session:
        """Admits a site whose plan is the server's.

        Args:
          labels: what the site's labels show of each class, see `declared`.
          certificate_ends: seconds since the epoch; the token ends with the certificate at the
              latest.
        Raises:
          WrongCredential, CertificateRefused, CertificateOutOfDate, UnknownSite, VersionDiffers,
          PlanDiffers, FederationFull, UpdateRefused.
        """
        with self._noting_refusal(site):
            self._credentials.check(site, credential)
            self._credentials.check_certificate(certificate)
            if (
                certificate_ends <= self._run.wall_clock()
            ):  # TLS looks at it once, when the connection is made
                raise errors.CertificateOutOfDate(
                    f"the certificate of site {site!r} has ended; renew it with experiments.request, and the site goes on by itself"
                )
            if protocol != PROTOCOL:
                raise errors.VersionDiffers(
                    f"site {site!r} speaks version {protocol} of the weight exchange, the server {PROTOCOL}; install the same release at both ends"
                )
            try:
                differing = plans.differences(self._plan, plan)
            except (ValueError, RecursionError) as error:
                raise errors.PlanDiffers(
                    f"the plan of site {site!r} cannot be read; install the same release at both ends"
                ) from error
            if differing:
                raise errors.PlanDiffers(
                    f"site {site!r} has another plan: {'; '.join(differing)}; start it with the settings of the server"
                )
            if not 1 <= num_examples <= MAX_EXAMPLES:
                raise errors.UpdateRefused(
                    f"site {site!r} has {num_examples} training examples; expected 1 to {MAX_EXAMPLES}"
                )
            shown = check_labels(site, labels)
            run, config = self._run, self._run.config
            with run.changed:
                sites = run.store.sites()
                taking_part = [name for name, record in sites.items() if not record.evicted]
                if site not in sites and len(taking_part) >= run.policy.max_num_clients:
                    raise errors.FederationFull(
                        f"site {site!r} is one too many: {', '.join(taking_part)} take part and max_num_clients is {run.policy.max_num_clients}"
                    )
                if site in sites and sites[site].evicted:
                    raise errors.UnknownSite(
                        f"site {site!r} was sent away from this run; ask the server's operator"
                    )
                before = sites[site].num_examples if site in sites else 0
                if before not in (0, num_examples):
                    raise errors.UpdateRefused(
                        f"site {site!r} logs in with {num_examples} training cases, and with {before} before; the number weights its updates. "
                        "Prepare the cases it had, or have the server's operator allow the change with --order=admit"
                    )
                run.store.enrol(site, num_examples, shown)
                token, expires_at = self._sessions.open(site, certificate, until=certificate_ends)
                run.last_seen[site] = run.clock()
                run.note_change()
            run.log(
                "login",
                site=site,
                num_examples=num_examples,
                **({"labels": shown} if shown else {}),
            )
            return Session(
                token=token,
                expires_at=expires_at,
                run=run.store.run_id,
                plan_fingerprint=plans.fingerprint(self._plan),
                num_rounds=config.num_rounds,
                local_epochs=config.local_epochs,
                poll_s=config.poll_s,
                heart_beat_s=config.heart_beat_s,
                transport=config.transport,
                ends_with_scores=not config.cross_site_evaluation,
                revocation=self._credentials.server_revocation()[1],
            )

    @contextlib.contextmanager
    def _noting_refusal(self, site: str) -> Iterator[None]:
        """Logs the 1st, 10th, 100th, ... refusal of a kind in the block: a caller that keeps trying
        must not fill the disk.
        """
        try:
            yield
        except errors.FederationError as error:
            self._note_refusal(site, error)
            raise

    def _note_refusal(self, site: str, error: errors.FederationError) -> None:
        key = (site if site in self._credentials.sites else "", type(error).__name__)
        with self._run.changed:
            self._refusals[key] = times = self._refusals.get(key, 0) + 1
        if str(times).strip("0") == "1":
            self._run.log(
                "login_refused", error=key[1], times=times, **({"site": key[0]} if key[0] else {})
            )

    def site_of(self, token: str, certificate: str | None = None) -> str:
        """Returns whose token it is, and notes that the site was heard. Raises SessionExpired,
        CertificateRefused.
        """
        run = self._run
        with run.changed:
            site = self.check_token(token, certificate)
            run.last_seen[site] = run.clock()
            return site

    def check_token(self, token: str, certificate: str | None = None) -> str:
        """Returns whose token it is. Raises SessionExpired, CertificateRefused."""
        with self._run.changed:
            site = self._sessions.site_of(token, certificate)
            self._credentials.check_certificate(certificate or "")
            if site not in self._credentials.sites:
                raise errors.SessionExpired(
                    f"site {site!r} no longer has a part in this federation; ask the server's operator for a kit"
                )
            return site
